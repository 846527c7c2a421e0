// The console behind a proxy with TLS, at several prefixes.

import assert from 'node:assert/strict';

import { assertClean, open, run, until, untilLive } from './browser.mjs';

await run(async (browser) => {
  for (const url of process.argv.slice(2)) {
    const page = await open(browser, url, { ignoreHTTPSErrors: true });
    await untilLive(page);
    // With a buffer in between, no point would come for minutes.
    const curve = page.locator('.curve.first').first();
    for (let second = 0; second < 3; second += 1) {
      const before = await curve.getAttribute('d');
      await until(`${url}: the curve moves`, async () => (await curve.getAttribute('d')) !== before);
    }
    const { pathname } = new URL(url);
    await page.goto(`${url}#/stations/DEMO-1`);
    const messages = page.locator('.message > .summary');
    await messages.first().waitFor();
    const before = await messages.count();
    await until(`${url}: messages come`, async () => (await messages.count()) > before);
    await page.getByLabel('Action', { exact: true }).fill('TriggerMessage');
    await page.getByLabel('Parameters (JSON)').fill('{"requestedMessage": "Heartbeat"}');
    await page.getByRole('button', { name: 'Call', exact: true }).click();
    await page.locator('.answer.good').waitFor();
    assert.ok(new URL(page.url()).pathname.startsWith(pathname.replace(/\/$/, '')), page.url());
    assertClean(page);
    await page.context().close();
  }
});
