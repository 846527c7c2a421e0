// Pictures of every view, light and dark, wide and narrow.

import assert from 'node:assert/strict';
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';

import { assertClean, open, run, until, untilLive } from './browser.mjs';

const [url, directory, readme] = process.argv.slice(2);

const VIEWS = { overview: '#/', stations: '#/stations', station: '#/stations/DEMO-1', handshakes: '#/handshakes' };
const SIZES = { wide: { width: 1280, height: 800 }, narrow: { width: 360, height: 740 } };

await run(async (browser) => {
  for (const colorScheme of ['light', 'dark']) {
    for (const [size, viewport] of Object.entries(SIZES)) {
      const page = await open(browser, url, { viewport, colorScheme, reducedMotion: 'reduce' });
      await untilLive(page);
      for (const [view, fragment] of Object.entries(VIEWS)) {
        await page.goto(url + fragment);
        await untilLive(page);
        if (view === 'station') await call(page);
        if (view === 'overview') await page.locator('.curve').first().waitFor({ state: 'attached' });
        if (view === 'stations') await page.locator('.rows .row a[href]').first().waitFor();
        await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
        const widest = await page.evaluate(() => document.documentElement.scrollWidth);
        assert.ok(widest <= viewport.width, `${view} is ${widest} px wide at ${viewport.width}`);
        const clipped = await page.locator('.numbers dt, .numbers dd').evaluateAll((elements) =>
          elements.filter((element) => element.scrollWidth > element.clientWidth).map((element) => element.textContent));
        assert.deepEqual(clipped, [], `${view} at ${viewport.width}`);
        await page.screenshot({ path: join(directory, `${view}-${colorScheme}-${size}.png`) });
      }
      assertClean(page);
      await page.context().close();
    }
  }
  if (readme) await copyFile(join(directory, 'station-light-wide.png'), readme);
});

/** Calls the station, and unfolds the message that the call causes. */
async function call(page) {
  const form = page.locator('.side');
  await form.waitFor();
  if (!(await form.evaluate((form) => form.open))) await form.locator('summary').click();
  await page.getByLabel('Action', { exact: true }).fill('TriggerMessage');
  await page.getByLabel('Parameters (JSON)').fill('{\n  "requestedMessage": "MeterValues",\n  "connectorId": 1\n}');
  await page.getByRole('button', { name: 'Call', exact: true }).click();
  await page.locator('.answer.good').waitFor();
  const values = page.locator('.message.type-call', { has: page.locator('.label', { hasText: /^MeterValues$/ }) });
  await until('the meter values', async () => (await values.count()) > 0);
  await values.last().locator('.summary').click();
}
