// Storing over STOW-RS (PS3.18 10.5): one file a request, with progress; what was refused, in words.
import { DICOMWEB, explain, RequestError, unauthorised } from './api';
import { type Dataset, items, number, text } from './dicom';

export interface Stored {
  sop: string;
  study: string;
  warning: string;
}

export interface Refused {
  sop: string;
  reason: string;
}

export interface StoreAnswer {
  stored: Stored[];
  refused: Refused[];
}

// Failure Reason (0008,1197): PS3.18 table 10.5.3-1 / PS3.4 B.2.3 and PS3.7 annex C.
const REASONS: Record<number, string> = {
  262: 'has an attribute with an invalid value',
  272: 'could not be processed',
  273: 'another instance with this UID is already stored',
  279: 'has an invalid UID',
  290: 'is of a kind that is not supported',
  292: 'not authorised',
  305: 'is of a kind that is not supported',
  530: 'mistyped argument',
  531: 'the server has no resources left',
  49442: 'uses an encoding that is not supported',
};

export function failureReason(status: number | undefined): string {
  if (status === undefined) return 'was refused without a reason';
  if (REASONS[status]) return REASONS[status];
  const group = status >> 8;
  if (group === 0xa7) return 'the server has no space left';
  if (group === 0xa9) return 'is not what it says it is (data set does not match)';
  if (group >= 0xc0 && group <= 0xcf) return 'cannot be understood';
  return `was refused (${status.toString(16).toUpperCase().padStart(4, '0')}H)`;
}

/** What a Store Instances Response Module says (PS3.18 annex I). */
export function readAnswer(ds: Dataset | undefined): StoreAnswer {
  const study = /studies\/([\d.]+)/.exec(text(ds, '00081190'))?.[1] ?? '';
  const stored = items(ds, '00081199').map((entry) => {
    const warning = number(entry, '00081196');
    return {
      sop: text(entry, '00081155'),
      study: /studies\/([\d.]+)/.exec(text(entry, '00081190'))?.[1] ?? study,
      warning: warning ? `stored with a warning (${warning.toString(16).toUpperCase().padStart(4, '0')}H)` : '',
    };
  });
  const refused = [...items(ds, '00081198'), ...items(ds, '0008119A')].map((entry) => ({
    sop: text(entry, '00081155'),
    reason: text(entry, '00080000') || text(entry, '00741048') || failureReason(number(entry, '00081197')),
  }));
  return { stored, refused };
}

/** The multipart/related body of one Part 10 file. */
export function envelope(file: Blob, boundary: string): Blob {
  return new Blob([`--${boundary}\r\nContent-Type: application/dicom\r\n\r\n`, file, `\r\n--${boundary}--\r\n`]);
}

/** Whether bytes 128 to 131 say DICM (PS3.10 7.1). */
export async function isPart10(file: Blob): Promise<boolean> {
  if (file.size < 132) return false;
  return (await file.slice(128, 132).text()) === 'DICM';
}

export interface Sending {
  answer: Promise<StoreAnswer>;
  abort(): void;
}

/** Sends one file; progress is the share sent, 0 to 1. Rejects with RequestError; status 0 and 5xx may be retried. */
export function send(file: Blob, progress: (share: number) => void): Sending {
  const xhr = new XMLHttpRequest();
  const answer = new Promise<StoreAnswer>((resolve, reject) => {
    const boundary = `m3dicom${crypto.getRandomValues(new Uint32Array(4)).join('')}`;
    xhr.open('POST', `${DICOMWEB}/studies`);
    xhr.setRequestHeader('Content-Type', `multipart/related; type="application/dicom"; boundary=${boundary}`);
    xhr.setRequestHeader('Accept', 'application/dicom+json');
    xhr.timeout = 600_000;
    xhr.upload.onprogress = (event) => {
      if (event.lengthComputable) progress(event.loaded / event.total);
    };
    xhr.onload = () => {
      const type = xhr.getResponseHeader('Content-Type') ?? '';
      if (xhr.status === 401) unauthorised();
      if (/dicom\+json/.test(type)) {
        try {
          const parsed: unknown = JSON.parse(xhr.responseText);
          const result = readAnswer((Array.isArray(parsed) ? parsed[0] : parsed) as Dataset);
          if (result.stored.length + result.refused.length > 0) {
            resolve(result);
            return;
          }
        } catch {
          // No module in it: the status speaks.
        }
      }
      if (xhr.status >= 200 && xhr.status < 300) resolve({ stored: [], refused: [] });
      else reject(new RequestError(xhr.status, explain(xhr.status, type, xhr.responseText)));
    };
    xhr.onerror = () => reject(new RequestError(0, 'The connection broke.'));
    xhr.ontimeout = () => reject(new RequestError(0, 'The server did not answer in time.'));
    xhr.onabort = () => reject(new RequestError(0, 'Stopped.'));
    xhr.send(envelope(file, boundary));
  });
  return { answer, abort: () => xhr.abort() };
}
