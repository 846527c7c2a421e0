// A curve over the last five minutes, drawn as SVG.

import { h, setText, svg } from './dom.js';
import { clock } from './format.js';

const SECONDS = 300;
const HEIGHT = 156;
const MARGIN = { top: 8, right: 6, bottom: 18, left: 52 };
// Curves have a gap if no point came for this long, in milliseconds.
const GAP = 2500;

/** Returns a round step, 1, 2 or 5 times a power of ten, so that at most three steps cover the range. */
function roundStep(range) {
  const power = 10 ** Math.floor(Math.log10(range / 3));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step * 3 >= range * 0.999);
}

export class Chart {
  /**
   * `series` are `{ label, name, value }`: `name` is the class of the curve, `value` takes its number from a point.
   * The scale begins at zero, or near the lowest value if `floats` is set. `minimum` is the least range of the scale.
   */
  constructor({ title, series, format, minimum, floats = false }) {
    Object.assign(this, { title, series, format, minimum, floats });
    this.points = [];
    this.pointed = null;
    this.values = series.map(({ name }) => h('span', { class: `value ${name}` }));
    this.moment = h('span', { class: 'moment' });
    const legend = series.map(({ label, name }, index) =>
      h('span', { class: 'legend' }, h('i', { class: name }), `${label} `, this.values[index]));
    this.svg = svg('svg', { class: 'chart', role: 'img', height: HEIGHT });
    this.element = h('figure', {}, h('figcaption', {}, h('strong', {}, title), this.moment, ...legend), this.svg);
    this.svg.addEventListener('pointermove', (event) => this.#point(event.offsetX));
    this.svg.addEventListener('pointerleave', () => this.#point(null));
    this.observer = new ResizeObserver(() => this.#draw());
    this.observer.observe(this.element);
  }

  /** Stops watching the size of the page. */
  dispose() {
    this.observer.disconnect();
  }

  /** Shows the points, oldest first. */
  update(points) {
    this.points = points;
    this.#draw();
  }

  #point(x) {
    this.pointed = x;
    this.#draw();
  }

  #scale() {
    const values = this.points.flatMap((point) => this.series.map(({ value }) => value(point))).filter((value) => value !== null);
    let max = Math.max(...values, 0);
    let low = this.floats && values.length > 0 ? Math.min(...values) : 0;
    // A curve that hardly moves is in the middle of its scale.
    if (this.floats) low = Math.max(low - Math.max(this.minimum - (max - low), 0) / 2, 0);
    max = Math.max(max, low + this.minimum);
    const step = roundStep(max - low);
    const bottom = Math.floor(low / step) * step;
    const steps = Math.max(Math.ceil(Number(((max - bottom) / step).toFixed(6))), 1);
    return { bottom, step, steps, top: bottom + steps * step };
  }

  #draw() {
    const width = this.svg.clientWidth;
    if (width === 0 || this.points.length === 0) return;
    const end = this.points.at(-1).at;
    const start = end - SECONDS * 1000;
    const { bottom, top, step, steps } = this.#scale();
    const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
    const x = (at) => MARGIN.left + ((at - start) / (end - start)) * inner.width;
    const y = (value) => MARGIN.top + (1 - (value - bottom) / (top - bottom)) * inner.height;
    const parts = [];
    for (let index = 0; index <= steps; index += 1) {
      const value = bottom + index * step;
      const at = Math.round(y(value)) + 0.5;
      parts.push(svg('line', { class: 'grid', x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at }));
      parts.push(svg('text', { x: MARGIN.left - 6, y: at + 3.5, 'text-anchor': 'end' }, this.format(value)));
    }
    for (let minutes = 0; minutes <= 5; minutes += width < 420 ? 5 : 1) {
      const anchor = minutes === 0 ? 'end' : minutes === 5 ? 'start' : 'middle';
      const label = minutes === 0 ? 'now' : `−${minutes} min`;
      parts.push(svg('text', { x: x(end - minutes * 60_000), y: HEIGHT - 3, 'text-anchor': anchor }, label));
    }
    for (const { name, value } of [...this.series].reverse()) {
      const { line, dots } = this.#paths(value, start, x, y);
      parts.push(svg('path', { class: `curve ${name}`, d: line }), svg('path', { class: `dots ${name}`, d: dots }));
    }
    const shown = this.#pointedPoint(start, end, inner.width);
    if (this.pointed !== null) {
      const at = x(shown.at);
      parts.push(svg('line', { class: 'cursor', x1: at, x2: at, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }));
    }
    this.svg.replaceChildren(...parts);
    const texts = this.series.map(({ value }) => this.format(this.pointed === null ? this.#latest(value) : value(shown)));
    this.values.forEach((element, index) => setText(element, texts[index]));
    setText(this.moment, this.pointed === null ? '' : clock(shown.at));
    const label = this.series.map((series, index) => `${series.label} ${texts[index]}`).join(', ');
    this.svg.setAttribute('aria-label', `${this.title}: ${label}`);
  }

  /** Returns the latest value. A second without calls has no latency. */
  #latest(value) {
    const point = this.points.findLast((point) => value(point) !== null);
    return point === undefined ? null : value(point);
  }

  /** Returns the point under the pointer, else the latest one. */
  #pointedPoint(start, end, width) {
    if (this.pointed === null) return this.points.at(-1);
    const at = start + ((this.pointed - MARGIN.left) / width) * (end - start);
    let best = null;
    for (const point of this.points) {
      if (best === null || Math.abs(point.at - at) < Math.abs(best.at - at)) best = point;
    }
    return best;
  }

  /** Returns the path of a curve, and that of the values without neighbours, which are dots. */
  #paths(value, start, x, y) {
    let line = '';
    let dots = '';
    let run = [];
    let last = null;
    const end = () => {
      if (run.length === 1) dots += `M${run[0]}h.01`;
      else if (run.length > 1) line += `M${run.join('L')}`;
      run = [];
    };
    for (const point of this.points) {
      const current = value(point);
      if (point.at < start) continue;
      if (current === null || (last !== null && point.at - last > GAP)) end();
      if (current !== null) run.push(`${x(point.at).toFixed(1)} ${y(current).toFixed(1)}`);
      last = point.at;
    }
    end();
    return { line, dots };
  }
}
