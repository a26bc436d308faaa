// The batches page: one plug-in over many studies, how far each is, and what it came to.
import { showField } from './analyse';
import { type PluginInfo, pluginList, ROOT, request } from './api';
import { type App, type Page, studyHash } from './app';
import { debounce, el, fill, icon, modal } from './dom';
import { fields } from './form';

export interface Batch {
  id: number;
  state: 'planning' | 'running' | 'paused' | 'reporting' | 'done' | 'cancelled' | 'failed';
  reason: string;
  plugin: string;
  version: string;
  /** Null for all but who asked for it, and administrators. */
  query: string | null;
  /** Whether the reader may pause, resume and cancel it. */
  mine: boolean;
  items: Record<string, number>;
  unchanged: number;
  progress: number;
  estimate_s: number | null;
  report: boolean;
  report_study_uid: string | null;
  principal: string;
}

interface Preview {
  studies: number;
  to_run: number;
  there: number;
  open: number;
  unchanged: number;
  replacing: number;
  estimate_s: number | null;
}

const WORDS: Record<Batch['state'], string> = {
  planning: 'Looking at the studies',
  running: 'Running',
  paused: 'Paused',
  reporting: 'Making the report',
  done: 'Done',
  cancelled: 'Cancelled',
  failed: 'Failed',
};
const LIVE = ['planning', 'running', 'reporting'];
const LOOK_MS = 2000;

/** A time to come, in words; "" where it is not known. */
export function duration(seconds: number | null): string {
  if (seconds === null) return '';
  if (seconds < 90) return `about ${Math.round(seconds)} s`;
  return seconds < 5400 ? `about ${Math.round(seconds / 60)} min` : `about ${(seconds / 3600).toFixed(1)} h`;
}

/** "12 completed, 3 waiting", the order of a task's life. */
export function counted(batch: Pick<Batch, 'items' | 'unchanged'>): string {
  const order = ['waiting', 'open', 'completed', 'canceled', 'failed', 'cancelled'];
  const names: Record<string, string> = { open: 'running', canceled: 'failed', failed: 'not possible' };
  const parts = order
    .filter((state) => batch.items[state])
    .map((state) => `${batch.items[state]} ${names[state] ?? state}`);
  if (batch.unchanged > 0) parts.push(`${batch.unchanged} unchanged`);
  return parts.join(', ') || 'No tasks yet';
}

