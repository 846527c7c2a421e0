// Requests to the console's API, which is beside the page.

import { parse } from './json.js';

/** A response with an error, or no response at all. */
export class ApiError extends Error {
  /** `status` is null if there was no response. `body` is the response, or null if it is not JSON. */
  constructor(message, status, body) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

async function request(path, options) {
  let response;
  let text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError('the server does not respond', null, null);
  }
  let body = null;
  try {
    body = parse(text);
  } catch {
    // A proxy's page, for example. The status says enough.
  }
  if (!response.ok) throw new ApiError(body?.error ?? `the server returned ${response.status}`, response.status, body);
  if (body === null) throw new ApiError('the server returned something that is not JSON', response.status, null);
  return body;
}

const post = (path, body, signal) =>
  request(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body, signal });

const station = (key) => `api/stations/${encodeURIComponent(key)}`;

export const overview = (signal) => request('api/overview', { signal });

export const stations = (query, signal) => request(`api/stations?${new URLSearchParams(query)}`, { signal });

export const stationInfo = (key, signal) => request(station(key), { signal });

export const messages = (key, limit, signal) => request(`${station(key)}/messages?limit=${limit}`, { signal });

/** Returns the URL of a station's recorded messages as JSON Lines. */
export const messagesFile = (key) => `${station(key)}/messages.jsonl`;

export const actions = (protocol, signal) => request(`api/actions?${new URLSearchParams({ protocol })}`, { signal });

/** Calls a station. `params` is JSON text, so that numbers arrive as the user wrote them. */
export const call = (key, action, params, signal) =>
  post(`${station(key)}/calls/${encodeURIComponent(action)}`, params, signal);

export const close = (key, reason) => post(`${station(key)}/close`, JSON.stringify({ reason }));

export const handshakes = (signal) => request('api/handshakes', { signal });
