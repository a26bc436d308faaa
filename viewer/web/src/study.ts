// The study page: series beside the images, the tools, and findings, tasks and 3-D in a panel.

import { openAnalyse } from './analyse';
import {
  bulkData,
  DICOMWEB,
  findInstances,
  findSeries,
  findStudy,
  instancePath,
  renderedImage,
  renderedScene,
  seriesMetadata,
} from './api';
import type { App, Page } from './app';
import { type Dataset, date, items, number, personName, text } from './dicom';
import { debounce, el, fill, icon, iconButton } from './dom';
import { around, correctedPlace, drawnOn } from './drawn';
import { FindingsPanel } from './findings';
import { showKeys } from './keys';
import type { Drawn } from './marks';
import type { ModelView } from './model';
import type { Reader, ToolName } from './reader';
import { readReports, replacedSeries } from './reports';
import { markOutdated, seriesCard } from './series-card';
import type { Finding } from './sr';
import { type Kind, kindOf, type Preset, presets, type Stack, stackOf } from './stack';
import { patientWords } from './studies';
import { taskList } from './tasks-view';
import { type Judgement, sayVerdict } from './verdict-bar';
import { type Verdict, Verdicts } from './verdicts';

interface Series {
  uid: string;
  ds: Dataset;
  kind: Kind;
  instances: Dataset[];
  metadata?: Promise<Dataset[]>;
  stack?: Promise<Stack>;
  card: HTMLElement;
}

const GROUP_TITLES: [title: string, kinds: Kind[]][] = [
  ['Images', ['images']],
  ['Results', ['capture', 'report', 'model', 'segmentation']],
  ['Other', ['other']],
];

export function studyPage(app: App, study: string, wanted: string): Page {
  const page = new StudyPage(app, study, wanted);
  void page.open();
  return page;
}

class StudyPage implements Page {
  private reader: Reader | undefined;
  private starting: Promise<Reader> | undefined;
  private model: ModelView | undefined;
  private closed = false;
  private study: Dataset | undefined;
  private series: Series[] = [];
  private readonly thumbnails: string[] = [];
  private shownSeries = '';
  private tool: ToolName = 'window';
  private marksShown = true;
  private marks = new Map<string, Drawn[]>();
  private readonly stopping = new AbortController();

  private readonly title = el('div', { class: 'study-title' }, el('strong', {}, ' '));
  private readonly seriesList = el('div', { class: 'series-list' });
  private readonly stage = el('div', { class: 'stage' });
  private readonly toolbar = el('div', { class: 'toolbar', role: 'toolbar', 'aria-label': 'Image tools' });
  private readonly verdicts: Verdicts;
  private replaced = new Set<string>();
  private readonly findings: FindingsPanel;
  private readonly tasks: { element: HTMLElement; close(): void };
  private readonly modelHost = el('div', { class: 'model-host' });
  private readonly tabs: Record<'findings' | 'tasks' | 'model', { button: HTMLButtonElement; panel: HTMLElement }>;
  private readonly sidebar: HTMLElement;
  private readonly side: HTMLElement;
  private readonly presetMenu = el('select', {
    class: 'preset-menu',
    'aria-label': 'Window preset',
    onchange: () => this.choosePreset(),
  });
  private presetList: Preset[] = [];
  private readonly toolButtons = new Map<ToolName, HTMLButtonElement>();
  private readonly marksButton: HTMLButtonElement;
  private readonly layoutButtons = new Map<1 | 2 | 4, HTMLButtonElement>();
  readonly element: HTMLElement;

