// The page's start: login, the frame around the pages, the event stream.
import './style.css';
import { login, logout, RequestError, session, whenUnauthorised } from './api';
import { App, type Page, place, studyHash } from './app';
import { brandMark, el, fill, icon, iconButton } from './dom';
import { listen } from './events';
import { studiesPage } from './studies';
import { tasksPage } from './tasks-view';
import { Uploads } from './upload';
import { mainOutput } from './workitem';

const root = document.getElementById('app')!;
const app = new App();
let stopListening: () => void = () => {};
let page: Page | undefined;

function loginCode(): string {
  const match = /^#login=([\w.~-]+)$/.exec(location.hash);
  if (!match) return '';
  history.replaceState(null, '', `${location.pathname}${location.search}#/`);
  return match[1]!;
}

function showLogin(problem = ''): void {
  stopListening();
  page?.close?.();
  page = undefined;
  app.session = undefined;
  const words = el('p', { class: 'field-problem', role: 'alert' }, problem);
  const token = el('input', {
    id: 'token',
    name: 'token',
    type: 'password',
    autocomplete: 'current-password',
    spellcheck: false,
    required: true,
    'aria-describedby': 'token-help',
  });
  const button = el('button', { type: 'submit', class: 'button primary' }, 'Log in');
  const form = el(
    'form',
    {
      class: 'login-card',
      onsubmit: async (event: Event) => {
        event.preventDefault();
        button.disabled = true;
        words.textContent = '';
        try {
          await login({ token: token.value.trim() });
          await start();
        } catch (error) {
          words.textContent =
            error instanceof RequestError && error.status === 401
              ? 'This token is not known to the server.'
              : (error as Error).message;
          token.select();
        } finally {
          button.disabled = false;
        }
      },
    },
    el('div', { class: 'login-brand' }, brandMark(), el('h1', {}, 'm3', el('span', {}, 'DICOM'))),
    el(
      'p',
      { class: 'muted', id: 'token-help' },
      'Open the login link that the server printed at its start, or enter an access token.',
    ),
    el('label', { for: 'token' }, 'Access token'),
    token,
    words,
    button,
  );
  fill(root, el('main', { class: 'login' }, form));
  token.focus();
}

const uploads = new Uploads(app);
const content = el('main', { id: 'content', tabIndex: -1 });
const taskCount = el('span', { class: 'count', hidden: true });
const liveDot = el('span', { class: 'live', title: 'Live updates' });

function frame(): void {
  const name = app.session?.name ?? '';
  fill(
    root,
    el(
      'a',
      {
        class: 'skip',
        href: '#content',
        onclick: (event: Event) => {
          event.preventDefault();
          content.focus();
        },
      },
      'Skip to content',
    ),
    el(
      'header',
      { class: 'top' },
      el(
        'a',
        { class: 'brand', href: '#/', 'aria-label': 'm3DICOM, all studies' },
        brandMark(),
        el('b', {}, 'm3', el('span', {}, 'DICOM')),
      ),
      el(
        'nav',
        { 'aria-label': 'Main' },
        el('a', { href: '#/', 'data-page': 'studies' }, icon('layers'), el('span', {}, 'Studies')),
        el('a', { href: '#/tasks', 'data-page': 'tasks' }, icon('tasks'), el('span', {}, 'Tasks'), taskCount),
        el(
          'a',
          { href: '#/batches', 'data-page': 'batches', 'aria-label': 'Batches' },
          icon('four'),
          el('span', {}, 'Batches'),
        ),
      ),
      el(
        'div',
        { class: 'top-end' },
        app.may('store') && uploads.button(),
        liveDot,
        el('span', { class: 'who', title: 'Logged in as' }, name),
        iconButton('logout', 'Log out', {
          onclick: async () => {
            await logout().catch(() => {});
            showLogin();
          },
        }),
      ),
    ),
    content,
    uploads.element,
  );
}

function countTasks(): void {
  const running = app.tasks.running();
  taskCount.textContent = String(running);
  taskCount.hidden = running === 0;
  taskCount.setAttribute('aria-label', `${running} running`);
}

async function route(): Promise<void> {
  if (!app.session) return;
  if (loginCodePending()) return;
  const where = place(location.hash);
  page?.close?.();
  for (const link of root.querySelectorAll<HTMLAnchorElement>('nav a[data-page]')) {
    const here = link.dataset.page === where.page || (where.page === 'study' && link.dataset.page === 'studies');
    if (here) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  root.dataset.page = where.page;
  unseen = 0;
  title();
  if (where.page === 'study') {
    fill(content, el('div', { class: 'loading' }, 'Opening study…'));
    const { studyPage } = await import('./study');
    if (location.hash !== studyHash(where.study, where.series || undefined)) return;
    page = studyPage(app, where.study, where.series);
  } else if (where.page === 'batches') {
    const { batchesPage } = await import('./batches');
    if (place(location.hash).page !== 'batches') return;
    page = batchesPage(app);
  } else page = where.page === 'tasks' ? tasksPage(app) : studiesPage(app, uploads);
  fill(content, page.element);
}

function loginCodePending(): boolean {
  if (!/^#login=/.test(location.hash)) return false;
  void boot();
  return true;
}

let unseen = 0;
function title(): void {
  document.title = unseen > 0 ? `(${unseen}) m3DICOM` : 'm3DICOM';
}
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) {
    unseen = 0;
    title();
  }
});

app.tasks.subscribe(countTasks);
app.tasks.onEnded = (task) => {
  if (document.hidden) {
    unseen++;
    title();
  }
  const name = task.label || 'Task';
  const output = mainOutput(task);
  if (task.state === 'COMPLETED') {
    const href = studyHash(output?.study || task.study, output?.series || undefined);
    app.notice(`${name}: finished.`, {
      kind: 'done',
      link: task.study ? { href, text: 'Show the result' } : undefined,
    });
  } else {
    app.notice(`${name}: ${task.reason || 'cancelled'}`, {
      kind: 'error',
      link: task.study ? { href: studyHash(task.study), text: 'Open the study' } : undefined,
    });
  }
};

async function start(): Promise<void> {
  app.session = await session();
  if (!app.session) {
    showLogin();
    return;
  }
  frame();
  stopListening();
  stopListening = listen({
    change: (change) => page?.changed?.(change),
    workitem: (event) => app.tasks.receive(event),
    live: (live) => {
      liveDot.dataset.live = String(live);
      liveDot.title = live ? 'Live updates are on' : 'Live updates are interrupted; reconnecting';
    },
    again: () => void app.tasks.load().catch(() => {}),
  });
  app.tasks.load().catch(() => {});
  await route();
}

async function boot(): Promise<void> {
  const code = loginCode();
  try {
    if (code) await login({ code });
  } catch (error) {
    const open = await session().catch(() => undefined);
    if (!open) {
      showLogin((error as Error).message || 'This login link has been used or has expired.');
      return;
    }
  }
  try {
    await start();
  } catch (error) {
    showLogin((error as Error).message);
  }
}

whenUnauthorised(() => {
  if (app.session) showLogin('Your session has ended. Please log in again.');
});
window.addEventListener('hashchange', () => void route());
void boot();
