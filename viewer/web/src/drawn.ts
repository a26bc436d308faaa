// Which marks stand on which image: what was computed, and beside it where readers say that it is.
import type { Drawn } from './marks';
import { centre, extent, type Finding, type Mark, type Report } from './sr';
import type { Verdict } from './verdicts';

const SHAPES = { point: 'POINT', circle: 'CIRCLE', polygon: 'POLYLINE' } as const;

/** Where a reader says that a finding is, on the image of its computed place; undefined where that stands. */
export function correctedPlace(finding: Finding, verdict: Verdict): Mark | undefined {
  const { shape, points = [] } = verdict.corrected;
  const computed = finding.marks[0];
  if (verdict.verdict !== 'corrected' || !shape || points.length === 0 || !computed) return undefined;
  const closed = shape === 'polygon' ? [...points, points[0]!] : points;
  return { ...computed, shape: SHAPES[shape], points: closed.flat() };
}

/** What is drawn of one finding: `said` are the verdicts that count, `reader` is who looks. */
export function drawnOf(finding: Finding, said: readonly Verdict[], reader: string): Drawn[] {
  const { identifier } = finding;
  const corrected = said.flatMap((verdict): Drawn[] => {
    const mark = correctedPlace(finding, verdict);
    const whose = verdict.reader === reader ? '' : ` by ${verdict.reader}`;
    return mark ? [{ finding, mark, place: 'corrected', label: `${identifier} corrected${whose}` }] : [];
  });
  const computed = finding.marks.map(
    (mark): Drawn =>
      corrected.length > 0
        ? { finding, mark, place: 'outdated', label: `${identifier} computed` }
        : { finding, mark, place: 'computed', label: identifier },
  );
  return [...computed, ...corrected];
}

/** The marks of a report by image, "SOP Instance UID/frame". */
export function drawnOn(
  report: Report | undefined,
  saidOf: (finding: Finding) => readonly Verdict[],
  reader: string,
): Map<string, Drawn[]> {
  const found = new Map<string, Drawn[]>();
  for (const finding of report?.findings ?? [])
    for (const drawn of drawnOf(finding, saidOf(finding), reader)) {
      const key = `${drawn.mark.sopInstance}/${drawn.mark.frame}`;
      found.set(key, [...(found.get(key) ?? []), drawn]);
    }
  return found;
}

/** One mark around several of an image, to look at all of them. */
export function around(marks: readonly Mark[]): Mark | undefined {
  const [first, ...others] = marks;
  if (!first || others.length === 0) return first;
  const boxes = marks.map((mark) => {
    const [[column, row], half] = [centre(mark), extent(mark) / 2];
    return [column - half, row - half, column + half, row + half] as const;
  });
  const [left, top] = [Math.min(...boxes.map((box) => box[0])), Math.min(...boxes.map((box) => box[1]))];
  const [right, bottom] = [Math.max(...boxes.map((box) => box[2])), Math.max(...boxes.map((box) => box[3]))];
  return { ...first, shape: 'POLYLINE', points: [left, top, right, top, right, bottom, left, bottom] };
}
