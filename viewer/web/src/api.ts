// The wire: the session, DICOMweb (PS3.18) and the plug-in list, with deadlines, and one way to say what went wrong.
import { type Dataset, text } from './dicom';

// Where the page was served from; unit tests have no page.
export const ROOT = new URL('./', globalThis.document?.baseURI ?? 'http://localhost/').href.replace(/\/$/, '');
export const DICOMWEB = `${ROOT}/dicom-web`;
const JSON_MODEL = 'application/dicom+json';

/** An answer that is no success, in the server's own words where it gave any. */
export class RequestError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
    this.name = 'RequestError';
  }
}

let onUnauthorised: () => void = () => {};

/** What happens when the session has ended (401 on any request). */
export function whenUnauthorised(run: () => void): void {
  onUnauthorised = run;
}

export function unauthorised(): void {
  onUnauthorised();
}

const WORDS: Record<number, string> = {
  0: 'The server cannot be reached.',
  401: 'Please log in again.',
  403: 'You are not allowed to do this.',
  404: 'Not found.',
  413: 'Too large for the server.',
  503: 'The server is busy. Please try again in a moment.',
  507: 'The server has no space left.',
};

/** One sentence out of an error answer (application/problem+json or DICOM JSON or text). */
export function explain(status: number, contentType: string, body: string): string {
  if (/json/.test(contentType)) {
    try {
      const parsed: unknown = JSON.parse(body);
      const problem = (Array.isArray(parsed) ? parsed[0] : parsed) as Record<string, unknown>;
      for (const key of ['detail', 'title', 'message', 'error']) {
        if (typeof problem?.[key] === 'string' && problem[key] !== '') return problem[key] as string;
      }
    } catch {
      // Not JSON after all: the words below do.
    }
  } else if (/^text\/plain/.test(contentType) && body.trim() && body.length < 300) return body.trim();
  return WORDS[status] ?? `The server answered ${status}.`;
}

interface Options extends RequestInit {
  deadline?: number;
  /** A 401 is an answer here, not the end of the session. */
  quiet?: boolean;
}

/** A successful answer, or RequestError. */
export async function request(url: string, options: Options = {}): Promise<Response> {
  const { deadline = 30_000, quiet = false, signal, ...init } = options;
  const signals = [AbortSignal.timeout(deadline), ...(signal ? [signal] : [])];
  let response: Response;
  try {
    response = await fetch(url, { credentials: 'same-origin', ...init, signal: AbortSignal.any(signals) });
  } catch (error) {
    if (signal?.aborted) throw error;
    const late = error instanceof DOMException && error.name === 'TimeoutError';
    throw new RequestError(0, late ? 'The server did not answer in time.' : WORDS[0]!);
  }
  if (response.ok) return response;
  if (response.status === 401 && !quiet) onUnauthorised();
  const body = await response.text().catch(() => '');
  throw new RequestError(response.status, explain(response.status, response.headers.get('Content-Type') ?? '', body));
}

async function model(url: string, options: Options = {}): Promise<Dataset[]> {
  const response = await request(url, { ...options, headers: { Accept: JSON_MODEL } });
  if (response.status === 204) return [];
  return (await response.json()) as Dataset[];
}

// The session ---------------------------------------------------------------------------------------------------------

export interface Session {
  name: string;
  rights: string[];
}

export async function session(): Promise<Session | undefined> {
  try {
    return (await (await request(`${ROOT}/api/session`, { quiet: true })).json()) as Session;
  } catch (error) {
    if (error instanceof RequestError && error.status === 401) return undefined;
    throw error;
  }
}

export async function login(secret: { code: string } | { token: string }): Promise<void> {
  await request(`${ROOT}/api/login`, {
    method: 'POST',
    quiet: true,
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(secret),
  });
}

export async function logout(): Promise<void> {
  await request(`${ROOT}/api/logout`, { method: 'POST', quiet: true });
}

