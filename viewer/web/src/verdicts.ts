// What readers say of findings: the verdicts of a study, and a reader's own, over /api/verdicts.
import { ROOT, request } from './api';

export type Said = 'accepted' | 'rejected' | 'corrected' | 'missed';

export interface Verdict {
  sop_instance_uid: string;
  report_uid: string;
  tracking_uid: string;
  verdict: Said;
  comment: string;
  reader: string;
  at: number;
  /** The reader's latest on this finding. */
  counts: boolean;
}

export interface Correction {
  code: string;
  scheme: string;
  value: number;
}

export const SAID_WORDS: Record<Said, string> = {
  accepted: 'Accepted',
  rejected: 'Rejected',
  corrected: 'Corrected',
  missed: 'Missed',
};

export class Verdicts {
  private known: Verdict[] = [];

  constructor(
    private readonly study: string,
    private readonly reader: string,
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

  async say(
    report: string,
    tracking: string,
    verdict: Said,
    comment = '',
    measurements: Correction[] = [],
  ): Promise<Verdict> {
    const answer = await request(`${ROOT}/api/verdicts`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ report, tracking_uid: tracking, verdict, comment, measurements }),
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
