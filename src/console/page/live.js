// The stream of events, which connects again when it is cut.

import { parse } from './json.js';

const KINDS = ['point', 'handshake', 'message', 'station', 'lost'];

// The server sends a point every second.
const SILENCE = 15_000;
// A hidden page gives its connection back, because browsers have six for each server.
const HIDDEN = 60_000;
const MAX_DELAY = 10_000;

/**
 * Emits each event of the stream under its kind, with the data as `detail`, and `state` when the stream opens or is cut.
 * `state` is `connecting`, `live`, `cut` (no connection), `refused` (an error of HTTP) or `asleep`.
 */
export class Live extends EventTarget {
  state = 'connecting';
  #prepare = null;
  #source = null;
  #generation = 0;
  #delay = 0;
  #retry = null;
  #watchdog = null;
  #sleep = null;
  #staysAwake = false;

  constructor() {
    super();
    document.addEventListener('visibilitychange', () => this.#onVisibility());
  }

  /**
   * Replaces the stream. Before each connection, `prepare` fetches what precedes the stream, and returns its query.
   * With `staysAwake`, the stream stays open while the page is hidden.
   */
  follow(prepare, { staysAwake = false } = {}) {
    this.#prepare = prepare;
    this.#staysAwake = staysAwake;
    this.#delay = 0;
    this.#open();
  }

  /** Connects again, for example because events were lost. */
  restart() {
    this.#open();
  }

  async #open() {
    const generation = ++this.#generation;
    this.#stop();
    let query;
    try {
      query = await this.#prepare();
    } catch (error) {
      if (generation === this.#generation) this.#retryAfter(error.status ? 'refused' : 'cut', error);
      return;
    }
    if (generation !== this.#generation) return;
    const source = new EventSource(`api/live${query}`);
    this.#source = source;
    source.onopen = () => {
      this.#delay = 0;
      this.#setState('live');
    };
    // A closed source had an error of HTTP, such as 503 when too many streams are open.
    source.onerror = () => this.#retryAfter(source.readyState === EventSource.CLOSED ? 'refused' : 'cut');
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        this.#watch();
        this.dispatchEvent(new CustomEvent(kind, { detail: parse(event.data) }));
      });
    }
    this.#watch();
  }

  #stop() {
    clearTimeout(this.#retry);
    clearTimeout(this.#watchdog);
    this.#source?.close();
    this.#source = null;
  }

  #watch() {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.#retryAfter('cut'), SILENCE);
  }

  #retryAfter(state, error = null) {
    this.#generation += 1;
    this.#stop();
    this.#setState(state, error);
    this.#delay = Math.min(Math.max(this.#delay * 2, 1000), MAX_DELAY);
    // Many pages must not come back at the same moment after a restart of the server.
    this.#retry = setTimeout(() => this.#open(), this.#delay * (0.7 + 0.3 * Math.random()));
  }

  #setState(state, error = null) {
    this.state = state;
    this.dispatchEvent(new CustomEvent('state', { detail: { state, error } }));
  }

  #onVisibility() {
    clearTimeout(this.#sleep);
    if (!document.hidden) {
      if (this.state === 'asleep') this.#open();
    } else if (!this.#staysAwake) {
      this.#sleep = setTimeout(() => {
        this.#generation += 1;
        this.#stop();
        this.#setState('asleep');
      }, HIDDEN);
    }
  }
}
