// Calls to a station and the close of its connection, if the console allows them.

import * as api from './api.js';
import { h, setText } from './dom.js';
import { seconds } from './format.js';
import { objectError, pretty } from './json.js';

/** Returns the form that calls a station. Templates of its protocol come with `setProtocol`. */
export function callForm(key, signal) {
  const templates = new Map();
  let protocol = null;
  // The template in the editor, while the user has not changed it.
  let template = '{}';
  let running = null;

  const names = h('datalist', { id: 'call-actions' });
  const action = h('input', {
    type: 'text', id: 'call-action', list: 'call-actions', autocomplete: 'off', spellcheck: 'false', maxlength: '50', required: true,
    placeholder: 'for example TriggerMessage',
  });
  const params = h('textarea', {
    id: 'call-params', rows: '8', spellcheck: 'false', autocomplete: 'off', 'aria-describedby': 'call-error',
  });
  params.value = template;
  const error = h('p', { class: 'alert', id: 'call-error', role: 'alert', hidden: true });
  const send = h('button', { type: 'submit', class: 'primary' }, 'Call');
  const cancel = h('button', { type: 'button', hidden: true }, 'Cancel');
  const answer = h('div', { class: 'answer', role: 'status' });
  const form = h('form', { class: 'call' },
    h('label', { for: 'call-action' }, 'Action'), action, names,
    h('label', { for: 'call-params' }, 'Parameters (JSON)'), params, error,
    h('div', { class: 'buttons' }, send, cancel, h('span', { class: 'muted keys' }, 'Ctrl + Enter')), answer);

  const showError = (text) => {
    setText(error, text ?? '');
    error.hidden = text === null;
    params.setAttribute('aria-invalid', String(text !== null));
  };
  const check = () => {
    const text = objectError(params.value.trim() || '{}');
    showError(text);
    return text === null;
  };
  const fillIn = () => {
    const known = templates.get(action.value.trim());
    if (known === undefined || params.value !== template) return;
    template = JSON.stringify(known, null, 2);
    params.value = template;
    showError(null);
  };
  const show = (kind, title, note, value) => {
    answer.className = `answer ${kind}`;
    answer.replaceChildren(...[h('p', {}, h('strong', {}, title), note ? ` ${note}` : null), value === undefined ? null : pretty(value)]
      .filter(Boolean));
  };
  const submit = async () => {
    if (running || !form.reportValidity()) return;
    if (!check()) {
      params.focus();
      return;
    }
    const name = action.value.trim();
    running = new AbortController();
    send.disabled = true;
    cancel.hidden = false;
    show('pending', `${name}: waiting for the response`);
    try {
      const { outcome, result, code, description, details, seconds: took } =
        await api.call(key, name, params.value.trim() || '{}', running.signal);
      if (outcome === 'result') show('good', `${name}: result`, `after ${seconds(took)}`, result);
      else show('failed', `${name}: ${code}`, [description, `after ${seconds(took)}`].filter(Boolean).join(', '), details);
    } catch (failure) {
      if (failure.name === 'AbortError') {
        show('failed', `${name}: cancelled.`, 'The station may have executed it.');
      } else {
        // Without a response, nothing tells how far the call came.
        const maybe = failure.body?.maybe_delivered === true || failure.status === null;
        const pointer = failure.body?.pointer ? `At ${failure.body.pointer}.` : null;
        show('failed', failure.message, maybe ? 'The station may have executed it.' : pointer);
      }
    }
    running = null;
    send.disabled = false;
    cancel.hidden = true;
  };

  form.addEventListener('submit', (event) => {
    event.preventDefault();
    submit();
  });
  params.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) submit();
  });
  params.addEventListener('input', () => {
    if (!error.hidden) check();
  });
  params.addEventListener('change', check);
  action.addEventListener('input', fillIn);
  cancel.addEventListener('click', () => running?.abort());

  return {
    element: form,
    async setProtocol(name) {
      if (name === protocol || name === null) return;
      protocol = name;
      try {
        const { actions } = await api.actions(name, signal);
        templates.clear();
        for (const { action, params } of actions) templates.set(action, params);
        names.replaceChildren(...[...templates.keys()].sort().map((value) => h('option', { value })));
        fillIn();
      } catch {
        // Any action can be typed without templates.
      }
    },
    setConnected(isConnected) {
      send.disabled = !isConnected || running !== null;
      send.title = isConnected ? '' : 'The station is not connected';
    },
  };
}

/** Returns the button that closes the connection of a station, and its dialog. */
export function closeButton(key) {
  const reason = h('input', { type: 'text', id: 'close-reason', maxlength: '123', autocomplete: 'off' });
  const failure = h('p', { class: 'alert', role: 'alert', hidden: true });
  const confirm = h('button', { type: 'submit', class: 'danger' }, 'Close the connection');
  const dismiss = h('button', { type: 'button' }, 'Cancel');
  const form = h('form', {}, h('h2', { id: 'close-title' }, 'Close the connection?'),
    h('p', {}, 'The station is disconnected with code 1000. Most stations connect again at once.'),
    h('label', { for: 'close-reason' }, 'Reason (optional)'), reason, failure,
    h('div', { class: 'buttons' }, confirm, dismiss));
  const dialog = h('dialog', { 'aria-labelledby': 'close-title' }, form);
  const button = h('button', { type: 'button' }, 'Close…');
  button.addEventListener('click', () => {
    failure.hidden = true;
    dialog.showModal();
  });
  dismiss.addEventListener('click', () => dialog.close());
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    confirm.disabled = true;
    try {
      await api.close(key, reason.value);
      dialog.close();
    } catch (error) {
      setText(failure, `The connection is not closed: ${error.message}`);
      failure.hidden = false;
    }
    confirm.disabled = false;
  });
  return { button, dialog };
}
