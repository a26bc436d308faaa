// Tasks on the page: one card each with progress, reason and cancel; of a study, or all.
import { type App, type Page, studyHash } from './app';
import { el, fill, icon } from './dom';
import { isOver, mainOutput, type Task } from './workitem';

const WORDS = { SCHEDULED: 'Waiting', 'IN PROGRESS': 'Running', COMPLETED: 'Finished', CANCELED: 'Stopped' } as const;

function ago(instant: number): string {
  if (!instant) return '';
  const seconds = Math.max(0, (Date.now() - instant) / 1000);
  if (seconds < 60) return 'just now';
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.round(seconds / 3600)} h ago`;
  return new Date(instant).toISOString().slice(0, 10);
}

function card(app: App, task: Task, withStudy: boolean): HTMLElement {
  const over = isOver(task);
  const failed = task.state === 'CANCELED';
  const output = mainOutput(task);
  const cancel = el(
    'button',
    {
      type: 'button',
      class: 'button small',
      onclick: async () => {
        cancel.disabled = true;
        try {
          await app.tasks.cancel(task.uid);
        } catch (error) {
          app.notice(`Could not cancel: ${(error as Error).message}`, { kind: 'error' });
          cancel.disabled = false;
        }
      },
    },
    'Cancel',
  );
  return el(
    'li',
    { class: `task task-${task.state.toLowerCase().replace(' ', '-')}`, 'data-uid': task.uid },
    el(
      'div',
      { class: 'task-head' },
      over
        ? icon(failed ? 'warning' : 'check')
        : el('i', { class: task.state === 'SCHEDULED' ? 'wait' : 'spin', 'aria-hidden': 'true' }),
      el('strong', {}, task.label || task.plugin || 'Task'),
      el('span', { class: 'task-state' }, WORDS[task.state]),
    ),
    !over && el('progress', { max: 100, value: task.progress, 'aria-label': `Progress of ${task.label}` }),
    el(
      'p',
      { class: 'task-words' },
      failed
        ? task.reason || 'Cancelled'
        : over
          ? ago(task.updated)
          : [task.message, task.state === 'IN PROGRESS' && `${Math.round(task.progress)} %`]
              .filter(Boolean)
              .join(' · ') ||
            (app.tasks.unserved.has(task.plugin) ? 'Waits: no worker takes this analysis now' : 'Waits for a worker'),
    ),
    el(
      'div',
      { class: 'task-foot' },
      withStudy && task.patient && el('small', {}, `Patient ${task.patient}`),
      withStudy && task.study && el('a', { class: 'button small', href: studyHash(task.study) }, 'Study'),
      task.state === 'COMPLETED' &&
        output?.series &&
        el('a', { class: 'button small', href: studyHash(output.study || task.study, output.series) }, 'Result'),
      !over && app.may('process') && cancel,
    ),
  );
}

/** A list of tasks that keeps itself current; `study` limits it. Call `close` when it leaves the page. */
export function taskList(app: App, study?: string): { element: HTMLElement; close(): void } {
  const list = el('ul', { class: 'tasks', 'aria-label': 'Tasks' });
  const draw = () => {
    const tasks = study ? app.tasks.of(study) : app.tasks.all();
    if (tasks.length === 0) {
      fill(
        list,
        el(
          'li',
          { class: 'empty small' },
          icon('tasks'),
          el('p', {}, study ? 'No tasks for this study.' : 'No tasks yet.'),
        ),
      );
      return;
    }
    const focused = document.activeElement?.closest('li')?.getAttribute('data-uid');
    fill(list, ...tasks.map((task) => card(app, task, !study)));
    if (focused) list.querySelector<HTMLElement>(`li[data-uid="${CSS.escape(focused)}"] :is(button, a)`)?.focus();
  };
  draw();
  return { element: list, close: app.tasks.subscribe(draw) };
}

export function tasksPage(app: App): Page {
  const list = taskList(app);
  app.tasks.load().catch((error: Error) => app.notice(error.message, { kind: 'error' }));
  return {
    element: el('div', { class: 'page tasks-page' }, el('h1', {}, 'Tasks'), list.element),
    close: list.close,
  };
}
