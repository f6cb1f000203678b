// A message is stuck, found, explained, re-driven, delivered; once in English, once in German.
import assert from "node:assert/strict";
import { act, check, input, open, row, scenario, signIn, world } from "./browser.mjs";

const words = {
  en: { dead: "Dead letters", again: "Deliver again", stays: "A dead letter: it stays until somebody acts", done: "Handed over. There is nothing to do." },
  de: { dead: "Unzustellbar", again: "Erneut zustellen", stays: "Unzustellbar: sie bleibt liegen, bis jemand eingreift", done: "Übergeben. Es ist nichts zu tun." },
};

await scenario(async (browser) => {
  for (const [language, id, link] of [["en", input.first, input.operator], ["de", input.second, input.another]]) {
    const t = words[language];
    const page = await open(browser, { language });
    await signIn(page, link);

    await page.getByRole("navigation").getByRole("link", { name: t.dead }).click();
    await row(page, id).getByRole("link").click();
    const verdict = page.locator("#verdict");
    await verdict.getByText(t.stays).waitFor();
    assert.match(await verdict.innerText(), /webhook-rejected.*status 422/, "says what went wrong");
    await check(page);

    await world("repair");
    await act(page, t.again, "the endpoint was repaired");
    // Without anybody loading the page again.
    await page.locator("#verdict").getByText(t.done).waitFor();
    await page.locator("#timeline").getByText("redriven").waitFor();
    await check(page);
    assert.equal(await page.locator("#attempts").getByRole("row").count(), 3, "the head and two attempts");
    await world("break");
  }
});
