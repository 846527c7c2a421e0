// The list of stations. It fetches only the rows that are in view, and draws only those.

import * as api from './api.js';
import { h, setAttribute, setText } from './dom.js';
import { age, count, counted, dateTime, NONE, seconds } from './format.js';

const CHUNK = 100;
const MAX_CHUNKS = 30;
const OVERSCAN = 8;
const REFRESH = 2000;
const SEARCH_DELAY = 150;
// Browsers limit the height of an element.
const MAX_ROWS = 300_000;

const COLUMNS = [
  { sort: 'key', label: 'Station', name: 'key' },
  { sort: 'protocol', label: 'Protocol', name: 'protocol', text: (row) => row.protocol },
  { sort: 'node', label: 'Node', name: 'of-node', text: (row) => row.node ?? NONE },
  { sort: 'remote_address', label: 'Address', name: 'address', text: (row) => row.remote_address ?? NONE },
  { sort: 'connected_at', label: 'Connected', name: 'connected', text: (row) => age(row.connected_at), title: (row) => since(row.connected_at) },
  { sort: 'last_seen_at', label: 'Last seen', name: 'seen', text: (row) => ago(row.last_seen_at), title: (row) => since(row.last_seen_at) },
  { sort: 'ping', label: 'Ping', name: 'ping', text: (row) => seconds(row.ping), isNumber: true },
  { sort: 'queued', label: 'Queued', name: 'queued', text: (row) => count(row.queued), isNumber: true, isCount: true },
  { sort: 'in_flight', label: 'In flight', name: 'flight', text: (row) => count(row.in_flight), isNumber: true, isCount: true },
  { sort: 'errors', label: 'Errors', name: 'errors', text: (row) => count(row.errors), isNumber: true, isCount: true },
];

const ago = (at) => (at === null ? NONE : `${age(at)} ago`);
const since = (at) => (at === null ? '' : dateTime(at));

// The place in the list, for the way back from a station.
const place = { query: '', top: 0, restore: false };

/** Returns the link to the list, as the user left it. */
export function listLink() {
  return `#/stations${place.query ? `?${place.query}` : ''}`;
}

/** The rows of one search and order, in chunks. */
class Rows {
  constructor(query, onChange, onError, signal) {
    Object.assign(this, { query, onChange, onError, signal });
    this.chunks = new Map();
    this.matched = null;
    this.total = null;
    this.loading = new Set();
    this.wanted = [];
  }

  get(index) {
    return this.chunks.get(Math.floor(index / CHUNK))?.[index % CHUNK] ?? null;
  }

  /** Fetches the chunks of the rows from `first` to `last`. With `again`, fetches also those that are there. */
  want(first, last, again) {
    const chunks = [];
    for (let chunk = Math.floor(first / CHUNK); chunk <= Math.floor(last / CHUNK); chunk += 1) {
      if (again || !this.chunks.has(chunk)) chunks.push(chunk);
    }
    this.wanted = chunks;
    this.#fetchNext();
  }

  // One request at a time, so that fast scrolling fetches what is in view at its end, not all that passed.
  async #fetchNext() {
    if (this.loading.size > 0) return;
    const chunk = this.wanted.shift();
    if (chunk === undefined) return;
    this.loading.add(chunk);
    try {
      const page = await api.stations({ ...this.query, offset: chunk * CHUNK, limit: CHUNK }, this.signal);
      this.#keep(chunk, page.stations);
      this.matched = page.matched;
      this.total = page.total;
      this.loading.delete(chunk);
      this.onChange();
      this.#fetchNext();
    } catch (error) {
      this.loading.delete(chunk);
      this.wanted = [];
      if (error.name !== 'AbortError') this.onError(error);
    }
  }

  #keep(chunk, rows) {
    this.chunks.delete(chunk);
    this.chunks.set(chunk, rows);
    // A map keeps the order of insertion: the first is the oldest.
    for (const oldest of this.chunks.keys()) {
      if (this.chunks.size <= MAX_CHUNKS) break;
      this.chunks.delete(oldest);
    }
  }
}

