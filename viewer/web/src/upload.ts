// Uploading: files and folders dropped or picked, sent one by one over STOW-RS, with what became of each.
import { RequestError } from './api';
import { type App, studyHash } from './app';
import { el, fill, icon, iconButton } from './dom';
import { isPart10, type Sending, send } from './stow';

type Status = 'waiting' | 'sending' | 'stored' | 'refused' | 'failed' | 'skipped';

interface Entry {
  file: File;
  name: string;
  status: Status;
  share: number;
  words: string;
  attempts: number;
  row: HTMLElement;
  sending?: Sending;
}

const AT_ONCE = 3;
const ATTEMPTS = 3;
const ROWS = 400;

/** All files of a drop, folders included. */
async function droppedFiles(transfer: DataTransfer): Promise<File[]> {
  const entries = [...transfer.items].flatMap((item) => {
    const entry = item.kind === 'file' ? item.webkitGetAsEntry() : null;
    return entry ? [entry] : [];
  });
  if (entries.length === 0) return [...transfer.files];
  const files: File[] = [];
  const visit = async (entry: FileSystemEntry): Promise<void> => {
    if (entry.isFile) {
      files.push(await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject)));
      return;
    }
    const reader = (entry as FileSystemDirectoryEntry).createReader();
    while (true) {
      const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
      if (some.length === 0) break;
      for (const each of some) await visit(each);
    }
  };
  for (const entry of entries) await visit(entry).catch(() => {});
  return files;
}

