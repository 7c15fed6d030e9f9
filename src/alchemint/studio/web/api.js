/** The studio's HTTP API, as docs/studio-api.md tells it: the page has no other way to the server. */

const ROOT = '/api/v1';

/** What the server refused: one line for each fault. */
export class Refusal extends Error {
  /**
   * @param {number} status 0 when the server was not reached
   * @param {string[]} faults
   */
  constructor(status, faults) {
    super(faults.join('\n'));
    this.status = status;
    this.faults = faults;
  }
}

/** Names this tab; it is kept over a reload, so that a reload stops nothing. */
export const CLIENT = clientName();

/** @returns {Promise<Object>} what the model makes unless told otherwise */
export const model = () => json('GET', '/model');

/** @returns {Promise<Object>} faults, warnings, the resolved storyboard and its curves */
export const check = (storyboard, signal) => json('POST', '/check', storyboard, signal);

/** @returns {Promise<Object[]>} one job for each variation */
export const submit = async (storyboard, options) =>
  (await json('POST', '/jobs', {storyboard, options: {...options, client: CLIENT}})).jobs;

/** @returns {Promise<Object[]>} the newest jobs first */
export async function jobs(limit) {
  return (await json('GET', `/jobs?limit=${limit}`)).jobs;
}

/** Stop a job that waits or runs; remove one that has ended. */
export const remove = id => json('DELETE', `/jobs/${encodeURIComponent(id)}`);

/** @returns {string} where an uploaded picture lies */
export const pictureUrl = id => `${ROOT}/pictures/${encodeURIComponent(id)}`;

/** @returns {Promise<{id: string, url: string, width: number, height: number}>} */
export async function upload(file) {
  return (await send('POST', '/pictures', file, {'Content-Type': file.type || 'application/octet-stream'})).json();
}

/**
 * Send a storyboard file: a zip with its pictures, or one YAML or JSON file.
 * @param {Blob} file
 * @param {string} name tells the kind
 * @returns {Promise<{storyboard: Object, pictures: Object[]}>}
 */
export async function importFile(file, name) {
  const suffix = name.toLowerCase().split('.').at(-1);
  const kind = {zip: 'application/zip', json: 'application/json'}[suffix] ?? 'application/yaml';
  return (await send('POST', '/storyboards/import', file, {'Content-Type': kind})).json();
}

/** @returns {Promise<Blob>} the zip that `alchemint generate` takes */
export const exportZip = async storyboard =>
  (await send('POST', '/storyboards/export', JSON.stringify(storyboard), {'Content-Type': 'application/json'})).blob();

/**
 * Hear of every change of a job until the page is closed.
 * @param {(job: Object) => void} onJob
 * @param {() => void} onOpen called when the stream begins, and again after each interruption
 * @param {(id: string) => void} onRemoved
 */
export function listen(onJob, onOpen, onRemoved) {
  const stream = new EventSource(`${ROOT}/events?client=${encodeURIComponent(CLIENT)}`);
  stream.addEventListener('message', event => onJob(JSON.parse(event.data).job));
  stream.addEventListener('removed', event => onRemoved(JSON.parse(event.data).id));
  stream.addEventListener('open', onOpen);
}

async function json(method, path, document, signal) {
  const body = document === undefined ? undefined : JSON.stringify(document);
  const response = await send(method, path, body, body ? {'Content-Type': 'application/json'} : {}, signal);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

async function send(method, path, body, headers, signal) {
  let response;
  try {
    response = await fetch(ROOT + path, {method, body, headers, signal});
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refusal(0, ['The studio does not answer; see that `alchemint studio` still runs, then try again.']);
  }
  if (!response.ok) throw new Refusal(response.status, await faultsOf(response));
  return response;
}

async function faultsOf(response) {
  try {
    const {faults} = await response.json();
    if (Array.isArray(faults) && faults.length) return faults.map(String);
  } catch {
    // Something before the studio answered, a proxy perhaps: its status is all there is to tell.
  }
  return [`The server answered ${response.status} ${response.statusText}.`];
}

function clientName() {
  const bytes = [...crypto.getRandomValues(new Uint8Array(12))];
  const drawn = bytes.map(byte => byte.toString(16).padStart(2, '0')).join('');
  try {
    const kept = sessionStorage.getItem('alchemint.client') ?? drawn;
    sessionStorage.setItem('alchemint.client', kept);
    return kept;
  } catch {
    return drawn;
  }
}
