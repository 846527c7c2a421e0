// The overview: numbers and curves of the last five minutes, and what went wrong.

import { Chart } from './chart.js';
import { h, setText } from './dom.js';
import { bytes, count, counted, seconds } from './format.js';

const MAX_POINTS = 300;

const CHARTS = [
  {
    title: 'Stations',
    format: count,
    minimum: 4,
    floats: true,
    series: [{ label: 'connected', name: 'first', value: (point) => point.stations }],
  },
  {
    title: 'Calls per second',
    format: count,
    minimum: 3,
    series: [
      { label: 'by stations', name: 'first', value: (point) => point.calls_in },
      { label: 'by the server', name: 'second', value: (point) => point.calls_out },
    ],
  },
  {
    title: 'Latency of calls by stations',
    format: seconds,
    minimum: 0.001,
    series: [
      { label: 'p50', name: 'first', value: (point) => point.p50_in },
      { label: 'p99', name: 'second', value: (point) => point.p99_in },
    ],
  },
  {
    title: 'Latency of calls by the server',
    format: seconds,
    minimum: 0.001,
    series: [
      { label: 'p50', name: 'first', value: (point) => point.p50_out },
      { label: 'p99', name: 'second', value: (point) => point.p99_out },
    ],
  },
];

const pair = ({ p50, p99 }) => `${seconds(p50)} / ${seconds(p99)}`;

// The numbers at the top: a label, a value, an explanation, and true if the value is a problem.
const NUMBERS = [
  ['Stations', ({ totals }) => count(totals.stations), 'Stations that are connected now'],
  ['Calls by stations', ({ totals }) => count(totals.calls_in), 'Since the recording began'],
  ['Calls by the server', ({ totals }) => count(totals.calls_out), 'Since the recording began'],
  ['p50 / p99, stations', ({ totals }) => pair(totals.latency.in), 'Until the response, in the last five minutes'],
  ['p50 / p99, server', ({ totals }) => pair(totals.latency.out), 'Until the response, in the last five minutes'],
  ['Errors', ({ totals }) => count(totals.errors), 'CALLERRORs and failed calls', ({ totals }) => totals.errors > 0],
  ['Violations', ({ totals }) => count(totals.violations), 'Payloads that failed the validation', ({ totals }) => totals.violations > 0],
  ['Bad messages', ({ totals }) => count(totals.bad_messages), 'Messages that were not readable', ({ totals }) => totals.bad_messages > 0],
];

/** A table of counts, such as closes by cause. */
class Counts {
  constructor(title, empty) {
    this.empty = empty;
    this.body = h('tbody');
    this.total = h('span', { class: 'muted' });
    this.element = h('section', { class: 'counts' }, h('h2', {}, `${title} `, this.total), h('table', {}, this.body));
  }

  update(rows) {
    const sum = rows.reduce((sum, [, number]) => sum + number, 0);
    setText(this.total, sum > 0 ? count(sum) : '');
    const text = JSON.stringify(rows);
    if (text === this.text) return;
    this.text = text;
    const line = ([label, number]) =>
      h('tr', {},
        h('th', { scope: 'row' }, label),
        h('td', { class: 'number' }, count(number)),
        h('td', { class: 'share' }, h('meter', { min: 0, max: Math.max(sum, 1), value: number, 'aria-hidden': 'true' })));
    this.body.replaceChildren(
      ...(rows.length > 0 ? rows.map(line) : [h('tr', {}, h('td', { class: 'muted' }, this.empty))]));
  }
}

export function showOverview(main, { live, signal, overview }) {
  main.className = 'overview';
  const values = NUMBERS.map(() => h('dd'));
  const numbers = h('dl', { class: 'numbers' },
    ...NUMBERS.map(([label, , title], index) => h('div', { title }, h('dt', {}, label), values[index])));
  const charts = CHARTS.map((options) => new Chart(options));
  signal.addEventListener('abort', () => charts.forEach((chart) => chart.dispose()));
  const closes = new Counts('Closes', 'no connection has closed');
  const refusals = new Counts('Refused handshakes', 'none');
  const deviations = new Counts('Deviations from the standard', 'none');
  const nodes = new Counts('Stations by node', 'none');
  const recorded = h('p', { class: 'muted foot' });
  const tables = h('div', { class: 'tables' }, closes.element, refusals.element, deviations.element);
  main.append(h('h1', { class: 'hidden' }, 'Overview'), numbers,
    h('div', { class: 'charts' }, ...charts.map((chart) => chart.element)), tables, recorded);

  let points = [];
  const update = (data) => {
    NUMBERS.forEach(([, value, , isBad], index) => {
      setText(values[index], value(data));
      values[index].classList.toggle('bad', isBad?.(data) === true);
    });
    charts.forEach((chart) => chart.update(points));
    const { totals } = data;
    closes.update(totals.closes);
    refusals.update(totals.refusals.map(([status, number]) => [status === null ? 'no response' : String(status), number]));
    deviations.update(totals.deviations);
    if (data.nodes.length > 1 || data.nodes.some(({ name }) => name !== null)) {
      nodes.update(data.nodes.map(({ name, is_this: isThis, stations }) => [isThis ? `${name} (this one)` : name, stations]));
      if (!nodes.element.isConnected) tables.prepend(nodes.element);
    }
    const { stations, bytes: size, max_bytes: max } = totals.recorded;
    setText(recorded, `Recorded: messages of ${counted(stations, 'station')}, ${bytes(size)} of at most ${bytes(max)}.`);
  };
  const begin = (data) => {
    points = data.points.slice(-MAX_POINTS);
    update(data);
  };
  // The data of the last view, until the stream begins again.
  if (overview) begin(overview);
  live.addEventListener('overview', ({ detail }) => begin(detail), { signal });
  live.addEventListener('point', ({ detail }) => {
    // The stream may begin with a point that the overview had already.
    if (points.length > 0 && detail.point.at <= points.at(-1).at) points.pop();
    points.push(detail.point);
    if (points.length > MAX_POINTS) points.shift();
    update(detail);
  }, { signal });
  return { title: null };
}
