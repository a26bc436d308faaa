// The server's events (/api/events): an EventSource that comes back, and what it says, checked.
import { ROOT } from './api';
import type { WorkitemEvent } from './tasks';

/** The `change` event: something was filed, became stable or was deleted. */
export interface Change {
  seq: number;
  kind: string;
  study_instance_uid: string;
  series_instance_uid?: string;
  sop_instance_uid?: string;
  workitem_uid?: string;
}

/** An event's data as an object, undefined where it is none. */
export function parseEvent<T extends object>(data: unknown, required: keyof T): T | undefined {
  if (typeof data !== 'string') return undefined;
  try {
    const parsed = JSON.parse(data) as T;
    return parsed && typeof parsed === 'object' && parsed[required] !== undefined ? parsed : undefined;
  } catch {
    return undefined;
  }
}

/** How long to wait before attempt `n` (counted from 0), ms. */
export function backoff(n: number): number {
  return Math.min(30_000, 1000 * 2 ** Math.min(n, 10));
}

export interface Handlers {
  change(change: Change): void;
  workitem(event: WorkitemEvent): void;
  live(live: boolean): void;
  /** The stream came back after it was lost: what was missed is to be asked for. */
  again(): void;
}

/** Listens until the returned function is called. */
export function listen(handlers: Handlers): () => void {
  let source: EventSource | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let attempt = 0;
  let stopped = false;
  let lost = false;

  const open = () => {
    source = new EventSource(`${ROOT}/api/events`);
    source.onopen = () => {
      attempt = 0;
      handlers.live(true);
      if (lost) handlers.again();
      lost = false;
    };
    source.onerror = () => {
      handlers.live(false);
      lost = true;
      // CONNECTING comes back by itself with Last-Event-ID; CLOSED (an HTTP error) does not.
      if (source?.readyState === EventSource.CLOSED && !stopped) {
        clearTimeout(timer);
        timer = setTimeout(open, backoff(attempt++));
      }
    };
    source.addEventListener('change', (event) => {
      const change = parseEvent<Change>(event.data, 'kind');
      if (change) handlers.change(change);
    });
    source.addEventListener('workitem', (event) => {
      const workitem = parseEvent<WorkitemEvent>(event.data, 'uid');
      if (workitem) handlers.workitem(workitem);
    });
  };
  open();
  return () => {
    stopped = true;
    clearTimeout(timer);
    source?.close();
  };
}