// Query and retrieve --------------------------------------------------------------------------------------------------

export interface StudySearch {
  patientName: string;
  patientID: string;
  accession: string;
  description: string;
  modality: string;
  from: string;
  to: string;
}

export const NO_SEARCH: StudySearch = {
  patientName: '',
  patientID: '',
  accession: '',
  description: '',
  modality: '',
  from: '',
  to: '',
};

/** The QIDO-RS query of a search form (PS3.18 8.3.4): text is found anywhere unless it has wildcards of its own. */
export function studyQuery(search: StudySearch, limit: number, offset: number): URLSearchParams {
  const query = new URLSearchParams();
  const loose = (key: string, value: string) => {
    const trimmed = value.trim();
    if (trimmed) query.append(key, /[*?]/.test(trimmed) ? trimmed : `*${trimmed}*`);
  };
  loose('PatientName', search.patientName.replace(/,\s*/g, '^'));
  loose('PatientID', search.patientID);
  loose('AccessionNumber', search.accession);
  loose('StudyDescription', search.description);
  if (search.modality) query.append('ModalitiesInStudy', search.modality);
  const [from, to] = [search.from, search.to].map((day) => day.replaceAll('-', ''));
  if (from || to) query.append('StudyDate', from === to ? from! : `${from}-${to}`);
  query.append('includefield', 'StudyDescription');
  query.append('limit', String(limit));
  query.append('offset', String(offset));
  return query;
}

export function findStudies(query: URLSearchParams, signal?: AbortSignal): Promise<Dataset[]> {
  return model(`${DICOMWEB}/studies?${query}`, { signal });
}

export async function findStudy(study: string): Promise<Dataset | undefined> {
  return (await model(`${DICOMWEB}/studies?StudyInstanceUID=${study}&includefield=StudyDescription`))[0];
}

export function findSeries(study: string): Promise<Dataset[]> {
  return model(
    `${DICOMWEB}/studies/${study}/series?includefield=SeriesDescription&includefield=SeriesDate&includefield=SeriesTime`,
  );
}

/** The instances of a series, or without one of the study. */
export function findInstances(study: string, series?: string): Promise<Dataset[]> {
  return model(`${DICOMWEB}/studies/${study}${series ? `/series/${series}` : ''}/instances`);
}

export function seriesMetadata(study: string, series: string): Promise<Dataset[]> {
  return model(`${DICOMWEB}/studies/${study}/series/${series}/metadata`, { deadline: 60_000 });
}

export function instancePath(ds: Dataset): string {
  return `${DICOMWEB}/studies/${text(ds, '0020000D')}/series/${text(ds, '0020000E')}/instances/${text(ds, '00080018')}`;
}

/** A rendered picture (PS3.18 10.4.1.1.3) as an object URL; the caller revokes it. */
export async function renderedImage(path: string, size?: number, signal?: AbortSignal): Promise<Blob> {
  const query = size ? `?viewport=${size},${size}` : '';
  const response = await request(`${path}/rendered${query}`, {
    headers: { Accept: 'image/jpeg, image/png;q=0.9' },
    signal,
    deadline: 20_000,
  });
  return response.blob();
}

/** The X3D scene of a result series, as text. */
export async function renderedScene(path: string): Promise<string> {
  const response = await request(`${path}/rendered`, { headers: { Accept: 'model/x3d+xml' }, deadline: 120_000 });
  return response.text();
}

/** The bytes of a bulk data value, out of its multipart envelope where it has one. */
export async function bulkData(uri: string, mediaType: string): Promise<Blob> {
  const response = await request(uri, {
    headers: { Accept: `multipart/related; type="${mediaType}", multipart/related; type="application/octet-stream"` },
    deadline: 120_000,
  });
  const bytes = new Uint8Array(await response.arrayBuffer());
  return new Blob([firstPart(response.headers.get('Content-Type') ?? '', bytes)], { type: mediaType });
}

