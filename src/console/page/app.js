// The frame around the views: navigation, banners, keys, and the stream that all views share.

import * as api from './api.js';
import { h, isInput, setText } from './dom.js';
import { clock, counted, setServerTime } from './format.js';
import { showHandshakes } from './handshakes.js';
import { Live } from './live.js';
import { showOverview } from './overview.js';
import { showStation } from './station.js';
import { showStations } from './stations.js';

const main = document.getElementById('main');
const live = new Live();
let leave = new AbortController();
let view = {};
let overview = null;
let version = null;

// Banners, by name: the state of the stream, lost events and the like.

const banners = new Map();

function banner(name, text, buttons = []) {
  banners.get(name)?.remove();
  banners.delete(name);
  if (text === null) return;
  const element = h('p', { class: `banner ${name}` }, h('span', {}, text), ...buttons);
  banners.set(name, element);
  document.getElementById('banners').append(element);
}

let dismissed = 0;
let lostSince = null;

function showTotals({ lost_events: lost }, missing) {
  if (lost <= dismissed) {
    dismissed = lost;
    banner('lost', null);
  } else if (banners.get('lost')?.dataset.lost !== String(lost)) {
    lostSince ??= Date.now();
    const dismiss = () => {
      dismissed = lost;
      lostSince = null;
      banner('lost', null);
    };
    banner(
      'lost',
      `The console lost ${counted(lost, 'event')}, because it could not keep up. Numbers and messages are incomplete (seen ${clock(lostSince)}).`,
      [h('button', { type: 'button', on: { click: dismiss } }, 'Dismiss')],
    );
    banners.get('lost').dataset.lost = lost;
  }
  const names = missing.join(', ');
  if ((banners.get('missing')?.dataset.names ?? '') !== names) {
    banner('missing', names ? `No data from ${missing.length === 1 ? 'node' : 'nodes'} ${names}.` : null);
    if (names) banners.get('missing').dataset.names = names;
  }
}

function showState({ state, error }) {
  const element = document.getElementById('state');
  element.dataset.state = state;
  setText(element, { live: 'live', connecting: 'connecting', asleep: 'asleep' }[state] ?? 'reconnecting');
  const texts = {
    cut: 'The connection to the server is cut. The page shows old data, and connects again.',
    refused: `The server refuses the stream${error ? `: ${error.message}` : ', perhaps because it stops, or too many pages are open'}. The page tries again.`,
  };
  banner('cut', texts[state] ?? null);
}

live.addEventListener('state', (event) => showState(event.detail));
live.addEventListener('point', ({ detail }) => {
  setServerTime(detail.point.at);
  showTotals(detail.totals, detail.missing_nodes);
});

/** Fetches the overview, which every view needs: permissions, nodes, and the curves. */
async function refreshOverview(signal) {
  overview = await api.overview(signal);
  setServerTime(overview.at);
  version ??= overview.version;
  if (version !== overview.version) {
    const reload = h('button', { type: 'button', on: { click: () => location.reload() } }, 'Reload');
    banner('version', `The server has another version now: ${overview.version}.`, [reload]);
  }
  setText(document.getElementById('node'), overview.node === null ? '' : `node ${overview.node}`);
  showTotals(overview.totals, overview.missing_nodes);
  live.dispatchEvent(new CustomEvent('overview', { detail: overview }));
}

// Views. A view is a function that fills `main`, and stops when `signal` is aborted.

/** Returns the view of the URL's fragment, its key, and its query. */
function parseRoute() {
  const [path, query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const [name, ...rest] = path.split('/');
  const settings = new URLSearchParams(query);
  if (name === 'stations' && rest.length > 0 && rest[0] !== '') {
    try {
      return { show: showStation, nav: '#/stations', key: decodeURIComponent(rest.join('/')), settings };
    } catch {
      return { show: showStations, nav: '#/stations', settings };
    }
  }
  if (name === 'stations') return { show: showStations, nav: '#/stations', settings };
  if (name === 'handshakes') return { show: showHandshakes, nav: '#/handshakes', settings };
  return { show: showOverview, nav: '#/', settings };
}

function navigate() {
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const route = parseRoute();
  for (const link of document.querySelectorAll('nav a')) {
    if (link.getAttribute('href') === route.nav) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  main.replaceChildren();
  main.className = '';
  main.scrollTop = 0;
  // The keys that scroll, and screen readers, are in the new view.
  main.focus({ preventScroll: true });
  view = route.show(main, { live, signal, key: route.key, settings: route.settings, overview });
  document.title = view.title === null ? 'OCPP console' : `${view.title} · OCPP console`;
  const prepare = async () => {
    await refreshOverview(signal);
    return (await view.prepare?.()) ?? '';
  };
  live.follow(prepare, { staysAwake: view.staysAwake === true });
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  if (event.key === 'Escape' && isInput(event.target)) {
    event.target.blur();
    return;
  }
  if (isInput(event.target)) return;
  if (event.key === '/') {
    event.preventDefault();
    if (view.search) view.search.focus();
    else location.hash = '#/stations?focus';
  } else {
    view.onKey?.(event);
  }
}

// Its fragment would leave the view.
document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener('hashchange', navigate);
addEventListener('keydown', onKey);
navigate();
