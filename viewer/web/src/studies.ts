// The study list: search, pages of results, modalities, counts, and what is running.
import { findStudies, NO_SEARCH, type RequestError, type StudySearch, studyQuery } from './api';
import { type App, type Page, studyHash } from './app';
import { type Dataset, date, number, personName, SEX, text, texts, time } from './dicom';
import { debounce, el, fill, icon } from './dom';
import type { Uploads } from './upload';

const PAGE = 50;
const MODALITIES = ['CT', 'MR', 'MG', 'DX', 'CR', 'US', 'XA', 'NM', 'PT', 'IO', 'PX', 'SC', 'SR', 'SEG', 'M3D'];
const RESULTS = new Set(['SR', 'SEG', 'M3D', 'KO', 'PR']);

// Kept while the page lives, so that "back" shows the list as it was left.
const kept = { search: { ...NO_SEARCH } as StudySearch, offset: 0 };

export function badge(modality: string): HTMLElement {
  return el('span', { class: `badge${RESULTS.has(modality) ? ' badge-result' : ''}` }, modality);
}

export function patientWords(ds: Dataset): string {
  const born = date(text(ds, '00100030'));
  return [text(ds, '00100020'), born && `born ${born}`, SEX[text(ds, '00100040')]].filter(Boolean).join(' · ');
}

