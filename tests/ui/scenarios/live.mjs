// Pages follow what happens, and can be told to stay as they are. A certificate signs in as well as a link.
import assert from "node:assert/strict";
import { check, input, open, scenario, signIn, world } from "./browser.mjs";

await scenario(async (browser) => {
  const clientCertificates = [
    { origin: input.base, certPath: `${input.pki}/operator.pem`, keyPath: `${input.pki}/operator.key` },
  ];
  const known = await open(browser, { clientCertificates });
  await known.goto(`${input.base}/console/messages`);
  assert.match(await known.locator(".visitor").innerText(), /operator/);
  assert.equal(await known.getByRole("button", { name: "Sign out" }).count(), 0, "a certificate cannot be left");
  await known.context().close();

  const page = await open(browser);
  await signIn(page, input.operator);
  await page.goto(`${input.base}/console/messages`);
  const rows = page.locator("#found tbody tr");
  assert.equal(await rows.count(), 0);
  await world("submit");
  await rows.first().waitFor();
  await check(page);

  await page.getByRole("button", { name: "Pause updates" }).click();
  const asked = [];
  page.on("request", (request) => asked.push(request.url()));
  const other = await page.context().newPage();
  await other.goto(`${input.base}/console/messages`);
  await world("submit");
  // Another page has seen it, twice as often as the server looks.
  await other.locator("#found tbody tr").nth(1).waitFor();
  await world("submit");
  await other.locator("#found tbody tr").nth(2).waitFor();
  assert.deepEqual(asked, [], "a paused page asks for nothing");
  await page.getByRole("button", { name: "Resume updates" }).click();
  await rows.nth(2).waitFor();

  // A form that is being filled in is not taken away.
  await page.goto(`${input.base}/console/messages`);
  await page.getByLabel("Any id").fill("half a wor");
  await world("submit");
  await rows.nth(3).waitFor();
  assert.equal(await page.getByLabel("Any id").inputValue(), "half a wor");
});
