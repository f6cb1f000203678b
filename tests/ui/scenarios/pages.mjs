// Every page, in both languages, light and dark, on small and large screens: nothing to complain about, and a picture of each.
import assert from "node:assert/strict";
import { check, input, open, scenario, shoot, signIn } from "./browser.mjs";

const pages = [
  ["overview", "/console"],
  ["messages", "/console/messages"],
  ["messages-filtered", "/console/messages?state=dead&account=portal"],
  ["message", `/console/messages/${input.dead}`],
  ["destinations", "/console/destinations"],
  ["destination", "/console/destinations/webhook/wgb%3A073150000000"],
  ["holds", "/console/holds"],
  ["dead-letters", "/console/dead-letters"],
  ["preview", "/console/dead-letters/preview?action=redrive&account=portal"],
  ["bulk", "/console/bulk"],
  ["responsibility", "/console/routes?service=ozg:10092&area=ars:073150000000"],
  ["setup", "/console/setup"],
  ["audit", "/console/audit"],
];

await scenario(async (browser) => {
  const first = await open(browser);
  await first.goto(`${input.base}/console/sign-in`);
  assert.match(await first.innerText("h1"), /Sign in/);
  first.complaints.length = 0; // The answer is 401, which browsers mention.
  await check(first);
  await shoot(first, "sign-in-1024");
  await signIn(first, input.operator);
  const state = await first.context().storageState();
  // Something to see on every page: what waits was counted, and the charts have begun.
  await first.locator("#numbers").getByRole("link", { name: "1", exact: true }).waitFor();
  await first.locator("#trouble").getByText("held").waitFor();
  await first.locator("#deadlines").getByRole("row").nth(1).waitFor();
  await first.locator("#traffic polyline").first().waitFor();

  for (const [language, scheme, width] of [
    ["en", "light", 1024],
    ["de", "light", 360],
    ["en", "dark", 1600],
    ["de", "dark", 1025],
  ]) {
    const page = await open(browser, { language, scheme, width, storageState: state });
    for (const [name, address] of pages) {
      const answer = await page.goto(input.base + address);
      assert.equal(answer.status(), 200, address);
      await check(page);
      if (width !== 1025) await shoot(page, `${name}-${width}`);
    }
    await page.context().close();
  }

  // With the keyboard alone: the first stop leads past the navigation, and what has the focus can be seen.
  const page = await open(browser, { storageState: state });
  await page.goto(`${input.base}/console/messages`);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to content");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  assert.ok(await page.evaluate(() => document.querySelector("main").contains(document.activeElement)));
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(outline, "solid");
});