/** One row of the table, which shows another station as the list scrolls. */
class Row {
  constructor(id) {
    this.link = h('a', { tabindex: '-1' });
    this.identity = h('span', { class: 'muted' });
    this.cells = COLUMNS.map(({ name, isNumber }) =>
      h('div', { role: 'cell', class: isNumber ? `cell number ${name}` : `cell ${name}` }));
    this.cells[0].append(this.link, this.identity);
    this.element = h('div', { role: 'row', class: 'row', id }, ...this.cells);
  }

  show(index, top, station, isSelected) {
    this.index = index;
    this.element.style.transform = `translateY(${top}px)`;
    this.element.hidden = false;
    setAttribute(this.element, 'aria-rowindex', String(index + 2));
    setAttribute(this.element, 'aria-selected', String(isSelected));
    this.element.classList.toggle('loading', station === null);
    if (station === null) {
      setText(this.link, '…');
      setText(this.identity, '');
      setAttribute(this.link, 'href', null);
      this.cells.slice(1).forEach((cell) => setText(cell, ''));
      return;
    }
    setText(this.link, station.key);
    setAttribute(this.link, 'href', `#/stations/${encodeURIComponent(station.key)}`);
    setText(this.identity, station.identity === station.key ? '' : station.identity);
    COLUMNS.forEach(({ sort, text, title, isCount }, column) => {
      if (text) setText(this.cells[column], text(station));
      if (isCount) this.cells[column].classList.toggle('muted', station[sort] === 0);
      if (title) setAttribute(this.cells[column], 'title', title(station));
    });
    this.cells.at(-1).classList.toggle('bad', station.errors > 0);
  }

  hide() {
    this.index = null;
    this.element.hidden = true;
  }
}

