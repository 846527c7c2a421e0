// Numbers, durations and times as text.

const NUMBER = new Intl.NumberFormat('en-US');

/** The text of an absent value. */
export const NONE = '–';

/** Returns a count, such as `19,000`. */
export function count(value) {
  return value === null || value === undefined ? NONE : NUMBER.format(value);
}

/** Returns a count with its noun, such as `1 message` or `2 messages`. */
export function counted(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? '' : 's'}`;
}

/** Returns a measured duration in seconds, such as `1.4 ms`. */
export function seconds(value) {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return '0 ms';
  if (value < 0.00995) return `${(value * 1000).toFixed(value < 0.0000995 ? 2 : 1)} ms`;
  if (value < 0.9995) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(value < 9.95 ? 1 : 0)} s`;
  return span(value);
}

/** Returns a long duration in seconds, such as `3 h 12 min`. */
export function span(value) {
  const whole = Math.max(0, Math.floor(value));
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  if (minutes > 0) return minutes < 10 ? `${minutes} min ${whole % 60} s` : `${minutes} min`;
  return `${whole} s`;
}

const two = (number) => String(number).padStart(2, '0');

/** Returns the local time of a moment in Unix milliseconds, such as `07:12:03`. */
export function clock(at) {
  const date = new Date(at);
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** Returns the milliseconds of a moment, such as `.250`. */
export function millis(at) {
  return `.${String(new Date(at).getMilliseconds()).padStart(3, '0')}`;
}

/** Returns the local date and time of a moment in Unix milliseconds. */
export function dateTime(at) {
  const date = new Date(at);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(at)}`;
}

/** Returns the number of bytes, such as `1.2 MiB`. */
export function bytes(value) {
  if (value < 1024) return `${value} B`;
  if (value < 1024 * 1024) return `${(value / 1024).toFixed(0)} KiB`;
  return `${(value / 1024 / 1024).toFixed(1)} MiB`;
}

// The server's clock may differ from the browser's. Ages use the server's.
let offset = 0;

/** Sets the server's time, in Unix milliseconds. */
export function setServerTime(at) {
  offset = at - Date.now();
}

/** Returns the time since a moment in Unix milliseconds, such as `4 s`. */
export function age(at) {
  return at === null || at === undefined ? NONE : span((Date.now() + offset - at) / 1000);
}
