// The list of 19,000 stations: the first rows, and the frames while it scrolls.

import assert from 'node:assert/strict';

import { assertClean, open, run, until, untilLive } from './browser.mjs';

const [url, stations] = process.argv.slice(2);

// Generous, because the machine may be slow. The scripts print what they measured.
const FIRST_ROWS = 1000;
const FRAME_P95 = 50;

await run(async (browser) => {
  const page = await open(browser, url);
  await untilLive(page);
  const first = await time(page, () => {
    const start = performance.now();
    location.hash = '#/stations';
    return start;
  }, () => document.querySelector('.rows .row:not(.loading) a[href]') !== null);
  const total = Number(stations).toLocaleString('en-US');
  await page.getByText(`${total} stations`).waitFor();

  const frames = await page.evaluate(async () => {
    const list = document.querySelector('.grid');
    const frames = [];
    let last = performance.now();
    for (let frame = 0; frame < 300; frame += 1) {
      // Some rows at a time, and now and then a far jump, as with the scroll bar.
      list.scrollTop += frame % 60 === 59 ? 90_000 : 240;
      await new Promise(requestAnimationFrame);
      const now = performance.now();
      frames.push(now - last);
      last = now;
    }
    return frames.sort((a, b) => a - b);
  });
  const [p50, p95, max] = [frames[150], frames[285], frames.at(-1)].map(Math.round);
  await until('the rows at the new place', () => page.evaluate(() => {
    const rows = [...document.querySelectorAll('.rows .row:not([hidden])')];
    return rows.length > 20 && rows.every((row) => !row.classList.contains('loading'));
  }));

  // The last row, by the keyboard.
  await page.locator('.grid').focus();
  await page.keyboard.press('End');
  await page.locator('.rows .row:visible', { hasText: `CP-${String(stations).padStart(5, '0')}` }).waitFor();
  const search = await time(page, () => {
    const start = performance.now();
    const input = document.querySelector('input[type="search"]');
    input.value = 'cp-12345';
    input.dispatchEvent(new Event('input'));
    return start;
  }, () => document.querySelectorAll('.rows .row:not([hidden]):not(.loading)').length === 1);
  console.log(`first rows after ${Math.round(first)} ms, search ${Math.round(search)} ms, frames: p50 ${p50} ms, p95 ${p95} ms, longest ${max} ms`);
  assert.ok(first < FIRST_ROWS, `the first rows took ${first} ms`);
  assert.ok(p95 < FRAME_P95, `5% of the frames took ${p95} ms or more`);
  assertClean(page);
});

/** Returns the milliseconds from an action of the page until a frame in which the condition holds. */
async function time(page, action, condition) {
  const start = await page.evaluate(action);
  await page.waitForFunction(condition, null, { polling: 'raf' });
  return (await page.evaluate(() => performance.now())) - start;
}