  constructor(
    private readonly app: App,
    private readonly uid: string,
    private readonly wanted: string,
  ) {
    this.verdicts = new Verdicts(uid, app.session?.name ?? '');
    this.findings = new FindingsPanel(
      (finding) => void this.jump(finding),
      () => this.drawReport(),
      this.verdicts,
      this.app.may('process') ? (finding, said) => void this.judge(finding, said) : undefined,
    );
    this.tasks = taskList(app, uid);
    const tab = (name: 'findings' | 'tasks' | 'model', words: string, content: HTMLElement) => {
      const button = el(
        'button',
        {
          type: 'button',
          role: 'tab',
          id: `tab-${name}`,
          'aria-controls': `panel-${name}`,
          'aria-selected': 'false',
          onclick: () => this.tab(name),
        },
        words,
      );
      const panel = el(
        'div',
        { role: 'tabpanel', id: `panel-${name}`, 'aria-labelledby': `tab-${name}`, hidden: true },
        content,
      );
      return { button, panel };
    };
    this.tabs = {
      findings: tab('findings', 'Findings', this.findings.element),
      tasks: tab('tasks', 'Tasks', this.tasks.element),
      model: tab('model', '3-D', this.modelHost),
    };
    const tabRow = el(
      'div',
      { class: 'tabs', role: 'tablist', 'aria-label': 'Results' },
      ...Object.values(this.tabs).map((t) => t.button),
    );
    tabRow.addEventListener('keydown', (event) => this.tabKeys(event));
    this.sidebar = el(
      'aside',
      { class: 'sidebar drawer', 'aria-label': 'Series' },
      el(
        'div',
        { class: 'drawer-head' },
        el('h2', {}, 'Series'),
        iconButton('close', 'Close series', { onclick: () => this.drawer('none') }),
      ),
      this.seriesList,
    );
    this.side = el(
      'aside',
      { class: 'side drawer', 'aria-label': 'Results and tasks' },
      el(
        'div',
        { class: 'drawer-head' },
        tabRow,
        iconButton('close', 'Close panel', { onclick: () => this.drawer('none') }),
      ),
      ...Object.values(this.tabs).map((t) => t.panel),
    );
    this.marksButton = iconButton('marks', 'Marks (M)', { 'aria-pressed': 'true', onclick: () => this.toggleMarks() });
    this.makeToolbar();
    this.element = el(
      'div',
      { class: 'study-page' },
      el(
        'div',
        { class: 'study-bar' },
        el(
          'a',
          { class: 'icon-button', href: '#/', 'aria-label': 'Back to the studies', title: 'Back to the studies' },
          icon('back'),
        ),
        this.title,
        app.may('process') &&
          el(
            'button',
            {
              type: 'button',
              class: 'button primary analyse-button',
              onclick: () => this.study && void openAnalyse(app, this.study, this.shownSeries),
            },
            icon('analyse'),
            el('span', {}, 'Analyse'),
          ),
        iconButton('series', 'Series', { class: 'only-narrow', onclick: () => this.drawer('series') }),
        iconButton('panel', 'Results and tasks', { class: 'only-narrow', onclick: () => this.drawer('side') }),
      ),
      this.sidebar,
      el('section', { class: 'centre', 'aria-label': 'Images' }, this.toolbar, this.stage),
      this.side,
      el('button', {
        type: 'button',
        class: 'scrim',
        tabIndex: -1,
        'aria-label': 'Close',
        onclick: () => this.drawer('none'),
      }),
    );
    this.tab('findings', false);
    document.addEventListener('keydown', this.keys, true);
    document.addEventListener('m3-show-tasks', this.showTasks);
  }

  private readonly showTasks = () => this.tab('tasks');

  // Opening -----------------------------------------------------------------------------------------------------------

  async open(): Promise<void> {
    try {
      const [study] = await Promise.all([findStudy(this.uid), this.loadSeries()]);
      this.study = study;
      if (this.closed) return;
      if (study) {
        fill(
          this.title,
          el('strong', {}, personName(study, '00100010') || 'No name'),
          el('small', {}, patientWords(study)),
          el(
            'small',
            { class: 'study-title-what' },
            [text(study, '00081030'), date(text(study, '00080020'))].filter(Boolean).join(' · '),
          ),
        );
      } else fill(this.title, el('strong', {}, 'This study is not there.'));
      const asked = this.series.find((series) => series.uid === this.wanted);
      const first =
        (asked && !['segmentation', 'other'].includes(asked.kind) ? asked : undefined) ??
        this.series.find((series) => series.kind === 'images') ??
        this.series.find((series) => series.kind === 'capture');
      if (first) await this.show(first);
      else fill(this.stage, el('div', { class: 'empty' }, icon('layers'), el('p', {}, 'No images in this study.')));
      await this.loadReports();
    } catch (error) {
      if (!this.closed)
        fill(this.stage, el('div', { class: 'empty' }, icon('warning'), el('p', {}, (error as Error).message)));
    }
  }

