// A page of another site tries to call a station through the browser of an engineer.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';

import { assertClean, open, run, untilLive } from './browser.mjs';

const [url] = process.argv.slice(2);
const call = new URL('api/stations/DEMO-1/calls/Reset', url).href;
const close = new URL('api/stations/DEMO-1/close', url).href;
const read = new URL('api/stations/DEMO-1/messages', url).href;

// The foreign page, from two origins: another port of the same host is the same site for a browser, `localhost` is not.
const server = createServer((request, response) => {
  response.writeHead(200, { 'content-type': 'text/html' });
  response.end('<!doctype html><link rel="icon" href="data:,"><title>elsewhere</title><iframe name="target"></iframe>');
});
await new Promise((resolve) => server.listen(0, resolve));

async function attack(page, targets) {
  return page.evaluate(async ([call, close, read]) => {
    const body = '{"type":"Hard"}';
    const attempts = {};
    const attempt = async (name, promise) => {
      attempts[name] = await promise.then((response) => response.type, () => 'failed');
    };
    for (const target of [call, close]) {
      await attempt(`no-cors ${target}`, fetch(target, { method: 'POST', mode: 'no-cors', body }));
      await attempt(`no-cors with credentials ${target}`, fetch(target, { method: 'POST', mode: 'no-cors', credentials: 'include', body }));
      await attempt(`cors ${target}`, fetch(target, { method: 'POST', headers: { 'content-type': 'application/json' }, body }));
      await attempt(`beacon ${target}`, Promise.resolve({ type: String(navigator.sendBeacon(target, body)) }));
      // A form that the browser sends as text/plain, as valid JSON.
      const form = document.createElement('form');
      Object.assign(form, { method: 'post', action: target, enctype: 'text/plain', target: 'target' });
      const input = document.createElement('input');
      Object.assign(input, { name: '{"type":"Hard","a":"', value: '"}' });
      form.append(input);
      document.body.append(form);
      form.submit();
      await new Promise((resolve) => document.querySelector('iframe').addEventListener('load', resolve, { once: true }));
    }
    await attempt('read', fetch(read));
    return attempts;
  }, targets);
}

await run(async (browser) => {
  const { port } = server.address();
  const page = await open(browser, url);
  await untilLive(page);
  for (const host of ['127.0.0.1', 'localhost']) {
    const foreign = await open(browser, `http://${host}:${port}/`, { expected: /./ });
    const statuses = [];
    foreign.on('response', (response) => {
      if (response.url().startsWith(url)) statuses.push(response.status());
    });
    const attempts = await attack(foreign, [call, close, read]);
    // The requests reach the server, which refuses them.
    assert.ok(statuses.length >= 6 && statuses.every((status) => status === 403 || status === 405), `${host}: ${statuses}`);
    assert.equal(attempts.read, 'failed', 'the foreign page must not read');
    const frame = await foreign.evaluate(async (url) => {
      const frame = document.createElement('iframe');
      frame.src = url;
      document.body.append(frame);
      await new Promise((resolve) => frame.addEventListener('load', resolve, { once: true }));
      return frame.contentDocument === null;
    }, url);
    assert.ok(frame, 'the console must not be shown in a frame');
    const framed = foreign.frames().map((frame) => frame.url());
    assert.ok(!framed.some((framed) => framed.startsWith(url) && !framed.startsWith('chrome-error')), String(framed));
    await foreign.context().close();
  }
  const unchanged = await page.evaluate(async (read) => {
    const { messages } = await (await fetch(read)).json();
    return messages.filter(({ type, action }) => type === 'closed' || action === 'Reset').length;
  }, read);
  assert.equal(unchanged, 0, 'the station was neither called nor closed');

  // The same call from the console itself succeeds.
  const status = await page.evaluate(async (call) => {
    const response = await fetch(call, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"type":"Soft"}' });
    return response.status;
  }, call);
  assert.equal(status, 200);
  assertClean(page);
});
server.close();