export function studiesPage(app: App, uploads: Uploads): Page {
  let rows: Dataset[] = [];
  let more = false;
  let asking: AbortController | undefined;

  const status = el('p', { class: 'list-status', role: 'status', 'aria-live': 'polite' });
  const body = el('ul', { class: 'studies', 'aria-label': 'Studies' });
  const previous = el('button', { type: 'button', class: 'button small', onclick: () => turn(-PAGE) }, 'Newer');
  const next = el('button', { type: 'button', class: 'button small', onclick: () => turn(PAGE) }, 'Next');
  previous.textContent = 'Previous';
  const pages = el('nav', { class: 'pages', 'aria-label': 'Pages' }, previous, next);

  async function load(quiet = false): Promise<void> {
    asking?.abort();
    asking = new AbortController();
    const { signal } = asking;
    if (!quiet) body.setAttribute('aria-busy', 'true');
    try {
      const found = await findStudies(studyQuery(kept.search, PAGE + 1, kept.offset), signal);
      more = found.length > PAGE;
      rows = found.slice(0, PAGE);
      status.textContent =
        rows.length === 0
          ? ''
          : `${kept.offset + 1}–${kept.offset + rows.length}${more ? ' of more' : ` of ${kept.offset + rows.length}`} studies`;
      draw();
    } catch (error) {
      if (signal.aborted) return;
      fill(body, el('li', { class: 'empty' }, icon('warning'), el('p', {}, (error as RequestError).message)));
      status.textContent = '';
    } finally {
      if (!signal.aborted) body.removeAttribute('aria-busy');
    }
  }

  function turn(by: number): void {
    kept.offset = Math.max(0, kept.offset + by);
    void load().then(() => body.scrollIntoView({ block: 'start' }));
  }

  function row(ds: Dataset): HTMLElement {
    const study = text(ds, '0020000D');
    const name = personName(ds, '00100010') || 'No name';
    const modalities = texts(ds, '00080061').sort((a, b) => Number(RESULTS.has(a)) - Number(RESULTS.has(b)));
    const running = app.tasks.running(study);
    const images = number(ds, '00201208');
    const seriesCount = number(ds, '00201206');
    return el(
      'li',
      {},
      el(
        'a',
        { class: 'study-row', href: studyHash(study) },
        el('span', { class: 'study-patient' }, el('strong', {}, name), el('small', {}, patientWords(ds))),
        el(
          'span',
          { class: 'study-what' },
          el('span', {}, text(ds, '00081030') || 'No description'),
          el('small', {}, text(ds, '00080050') ? `Accession ${text(ds, '00080050')}` : ''),
        ),
        el(
          'span',
          { class: 'study-when' },
          date(text(ds, '00080020')) || '–',
          el('small', {}, time(text(ds, '00080030'))),
        ),
        el('span', { class: 'study-modalities' }, ...modalities.map(badge)),
        el(
          'span',
          { class: 'study-counts' },
          seriesCount !== undefined && `${seriesCount} series`,
          el('small', {}, images !== undefined && `${images} instance${images === 1 ? '' : 's'}`),
        ),
        el(
          'span',
          { class: 'study-tasks' },
          running > 0 &&
            el('span', { class: 'running' }, el('i', { class: 'spin', 'aria-hidden': 'true' }), `${running} running`),
        ),
      ),
    );
  }

  function draw(): void {
    const focused =
      document.activeElement instanceof HTMLAnchorElement && body.contains(document.activeElement)
        ? document.activeElement.getAttribute('href')
        : null;
    if (rows.length === 0) {
      const searching = Object.values(kept.search).some(Boolean);
      fill(
        body,
        el(
          'li',
          { class: 'empty' },
          icon(searching ? 'search' : 'layers'),
          el('p', {}, searching ? 'No study matches this search.' : 'No studies yet.'),
          el(
            'p',
            { class: 'muted' },
            searching
              ? 'Names are searched anywhere in the text; * and ? may be used.'
              : 'Drop DICOM files or folders here, or send them with DICOMweb or DIMSE.',
          ),
        ),
      );
    } else fill(body, ...rows.map(row));
    previous.disabled = kept.offset === 0;
    next.disabled = !more;
    pages.hidden = kept.offset === 0 && !more;
    if (focused) body.querySelector<HTMLElement>(`a[href="${CSS.escape(focused)}"]`)?.focus();
  }

  const later = debounce(300, () => {
    kept.offset = 0;
    void load();
  });

  function field(key: keyof StudySearch, label: string, props: Record<string, unknown> = {}): HTMLElement {
    const id = `search-${key}`;
    const input = el('input', {
      id,
      type: 'search',
      value: kept.search[key],
      autocomplete: 'off',
      spellcheck: false,
      ...props,
      oninput: () => {
        kept.search[key] = input.value;
        later();
      },
    });
    return el('div', { class: `search-field search-${key}` }, el('label', { for: id }, label), input);
  }

  const modality = el(
    'select',
    {
      id: 'search-modality',
      onchange: () => {
        kept.search.modality = modality.value;
        later();
      },
    },
    el('option', { value: '' }, 'Any'),
    ...MODALITIES.map((each) => el('option', { value: each, selected: kept.search.modality === each }, each)),
  );

  const extra = el(
    'div',
    { class: 'search-extra', id: 'search-extra' },
    field('patientID', 'Patient ID'),
    field('from', 'From', { type: 'date' }),
    field('to', 'To', { type: 'date' }),
    el('div', { class: 'search-field' }, el('label', { for: 'search-modality' }, 'Modality'), modality),
    field('accession', 'Accession'),
    field('description', 'Description'),
  );
  const toggle = el(
    'button',
    {
      type: 'button',
      class: 'button small search-toggle',
      'aria-expanded': 'false',
      'aria-controls': 'search-extra',
      onclick: () => {
        const open = search.classList.toggle('open');
        toggle.setAttribute('aria-expanded', String(open));
      },
    },
    'Filters',
  );
  const search = el(
    'form',
    {
      class: 'search',
      role: 'search',
      onsubmit: (event: Event) => {
        event.preventDefault();
        void load();
      },
      onreset: () => {
        kept.search = { ...NO_SEARCH };
        setTimeout(() => {
          for (const input of search.querySelectorAll('input')) input.value = '';
          modality.value = '';
          later();
        });
      },
    },
    field('patientName', 'Patient name', { placeholder: 'Family, Given' }),
    toggle,
    extra,
    el('button', { type: 'reset', class: 'button small search-clear' }, 'Clear'),
  );

  const element = el(
    'div',
    { class: 'page studies-page' },
    el('h1', { class: 'visually-hidden' }, 'Studies'),
    search,
    el(
      'div',
      { class: 'studies-head', 'aria-hidden': 'true' },
      el('span', {}, 'Patient'),
      el('span', {}, 'Study'),
      el('span', {}, 'Date'),
      el('span', {}, 'Modalities'),
      el('span', {}, 'Content'),
      el('span', {}, 'Tasks'),
    ),
    body,
    el('footer', { class: 'list-foot' }, status, pages),
  );

  const refresh = debounce(800, () => void load(true));
  const unsubscribe = app.tasks.subscribe(debounce(200, () => rows.length > 0 && draw()));
  uploads.onStored = () => refresh();
  void load();
  return {
    element,
    changed: () => refresh(),
    close: () => {
      asking?.abort();
      unsubscribe();
      uploads.onStored = () => {};
    },
  };
}