  private async loadSeries(): Promise<void> {
    const found = await findSeries(this.uid);
    const known = new Map(this.series.map((series) => [series.uid, series]));
    this.series = await Promise.all(
      found.map(async (ds): Promise<Series> => {
        const uid = text(ds, '0020000E');
        const before = known.get(uid);
        const count = number(ds, '00201209');
        if (before && (count === undefined || count === before.instances.length)) return before;
        const instances = await findInstances(this.uid, uid);
        const kind = kindOf(text(ds, '00080060'), text(instances[0], '00080016'), number(ds, '00200011') ?? 0);
        const series: Series = { uid, ds, kind, instances, card: el('button') };
        series.card = this.card(series);
        return series;
      }),
    );
    this.series.sort(
      (a, b) => (number(a.ds, '00200011') ?? 0) - (number(b.ds, '00200011') ?? 0) || a.uid.localeCompare(b.uid),
    );
    if (this.closed) return;
    fill(
      this.seriesList,
      ...GROUP_TITLES.flatMap(([words, kinds]) => {
        const group = this.series.filter((series) => kinds.includes(series.kind));
        return group.length === 0
          ? []
          : [el('section', {}, el('h3', {}, words), el('ul', {}, ...group.map((series) => el('li', {}, series.card))))];
      }),
    );
    this.markShown();
  }

  private card(series: Series): HTMLElement {
    return seriesCard(series, {
      thumbnail: (middle) =>
        renderedImage(
          `${DICOMWEB}/studies/${this.uid}/series/${series.uid}/instances/${text(middle, '00080018')}`,
          160,
          this.stopping.signal,
        ).then((blob) => {
          if (this.closed) throw new Error('closed');
          const address = URL.createObjectURL(blob);
          this.thumbnails.push(address);
          return address;
        }),
      choose: () => {
        this.drawer('none');
        void this.show(series);
      },
    });
  }

  private metadata(series: Series): Promise<Dataset[]> {
    series.metadata ??= seriesMetadata(this.uid, series.uid);
    return series.metadata;
  }

  private stack(series: Series): Promise<Stack> {
    series.stack ??= this.metadata(series).then((metadata) => stackOf(this.uid, series.uid, metadata));
    return series.stack;
  }

  private async getReader(): Promise<Reader> {
    this.starting ??= (async () => {
      if (!this.reader) fill(this.stage, el('div', { class: 'loading' }, 'Starting the image viewer…'));
      const { Reader } = await import('./reader');
      return Reader.create({
        active: () => this.paneChanged(),
        changed: (pane) => this.followCopy(pane),
        chosen: (finding) => void this.jump(finding, false),
      });
    })();
    const reader = await this.starting;
    if (this.closed) {
      reader.close();
      throw new Error('closed');
    }
    this.reader = reader;
    if (!reader.element.isConnected) {
      fill(this.stage, reader.element);
      if (reader.panes.length === 0) {
        reader.layout(1);
        reader.setTool(this.tool);
        reader.setMarks(this.marks);
        this.layoutPressed();
      } else reader.engine.resize(true, true);
    }
    return reader;
  }

  // Showing -----------------------------------------------------------------------------------------------------------

