// What scenarios share: a browser, signing in, and the checks that hold for every page.
import assert from "node:assert/strict";
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import readline from "node:readline";
import { chromium } from "playwright-core";

export const input = JSON.parse(process.env.UI_INPUT);
const axe = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/// Lets the test change the world.
export const world = async (word) => {
  console.log(`@${word}`);
  await lines.next();
};

/// Runs a scenario with a browser and ends the process with its result.
export const scenario = async (play) => {
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
  try {
    await play(browser);
  } catch (error) {
    console.error(error);
    process.exitCode = 1;
  } finally {
    await browser.close();
    process.exit();
  }
};

/// A page of its own, with everything the browser complains about.
export const open = async (browser, { language = "en", width = 1024, script = true, scheme = "light", ...more } = {}) => {
  const context = await browser.newContext({
    ignoreHTTPSErrors: true,
    javaScriptEnabled: script,
    locale: language === "de" ? "de-DE" : "en-GB",
    colorScheme: scheme,
    viewport: { width, height: 900 },
    ...more,
  });
  const page = await context.newPage();
  page.complaints = [];
  page.setDefaultTimeout(60_000);
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) page.complaints.push(message.text());
  });
  page.on("pageerror", (error) => page.complaints.push(String(error)));
  return page;
};

/// Signs in by a one-time link.
export const signIn = async (page, link) => {
  await page.goto(link);
  await page.getByRole("button").click();
  await page.waitForURL("**/console");
};

/// What must hold for every page: no complaint of the browser, nothing axe finds, nothing that sticks out sideways.
export const check = async (page) => {
  assert.deepEqual(page.complaints, [], `the browser complains at ${page.url()}`);
  const { scroll, client } = await page.evaluate(() => ({
    scroll: document.documentElement.scrollWidth,
    client: document.documentElement.clientWidth,
  }));
  assert.ok(scroll <= client, `${page.url()} is ${scroll} wide on ${client}`);
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() =>
    window.axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"] }),
  );
  const found = violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map((node) => node.html).join(" | ")}`);
  assert.deepEqual(found, [], `axe at ${page.url()}`);
};

/// Keeps a picture.
export const shoot = async (page, name) => {
  const folder = process.env.UI_SHOTS;
  fs.mkdirSync(folder, { recursive: true });
  await page.screenshot({ path: path.join(folder, `${name}.png`), fullPage: true });
};

/// The row of a table that has a text.
export const row = (page, text) => page.getByRole("row").filter({ hasText: text });

/// Carries a form out with a reason.
export const act = async (page, label, reason) => {
  const form = page.locator("form.action").filter({ has: page.getByRole("button", { name: label }) });
  await form.getByLabel(/Reason|Begründung/).fill(reason);
  await form.getByRole("button", { name: label }).click();
};
