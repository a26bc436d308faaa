import { describe, expect, it } from 'vitest';
import { around, drawnOf, drawnOn } from '../src/drawn';
import type { Finding, Mark, Report } from '../src/sr';
import type { Verdict } from '../src/verdicts';

const RING: Mark = { sopInstance: '1.2', frame: 1, shape: 'CIRCLE', points: [10, 20, 14, 20] };
const FINDING = { key: '1', identifier: 'CL1', trackingUID: '9.9', parent: '', marks: [RING] } as unknown as Finding;

function verdict(more: Partial<Verdict>): Verdict {
  return { verdict: 'corrected', reader: 'eve', corrected: {}, comment: '', ...more } as Verdict;
}

const MOVED = {
  shape: 'polygon' as const,
  points: [
    [1, 2],
    [3, 2],
    [3, 4],
  ] as [number, number][],
};

describe('what readers have corrected', () => {
  it('leaves a place alone that nobody has corrected', () => {
    const said = [verdict({}), verdict({ verdict: 'accepted', corrected: MOVED })];
    expect(drawnOf(FINDING, said, 'eve').map(({ place, label }) => [place, label])).toEqual([['computed', 'CL1']]);
  });

  it('draws a corrected place beside the computed one, for every reader', () => {
    const point = { shape: 'point' as const, points: [[7, 8]] as [number, number][] };
    const said = [verdict({ corrected: MOVED }), verdict({ reader: 'ann', corrected: point })];
    const drawn = drawnOf(FINDING, said, 'eve');
    expect(drawn.map(({ place, label }) => [place, label])).toEqual([
      ['outdated', 'CL1 computed'],
      ['corrected', 'CL1 corrected'],
      ['corrected', 'CL1 corrected by ann'],
    ]);
    expect(drawn[1]!.mark).toEqual({ ...RING, shape: 'POLYLINE', points: [1, 2, 3, 2, 3, 4, 1, 2] });
    expect(drawn[2]!.mark).toEqual({ ...RING, shape: 'POINT', points: [7, 8] });
  });

  it('gathers marks by image and frame', () => {
    const report = { findings: [FINDING] } as unknown as Report;
    const found = drawnOn(report, () => [verdict({ corrected: MOVED })], 'eve');
    expect([...found].map(([key, all]) => [key, all.length])).toEqual([['1.2/1', 2]]);
    expect(drawnOn(undefined, () => [], 'eve').size).toBe(0);
  });

  it('looks at all places of a finding at once', () => {
    expect(around([])).toBeUndefined();
    expect(around([RING])).toBe(RING);
    const point: Mark = { ...RING, shape: 'POINT', points: [30, 40] };
    expect(around([RING, point])!.points).toEqual([6, 16, 30, 16, 30, 40, 6, 40]);
  });
});