  async show(series: Series, at?: { sopInstance: string; frame: number }): Promise<void> {
    try {
      switch (series.kind) {
        case 'images':
          await this.showStack(series, at);
          break;
        case 'capture':
          await this.showCapture(series);
          break;
        case 'model':
          await this.showModel(series);
          break;
        case 'report':
          if (this.reportsLoaded) await this.reportsLoaded;
          if (this.findings.open(series.uid)) this.tab('findings', this.isNarrow());
          await this.showSourceOfReport();
          break;
        case 'segmentation':
          this.app.notice('A segmentation is kept for other software; its surfaces and measurements are shown here.');
          break;
        default:
          this.app.notice('Documents of this kind are not shown here.');
      }
    } catch (error) {
      if (!this.closed) this.app.notice((error as Error).message, { kind: 'error' });
    }
  }

  private async showStack(series: Series, at?: { sopInstance: string; frame: number }, pane?: number): Promise<void> {
    const [reader, stack] = await Promise.all([this.getReader(), this.stack(series)]);
    this.closeModel();
    const index = at
      ? stack.images.findIndex((image) => image.sopInstance === at.sopInstance && image.frame === at.frame)
      : stack.modality === 'CT' || stack.modality === 'MR' || stack.modality === 'PT'
        ? Math.floor(stack.images.length / 2)
        : 0;
    const target = reader.panes[pane ?? reader.active] ?? reader.panes[0]!;
    if (target.stack?.series === series.uid) {
      if (at) await target.go(Math.max(0, index));
    } else await target.show(stack, Math.max(0, index));
    this.paneChanged();
  }

  /** A marked copy stands beside the image it was made from, the one on the stage first. */
  private async showCapture(series: Series): Promise<void> {
    const [reader, stack] = await Promise.all([this.getReader(), this.stack(series)]);
    this.closeModel();
    const shown = reader.panes.map((pane) => pane.image?.sopInstance);
    const copies = stack.images
      .map((image) => ({ image, source: this.sourceOf(image.ds) }))
      .filter((copy) => copy.source);
    const copy = copies.find(({ source }) => shown.includes(source)) ?? copies[0];
    const original = copy && this.seriesOf(copy.source!);
    if (!copy || !original) {
      await this.showStack(series);
      return;
    }
    if (reader.panes.length < 2) {
      reader.layout(2);
      this.layoutPressed();
    }
    reader.activate(0);
    await this.showStack(original, { sopInstance: copy.source!, frame: 1 }, 0);
    await this.showStack(series, copy.image, 1);
    reader.align();
    this.markShown();
  }

  /** The image in this study that an image was derived from (Source Image Sequence). */
  private sourceOf(ds: Dataset): string | undefined {
    return items(ds, '00082112')
      .map((each) => text(each, '00081155'))
      .find((sop) => this.seriesOf(sop));
  }

  /** Going through marked copies takes the originals along. */
  private followCopy(index: number): void {
    const pane = this.reader?.panes[index];
    const series = this.series.find((each) => each.uid === pane?.stack?.series);
    if (!pane?.image || series?.kind !== 'capture' || index === 0) return;
    const source = this.sourceOf(pane.image.ds);
    const original = source && this.seriesOf(source);
    if (original && !this.isShown(source)) void this.showStack(original, { sopInstance: source, frame: 1 }, 0);
  }

  private seriesOf(sopInstance: string): Series | undefined {
    return this.series.find((series) => series.instances.some((ds) => text(ds, '00080018') === sopInstance));
  }

