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
  const { at, identity, remote_address: address, status, reason } = handshake;
  const button = h('button', { type: 'button', class: 'summary', tabindex: '-1', 'aria-expanded': 'false' },
    h('span', { class: 'time', title: dateTime(at) }, clock(at)),
    h('span', { class: 'status bad' }, status === null ? NONE : String(status)),
    h('span', { class: 'identity' }, identity ?? NONE),
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
  const changed = () => {
    while (list.children.length > MAX) list.lastChild.remove();
    const length = list.children.length;
    setText(summary, length >= MAX ? `the latest ${count(MAX)}` : '');
    empty.hidden = length > 0;
    scroller.hidden = length === 0;
    keepTabStop(list, '.summary');
  };
  let latest = null;
  live.addEventListener('handshake', ({ detail }) => {
    latest = JSON.stringify(detail);
    // Rows that the user reads stay where they are.
    const height = scroller.scrollHeight;
    list.prepend(item(detail));
    changed();
    if (scroller.scrollTop > 0) scroller.scrollTop += scroller.scrollHeight - height;
  }, { signal });
  return {
    title: 'Handshakes',
    prepare: async () => {
      try {
        const { handshakes } = await api.handshakes(signal);
        failure.hidden = true;
        const text = handshakes.length > 0 ? JSON.stringify(handshakes[0]) : null;
        // Open rows survive a short cut of the stream.
        if (text === null || text !== latest) list.replaceChildren(...handshakes.slice(0, MAX).map(item));
        latest = text;
        changed();
      } catch (error) {
        if (error.name === 'AbortError') throw error;
        setText(failure, `The handshakes could not be fetched: ${error.message}`);
        failure.hidden = false;
        throw error;
      }
    },
  };
}
