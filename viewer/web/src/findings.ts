// A report beside the images: findings to click through, or measurements as a table, or the document's lines.
import { el, fill, icon } from './dom';
import { readable } from './form';
import { type Finding, isOfImage, listed, type Report } from './sr';
import { type Judge, reasonButton, verdictBadge, verdictButtons, verdictLines } from './verdict-bar';
import type { Verdicts } from './verdicts';

export interface ReportOf {
  series: string;
  sopInstance: string;
  label: string;
  report: Report;
  /** A newer result has replaced it. */
  outdated?: boolean;
}

// A list of this length is shown whole.
const SHORT = 10;

function amount(value: number): string {
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return value.toLocaleString('en', { maximumFractionDigits: digits });
}

function score(value: number): HTMLElement {
  const percent = Math.round(value * 100);
  const bar = el('meter', { min: 0, max: 1, value, 'aria-label': 'Score' });
  return el('span', { class: 'score' }, bar, `${percent} %`);
}

function table(findings: readonly Finding[], verdict?: (finding: Finding) => HTMLElement): HTMLElement {
  const columns = [
    ...new Map(findings.flatMap((f) => f.measurements.map((m) => [`${m.name}|${m.unit}`, m] as const))).values(),
  ];
  return el(
    'div',
    { class: 'table-scroll', tabIndex: 0, role: 'region', 'aria-label': 'Measurements' },
    el(
      'table',
      {},
      el(
        'thead',
        {},
        el(
          'tr',
          {},
          el('th', { scope: 'col' }, 'Structure'),
          ...columns.map((c) =>
            el('th', { scope: 'col' }, c.name, c.unit && el('small', {}, readable(0, c.unit).unit)),
          ),
        ),
      ),
      el(
        'tbody',
        {},
        ...findings.flatMap((f) => [
          el(
            'tr',
            {},
            el(
              'th',
              { scope: 'row' },
              f.identifier,
              f.finding && f.finding !== f.identifier && el('small', {}, f.finding),
            ),
            ...columns.map((c) => {
              const found = f.measurements.find((m) => m.name === c.name && m.unit === c.unit);
              return el('td', {}, found ? amount(readable(found.value, found.unit).value) : '–');
            }),
          ),
          verdict && el('tr', { class: 'verdict-row' }, el('td', { colSpan: columns.length + 1 }, verdict(f))),
        ]),
      ),
    ),
  );
}

export class FindingsPanel {
  readonly element = el('div', { class: 'findings' });
  private reports: ReportOf[] = [];
  private current = 0;
  private order: Finding[] = [];
  private selected = '';
  private readonly opened = new Set<string>();

  constructor(
    private readonly choose: (finding: Finding) => void,
    private readonly showReport: () => void,
    private readonly verdicts?: Verdicts,
    private readonly judge?: Judge,
  ) {
    this.draw();
  }

  set(reports: ReportOf[]): void {
    const before = this.reports[this.current]?.sopInstance;
    this.reports = reports;
    this.current = Math.max(
      0,
      reports.findIndex((each) => each.sopInstance === before),
    );
    this.draw();
    this.showReport();
  }

  /** The finding that is selected. */
  get chosen(): Finding | undefined {
    return this.order.find((finding) => finding.key === this.selected);
  }

  /** Draws again what may have changed: verdicts. */
  refresh(): void {
    const focused = document.activeElement?.closest('[data-verdict]')?.getAttribute('data-verdict');
    this.draw();
    if (focused) this.element.querySelector<HTMLElement>(`[data-verdict="${focused}"]`)?.focus();
  }

  private canJudge(finding: Finding): boolean {
    return this.judge !== undefined && finding.trackingUID !== '';
  }

  private verdictOf(finding: Finding): HTMLElement {
    const report = this.reports[this.current]?.sopInstance ?? '';
    const said = this.verdicts?.of(report, finding.trackingUID) ?? [];
    const own = this.verdicts?.own(report, finding.trackingUID);
    const judge = this.canJudge(finding) && this.judge;
    return el(
      'div',
      { class: 'verdict-cell' },
      verdictBadge(said),
      judge && verdictButtons(finding, own?.verdict, judge),
      judge && reasonButton(own, () => judge(finding, 'reason')),
      ...verdictLines(said),
    );
  }

  get report(): ReportOf | undefined {
    return this.reports[this.current];
  }

  /** Opens the report of a series. */
  open(series: string): boolean {
    const index = this.reports.findIndex((each) => each.series === series);
    if (index < 0) return false;
    this.current = index;
    this.draw();
    this.showReport();
    return true;
  }

  /** The finding `by` places on from the selected one, among those that the list shows. */
  step(by: number): Finding | undefined {
    const steps = this.order.filter((finding) => finding.marks.length > 0 && this.isListed(finding));
    if (steps.length === 0) return undefined;
    const at = steps.findIndex((finding) => finding.key === this.selected);
    const next = at < 0 ? (by > 0 ? 0 : steps.length - 1) : (at + by + steps.length) % steps.length;
    return steps[next];
  }

  private isListed(finding: Finding): boolean {
    return !finding.parent || this.opened.has(finding.parent);
  }

  select(finding: Finding): void {
    this.selected = finding.key;
    if (finding.parent && !this.opened.has(finding.parent)) {
      this.opened.add(finding.parent);
      this.draw();
    }
    for (const row of this.element.querySelectorAll<HTMLElement>('[data-finding]')) {
      const chosen = row.dataset.finding === finding.key;
      row.setAttribute('aria-current', String(chosen));
      if (chosen) row.scrollIntoView({ block: 'nearest' });
      const bar = row.closest('li')?.querySelector<HTMLElement>('.verdict-slot');
      if (bar) fill(bar, chosen && this.canJudge(finding) && this.verdictOf(finding));
    }
  }