  private async showModel(series: Series): Promise<void> {
    const path = `${DICOMWEB}/studies/${this.uid}/series/${series.uid}`;
    fill(this.stage, el('div', { class: 'loading' }, 'Loading the model…'));
    this.closeModel(false);
    const [{ modelView }, source] = await Promise.all([import('./model'), renderedScene(path)]);
    if (this.closed) return;
    const name = (text(series.ds, '0008103E') || 'model').replace(/[^\w-]+/g, '-').toLowerCase();
    const downloads = el(
      'ul',
      { class: 'downloads' },
      el(
        'li',
        {},
        this.saveButton('X3D scene', `${name}.x3d`, async () => new Blob([source], { type: 'model/x3d+xml' })),
      ),
      ...series.instances.map((ds, i) => {
        const label = el('span', {}, `STL ${i + 1}`);
        void this.metadata(series).then((metadata) => {
          const found = metadata.find((each) => text(each, '00080018') === text(ds, '00080018'));
          label.textContent = `STL ${text(found, '00420010') || i + 1}`;
        });
        return el(
          'li',
          {},
          this.saveButton(label, `${name}-${i + 1}.stl`, () => this.stl(series, text(ds, '00080018'))),
        );
      }),
    );
    const view = modelView(source, downloads);
    this.model = view;
    fill(this.stage, view.element);
    view.ready();
    fill(this.modelHost, view.controls);
    this.tabs.model.button.hidden = false;
    this.tab('model', false);
    this.shownSeries = series.uid;
    this.toolbar.hidden = true;
    this.markShown();
  }

  private saveButton(words: string | HTMLElement, name: string, make: () => Promise<Blob>): HTMLElement {
    const button = el(
      'button',
      {
        type: 'button',
        class: 'button small',
        onclick: async () => {
          button.disabled = true;
          try {
            const address = URL.createObjectURL(await make());
            el('a', { href: address, download: name }).click();
            setTimeout(() => URL.revokeObjectURL(address), 60_000);
          } catch (error) {
            this.app.notice((error as Error).message, { kind: 'error' });
          } finally {
            button.disabled = false;
          }
        },
      },
      icon('download'),
      words,
    );
    return button;
  }

  private async stl(series: Series, sopInstance: string): Promise<Blob> {
    const ds = (await this.metadata(series)).find((each) => text(each, '00080018') === sopInstance);
    const inline = ds?.['00420011']?.InlineBinary;
    if (inline) return new Blob([Uint8Array.from(atob(inline), (c) => c.charCodeAt(0))], { type: 'model/stl' });
    const uri = ds?.['00420011']?.BulkDataURI;
    return bulkData(uri ? new URL(uri, `${DICOMWEB}/`).href : `${instancePath(ds!)}/bulkdata/00420011`, 'model/stl');
  }

  private closeModel(restore = true): void {
    if (!this.model) return;
    this.model.close();
    this.model = undefined;
    fill(this.modelHost);
    this.tabs.model.button.hidden = true;
    if (restore && this.reader) {
      fill(this.stage, this.reader.element);
      this.reader.engine.resize(true, true);
    }
    this.toolbar.hidden = false;
    if (this.tabs.model.button.getAttribute('aria-selected') === 'true') this.tab('findings', false);
  }

  // Reports and marks -------------------------------------------------------------------------------------------------

  private reportsLoaded: Promise<void> | undefined;

  private loadReports(): Promise<void> {
    this.reportsLoaded = this.readReports();
    return this.reportsLoaded;
  }

  private async readReports(): Promise<void> {
    this.replaced = await replacedSeries(this.uid).catch(() => new Set<string>());
    const [found] = await Promise.all([
      readReports(
        this.series.filter((each) => each.kind === 'report'),
        (series) => this.metadata(series as Series),
        (series) => this.outdated(series.uid),
      ),
      this.verdicts.load().catch(() => {}),
    ]);
    if (this.closed) return;
    this.findings.set(found);
    for (const series of this.series) if (this.outdated(series.uid)) markOutdated(series.card);
  }

  /** Whether a newer result has replaced those of the series. */
  private outdated(series: string): boolean {
    return this.replaced.has(series);
  }

  private async judge(finding: Finding, said: Judgement): Promise<void> {
    const report = this.findings.report?.sopInstance;
    if (!report || !this.app.may('process')) return;
    await sayVerdict(this.app, this.verdicts, report, finding, said);
    if (this.closed) return;
    this.findings.refresh();
    this.drawMarks();
  }

  private judgeChosen(said: 'accepted' | 'rejected' | 'corrected'): void {
    const finding = this.findings.chosen;
    if (finding?.trackingUID) void this.judge(finding, said);
    else this.app.notice('Choose a finding first (N).');
  }

