// The messages of a station as a sequence: the station at the left, the server at the right, and an arrow for each message.

import { h, keepTabStop, rove, setText } from './dom.js';
import { clock, count, counted, dateTime, millis, seconds } from './format.js';
import { pretty } from './json.js';

/** The number of messages that the page keeps. The oldest go first. */
export const MAX_MESSAGES = 1000;
const MAX_BYTES = 16 * 1024 * 1024;
const MAX_GAP = 100_000;
const PREVIEW = 240;
// The list is drawn at most this often, in milliseconds.
const DRAW = 60;
// The list follows new messages if it is this close to its end, in pixels.
const NEAR = 48;

const RESPONSES = { result: 'result', error: 'error', result_error: 'result error' };
const NOTES = {
  bad: 'Bad message', deviation: 'Deviation', violation: 'Violation', opened: 'Opened', closed: 'Closed', failed: 'Failed',
};
const OTHER = { in: 'out', out: 'in' };

/** A message with its row, and the other message of the same exchange. */
class Entry {
  constructor(message) {
    this.message = message;
    this.action = message.action;
    this.partner = null;
    const payload = message.payload === null ? '' : JSON.stringify(message.payload);
    this.size = payload.length + (message.text?.length ?? 0) + 400;
    this.preview = (message.text ?? payload).slice(0, PREVIEW);
  }

  get isArrow() {
    return this.message.direction !== null && !(this.message.type in NOTES);
  }

  label() {
    const { type, code, action } = this.message;
    if (type === 'call' || type === 'send') return action ?? '?';
    if (type === 'result') return this.action ?? 'result';
    return `${this.action ? `${this.action} ` : ''}${code ?? RESPONSES[type]}`;
  }

  /** Builds the row, when the action is known. */
  build() {
    const { type, direction, at } = this.message;
    this.took = h('span', { class: 'took' });
    this.button = h('button', { type: 'button', class: 'summary', tabindex: '-1', 'aria-expanded': 'false' },
      h('span', { class: 'time', title: dateTime(at) }, clock(at), h('span', { class: 'millis' }, millis(at))),
      ...(this.isArrow ? this.#arrow() : this.#note()),
      this.took);
    this.element = h('li', { class: `message type-${type} ${direction ?? ''} ${this.isArrow ? 'arrow' : 'note'}` }, this.button);
    this.showTook();
  }

  #arrow() {
    const { type, direction, description } = this.message;
    const label = h('span', { class: 'label' }, this.label());
    const mark = type === 'send' ? h('span', { class: 'mark' }, 'send') : type in RESPONSES ? h('span', { class: 'mark' }, RESPONSES[type]) : null;
    const line = h('span', { class: 'line', 'aria-hidden': 'true' });
    const hidden = h('span', { class: 'hidden' }, direction === 'in' ? 'from the station: ' : 'to the station: ');
    const parts = direction === 'in' ? [hidden, label, mark, line] : [hidden, line, label, mark];
    return [
      h('span', { class: 'lanes' }, ...parts.filter(Boolean)),
      h('span', { class: 'preview' }, description && type !== 'result' ? `${description} ${this.preview}` : this.preview),
    ];
  }

  #note() {
    const { type, code, description, text } = this.message;
    const facts = [this.action, code, description, text === null ? null : this.preview].filter(Boolean);
    return [h('span', { class: 'lanes' }, h('span', { class: 'badge' }, NOTES[type] ?? type)), h('span', { class: 'preview' }, facts.join(' · '))];
  }

  /** Shows the time until the response, in both rows of an exchange. */
  showTook() {
    const { type, seconds: took } = this.message;
    if (type === 'call') {
      const response = this.partner?.message;
      setText(this.took, response ? seconds(response.seconds) : 'pending');
      this.took.classList.toggle('pending', !response);
      this.took.classList.toggle('bad', response !== undefined && response.type !== 'result');
    } else if (took !== null) {
      setText(this.took, seconds(took));
    }
  }

  toggle() {
    if (this.detail) this.detail.remove();
    this.detail = this.detail ? null : this.#detail();
    if (this.detail) {
      this.element.append(this.detail);
      this.detail.scrollIntoView({ block: 'nearest' });
    }
    this.button.setAttribute('aria-expanded', String(Boolean(this.detail)));
  }

  #detail() {
    const { id, code, description, payload, text, at } = this.message;
    const facts = [['Time', dateTime(at)], ['Message id', id], ['Code', code], ['Description', description]];
    const copied = text ?? JSON.stringify(payload, null, 2);
    // Without TLS, browsers offer no clipboard.
    const copy = navigator.clipboard && copied !== 'null'
      ? h('button', { type: 'button', class: 'copy', on: { click: () => navigator.clipboard.writeText(copied) } }, 'Copy')
      : null;
    return h('div', { class: 'detail' },
      h('dl', { class: 'facts' }, ...facts.filter(([, value]) => value !== null).map(([name, value]) =>
        h('div', {}, h('dt', {}, name), h('dd', {}, value)))),
      copy,
      payload === null ? null : pretty(payload),
      text === null ? null : h('pre', { class: 'json', tabindex: '0' }, text));
  }

  matches({ action, text }) {
    if (action && !(this.action ?? '').toLowerCase().includes(action)) return false;
    return !text || this.#contains(text) || (this.partner !== null && this.partner.#contains(text));
  }

  #contains(text) {
    return JSON.stringify(this.message).toLowerCase().includes(text);
  }
}

