// Opens the console of a backend with ten demo stations, and one named as markup, and does what an engineer does.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { request } from 'node:http';

import { ask, assertClean, open, run, until, untilLive } from './browser.mjs';

const [url, markup] = process.argv.slice(2);

await run(async (browser) => {
  const page = await open(browser, url, { acceptDownloads: true });
  await untilLive(page);
  await showsOverview(page);
  await scrollsByKeys(page);
  await findsStation(page);
  await followsMessages(page);
  await callsStation(page);
  await downloads(page);
  await closesStation(page);
  await showsHandshake(page);
  await showsTextAsText(page);
  await seesStationLeave(page);
  assertClean(page);
});

function rows(page) {
  return page.locator('.rows .row:visible');
}

function messages(page) {
  return page.locator('.message:visible > .summary');
}

async function showsOverview(page) {
  const stations = page.locator('.numbers dd').first();
  await until('eleven stations on the overview', async () => (await stations.innerText()) === '11');
  const curves = page.locator('.curve.first');
  for (const name of ['stations', 'calls']) {
    const curve = curves.nth(name === 'stations' ? 0 : 1);
    const before = await curve.getAttribute('d');
    await until(`the curve of ${name} moves`, async () => (await curve.getAttribute('d')) !== before);
  }
}

async function scrollsByKeys(page) {
  await page.setViewportSize({ width: 1400, height: 400 });
  await page.keyboard.press('PageDown');
  await until('the overview scrolls', () => page.locator('main').evaluate((main) => main.scrollTop > 0));
  await page.setViewportSize({ width: 1400, height: 900 });
}

