// What readers say of findings: the verdicts of a study, and a reader's own, over /api/verdicts.
import { ROOT, request } from './api';
import { readable } from './form';

export type Said = 'accepted' | 'rejected' | 'corrected' | 'missed';

export interface Verdict {
  sop_instance_uid: string;
  report_uid: string;
  tracking_uid: string;
  verdict: Said;
  comment: string;
  corrected: { measurements?: Corrected[]; codes?: Corrected[]; texts?: Corrected[] } & Partial<Place>;
  reader: string;
  at: number;
  /** The reader's latest on this finding. */
  counts: boolean;
}

/** A coded concept (PS3.3 section 8). */
export interface Coded {
  value: string;
  scheme: string;
  meaning: string;
}

export type Value = number | string | Coded;

/** One thing that a finding says, as a field of the form that corrects it. */
export interface Correctable {
  kind: 'number' | 'code' | 'text';
  code: string;
  scheme: string;
  meaning: string;
  position: number;
  of: number;
  value: Value;
  /** As the reader has corrected it last. */
  now: Value;
  unit: string;
  choices: Coded[];
}

export interface Correction {
  code: string;
  scheme: string;
  position: number;
  value: Value;
}

/** Where a reader says that something is, points as PS3.3 C.18.6 has them. */
export interface Place {
  shape: 'point' | 'circle' | 'polygon';
  points: [column: number, row: number][];
}

/** What is corrected, by the lists of the API. */
export interface Corrections extends Partial<Place> {
  measurements?: Correction[];
  codes?: Correction[];
  texts?: Correction[];
}

/** One correction as a verdict tells it. */
interface Corrected {
  code: string;
  meaning: string;
  value: Value;
  was: Value | null;
  unit: string;
}

export const SAID_WORDS: Record<Said, string> = {
  accepted: 'Accepted',
  rejected: 'Rejected',
  corrected: 'Corrected',
  missed: 'Missed',
};

/** What a verdict has changed, in words: "Volume 12.5 → 11 mL". */
export function correctedWords(verdict: Verdict): string[] {
  const { measurements = [], codes = [], texts = [], shape } = verdict.corrected;
  const line = (each: Corrected) => {
    const [was, value] = [each.was, each.value].map((x) => (x === null ? '' : valueWords(x, each.unit)));
    const unit = typeof each.value === 'number' ? readable(each.value, each.unit).unit : '';
    return `${each.meaning || each.code} ${was ? `${was} → ` : ''}${value} ${unit}`.trim();
  };
  return [
    ...[...measurements, ...codes, ...texts].map(line),
    ...(shape && verdict.verdict === 'corrected' ? ['its place, drawn clear (computed: faint)'] : []),
  ];
}

/** A value as people read it, a number in the unit that the lists show. */
export function valueWords(value: Value, unit: string): string {
  if (typeof value === 'number') return String(Number(readable(value, unit).value.toPrecision(6)));
  return typeof value === 'string' ? value : value.meaning;
}

export class Verdicts {
  private known: Verdict[] = [];

  constructor(
    private readonly study: string,
    readonly reader: string,
  ) {}

  async load(): Promise<void> {
    const answer = await request(`${ROOT}/api/verdicts?study=${encodeURIComponent(this.study)}`);
    this.known = (await answer.json()) as Verdict[];
  }

  /** The latest verdict of each reader on a finding, one's own first. */
  of(report: string, tracking: string): Verdict[] {
    return this.known
      .filter((each) => each.counts && each.report_uid === report && each.tracking_uid === tracking)
      .sort((a, b) => Number(b.reader === this.reader) - Number(a.reader === this.reader));
  }

  own(report: string, tracking: string): Verdict | undefined {
    return this.of(report, tracking).find((each) => each.reader === this.reader);
  }

  /** What of a finding can be corrected, and to what. */
  async form(report: string, tracking: string): Promise<Correctable[]> {
    const asked = new URLSearchParams({ report, tracking_uid: tracking });
    const answer = await request(`${ROOT}/api/verdicts/form?${asked}`);
    return ((await answer.json()) as { fields: Correctable[] }).fields;
  }

  async say(
    report: string,
    tracking: string,
    verdict: Said,
    comment = '',
    corrections: Corrections = {},
  ): Promise<Verdict> {
    const answer = await request(`${ROOT}/api/verdicts`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ report, tracking_uid: tracking, verdict, comment, ...corrections }),
    });
    const said = (await answer.json()) as Verdict;
    this.known = this.known.map((each) =>
      each.reader === said.reader && each.report_uid === report && each.tracking_uid === tracking
        ? { ...each, counts: false }
        : each,
    );
    this.known.push({ ...said, counts: true });
    return said;
  }
}
