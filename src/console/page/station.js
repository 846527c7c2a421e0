// A station: its facts, its messages, and calls to it.

import * as api from './api.js';
import { callForm, closeButton } from './call.js';
import { h, setText } from './dom.js';
import { age, count, counted, dateTime, NONE, seconds } from './format.js';
import { MAX_MESSAGES, Sequence } from './sequence.js';
import { listLink } from './stations.js';

// The stream begins again at most this often after lost events, in milliseconds.
const RESTART = 2000;

const FACTS = [
  ['Identity', (station) => station.identity],
  ['Protocol', (station) => station.protocol],
  ['Node', (station) => station.node, 'of-node'],
  ['Address', (station) => station.remote_address],
  ['Connected', (station) => (station.connected_at === null ? null : `${age(station.connected_at)} (${dateTime(station.connected_at)})`)],
  ['Last seen', (station) => (station.last_seen_at === null ? null : `${age(station.last_seen_at)} ago`)],
  ['Ping', (station) => seconds(station.ping)],
  ['Queued', (station) => count(station.queued)],
  ['In flight', (station) => count(station.in_flight)],
  ['Errors', (station) => count(station.errors)],
];

export function showStation(main, { live, signal, key, overview }) {
  main.className = 'station';
  let station = null;
  let isKnown = null;

  const status = h('span', { class: 'status', role: 'status' });
  const values = FACTS.map(() => h('dd'));
  const facts = h('dl', { class: 'facts' },
    ...FACTS.map(([label, , name], index) => h('div', { class: name ?? '' }, h('dt', {}, label), values[index])));
  const actions = h('datalist', { id: 'seen-actions' });
  const action = h('input', {
    type: 'search', placeholder: 'Action', 'aria-label': 'Filter by action', list: 'seen-actions', autocomplete: 'off', spellcheck: 'false', maxlength: '60',
  });
  const text = h('input', {
    type: 'search', placeholder: 'Text  ( / )', 'aria-label': 'Filter by text', autocomplete: 'off', spellcheck: 'false', maxlength: '200',
  });
  const pause = h('button', { type: 'button', title: 'p' }, 'Pause');
  const download = h('a', { class: 'button', href: api.messagesFile(key), download: true }, 'Download');
  download.title = 'The recorded messages as JSON Lines';
  const summary = h('span', { class: 'muted', role: 'status' });
  const failure = h('p', { class: 'alert', role: 'alert', hidden: true });
  const buttons = h('span', { class: 'buttons' });
  const side = h('details', { class: 'side', hidden: true }, h('summary', {}, 'Call this station'));
  // A narrow page shows the messages first.
  side.open = matchMedia('(min-width: 1081px)').matches;

  const sequence = new Sequence({ signal, onChange: () => changed() });
  const changed = () => {
    const { shown, entries, isPaused, waitingCount } = sequence;
    setText(summary, shown === entries.length ? counted(shown, 'message') : `${count(shown)} of ${counted(entries.length, 'message')}`);
    setText(pause, isPaused ? (waitingCount > 0 ? `Resume (${count(waitingCount)} new)` : 'Resume') : 'Pause');
    pause.classList.toggle('primary', isPaused);
    const names = [...sequence.actions.keys()].sort();
    const list = names.join(' ');
    if (actions.dataset.list !== list) {
      actions.dataset.list = list;
      actions.replaceChildren(...names.map((value) => h('option', { value })));
    }
  };
  const togglePause = () => (sequence.isPaused ? sequence.resume() : sequence.pause());
  pause.addEventListener('click', togglePause);
  const filter = () => sequence.setFilter({ action: action.value, text: text.value });
  action.addEventListener('input', filter);
  text.addEventListener('input', filter);

  main.append(
    h('div', { class: 'title' }, h('a', { class: 'back', href: listLink(), 'aria-label': 'Back to the stations' }, '←'),
      h('h1', {}, key), status, buttons),
    failure, facts,
    h('div', { class: 'columns' },
      h('section', { class: 'exchange', 'aria-label': 'Messages' },
        h('div', { class: 'tools' }, action, actions, text, pause, download, summary), sequence.element),
      side));

  let form = null;
  let closing = null;
  const showStationInfo = () => {
    FACTS.forEach(([, value], index) => setText(values[index], (station && value(station)) ?? NONE));
    values.at(-1).classList.toggle('bad', (station?.errors ?? 0) > 0);
    status.dataset.state = station ? 'connected' : 'disconnected';
    setText(status, station ? 'connected' : isKnown === null ? '' : 'not connected');
    form?.setConnected(station !== null);
    form?.setProtocol(station?.protocol ?? null);
    if (closing) closing.button.disabled = station === null;
  };
  const showPermissions = ({ calls_allowed: calls, close_allowed: close, nodes }) => {
    facts.classList.toggle('has-nodes', nodes.some(({ name }) => name !== null));
    if (calls && !form) {
      form = callForm(key, signal);
      side.append(form.element);
      side.hidden = false;
    }
    if (close && !closing) {
      closing = closeButton(key);
      buttons.append(closing.button, closing.dialog);
    }
    showStationInfo();
  };

  live.addEventListener('overview', ({ detail }) => showPermissions(detail), { signal });
  live.addEventListener('message', ({ detail }) => sequence.add(detail), { signal });
  live.addEventListener('station', ({ detail }) => {
    station = detail;
    isKnown = true;
    failure.hidden = true;
    showStationInfo();
  }, { signal });
  let restart = null;
  live.addEventListener('lost', () => {
    // The recorded messages have what the stream lost.
    restart ??= setTimeout(() => {
      restart = null;
      live.restart();
    }, RESTART);
  }, { signal });
  const tick = setInterval(showStationInfo, 1000);
  signal.addEventListener('abort', () => {
    clearInterval(tick);
    clearTimeout(restart);
  });
  if (overview) showPermissions(overview);
  showStationInfo();

  const load = async () => {
    try {
      const [info, recorded] = await Promise.all([api.stationInfo(key, signal), api.messages(key, MAX_MESSAGES, signal)]);
      station = info.station;
      isKnown = true;
      failure.hidden = true;
      sequence.load(recorded.messages, recorded.forgotten);
    } catch (error) {
      if (error.status !== 404) throw error;
      station = null;
      isKnown = false;
      setText(failure, 'This station is neither connected nor recorded. The page shows it when it connects.');
      failure.hidden = false;
      sequence.load([], 0);
    }
    showStationInfo();
  };

  return {
    title: key,
    search: text,
    // Messages that come while another tab is in front would be lost otherwise.
    staysAwake: true,
    prepare: async () => {
      await load();
      return `?${new URLSearchParams({ station: key, after: sequence.last })}`;
    },
    onKey: (event) => {
      if (event.key === 'Escape') location.hash = listLink();
      else if (event.key === 'p') togglePause();
      else if (['j', 'k', 'ArrowDown', 'ArrowUp'].includes(event.key) && !sequence.list.contains(document.activeElement)) {
        event.preventDefault();
        const rows = sequence.list.querySelectorAll('li:not([hidden]) > .summary');
        rows[rows.length - 1]?.focus();
      }
    },
  };
}
