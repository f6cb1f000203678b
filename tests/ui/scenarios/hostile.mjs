// Whatever people and systems write stays text; contents are for those who act, and looking at them is written down.
import assert from "node:assert/strict";
import { check, input, open, scenario, signIn } from "./browser.mjs";

await scenario(async (browser) => {
  const page = await open(browser);
  const dialogs = [];
  page.on("dialog", (dialog) => {
    dialogs.push(dialog.message());
    dialog.dismiss();
  });
  await signIn(page, input.operator);
  await page.goto(`${input.base}/console/messages/${input.dead}`);
  assert.ok(!(await page.content()).includes("Betreff"), "nothing people wrote is shown before somebody asks");
  await page.getByRole("button", { name: "Show contents" }).click();
  const contents = page.locator("#contents");
  assert.match(await contents.innerText(), /<script>alert\('subject'\)<\/script>/);
  assert.match(await contents.innerText(), /<img src=x onerror=alert\('name'\)>/);
  assert.equal(await page.locator("main script, main img").count(), 0);
  await check(page);
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    contents.getByRole("button", { name: "Download" }).first().click(),
  ]);
  assert.match(download.suggestedFilename(), /onerror/);
  await page.goto(`${input.base}/console/audit`);
  assert.equal(await page.locator("#entries").getByRole("row").filter({ hasText: "read" }).count(), 2);
  await page.goto(`${input.base}/console/holds`);
  await page.getByLabel("Which").fill("portal");
  await page.getByLabel("What", { exact: true }).selectOption("account");
  await page.getByLabel("Reason").first().fill("<script>alert('reason')</script>");
  await page.getByRole("button", { name: "Hold", exact: true }).click();
  await page.getByText("<script>alert('reason')</script>").first().waitFor();
  await check(page);
  for (const address of ["/console/messages?id=%3Cscript%3Ealert(1)%3C/script%3E", "/console/messages?since=%3Cscript%3E", "/console/messages?cursor=%22%3E%3Cscript%3E"]) {
    await page.goto(input.base + address);
  }
  page.complaints.length = 0; // Two of these are refused, which browsers mention.
  assert.deepEqual(dialogs, []);

  const viewer = await open(browser);
  await signIn(viewer, input.viewer);
  await viewer.goto(`${input.base}/console/messages/${input.dead}`);
  assert.equal(await viewer.getByRole("button", { name: "Show contents" }).count(), 0);
  assert.equal(await viewer.locator("form.action").count(), 0);
  assert.match(await viewer.locator("#contents").innerText(), /takes the role operator/);
  await check(viewer);
});