  private drawReport(): void {
    this.drawMarks();
    this.reader?.select('');
  }

  private drawMarks(): void {
    this.marks = drawnOn(this.findings.report?.report, (finding) => this.saidOf(finding), this.verdicts.reader);
    this.reader?.setMarks(this.marks);
  }

  private saidOf(finding: Finding): Verdict[] {
    return this.verdicts.of(this.findings.report?.sopInstance ?? '', finding.trackingUID);
  }

  /** The first image that the open report speaks of. */
  private async showSourceOfReport(): Promise<void> {
    const findings = this.findings.report?.report.findings ?? [];
    const target = findings.flatMap((finding) => [...finding.marks, ...finding.images])[0];
    const series = target && this.seriesOf(target.sopInstance);
    if (series && (this.model || !this.isShown(target.sopInstance))) await this.showStack(series, target);
    // A report without a place in an image goes with what is on the stage: its model, or the images.
    const images = this.series.find((each) => each.kind === 'images');
    if (!series && images && !this.model && !this.reader) await this.showStack(images);
  }

  private isShown(sopInstance: string): boolean {
    return this.reader?.panes.some((pane) => pane.image?.sopInstance === sopInstance) ?? false;
  }

  private async jump(finding: Finding, centring = true): Promise<void> {
    this.findings.select(finding);
    const target = finding.marks[0] ?? finding.images[0];
    const series = target && this.seriesOf(target.sopInstance);
    if (!target || !series) {
      this.app.notice('The image of this finding is not in the study.');
      return;
    }
    const reader = await this.getReader();
    if (!this.isShown(target.sopInstance) || this.model) await this.showStack(series, target);
    const pane = reader.panes.find((each) => each.stack?.series === series.uid);
    if (!pane) return;
    if (reader.active !== pane.index) reader.activate(pane.index);
    if (pane.image?.sopInstance !== target.sopInstance || pane.image.frame !== target.frame)
      await this.showStack(series, target, pane.index);
    reader.select(finding.key);
    const first = finding.marks[0];
    const places = this.saidOf(finding).flatMap((said) => correctedPlace(finding, said) ?? []);
    const mark = first && around([first, ...places]);
    if (mark && centring) pane.centreOn(mark);
    if (this.isNarrow()) this.drawer('none');
  }

  private step(by: number): void {
    const finding = this.findings.step(by);
    if (finding) void this.jump(finding);
  }

  // Tools -------------------------------------------------------------------------------------------------------------

  private makeToolbar(): void {
    const tools: [ToolName, string][] = [
      ['window', 'Window and level (W)'],
      ['scroll', 'Scroll through images (S)'],
      ['zoom', 'Zoom (Z)'],
      ['pan', 'Move (H)'],
      ['length', 'Measure length (L)'],
    ];
    const group = (name: string, ...children: Node[]) =>
      el('div', { class: 'tool-group', role: 'group', 'aria-label': name }, ...children);
    for (const [name, label] of tools) {
      // Two fingers zoom and move, so a phone's bar leaves these two out.
      const props = { 'aria-pressed': 'false', class: name === 'zoom' || name === 'pan' ? 'wide-only' : '' };
      this.toolButtons.set(name, iconButton(name, label, { ...props, onclick: () => this.setTool(name) }));
    }
    for (const [count, name, label] of [
      [1, 'one', 'One pane'],
      [2, 'two', 'Two panes side by side'],
      [4, 'four', 'Four panes'],
    ] as const)
      this.layoutButtons.set(
        count,
        iconButton(name, label, {
          'aria-pressed': 'false',
          class: count === 2 ? '' : 'wide-only',
          onclick: () => this.layout(count === 2 && this.reader?.panes.length === 2 ? 1 : count),
        }),
      );
    fill(
      this.toolbar,
      group('Tools', ...this.toolButtons.values()),
      group(
        'Window',
        this.presetMenu,
        iconButton('invert', 'Invert (I)', { onclick: () => this.reader?.invert() }),
        iconButton('reset', 'Reset (R)', { onclick: () => this.reset() }),
      ),
      group('Marks', this.marksButton),
      group('Layout', ...this.layoutButtons.values()),
      group('Help', iconButton('help', 'Keys (?)', { class: 'wide-only', onclick: showKeys })),
    );
    this.setTool('window');
    // One stop for the Tab key, arrows inside (ARIA toolbar).
    this.toolbar.addEventListener('keydown', (event) => {
      if (event.key !== 'ArrowRight' && event.key !== 'ArrowLeft') return;
      if (event.target instanceof HTMLSelectElement) return;
      const all = [...this.toolbar.querySelectorAll<HTMLElement>('button, select')].filter(
        (each) => each.offsetParent !== null,
      );
      const at = all.indexOf(document.activeElement as HTMLElement);
      if (at < 0) return;
      event.preventDefault();
      event.stopPropagation();
      all[(at + (event.key === 'ArrowRight' ? 1 : -1) + all.length) % all.length]?.focus();
    });
  }

