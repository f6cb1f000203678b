// A browser without script: everything but following live.
import assert from "node:assert/strict";
import { act, input, open, scenario, signIn } from "./browser.mjs";

await scenario(async (browser) => {
  const page = await open(browser, { script: false });
  await signIn(page, input.operator);
  assert.equal(await page.getByRole("button", { name: "Pause updates" }).count(), 0);
  await page.getByRole("navigation").getByRole("link", { name: "Messages" }).click();
  await page.getByText("Filter", { exact: true }).click();
  await page.getByLabel("State").selectOption("dead");
  await page.getByRole("button", { name: "Find" }).click();
  assert.equal(await page.getByRole("row").count(), 2);
  await page.getByRole("row").getByRole("link").first().click();
  await act(page, "Give up", "nobody needs it");
  assert.match(await page.locator("#facts").innerText(), /cancelled/);
  await page.getByRole("navigation").getByRole("link", { name: "Audit trail" }).click();
  assert.match(await page.locator("#entries").innerText(), /nobody needs it/);
  await page.getByRole("link", { name: "Deutsch" }).click();
  assert.equal(await page.innerText("h1"), "Protokoll", "the same page in the other language");
  await page.getByRole("button", { name: "Abmelden" }).click();
  await page.goto(`${input.base}/console/messages`);
  assert.match(page.url(), /sign-in/);
});
