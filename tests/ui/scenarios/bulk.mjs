// Many dead letters at once: filter, preview, confirm, progress, stop.
import assert from "node:assert/strict";
import { act, check, input, open, scenario, signIn, world } from "./browser.mjs";

await scenario(async (browser) => {
  const page = await open(browser);
  await signIn(page, input.operator);
  await page.goto(`${input.base}/console/dead-letters`);
  await page.getByLabel("Account").fill("portal");
  await page.getByRole("button", { name: "Find" }).click();
  await page.getByRole("button", { name: "Preview" }).click();
  assert.match(await page.locator("main").innerText(), /matches now: 20/);
  await check(page);

  await world("repair");
  await page.getByLabel("Messages per second").fill("1");
  await act(page, "Carry out", "the endpoint was repaired");
  await page.getByRole("progressbar").waitFor();
  await act(page, "Stop", "enough for now");
  await page.locator("#progress").getByText("stopped", { exact: true }).first().waitFor();
  await check(page);

  await page.goto(`${input.base}/console/dead-letters/preview?action=redrive`);
  await act(page, "Carry out", "without saying that all are meant");
  assert.match(page.url(), /preview/, "the browser asks for the box");
  await page.getByLabel("Yes, really all of them").check();
  await act(page, "Carry out", "now all");
  await page.locator("#progress").getByText("done", { exact: true }).first().waitFor();
  assert.match(await page.locator("#progress").innerText(), /Failed\s+0/);
});