  private setTool(name: ToolName): void {
    this.tool = name;
    for (const [each, button] of this.toolButtons) button.setAttribute('aria-pressed', String(each === name));
    this.reader?.setTool(name);
  }

  private layout(count: 1 | 2 | 4): void {
    const reader = this.reader;
    if (!reader || this.model) return;
    reader.layout(count);
    this.layoutPressed();
    // New panes take the next series that are not shown yet.
    const used = new Set(reader.panes.map((pane) => pane.stack?.series));
    const rest = this.series.filter(
      (series) => (series.kind === 'images' || series.kind === 'capture') && !used.has(series.uid),
    );
    for (const pane of reader.panes)
      if (!pane.stack) {
        const next = rest.shift() ?? this.series.find((series) => series.uid === reader.panes[0]?.stack?.series);
        if (next) void this.showStack(next, undefined, pane.index);
      }
  }

  private layoutPressed(): void {
    for (const [count, button] of this.layoutButtons)
      button.setAttribute('aria-pressed', String(count === this.reader?.panes.length));
  }

  private toggleMarks(): void {
    this.marksShown = !this.marksShown;
    this.marksButton.setAttribute('aria-pressed', String(this.marksShown));
    this.reader?.showMarks(this.marksShown);
  }

  private reset(): void {
    this.reader?.clearMeasurements();
    this.reader?.reset();
    this.presetMenu.value = '';
  }

  private choosePreset(): void {
    const preset = this.presetList[Number(this.presetMenu.value)];
    if (this.presetMenu.value !== '' && preset) this.reader?.preset(preset.centre, preset.width);
  }

  private paneChanged(): void {
    const pane = this.reader?.pane;
    this.presetList = presets(pane?.image?.ds);
    fill(
      this.presetMenu,
      el('option', { value: '' }, 'Window'),
      ...this.presetList.map((preset, i) =>
        el('option', { value: i }, `${preset.name}  ${preset.width}/${preset.centre}`),
      ),
    );
    this.presetMenu.disabled = this.presetList.length === 0;
    if (!this.model && pane?.stack) this.shownSeries = pane.stack.series;
    this.markShown();
  }

  private markShown(): void {
    const shown = new Set(this.model ? [this.shownSeries] : this.reader?.panes.map((pane) => pane.stack?.series));
    for (const series of this.series) {
      series.card.classList.toggle('shown', shown.has(series.uid));
      series.card.setAttribute('aria-pressed', String(shown.has(series.uid)));
    }
  }

  // Drawers, tabs, keys -----------------------------------------------------------------------------------------------

  private isNarrow(): boolean {
    return matchMedia('(max-width: 899px)').matches;
  }

  private drawer(which: 'none' | 'series' | 'side'): void {
    this.element.dataset.drawer = which;
    if (!this.isNarrow()) return;
    this.sidebar.inert = which !== 'series';
    this.side.inert = which !== 'side';
    if (which !== 'none') (which === 'series' ? this.sidebar : this.side).querySelector<HTMLElement>('button')?.focus();
  }