function size(bytes: number): string {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

export class Uploads {
  private entries: Entry[] = [];
  private studies = new Set<string>();
  private active = 0;
  private readonly list = el('ul', { class: 'upload-list' });
  private readonly bar = el('progress', { max: 1, value: 0, 'aria-label': 'Upload progress' });
  private readonly summary = el('p', { role: 'status', 'aria-live': 'polite' });
  private readonly links = el('p', { class: 'upload-links' });
  private readonly retry = el(
    'button',
    { type: 'button', class: 'button small', hidden: true, onclick: () => this.again() },
    'Retry failed',
  );
  private readonly panel = el(
    'section',
    { class: 'uploads', 'aria-label': 'Uploads', hidden: true },
    el(
      'header',
      {},
      el('h2', {}, 'Upload'),
      this.retry,
      iconButton('close', 'Close uploads', { onclick: () => this.close() }),
    ),
    this.summary,
    this.bar,
    this.list,
    this.links,
  );
  private readonly files = el('input', {
    type: 'file',
    multiple: true,
    hidden: true,
    class: 'pick-files',
    'aria-label': 'DICOM files',
    onchange: () => this.picked(this.files),
  });
  private readonly folder = el('input', {
    type: 'file',
    multiple: true,
    hidden: true,
    webkitdirectory: true,
    'aria-label': 'DICOM folder',
    onchange: () => this.picked(this.folder),
  });
  private readonly veil = el(
    'div',
    { class: 'drop-veil', hidden: true },
    el('div', {}, icon('upload'), el('strong', {}, 'Drop to upload'), el('span', {}, 'DICOM files or whole folders')),
  );
  readonly element = el('div', {}, this.panel, this.files, this.folder, this.veil);
  onStored: () => void = () => {};

  constructor(private readonly app: App) {
    let depth = 0;
    const carriesFiles = (event: DragEvent) => [...(event.dataTransfer?.types ?? [])].includes('Files');
    const allowed = (event: DragEvent) => carriesFiles(event) && this.app.may('store');
    document.addEventListener('dragenter', (event) => {
      if (!allowed(event)) return;
      event.preventDefault();
      depth++;
      this.veil.hidden = false;
    });
    document.addEventListener('dragover', (event) => {
      if (allowed(event)) event.preventDefault();
    });
    document.addEventListener('dragleave', (event) => {
      if (!allowed(event)) return;
      depth = Math.max(0, depth - 1);
      this.veil.hidden = depth === 0;
    });
    document.addEventListener('drop', (event) => {
      if (!allowed(event)) return;
      event.preventDefault();
      depth = 0;
      this.veil.hidden = true;
      void droppedFiles(event.dataTransfer!).then((files) => this.add(files));
    });
  }

  /** The button that opens the picker; with Shift or from its menu, a folder. */
  button(): HTMLElement {
    return el(
      'div',
      { class: 'split' },
      el(
        'button',
        { type: 'button', class: 'button primary', onclick: () => this.files.click() },
        icon('upload'),
        el('span', {}, 'Upload'),
      ),
      iconButton('folder', 'Upload a folder', { class: 'split-end', onclick: () => this.folder.click() }),
    );
  }

  private picked(input: HTMLInputElement): void {
    this.add([...(input.files ?? [])]);
    input.value = '';
  }

  add(files: readonly File[]): void {
    if (files.length === 0) return;
    this.panel.hidden = false;
    for (const file of files) {
      const entry: Entry = {
        file,
        name: file.webkitRelativePath || file.name,
        status: 'waiting',
        share: 0,
        words: size(file.size),
        attempts: 0,
        row: el('li'),
      };
      this.entries.push(entry);
      if (this.list.childElementCount < ROWS) this.list.append(entry.row);
      this.draw(entry);
    }
    this.next();
    this.count();
  }

  private draw(entry: Entry): void {
    entry.row.className = `upload-${entry.status}`;
    fill(
      entry.row,
      el('span', { class: 'upload-name', title: entry.name }, entry.name),
      el('span', { class: 'upload-words' }, entry.words),
      entry.status === 'sending' &&
        el('progress', { max: 1, value: entry.share, 'aria-label': `Progress of ${entry.name}` }),
    );
    // Trouble stands on top, however long the list.
    if (entry.status === 'refused' || entry.status === 'failed') this.list.prepend(entry.row);
  }

  private count(): void {
    const of = (status: Status) => this.entries.filter((entry) => entry.status === status).length;
    const [stored, refused, failed, skipped] = [of('stored'), of('refused'), of('failed'), of('skipped')];
    const left = of('waiting') + of('sending');
    const done = this.entries.reduce(
      (sum, entry) => sum + (entry.status === 'waiting' ? 0 : entry.status === 'sending' ? entry.share : 1),
      0,
    );
    this.bar.value = this.entries.length ? done / this.entries.length : 0;
    this.bar.hidden = left === 0;
    this.retry.hidden = failed === 0;
    const words = [
      `${stored} of ${this.entries.length} stored`,
      refused && `${refused} refused`,
      failed && `${failed} not sent`,
      skipped && `${skipped} not DICOM`,
    ];
    this.summary.textContent = words.filter(Boolean).join(', ');
    fill(
      this.links,
      ...[...this.studies]
        .slice(-3)
        .map((study, i) =>
          el(
            'a',
            { href: studyHash(study), onclick: () => (this.panel.hidden = true) },
            icon('next'),
            this.studies.size > 1 ? `Open study ${i + 1}` : 'Open the study',
          ),
        ),
    );
  }

  private next(): void {
    while (this.active < AT_ONCE) {
      const entry = this.entries.find((each) => each.status === 'waiting');
      if (!entry) return;
      entry.status = 'sending';
      this.active++;
      void this.one(entry).finally(() => {
        this.active--;
        this.draw(entry);
        this.count();
        this.next();
        if (this.active === 0) this.onStored();
      });
    }
  }

  private async one(entry: Entry): Promise<void> {
    if (!(await isPart10(entry.file).catch(() => false))) {
      entry.status = 'skipped';
      entry.words = 'not a DICOM file';
      return;
    }
    while (true) {
      entry.attempts++;
      entry.share = 0;
      entry.words = size(entry.file.size);
      this.draw(entry);
      const bar = entry.row.querySelector('progress');
      entry.sending = send(entry.file, (share) => {
        entry.share = share;
        if (bar) bar.value = share;
        this.count();
      });
      try {
        const answer = await entry.sending.answer;
        const refused = answer.refused[0];
        entry.status = refused ? 'refused' : 'stored';
        entry.words = refused ? refused.reason : answer.stored[0]?.warning || 'stored';
        for (const stored of answer.stored) if (stored.study) this.studies.add(stored.study);
        return;
      } catch (error) {
        const status = error instanceof RequestError ? error.status : 0;
        const again = status === 0 || status === 429 || status === 503 || status >= 520;
        entry.words = (error as Error).message;
        if (!again || entry.attempts >= ATTEMPTS) {
          entry.status = status >= 400 && status < 500 ? 'refused' : 'failed';
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** entry.attempts));
      }
    }
  }

  private again(): void {
    for (const entry of this.entries)
      if (entry.status === 'failed') {
        entry.status = 'waiting';
        entry.attempts = 0;
      }
    this.next();
    this.count();
  }

  private close(): void {
    this.panel.hidden = true;
    if (this.active > 0) return;
    this.entries = [];
    this.studies.clear();
    fill(this.list);
  }
}
