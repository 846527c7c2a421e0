// Elements. Everything that comes from the server passes through here, and becomes text, never markup.

const SVG = 'http://www.w3.org/2000/svg';

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'on') {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (value === true) {
      element.setAttribute(name, '');
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Creates an HTML element. Children are elements, and strings that become text. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Creates an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Sets the text of an element, if it differs. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets an attribute, or removes it if the value is null. */
export function setAttribute(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** Returns true if the element takes what the user types. */
export function isInput(element) {
  return element instanceof Element && element.matches('input, textarea, select');
}

/**
 * Makes a list of buttons one stop of the Tab key, in which arrow keys, j and k, Home and End move.
 * `selector` finds the buttons in the list.
 */
export function rove(list, selector) {
  const visible = () => [...list.querySelectorAll(selector)].filter((button) => button.offsetParent !== null);
  const select = (button) => {
    for (const other of list.querySelectorAll(`${selector}[tabindex="0"]`)) other.tabIndex = -1;
    button.tabIndex = 0;
  };
  list.addEventListener('focusin', (event) => {
    const button = event.target.closest(selector);
    if (button) select(button);
  });
  list.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !event.target.matches(selector)) return;
    const buttons = visible();
    const at = buttons.indexOf(event.target);
    const to = {
      ArrowDown: at + 1, j: at + 1, ArrowUp: at - 1, k: at - 1, Home: 0, End: buttons.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    buttons[Math.min(Math.max(to, 0), buttons.length - 1)]?.focus();
  });
}

/** Makes sure that the Tab key reaches a list of `rove`, if its buttons have changed. */
export function keepTabStop(list, selector) {
  if (!list.querySelector(`${selector}[tabindex="0"]`)) {
    const first = list.querySelector(selector);
    if (first) first.tabIndex = 0;
  }
}