async function post<T>(path: string, body: unknown = {}): Promise<T> {
  const answer = await request(`${ROOT}/api/batches${path}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
    deadline: 300_000,
  });
  return (await answer.json()) as T;
}

export function batchesPage(app: App): Page {
  const list = el('ul', { class: 'tasks batches', 'aria-label': 'Batches' });
  let timer: ReturnType<typeof setTimeout> | undefined;
  let closed = false;

  async function load(): Promise<void> {
    clearTimeout(timer);
    try {
      const batches = (await (await request(`${ROOT}/api/batches`)).json()) as Batch[];
      if (closed) return;
      const focused = document.activeElement?.closest('[data-batch]')?.getAttribute('data-batch');
      if (batches.length === 0)
        fill(list, el('li', { class: 'empty small' }, icon('layers'), el('p', {}, 'No batches yet.')));
      else fill(list, ...batches.map((batch) => card(app, batch, () => void load())));
      if (focused) list.querySelector<HTMLElement>(`[data-batch="${focused}"] :is(button, a)`)?.focus();
      if (batches.some((batch) => LIVE.includes(batch.state))) timer = setTimeout(() => void load(), LOOK_MS);
    } catch (error) {
      if (!closed) app.notice((error as Error).message, { kind: 'error' });
    }
  }

  const soon = debounce(1000, () => void load());
  void load();
  return {
    element: el(
      'div',
      { class: 'page tasks-page' },
      el(
        'div',
        { class: 'page-head' },
        el('h1', {}, 'Batches'),
        app.may('process') &&
          el(
            'button',
            { type: 'button', class: 'button primary', onclick: () => void openNew(() => void load()) },
            icon('analyse'),
            'New batch',
          ),
      ),
      list,
    ),
    changed: (change) => {
      if (change.kind === 'workitem') soon();
    },
    close: () => {
      closed = true;
      clearTimeout(timer);
    },
  };
}

function card(app: App, batch: Batch, again: () => void): HTMLElement {
  const live = LIVE.includes(batch.state);
  const wrong = batch.state === 'failed';
  const may = app.may('process') && batch.mine;
  const unfinished = (batch.items.failed ?? 0) + (batch.items.canceled ?? 0) + (batch.items.cancelled ?? 0) > 0;
  const newer = batch.state === 'paused' && /resume it with version (\S+)/.exec(batch.reason)?.[1];
  const act = (verb: 'pause' | 'resume' | 'cancel', words: string, body: unknown = {}) =>
    el(
      'button',
      {
        type: 'button',
        class: 'button small',
        onclick: async () => {
          try {
            await post(`/${batch.id}/${verb}`, body);
          } catch (error) {
            app.notice((error as Error).message, { kind: 'error' });
          }
          again();
        },
      },
      words,
    );
  const csv = (table: 'table' | 'changes', words: string) =>
    el(
      'a',
      {
        class: 'button small',
        href: `${ROOT}/api/batches/${batch.id}/report?format=csv&table=${table}`,
        download: `batch-${batch.id}-${table}.csv`,
      },
      icon('download'),
      words,
    );
  const left = live ? duration(batch.estimate_s) : '';
  return el(
    'li',
    { class: 'task', 'data-batch': batch.id },
    el(
      'div',
      { class: 'task-head' },
      live ? el('i', { class: 'spin', 'aria-hidden': 'true' }) : icon(wrong ? 'warning' : 'check'),
      el('strong', {}, `${batch.id}: ${batch.plugin} ${batch.version}`),
      el('span', { class: 'task-state' }, WORDS[batch.state]),
    ),
    batch.state !== 'done' &&
      el('progress', { max: 1, value: batch.progress, 'aria-label': `Progress of batch ${batch.id}` }),
    batch.query !== null && el('p', { class: 'task-words batch-query' }, batch.query || 'All studies'),
    el(
      'p',
      { class: 'task-words' },
      [batch.reason, counted(batch), left && `${left} left`, `by ${batch.principal}`].filter(Boolean).join(' · '),
    ),
    el(
      'div',
      { class: 'task-foot' },
      batch.report && csv('table', 'Results'),
      batch.report && csv('changes', 'Old against new'),
      batch.report_study_uid &&
        el('a', { class: 'button small', href: studyHash(batch.report_study_uid) }, 'Report in the archive'),
      may && ['planning', 'running'].includes(batch.state) && act('pause', 'Pause'),
      may && newer && act('resume', `Do all with version ${newer}`, { version: newer }),
      may && !newer && ['paused', 'cancelled'].includes(batch.state) && act('resume', 'Resume'),
      may && ['done', 'failed'].includes(batch.state) && unfinished && act('resume', 'Try again what failed'),
      may && (live || batch.state === 'paused') && act('cancel', 'Cancel'),
    ),
  );
}

async function openNew(done: () => void): Promise<void> {
  const body = el('div', { class: 'analyse' }, el('p', { class: 'muted' }, 'Asking for the plug-ins…'));
  const dialog = modal('New batch', body, { class: 'modal-analyse' });
  let plugins: PluginInfo[];
  try {
    plugins = await pluginList();
  } catch (error) {
    fill(body, el('p', { class: 'field-problem', role: 'alert' }, (error as Error).message));
    return;
  }
  const choice = el(
    'select',
    { id: 'batch-plugin', onchange: () => draw() },
    ...plugins.map((plugin, i) => el('option', { value: i }, `${plugin.title} ${plugin.version}`)),
  );
  const query = el('input', { id: 'batch-query', type: 'text', value: 'ModalitiesInStudy=CT', spellcheck: false });
  const rate = el('input', { id: 'batch-rate', type: 'number', min: '1', placeholder: 'no limit' });
  const changed = el('input', { id: 'batch-changed', type: 'checkbox' });
  const parameters = el('div', {});
  const words = el('p', { class: 'muted', role: 'status' });
  const problem = el('p', { class: 'field-problem', role: 'alert' });
  let shown: ReturnType<typeof showField>[] = [];

  function draw(): void {
    shown = fields(plugins[Number(choice.value)]!.schema).map(showField);
    fill(parameters, ...shown.map((each) => each.element));
  }

  function asked(): unknown | undefined {
    const values = shown.map((each) => ({ name: each.field.name, read: each.read(), focus: each.focus }));
    const wrong = values.find((each) => !each.read);
    if (wrong) {
      wrong.focus();
      return undefined;
    }
    return {
      plugin: plugins[Number(choice.value)]!.id,
      query: query.value.trim(),
      parameters: Object.fromEntries(values.map(({ name, read }) => [name, read!.value])),
      rate_per_minute: rate.value ? rate.valueAsNumber : null,
      only_changed: changed.checked,
    };
  }

  async function run(path: '' | '/preview'): Promise<void> {
    const wanted = asked();
    if (!wanted) return;
    problem.textContent = '';
    words.textContent = path ? 'Looking at the studies…' : '';
    try {
      if (path) {
        const told = await post<Preview>(path, wanted);
        const time = duration(told.estimate_s);
        words.textContent =
          `${told.studies} studies: ${told.to_run} to compute (${told.replacing} have other results), ` +
          `${told.there} done, ${told.open} under way, ${told.unchanged} unchanged${time && told.to_run ? `; ${time}` : ''}.`;
      } else {
        await post<Batch>('', wanted);
        dialog.close();
        done();
      }
    } catch (error) {
      words.textContent = '';
      problem.textContent = (error as Error).message;
    }
  }

  const field = (label: string, input: HTMLElement, help = '') =>
    el(
      'div',
      { class: 'field' },
      el('label', { for: input.id }, label),
      el('div', { class: 'input-line' }, input),
      help && el('p', { class: 'field-help' }, help),
    );
  draw();
  fill(
    body,
    el(
      'form',
      {
        class: 'analyse-form',
        noValidate: true,
        onsubmit: (event: Event) => {
          event.preventDefault();
          void run('');
        },
      },
      field('Analysis', choice),
      field('Studies', query, 'As QIDO-RS asks: ModalitiesInStudy=CT&StudyDate=20200101-'),
      parameters,
      field('Tasks a minute, at most', rate),
      el(
        'div',
        { class: 'field field-check' },
        el('div', { class: 'check-line' }, changed, el('label', { for: changed.id }, 'Only where something changed')),
        el('p', { class: 'field-help' }, 'Leaves out what has results of this version with these parameters.'),
      ),
      el(
        'div',
        { class: 'form-foot' },
        words,
        problem,
        el('button', { type: 'button', class: 'button', onclick: () => void run('/preview') }, 'Look ahead'),
        el('button', { type: 'submit', class: 'button primary' }, icon('analyse'), 'Start'),
      ),
    ),
  );
}
