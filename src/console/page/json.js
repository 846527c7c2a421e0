// JSON: reading without loss, and printing with colours.

import { h } from './dom.js';

// More values than this are printed without colours.
const MAX_COLOURED = 5000;

/** Parses JSON. Integers that JavaScript cannot hold keep their digits, if the browser supports it. */
export function parse(text) {
  if (!JSON.rawJSON) return JSON.parse(text);
  return JSON.parse(text, (key, value, context) => {
    const isUnsafe = typeof value === 'number' && Number.isInteger(value) && !Number.isSafeInteger(value);
    return isUnsafe && context?.source ? JSON.rawJSON(context.source) : value;
  });
}

/** Returns a `pre` element with the value on several lines, in colours by classes. */
export function pretty(value) {
  const out = h('pre', { class: 'json', tabindex: '0' });
  const parts = [];
  let left = MAX_COLOURED;
  const put = (name, text) => {
    const last = parts.at(-1);
    if (name === null && typeof last === 'string') parts[parts.length - 1] = last + text;
    else if (name === null) parts.push(text);
    else parts.push(h('span', { class: name }, text));
  };
  const print = (value, indent) => {
    left -= 1;
    if (left < 0 || value === null || typeof value !== 'object' || JSON.isRawJSON?.(value)) {
      const text = JSON.stringify(value, null, 2).replaceAll('\n', `\n${indent}`);
      put(left < 0 ? null : typeof value === 'string' ? 'string' : value === null || typeof value === 'boolean' ? 'word' : 'number', text);
      return;
    }
    const isArray = Array.isArray(value);
    const entries = isArray ? value : Object.entries(value);
    if (entries.length === 0) {
      put(null, isArray ? '[]' : '{}');
      return;
    }
    put(null, isArray ? '[' : '{');
    entries.forEach((entry, index) => {
      put(null, `${index > 0 ? ',' : ''}\n${indent}  `);
      if (!isArray) {
        put('key', JSON.stringify(entry[0]));
        put(null, ': ');
      }
      print(isArray ? entry : entry[1], `${indent}  `);
    });
    put(null, `\n${indent}${isArray ? ']' : '}'}`);
  };
  print(value, '');
  out.append(...parts);
  return out;
}

/** Returns the error of a text that must be a JSON object, or null. */
export function objectError(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return error.message.replace(/^JSON\.parse: /, '');
  }
  const isObject = value !== null && typeof value === 'object' && !Array.isArray(value);
  return isObject ? null : 'the parameters must be an object, such as {}';
}