  private row(finding: Finding): HTMLElement {
    const place = finding.marks.length > 0 || finding.images.length > 0;
    const ofImage = isOfImage(finding);
    const numbers = finding.measurements.map((m) => {
      const shown = readable(m.value, m.unit);
      return `${m.name} ${amount(shown.value)} ${shown.unit}`.trim();
    });
    const own = this.order.filter((other) => other.parent === finding.key).length;
    const open = this.opened.has(finding.key);
    const toggle = el(
      'button',
      {
        type: 'button',
        class: 'finding-toggle',
        'aria-expanded': String(open),
        'aria-label': `${open ? 'Hide' : 'Show'} the ${own} marks in ${finding.identifier}`,
        onclick: () => {
          if (open) this.opened.delete(finding.key);
          else this.opened.add(finding.key);
          this.draw();
          this.element.querySelector<HTMLElement>(`[data-toggle="${finding.key}"]`)?.focus();
        },
        'data-toggle': finding.key,
      },
      `${own}`,
      icon('next'),
    );
    const words = finding.finding || finding.evaluations.map((each) => each.value).join(' · ') || 'Finding';
    return el(
      'li',
      { class: ofImage ? 'finding-image' : finding.parent ? 'finding-child' : '' },
      el(
        'button',
        {
          type: 'button',
          class: 'finding',
          'data-finding': finding.key,
          'data-id': finding.identifier,
          'aria-current': String(finding.key === this.selected),
          disabled: !place,
          onclick: () => this.choose(finding),
        },
        el('span', { class: 'finding-id' }, finding.identifier),
        el('span', { class: 'finding-what' }, words),
        finding.score !== undefined && score(finding.score),
        !(finding.key === this.selected) &&
          verdictBadge(this.verdicts?.of(this.reports[this.current]?.sopInstance ?? '', finding.trackingUID) ?? []),
        numbers.length > 0 && el('small', {}, numbers.join(' · ')),
      ),
      own > 0 && toggle,
      el(
        'div',
        { class: 'verdict-slot' },
        finding.key === this.selected && this.canJudge(finding) && this.verdictOf(finding),
      ),
    );
  }

  private draw(): void {
    const shown = this.reports[this.current];
    if (!shown) {
      this.order = [];
      fill(
        this.element,
        el(
          'div',
          { class: 'empty small' },
          icon('report'),
          el('p', {}, 'No reports yet.'),
          el('p', { class: 'muted' }, 'Results of analyses appear here.'),
        ),
      );
      return;
    }
    const { report } = shown;
    this.order = listed(report.findings);
    const marked = this.order.some((finding) => finding.marks.length > 0);
    const measured = this.order.filter((finding) => finding.measurements.length > 0);
    const marks = this.order.filter((finding) => finding.marks.length > 0).length;
    if (this.order.length <= SHORT) for (const finding of this.order) this.opened.add(finding.key);
    const picker =
      this.reports.length > 1 &&
      el(
        'select',
        {
          class: 'report-picker',
          'aria-label': 'Report',
          onchange: (event: Event) => {
            this.current = Number((event.target as HTMLSelectElement).value);
            this.selected = '';
            this.opened.clear();
            this.draw();
            this.showReport();
          },
        },
        ...this.reports.map((each, i) => el('option', { value: i, selected: i === this.current }, each.label)),
      );
    fill(
      this.element,
      picker,
      el('h3', {}, report.title),
      shown.outdated &&
        el('p', { class: 'outdated', role: 'note' }, icon('warning'), ' A newer result has replaced this one.'),
      report.algorithm && el('p', { class: 'muted' }, report.algorithm),
      ...report.conclusions.map((words) => el('p', { class: 'conclusion' }, words)),
      marked &&
        el(
          'p',
          { class: 'finding-hint muted' },
          `${marks} mark${marks === 1 ? '' : 's'}`,
          el('span', { class: 'keys' }, el('kbd', {}, 'N'), ' next ', el('kbd', {}, 'P'), ' previous'),
          this.judge &&
            el(
              'span',
              { class: 'keys' },
              el('kbd', {}, 'A'),
              ' accept ',
              el('kbd', {}, 'X'),
              ' reject ',
              el('kbd', {}, 'C'),
              ' correct',
            ),
        ),
      marked
        ? el(
            'ol',
            { class: 'finding-list' },
            ...this.order.filter((finding) => this.isListed(finding)).map((finding) => this.row(finding)),
          )
        : measured.length > 0
          ? table(measured, this.judge && ((finding) => this.verdictOf(finding)))
          : report.findings.length > 0
            ? el('ol', { class: 'finding-list' }, ...this.order.map((finding) => this.row(finding)))
            : report.conclusions.length === 0 && this.lines(report),
      el('p', { class: 'disclaimer' }, 'Computed results, not for primary diagnosis.'),
    );
  }

  private lines(report: Report): HTMLElement {
    const list = el('ul', { class: 'sr-lines' });
    for (const line of report.lines) {
      const row = el('li', {}, line.name && el('b', {}, line.name), line.value && el('span', {}, line.value));
      row.dataset.depth = String(Math.min(6, line.depth));
      list.append(row);
    }
    return list;
  }
}
