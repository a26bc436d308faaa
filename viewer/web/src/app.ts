// What the pages share: session, tasks, notices, and going from page to page.
import type { Session } from './api';
import { el, icon, iconButton } from './dom';
import type { Change } from './events';
import { Tasks } from './tasks';

export interface Page {
  element: HTMLElement;
  /** Something was filed or deleted on the server. */
  changed?(change: Change): void;
  close?(): void;
}

export class App {
  readonly tasks = new Tasks();
  session: Session | undefined;
  private readonly notices = el('div', { class: 'notices', role: 'status', 'aria-live': 'polite' });

  constructor() {
    document.body.append(this.notices);
  }

  may(right: string): boolean {
    return this.session?.rights.includes(right) ?? false;
  }

  go(hash: string): void {
    location.hash = hash;
  }

  /** A few words in the corner; with `link` they lead somewhere. Errors stay until they are closed. */
  notice(
    words: string,
    options: { kind?: 'info' | 'done' | 'error'; link?: { href: string; text: string } } = {},
  ): void {
    const { kind = 'info', link } = options;
    const close = () => note.remove();
    const note = el(
      'div',
      { class: `notice notice-${kind}` },
      icon(kind === 'done' ? 'check' : kind === 'error' ? 'warning' : 'info'),
      el(
        'div',
        { class: 'notice-words' },
        el('p', {}, words),
        link && el('a', { href: link.href, onclick: close }, link.text),
      ),
      iconButton('close', 'Dismiss', { onclick: close }),
    );
    this.notices.append(note);
    while (this.notices.childElementCount > 4) this.notices.firstElementChild?.remove();
    if (kind !== 'error') setTimeout(close, link ? 30_000 : 6000);
  }
}

export function studyHash(study: string, series?: string): string {
  return `#/study/${study}${series ? `/series/${series}` : ''}`;
}

export interface Place {
  page: 'studies' | 'study' | 'tasks' | 'batches';
  study: string;
  series: string;
}

const UID = '[0-9][0-9.]{0,63}';

/** Where a fragment leads; anything unknown is the study list. */
export function place(hash: string): Place {
  const study = new RegExp(`^#/study/(${UID})(?:/series/(${UID}))?$`).exec(hash);
  if (study) return { page: 'study', study: study[1]!, series: study[2] ?? '' };
  const page = hash === '#/tasks' ? 'tasks' : hash === '#/batches' ? 'batches' : 'studies';
  return { page, study: '', series: '' };
}