export class Sequence {
  /** `onChange` runs when the number of messages, the actions or the pause have changed. */
  constructor({ onChange, signal }) {
    this.onChange = onChange;
    this.entries = [];
    this.calls = new Map();
    this.actions = new Map();
    this.size = 0;
    this.filter = { action: '', text: '' };
    this.waiting = [];
    this.isPaused = false;
    this.overflowed = 0;
    this.forgotten = 0;
    this.shown = 0;
    this.unread = 0;
    this.timer = null;
    this.older = h('li', { class: 'message gap', hidden: true });
    this.list = h('ol', { class: 'messages' }, this.older);
    this.newer = h('button', { type: 'button', class: 'newer', hidden: true, on: { click: () => this.#toEnd() } });
    this.empty = h('p', { class: 'empty', hidden: true });
    this.scroller = h('div', { class: 'scroller' },
      h('div', { class: 'lane-names', 'aria-hidden': 'true' },
        h('span', { class: 'time' }, 'Time'),
        h('span', { class: 'lanes' }, h('span', {}, 'Station'), h('span', {}, 'Server')),
        h('span', { class: 'preview' }, 'Payload'), h('span', { class: 'took' }, 'Took')),
      this.empty, this.list);
    this.element = h('div', { class: 'sequence' }, this.scroller, this.newer);
    rove(this.list, '.summary');
    this.list.addEventListener('click', (event) => {
      if (event.target.closest('.summary')) this.#entryOf(event.target)?.toggle();
    });
    for (const kind of ['mouseover', 'focusin']) {
      this.list.addEventListener(kind, (event) => this.#mark(this.#entryOf(event.target)));
    }
    this.list.addEventListener('mouseleave', () => this.#mark(null));
    this.scroller.addEventListener('scroll', () => {
      if (this.unread > 0 && this.#isAtEnd()) this.#showUnread(0);
    }, { passive: true });
    signal.addEventListener('abort', () => clearTimeout(this.timer));
  }

  /** The number of the latest message, or 0. */
  get last() {
    return (this.waiting.at(-1) ?? this.entries.at(-1)?.message)?.seq ?? 0;
  }

  /** The number of messages that came during the pause. */
  get waitingCount() {
    return this.waiting.length + this.overflowed;
  }

  /** Shows the recorded messages, and keeps the rows that are there already. */
  load(messages, forgotten) {
    const latest = this.waiting.at(-1) ?? this.entries.at(-1)?.message;
    const known = latest && messages.find(({ seq }) => seq === latest.seq);
    // After a restart of the server, the numbers begin again.
    const isSame = latest === undefined || (known ? known.at === latest.at : messages.length > 0 && messages[0].seq > latest.seq && messages[0].at >= latest.at);
    if (!isSame) this.clear();
    if (this.entries.length === 0) this.forgotten = forgotten;
    const last = this.last;
    const isFirst = this.entries.length === 0;
    messages.filter(({ seq }) => seq > last).forEach((message) => this.#queue(message));
    if (!this.isPaused) this.#draw();
    if (isFirst) this.#toEnd();
  }

  /** Adds a message of the stream, unless it is there already. */
  add(message) {
    if (message.seq <= this.last) return;
    this.#queue(message);
    if (this.isPaused) this.onChange();
    // A timer, because a hidden page has no frames.
    else this.timer ??= setTimeout(() => this.#draw(), DRAW);
  }

  pause() {
    this.#draw();
    this.isPaused = true;
    this.onChange();
  }

  resume() {
    this.isPaused = false;
    this.#draw();
    this.onChange();
  }

  clear() {
    this.entries = [];
    this.waiting = [];
    this.calls.clear();
    this.actions.clear();
    this.size = 0;
    this.shown = 0;
    this.overflowed = 0;
    this.forgotten = 0;
    this.list.replaceChildren(this.older);
  }

  /** Shows only the messages of an action, and those that contain a text. */
  setFilter({ action, text }) {
    this.filter = { action: action.trim().toLowerCase(), text: text.trim().toLowerCase() };
    this.shown = 0;
    for (const entry of this.entries) this.#show(entry);
    this.#toEnd();
    this.#changed();
  }

  #queue(message) {
    this.waiting.push(message);
    if (this.waiting.length > MAX_MESSAGES) {
      this.waiting.shift();
      this.overflowed += 1;
    }
  }

  #draw() {
    clearTimeout(this.timer);
    this.timer = null;
    if (this.waiting.length === 0) {
      this.#changed();
      return;
    }
    const isAtEnd = this.#isAtEnd();
    const added = this.waiting.map((message) => this.#append(message));
    this.waiting = [];
    this.overflowed = 0;
    this.list.append(...added.flat());
    this.#trim();
    this.#changed();
    if (isAtEnd) this.#toEnd();
    else this.#showUnread(this.unread + added.length);
  }

  /** Returns the elements of a message: its row, and before it a note if messages are missing. */
  #append(message) {
    const elements = [];
    const before = this.entries.at(-1)?.message.seq;
    if (before !== undefined && message.seq > before + 1) {
      const missing = message.seq - before - 1;
      // The numbers jump when the server begins a new record of the station.
      const text = missing < MAX_GAP ? `${counted(missing, 'message')} missing here` : 'Messages are missing here';
      elements.push(h('li', { class: 'message gap' }, text));
    }
    const entry = new Entry(message);
    this.#pair(entry);
    entry.build();
    entry.partner?.showTook();
    entry.element.entry = entry;
    if (entry.action) this.actions.set(entry.action, (this.actions.get(entry.action) ?? 0) + 1);
    this.entries.push(entry);
    this.size += entry.size;
    this.#show(entry);
    elements.push(entry.element);
    return elements;
  }

  /** Finds the call of a response: the latest one with its id in the opposite direction. */
  #pair(entry) {
    const { type, direction, id } = entry.message;
    if (id === null) return;
    if (type === 'call') {
      this.calls.set(`${direction} ${id}`, entry);
      return;
    }
    const isFailed = type === 'failed';
    if (!(type in RESPONSES) && !isFailed) return;
    const key = `${isFailed ? 'out' : OTHER[direction]} ${id}`;
    const call = this.calls.get(key);
    if (call === undefined) return;
    this.calls.delete(key);
    entry.partner = call;
    entry.action ??= call.action;
    call.partner = entry;
  }

  #show(entry) {
    const isShown = entry.matches(this.filter);
    entry.element.hidden = !isShown;
    if (isShown) this.shown += 1;
  }

  #trim() {
    let removed = 0;
    while (this.entries.length - removed > MAX_MESSAGES || (this.size > MAX_BYTES && this.entries.length - removed > 1)) {
      const entry = this.entries[removed];
      removed += 1;
      this.size -= entry.size;
      if (!entry.element.hidden) this.shown -= 1;
      const { type, direction, id } = entry.message;
      if (type === 'call' && this.calls.get(`${direction} ${id}`) === entry) this.calls.delete(`${direction} ${id}`);
      if (entry.partner) entry.partner.partner = null;
      if (entry.action) {
        const left = this.actions.get(entry.action) - 1;
        if (left > 0) this.actions.set(entry.action, left);
        else this.actions.delete(entry.action);
      }
      while (this.older.nextSibling !== entry.element) this.older.nextSibling.remove();
      entry.element.remove();
    }
    if (removed > 0) this.entries.splice(0, removed);
    this.forgotten += removed;
  }

  #changed() {
    this.older.hidden = this.forgotten === 0;
    setText(this.older, `${counted(this.forgotten, 'earlier message')} no longer kept`);
    this.empty.hidden = this.shown > 0;
    setText(this.empty, this.entries.length === 0 ? 'No message is recorded yet.' : 'No message matches the filter.');
    keepTabStop(this.list, 'li:not([hidden]) > .summary');
    this.onChange();
  }

  #entryOf(element) {
    return element.closest('li')?.entry ?? null;
  }

  #mark(entry) {
    const marked = entry === null ? [] : [entry, entry.partner].filter(Boolean).map(({ element }) => element);
    for (const element of this.marked ?? []) if (!marked.includes(element)) element.classList.remove('marked');
    for (const element of marked) element.classList.add('marked');
    this.marked = marked;
  }

  #isAtEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR;
  }

  #toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#showUnread(0);
  }

  #showUnread(unread) {
    this.unread = unread;
    this.newer.hidden = unread === 0;
    setText(this.newer, unread === 0 ? '' : `${count(unread)} new ↓`);
  }
}