async function findsStation(page) {
  await page.keyboard.press('/');
  await page.waitForURL(/#\/stations/);
  await until('eleven rows', async () => (await rows(page).count()) === 11);
  await page.keyboard.type('demo-1');
  await until('two rows that match', async () => (await rows(page).count()) === 2);
  assert.match(page.url(), /search=demo-1/);
  // From the search to the list, down to the second row and up to the first, and into it.
  await page.keyboard.press('Enter');
  await page.keyboard.press('j');
  await until('the second row is selected', () => page.locator('.row[aria-selected="true"]', { hasText: 'DEMO-10' }).count());
  await page.keyboard.press('k');
  await page.keyboard.press('Enter');
  await page.locator('h1', { hasText: /^DEMO-1$/ }).waitFor();
  assert.match(page.url(), /#\/stations\/DEMO-1$/);
}

async function followsMessages(page) {
  const boot = messages(page).filter({ hasText: 'BootNotification' });
  await until('a boot with its response', async () => (await boot.count()) >= 2);
  await until('the time until the response', async () => /\d m?s$/.test(await boot.first().innerText()));
  const action = page.getByLabel('Filter by action');
  await action.fill('bootnot');
  const all = await messages(page).allInnerTexts();
  assert.ok(all.length >= 2 && all.every((text) => text.includes('BootNotification')), String(all));
  await action.fill('');
  await page.getByLabel('Filter by text').fill('no message has this text');
  await page.getByText('No message matches the filter.').waitFor();
  await page.getByLabel('Filter by text').fill('');
}

async function callsStation(page) {
  const calls = [];
  page.on('request', (request) => {
    if (request.method() === 'POST') calls.push(request.url());
  });
  await page.getByRole('button', { name: 'Pause' }).click();
  const params = page.getByLabel('Parameters (JSON)');
  await page.getByLabel('Action', { exact: true }).fill('TriggerMessage');
  await until('the template of the action', async () => (await params.inputValue()).includes('requestedMessage'));
  await params.fill('{"requestedMessage": "Heartbeat",}');
  await params.press('Control+Enter');
  await page.locator('#call-error:visible').waitFor();
  assert.deepEqual(calls, [], 'the page sends no call that is not JSON');
  await params.fill('{"requestedMessage": "Heartbeat"}');
  await page.getByRole('button', { name: 'Call', exact: true }).click();
  await page.locator('.answer.good', { hasText: 'TriggerMessage: result' }).waitFor();
  assert.match(await page.locator('.answer .json').innerText(), /"status": "Accepted"/);
  assert.equal(calls.length, 1);

  const resume = page.getByRole('button', { name: /Resume \(\d+ new\)/ });
  await resume.waitFor();
  assert.equal(await messages(page).filter({ hasText: 'TriggerMessage' }).count(), 0, 'the pause holds messages back');
  await resume.click();
  const exchange = messages(page).filter({ hasText: 'TriggerMessage' });
  await until('the call and its response', async () => (await exchange.count()) === 2);
  await page.locator('.message.out.type-call', { hasText: 'TriggerMessage' }).waitFor();
  await page.locator('.message.in.type-result', { hasText: 'TriggerMessage' }).waitFor();
  assert.match(await exchange.first().innerText(), /\d m?s$/);
  await exchange.first().focus();
  await page.keyboard.press('Enter');
  const detail = page.locator('.message .json', { hasText: '"requestedMessage"' });
  assert.equal(await detail.innerText(), '{\n  "requestedMessage": "Heartbeat"\n}');
  await page.keyboard.press('Enter');
  await detail.waitFor({ state: 'detached' });
}

async function downloads(page) {
  const [download] = await Promise.all([page.waitForEvent('download'), page.getByText('Download').click()]);
  assert.equal(download.suggestedFilename(), 'DEMO-1.jsonl');
  const lines = (await readFile(await download.path(), 'utf8')).trim().split('\n').map((line) => JSON.parse(line));
  assert.ok(lines.some(({ type, action }) => type === 'call' && action === 'TriggerMessage'));
}

async function closesStation(page) {
  await page.getByRole('button', { name: 'Close…' }).click();
  await page.getByLabel('Reason (optional)').fill('an engineer closes it');
  await page.getByRole('button', { name: 'Close the connection' }).click();
  const closed = page.locator('.message.type-closed', { hasText: 'an engineer closes it' });
  await closed.waitFor();
  // The demo stations connect again.
  await page.locator('.message.type-closed ~ .message.type-opened').first().waitFor();
  await page.locator('.status[data-state="connected"]').waitFor();
  await page.keyboard.press('Escape');
  await page.waitForURL(/#\/stations\?search=demo-1$/);
}

async function showsHandshake(page) {
  await page.getByRole('link', { name: 'Handshakes' }).click();
  await untilLive(page);
  const { host } = new URL(url);
  const headers = { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '7', 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==', 'user-agent': 'old-station/1' };
  const refused = request(`http://${host}/ocpp/OLD`, { headers });
  refused.on('response', (response) => response.resume()).end();
  const row = page.locator('.list .summary', { hasText: 'OLD' });
  await row.waitFor();
  await row.click();
  await page.locator('.list .detail', { hasText: 'old-station/1' }).waitFor();
  // The list and the stream have it both, and the page shows it once.
  await page.reload();
  await row.waitFor();
  assert.equal(await row.count(), 1);
}

async function showsTextAsText(page) {
  await page.getByRole('link', { name: 'Stations', exact: true }).click();
  await page.getByLabel('Search stations').fill(markup);
  const row = rows(page).filter({ hasText: markup });
  await row.waitFor();
  await row.click();
  await page.locator('h1').getByText(markup, { exact: true }).waitFor();
  await messages(page).filter({ hasText: `"vendorId":"${markup}"` }).first().click();
  await page.locator('.message .json', { hasText: markup }).waitFor();
  assert.equal(await page.locator('main img').count(), 0);
}

async function seesStationLeave(page) {
  await ask('leave');
  await page.locator('.status[data-state="disconnected"]').waitFor();
  await page.locator('.message.type-closed').last().waitFor();
  await page.keyboard.press('Escape');
  await until('no row', async () => (await rows(page).count()) === 0);
  await page.getByText('0 of 10 stations').waitFor();
}