/** The body of a multipart answer's first part; everything where it is not multipart (RFC 2046 5.1). */
export function firstPart(contentType: string, bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const boundary = /^multipart\/.*;\s*boundary="?([^";]+)"?/i.exec(contentType)?.[1];
  if (!boundary) return bytes;
  const find = (needle: string, from: number): number => {
    const codes = [...needle].map((letter) => letter.charCodeAt(0));
    outer: for (let i = from; i <= bytes.length - codes.length; i++) {
      for (let k = 0; k < codes.length; k++) if (bytes[i + k] !== codes[k]) continue outer;
      return i;
    }
    return -1;
  };
  const head = find('\r\n\r\n', Math.max(0, find(`--${boundary}`, 0)));
  if (head < 0) return bytes;
  const end = find(`\r\n--${boundary}`, head + 4);
  return bytes.slice(head + 4, end < 0 ? bytes.length : end);
}

// Plug-ins and Workitems ----------------------------------------------------------------------------------------------

export interface Match {
  input: string;
  study_instance_uid: string;
  series_instance_uid?: string;
  sop_instance_uids?: string[];
  label?: string;
}

export interface PluginInfo {
  id: string;
  version: string;
  title: string;
  description: string;
  schema: import('./form').Schema;
  matches?: Match[];
}

export async function plugins(study: string): Promise<PluginInfo[]> {
  const response = await request(`${ROOT}/api/plugins?study=${encodeURIComponent(study)}`);
  return (await response.json()) as PluginInfo[];
}

/** All plug-ins, without what of a study each takes. */
export async function pluginList(): Promise<PluginInfo[]> {
  const response = await request(`${ROOT}/api/plugins`);
  return (await response.json()) as PluginInfo[];
}

export function findWorkitems(): Promise<Dataset[]> {
  return model(`${DICOMWEB}/workitems?includefield=all&limit=200`);
}

export function workitem(uid: string): Promise<Dataset[]> {
  return model(`${DICOMWEB}/workitems/${uid}`);
}

/** The UID of the created Workitem, out of Location (PS3.18 11.4.3). */
export async function createWorkitem(attributes: Dataset): Promise<string> {
  const response = await request(`${DICOMWEB}/workitems`, {
    method: 'POST',
    headers: { 'Content-Type': JSON_MODEL, Accept: JSON_MODEL },
    body: JSON.stringify([attributes]),
  });
  const address = response.headers.get('Location') ?? response.headers.get('Content-Location') ?? '';
  return address.split(/[?#]/)[0]!.split('/').pop() ?? '';
}

export async function cancelWorkitem(uid: string): Promise<void> {
  await request(`${DICOMWEB}/workitems/${uid}/cancelrequest`, {
    method: 'POST',
    headers: { 'Content-Type': JSON_MODEL, Accept: JSON_MODEL },
    body: JSON.stringify([{ '00741238': { vr: 'LT', Value: ['Cancelled in the viewer'] } }]),
  });
}

// What is not DICOM: tasks that were superseded, batches -------------------------------------------------------------

/** Plug-ins that have waiting tasks and no worker. */
export async function unservedPlugins(): Promise<Set<string>> {
  const response = await request(`${ROOT}/api/queues`);
  const found = (await response.json()) as { plugin: string; waiting: number; workers: unknown[] }[];
  return new Set(found.filter((each) => each.waiting > 0 && each.workers.length === 0).map((each) => each.plugin));
}

/** Workitems of a study whose results newer ones have replaced. */
export async function supersededTasks(study: string): Promise<string[]> {
  const response = await request(`${ROOT}/api/tasks?study=${encodeURIComponent(study)}`);
  const found = (await response.json()) as { uid: string; state: string; superseded_by: string | null }[];
  return found.filter((each) => each.superseded_by && each.state === 'COMPLETED').map((each) => each.uid);
}
