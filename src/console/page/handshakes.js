// The latest handshakes that the server refused.

import * as api from './api.js';
import { h, keepTabStop, rove, setText } from './dom.js';
import { clock, count, dateTime, NONE } from './format.js';

const MAX = 200;

const REQUEST = [
  ['path', 'Path'],
  ['protocols', 'Subprotocols'],
  ['user_agent', 'User agent'],
  ['authorization', 'Authorization'],
  ['tls', 'TLS'],
  ['certificate', 'Certificate'],
];

function details({ at, node, request }) {
  const facts = [['Time', dateTime(at)]];
  if (node !== null) facts.push(['Node', node]);
  for (const [field, label] of REQUEST) {
    if (request) facts.push([label, request[field] ?? NONE]);
  }
  return h('div', { class: 'detail' },
    h('dl', { class: 'facts' }, ...facts.map(([label, text]) => h('div', {}, h('dt', {}, label), h('dd', {}, text)))),
    request ? null : h('p', { class: 'muted' }, 'The request was not readable.'));
}

function item(handshake) {
  const { at, identity, remote_address: address, status, reason, request } = handshake;
  const button = h('button', { type: 'button', class: 'summary', tabindex: '-1', 'aria-expanded': 'false' },
    h('span', { class: 'time', title: dateTime(at) }, clock(at)),
    h('span', { class: 'status bad' }, status === null ? NONE : String(status)),
    h('span', { class: 'identity' }, identity ?? request?.path ?? NONE),
    h('span', { class: 'address muted' }, address ?? NONE),
    h('span', { class: 'reason' }, reason));
  const element = h('li', {}, button);
  let open = null;
  button.addEventListener('click', () => {
    if (open) open.remove();
    open = open ? null : details(handshake);
    if (open) element.append(open);
    button.setAttribute('aria-expanded', String(open !== null));
  });
  return element;
}

export function showHandshakes(main, { live, signal }) {
  main.className = 'handshakes';
  const summary = h('span', { class: 'muted' });
  const list = h('ol', { class: 'list' });
  const empty = h('p', { class: 'empty', hidden: true }, 'The server has refused no handshake.');
  const failure = h('p', { class: 'alert', role: 'alert', hidden: true });
  const names = h('div', { class: 'summary names', 'aria-hidden': 'true' },
    ...['Time', 'Status', 'Identity', 'Address', 'Reason'].map((name) => h('span', { class: name.toLowerCase() }, name)));
  const scroller = h('div', { class: 'scroller' }, names, list);
  main.append(h('div', { class: 'tools' }, h('h1', {}, 'Refused handshakes'), summary), failure, empty, scroller);
  rove(list, '.summary');
  // The rows by the text of their handshake, because the list and the stream may have the same one.
  const rows = new Map();
  const add = (handshake) => {
    const text = JSON.stringify(handshake);
    if (rows.has(text)) return;
    const row = item(handshake);
    rows.set(text, row);
    row.entry = { at: handshake.at, text };
    // Rows that the user reads stay where they are.
    const height = scroller.scrollHeight;
    list.insertBefore(row, [...list.children].find((other) => other.entry.at <= handshake.at) ?? null);
    if (scroller.scrollTop > 0) scroller.scrollTop += scroller.scrollHeight - height;
  };
  const changed = () => {
    while (list.children.length > MAX) {
      rows.delete(list.lastChild.entry.text);
      list.lastChild.remove();
    }
    const length = list.children.length;
    setText(summary, length >= MAX ? `the latest ${count(MAX)}` : '');
    empty.hidden = length > 0;
    scroller.hidden = length === 0;
    keepTabStop(list, '.summary');
  };
  live.addEventListener('handshake', ({ detail }) => {
    add(detail);
    changed();
  }, { signal });
  // The list is fetched when the stream is open, so that no refusal is between them.
  live.addEventListener('state', async ({ detail: { state } }) => {
    if (state !== 'live') return;
    try {
      const { handshakes } = await api.handshakes(signal);
      failure.hidden = true;
      handshakes.reverse().forEach(add);
      changed();
    } catch (error) {
      if (error.name === 'AbortError') return;
      setText(failure, `The handshakes could not be fetched: ${error.message}`);
      failure.hidden = false;
    }
  }, { signal });
  return { title: 'Handshakes' };
}
