// Chromium, and what the scripts of the browser tests share.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const { chromium } = createRequire(join(process.env.OCPP_RPC_PEERS, 'npm', '/'))('playwright-core');

// The longest time that a script waits for something. It allows for a machine that is busy with other tests.
const TIMEOUT = 30_000;

/** Runs a scenario with a browser, then closes the browser. */
export async function run(scenario) {
  // The sandbox of Chromium does not run as root, as in a container.
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });
  try {
    await scenario(browser);
  } finally {
    await browser.close();
    // An open input would keep the script running.
    if (answers) process.stdin.destroy();
  }
}

/**
 * Opens a page, and fails the script at its end if the page had an error, a failed request or a violation of its
 * Content-Security-Policy. `expected` is a pattern of errors that the scenario causes.
 */
export async function open(browser, url, { expected = null, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1400, height: 900 }, ...options });
  context.setDefaultTimeout(TIMEOUT);
  const page = await context.newPage();
  page.errors = [];
  const error = (text) => {
    if (expected === null || !expected.test(text)) page.errors.push(text);
  };
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') error(`${message.text()} ${message.location().url}`);
  });
  page.on('pageerror', ({ message }) => error(message));
  page.on('requestfailed', (request) => {
    // A page that leaves a view gives up the requests of that view.
    const { errorText } = request.failure();
    if (errorText !== 'net::ERR_ABORTED') error(`${request.url()}: ${errorText}`);
  });
  await page.addInitScript(() => {
    addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI }) => {
      console.error(`the policy forbids ${violatedDirective}: ${blockedURI}`);
    });
  });
  await page.goto(url);
  return page;
}

/** Fails if the page had errors. */
export function assertClean(page) {
  assert.deepEqual(page.errors, []);
}

/** Waits until the condition returns a value that is true, and returns the value. */
export async function until(what, condition) {
  const deadline = Date.now() + TIMEOUT;
  for (;;) {
    const value = await condition();
    if (value) return value;
    assert.ok(Date.now() < deadline, `not within ${TIMEOUT / 1000} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Waits until the stream of the page is open. */
export async function untilLive(page) {
  await page.locator('#state[data-state="live"]').waitFor();
}

let answers = null;

/** Writes a line to the test that runs this script, and waits for its answer. */
export async function ask(line) {
  answers ??= createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  console.log(line);
  return (await answers.next()).value;
}