/** The table: a header, and rows that are placed by their index. */
class Table {
  constructor({ onSort, signal }) {
    this.headers = COLUMNS.map(({ sort, label, name, isNumber }) => {
      const button = h('button', { type: 'button', on: { click: () => onSort(sort) } }, label);
      return h('div', { role: 'columnheader', class: isNumber ? `cell number ${name}` : `cell ${name}` }, button);
    });
    this.header = h('div', { role: 'row', class: 'row header', 'aria-rowindex': '1' }, ...this.headers);
    this.body = h('div', { role: 'rowgroup', class: 'rows' });
    this.element = h('div', { role: 'grid', class: 'grid', tabindex: '0', 'aria-label': 'Stations', 'aria-readonly': 'true' },
      h('div', { role: 'rowgroup', class: 'head' }, this.header), this.body);
    this.pool = [];
    this.selected = 0;
    this.selectedKey = null;
    this.rows = null;
    this.frame = null;
    this.element.addEventListener('scroll', () => this.schedule(), { passive: true });
    this.element.addEventListener('keydown', (event) => this.#onKey(event));
    this.body.addEventListener('click', (event) => this.#onClick(event));
    const observer = new ResizeObserver(() => this.schedule());
    observer.observe(this.element);
    signal.addEventListener('abort', () => {
      observer.disconnect();
      cancelAnimationFrame(this.frame);
    });
  }

  get length() {
    return Math.min(this.rows?.matched ?? 0, MAX_ROWS);
  }

  get visible() {
    const first = Math.floor(this.element.scrollTop / this.rowHeight);
    const inView = Math.ceil((this.element.clientHeight - this.headHeight) / this.rowHeight);
    return [Math.max(first, 0), Math.max(Math.min(first + inView, this.length - 1), 0)];
  }

  /** Measures the rows, whose height the style sheet sets. */
  measure() {
    this.headHeight = this.header.offsetHeight;
    this.rowHeight = this.headHeight;
  }

  showOrder(sort, order) {
    COLUMNS.forEach((column, index) => {
      const direction = order === 'asc' ? 'ascending' : 'descending';
      setAttribute(this.headers[index], 'aria-sort', column.sort === sort ? direction : null);
    });
  }

  schedule() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  draw() {
    if (this.rows === null) return;
    if (!this.rowHeight) this.measure();
    if (!this.rowHeight) return;
    const height = `${this.length * this.rowHeight}px`;
    if (this.body.style.height !== height) this.body.style.height = height;
    setAttribute(this.element, 'aria-rowcount', String((this.rows.matched ?? 0) + 1));
    const [firstVisible, lastVisible] = this.visible;
    if (this.rows.matched === null) this.rows.want(0, 0, false);
    else if (this.length > 0) this.rows.want(firstVisible, lastVisible, false);
    const first = Math.max(firstVisible - OVERSCAN, 0);
    const last = Math.min(lastVisible + OVERSCAN, this.length - 1);
    while (this.pool.length < last - first + 1) {
      const row = new Row(`row-${this.pool.length}`);
      row.hide();
      this.pool.push(row);
      this.body.append(row.element);
    }
    this.#followSelection(first, last);
    let active = null;
    const used = new Set();
    for (let index = first; index <= last; index += 1) {
      // A row of the list keeps its element while it is in view.
      const row = this.pool[index % this.pool.length];
      used.add(row);
      row.show(index, index * this.rowHeight, this.rows.get(index), index === this.selected);
      if (index === this.selected) active = row.element.id;
    }
    for (const row of this.pool) if (!used.has(row)) row.hide();
    setAttribute(this.element, 'aria-activedescendant', active);
  }

  /** Keeps the selection on its station, if the station has moved to another row in view. */
  #followSelection(first, last) {
    if (this.selected >= this.length) this.selected = Math.max(this.length - 1, 0);
    const station = this.rows.get(this.selected);
    if (station === null) return;
    if (this.selectedKey === null || station.key === this.selectedKey) {
      this.selectedKey = station.key;
      return;
    }
    for (let index = first; index <= last; index += 1) {
      if (this.rows.get(index)?.key === this.selectedKey) {
        this.selected = index;
        return;
      }
    }
    this.selectedKey = station.key;
  }

  select(index) {
    this.selected = Math.min(Math.max(index, 0), Math.max(this.length - 1, 0));
    this.selectedKey = this.rows.get(this.selected)?.key ?? null;
    const top = this.selected * this.rowHeight;
    const bottom = top + this.rowHeight + this.headHeight;
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    else if (bottom > this.element.scrollTop + this.element.clientHeight) {
      this.element.scrollTop = bottom - this.element.clientHeight;
    }
    this.schedule();
  }

  open(index) {
    const station = this.rows.get(index);
    if (station !== null) location.hash = `#/stations/${encodeURIComponent(station.key)}`;
  }

  #onKey(event) {
    if (event.target !== this.element || event.ctrlKey || event.metaKey || event.altKey) return;
    const [first, last] = this.visible;
    const page = Math.max(last - first - 1, 1);
    const to = {
      ArrowDown: this.selected + 1, j: this.selected + 1, ArrowUp: this.selected - 1, k: this.selected - 1,
      PageDown: this.selected + page, PageUp: this.selected - page, Home: 0, End: this.length - 1,
    }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      this.select(to);
    } else if (event.key === 'Enter') {
      this.open(this.selected);
    }
  }

  #onClick(event) {
    // The link opens its station itself, also in another tab.
    if (event.target.closest('a')) return;
    const row = this.pool.find((row) => row.element.contains(event.target));
    if (row && row.index !== null) this.open(row.index);
  }
}

