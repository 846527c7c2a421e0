// A page stays open while the backend is killed and started again.

import { ask, assertClean, open, run, until, untilLive } from './browser.mjs';

const [url] = process.argv.slice(2);

await run(async (browser) => {
  const page = await open(browser, url, { expected: /ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE/ });
  await untilLive(page);
  await page.goto(`${url}#/stations/DEMO-1`);
  const opened = page.locator('.message.type-opened');
  await opened.first().waitFor();
  await ask('kill');
  await page.locator('.banner.cut').waitFor();
  await ask('start');
  await untilLive(page);
  await page.locator('.banner.cut').waitFor({ state: 'detached' });
  await page.locator('.status[data-state="connected"]').waitFor();
  // The page shows what the new process has recorded, and goes on with it.
  await until('the station has connected again', async () => (await opened.count()) >= 1);
  const messages = page.locator('.message > .summary');
  const before = await messages.count();
  await until('new messages', async () => (await messages.count()) > before);
  assertClean(page);
});