  private tab(name: 'findings' | 'tasks' | 'model', open = this.isNarrow()): void {
    for (const [each, { button, panel }] of Object.entries(this.tabs)) {
      const chosen = each === name;
      button.setAttribute('aria-selected', String(chosen));
      button.tabIndex = chosen ? 0 : -1;
      panel.hidden = !chosen;
    }
    if (!this.model) this.tabs.model.button.hidden = true;
    if (open) this.drawer('side');
  }

  private tabKeys(event: KeyboardEvent): void {
    if (event.key !== 'ArrowRight' && event.key !== 'ArrowLeft') return;
    const names = (Object.keys(this.tabs) as (keyof typeof this.tabs)[]).filter(
      (name) => !this.tabs[name].button.hidden,
    );
    const at = names.findIndex((name) => this.tabs[name].button.getAttribute('aria-selected') === 'true');
    const next = names[(at + (event.key === 'ArrowRight' ? 1 : -1) + names.length) % names.length]!;
    this.tab(next, false);
    this.tabs[next].button.focus();
    event.preventDefault();
    event.stopPropagation();
  }

  private readonly keys = (event: KeyboardEvent): void => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target as HTMLElement;
    if (document.querySelector('dialog[open]')) return;
    if (target.closest('input:not([type=range], [type=checkbox]), select, textarea')) return;
    const inPane = !target.closest('.drawer, .toolbar, .top, .study-bar') || target === document.body;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const letters: Record<string, () => void> = {
      w: () => this.setTool('window'),
      s: () => this.setTool('scroll'),
      z: () => this.setTool('zoom'),
      h: () => this.setTool('pan'),
      l: () => this.setTool('length'),
      i: () => this.reader?.invert(),
      r: () => this.reset(),
      m: () => this.toggleMarks(),
      n: () => this.step(1),
      p: () => this.step(-1),
      a: () => this.judgeChosen('accepted'),
      x: () => this.judgeChosen('rejected'),
      c: () => this.judgeChosen('corrected'),
      '?': showKeys,
      '+': () => this.reader?.zoom(1.2),
      '=': () => this.reader?.zoom(1.2),
      '-': () => this.reader?.zoom(1 / 1.2),
      Escape: () => this.drawer('none'),
    };
    const moves: Record<string, () => void> = {
      ArrowUp: () => this.reader?.scroll(-1),
      ArrowDown: () => this.reader?.scroll(1),
      PageUp: () => this.reader?.scroll(-10),
      PageDown: () => this.reader?.scroll(10),
      Home: () => this.reader?.scroll(-100_000),
      End: () => this.reader?.scroll(100_000),
    };
    let run = letters[key];
    if (!run && /^[1-9]$/.test(key)) {
      const preset = this.presetList[Number(key) - 1];
      if (preset) run = () => this.reader?.preset(preset.centre, preset.width);
    }
    if (this.model && /^[-+=]$/.test(key)) run = undefined; // the model has its own
    if (!run && inPane && !this.model && !target.closest('input')) run = moves[key];
    if (!run) return;
    event.preventDefault();
    run();
  };

  // Life --------------------------------------------------------------------------------------------------------------

  private readonly reload = debounce(1000, async () => {
    if (this.closed) return;
    const before = this.series.length;
    await this.loadSeries().catch(() => {});
    if (this.series.length !== before) await this.loadReports().catch(() => {});
    if (!this.reader && this.series.length > 0 && before === 0) await this.open();
  });

  changed(change: { study_instance_uid: string }): void {
    if (change.study_instance_uid === this.uid) this.reload();
  }

  close(): void {
    this.closed = true;
    this.stopping.abort();
    this.closeModel(false);
    this.tasks.close();
    document.removeEventListener('keydown', this.keys, true);
    document.removeEventListener('m3-show-tasks', this.showTasks);
    this.reader?.close();
    for (const address of this.thumbnails) URL.revokeObjectURL(address);
  }
}