export function showStations(main, { live, signal, settings, overview }) {
  main.className = 'stations';
  const query = { search: settings.get('search') ?? '', sort: settings.get('sort') ?? 'key', order: settings.get('order') ?? 'asc' };
  let rows = null;
  let requests = null;
  const failure = h('p', { class: 'alert', role: 'alert', hidden: true });
  const summary = h('span', { class: 'muted', role: 'status' });
  const search = h('input', {
    type: 'search', placeholder: 'Search  ( / )', 'aria-label': 'Search stations', value: query.search,
    autocomplete: 'off', spellcheck: 'false', maxlength: '200',
  });
  const table = new Table({ signal, onSort: (sort) => {
    query.order = query.sort === sort && query.order === 'asc' ? 'desc' : 'asc';
    query.sort = sort;
    start();
  } });
  const empty = h('p', { class: 'empty', hidden: true });
  table.element.append(empty);
  main.append(h('h1', { class: 'hidden' }, 'Stations'), h('div', { class: 'tools' }, search, summary), failure, table.element);

  const changed = () => {
    failure.hidden = true;
    const { matched, total } = rows;
    const shown = matched > MAX_ROWS ? `, the first ${count(MAX_ROWS)} are shown` : '';
    setText(summary, matched === total ? counted(total, 'station') : `${count(matched)} of ${counted(total, 'station')}${shown}`);
    empty.hidden = matched > 0;
    setText(empty, total === 0 ? 'No station is connected.' : 'No station matches the search.');
    table.draw();
    if (place.restore && matched > 0) {
      place.restore = false;
      table.element.scrollTop = place.top;
    }
  };
  const failed = (error) => {
    setText(failure, `The stations could not be fetched: ${error.message}`);
    failure.hidden = false;
  };
  /** Keeps the search and the order for the way back, at the top of the list if they are others. */
  const remember = () => {
    const set = Object.entries(query).filter(([name, value]) => value !== { search: '', sort: 'key', order: 'asc' }[name]);
    const text = new URLSearchParams(set).toString();
    if (place.query !== text) place.top = 0;
    place.query = text;
  };
  /** Begins with another search or order. */
  const start = () => {
    remember();
    // The first list is the one that the user left.
    place.restore = requests === null && place.top > 0;
    requests?.abort();
    requests = new AbortController();
    rows = new Rows({ ...query }, changed, failed, requests.signal);
    table.rows = rows;
    table.selected = 0;
    table.selectedKey = null;
    table.element.scrollTop = 0;
    table.showOrder(query.sort, query.order);
    history.replaceState(null, '', listLink());
    table.schedule();
  };
  const showNodes = ({ nodes }) => {
    table.element.classList.toggle('has-nodes', nodes.some(({ name }) => name !== null));
  };

  let delay = null;
  search.addEventListener('input', () => {
    query.search = search.value.trim();
    remember();
    clearTimeout(delay);
    delay = setTimeout(start, SEARCH_DELAY);
  });
  search.addEventListener('keydown', (event) => {
    if (event.key !== 'ArrowDown' && event.key !== 'Enter') return;
    event.preventDefault();
    table.element.focus();
  });
  const refresh = setInterval(() => {
    if (!document.hidden && rows.matched !== null) rows.want(...table.visible, true);
    else if (!document.hidden) table.schedule();
  }, REFRESH);
  table.element.addEventListener('scroll', () => {
    if (rows.matched !== null && !place.restore) place.top = table.element.scrollTop;
  }, { passive: true });
  signal.addEventListener('abort', () => {
    clearInterval(refresh);
    clearTimeout(delay);
    requests.abort();
  });
  live.addEventListener('overview', ({ detail }) => showNodes(detail), { signal });
  if (overview) showNodes(overview);
  start();
  if (settings.has('focus')) search.focus();
  return {
    title: 'Stations',
    search,
    onKey: (event) => {
      // The list takes the keys also before it was clicked.
      if (!['j', 'k', 'ArrowDown', 'ArrowUp'].includes(event.key) || document.activeElement === table.element) return;
      event.preventDefault();
      table.element.focus();
    },
  };
}
