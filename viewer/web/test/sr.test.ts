import { describe, expect, it } from 'vitest';
import type { Dataset } from '../src/dicom';
import { onCanvas, outline } from '../src/marks';
import { centre, extent, listed, nest, readReport } from '../src/sr';

const coded = (value: string, scheme: string, meaning: string): Dataset => ({
  '00080100': { vr: 'SH', Value: [value] },
  '00080102': { vr: 'SH', Value: [scheme] },
  '00080104': { vr: 'LO', Value: [meaning] },
});
const sq = (...items: Dataset[]) => ({ vr: 'SQ', Value: items });
const node = (type: string, concept: Dataset, rest: Dataset = {}, ...content: Dataset[]): Dataset => ({
  '0040A040': { vr: 'CS', Value: [type] },
  '0040A043': sq(concept),
  ...rest,
  ...(content.length ? { '0040A730': sq(...content) } : {}),
});
const text = (concept: Dataset, value: string) => node('TEXT', concept, { '0040A160': { vr: 'UT', Value: [value] } });
const num = (concept: Dataset, value: number | string, unit: string) =>
  node('NUM', concept, {
    '0040A300': sq({ '0040A30A': { vr: 'DS', Value: [value] }, '004008EA': sq(coded(unit, 'UCUM', unit)) }),
  });
const image = (sop: string, frame?: number): Dataset => ({
  '0040A040': { vr: 'CS', Value: ['IMAGE'] },
  '00081199': sq({
    '00081155': { vr: 'UI', Value: [sop] },
    ...(frame ? { '00081160': { vr: 'IS', Value: [frame] } } : {}),
  }),
});
const scoord = (shape: string, points: number[], sop: string) =>
  node(
    'SCOORD',
    coded('111030', 'DCM', 'Image Region'),
    { '00700022': { vr: 'FL', Value: points }, '00700023': { vr: 'CS', Value: [shape] } },
    image(sop),
  );
const group = (...content: Dataset[]) => node('CONTAINER', coded('125007', 'DCM', 'Measurement Group'), {}, ...content);
const tracking = (id: string) => text(coded('112039', 'DCM', 'Tracking Identifier'), id);
const finding = (meaning: string) =>
  node('CODE', coded('121071', 'DCM', 'Finding'), { '0040A168': sq(coded('1', 'SCT', meaning)) });
const certainty = (percent: number) => num(coded('111012', 'DCM', 'Certainty of Finding'), percent, '%');

const report = node(
  'CONTAINER',
  coded('126000', 'DCM', 'Imaging Measurement Report'),
  {},
  node(
    'CONTAINER',
    coded('126010', 'DCM', 'Imaging Measurements'),
    {},
    group(
      tracking('MC1'),
      finding('Individual Calcification'),
      scoord('CIRCLE', [50, 50, 53, 50], '1.2.3'),
      certainty(80),
      text(coded('111001', 'DCM', 'Algorithm Name'), 'mammography'),
      text(coded('111003', 'DCM', 'Algorithm Version'), '1.0'),
    ),
    group(
      tracking('CL1'),
      finding('Calcification Cluster'),
      scoord('POLYLINE', [40, 40, 60, 40, 60, 60, 40, 60, 40, 40], '1.2.3'),
      certainty(91),
      num(coded('111038', 'DCM', 'Number of calcifications'), '3', '1'),
    ),
  ),
  text(coded('121077', 'DCM', 'Conclusion'), 'One cluster.'),
);

describe('TID 1500', () => {
  const read = readReport(report);

  it('gives findings with ids, scores, places and measurements', () => {
    expect(read.title).toBe('Imaging Measurement Report');
    expect(read.algorithm).toBe('mammography 1.0');
    expect(read.conclusions).toEqual(['One cluster.']);
    expect(read.findings.map((each) => [each.identifier, each.finding, each.score])).toEqual([
      ['MC1', 'Individual Calcification', 0.8],
      ['CL1', 'Calcification Cluster', 0.91],
    ]);
    expect(read.findings[0]!.marks[0]).toEqual({
      sopInstance: '1.2.3',
      frame: 1,
      shape: 'CIRCLE',
      points: [50, 50, 53, 50],
    });
    expect(read.findings[1]!.measurements).toEqual([
      { name: 'Number of calcifications', code: '111038', scheme: 'DCM', value: 3, unit: '' },
    ]);
  });

  it('puts a calcification under the cluster around it, and lists parents first', () => {
    const nested = nest(read.findings);
    expect(nested.map((each) => each.parent)).toEqual(['2', '']);
    expect(listed(nested).map((each) => each.identifier)).toEqual(['CL1', 'MC1']);
  });

  it('keeps findings of two images apart that have the same ids', () => {
    const square = [40, 40, 60, 40, 60, 60, 40, 60, 40, 40];
    const groups = ['1.2.3', '4.5.6'].flatMap((sop) => [
      group(tracking('CL1'), finding('Cluster'), scoord('POLYLINE', square, sop)),
      group(tracking('MC1'), finding('Calcification'), scoord('POINT', [50, 50], sop)),
    ]);
    const nested = nest(readReport(node('CONTAINER', coded('126000', 'DCM', 'R'), {}, ...groups)).findings);
    expect(listed(nested).map((each) => [each.key, each.identifier, each.parent])).toEqual([
      ['1', 'CL1', ''],
      ['2', 'MC1', '1'],
      ['3', 'CL1', ''],
      ['4', 'MC1', '3'],
    ]);
  });

  it('reads measurements of segments without a place in an image', () => {
    const segment: Dataset = {
      '0040A040': { vr: 'CS', Value: ['IMAGE'] },
      '0040A043': sq(coded('121191', 'DCM', 'Referenced Segment')),
      '00081199': sq({ '00081155': { vr: 'UI', Value: ['9.9'] }, '0062000B': { vr: 'US', Value: [2] } }),
    };
    const volume = num(coded('118565006', 'SCT', 'Volume'), 12.5, 'cm3');
    const { findings } = readReport(
      node('CONTAINER', coded('126000', 'DCM', 'R'), {}, group(tracking('Bone'), segment, volume)),
    );
    expect(findings[0]).toMatchObject({
      identifier: 'Bone',
      segment: { sopInstance: '9.9', number: 2 },
      measurements: [{ name: 'Volume', value: 12.5, unit: 'cm3' }],
      marks: [],
    });
  });

  it('survives a tree that makes no sense', () => {
    expect(readReport({}).findings).toEqual([]);
    const bad = group(scoord('POLYLINE', [1], '1'), node('SCOORD', coded('x', 'y', 'z')));
    expect(readReport(node('CONTAINER', coded('a', 'b', 'c'), {}, bad)).findings[0]?.marks).toEqual([]);
  });
});

describe('Mammography CAD SR', () => {
  it('finds images by reference, counted from 1', () => {
    const byReference: Dataset = {
      '0040A010': { vr: 'CS', Value: ['SELECTED FROM'] },
      '0040DB73': { vr: 'UL', Value: [1, 1, 1] },
    };
    const centreOfFinding = node(
      'SCOORD',
      coded('111010', 'DCM', 'Center'),
      { '00700022': { vr: 'FL', Value: [7, 8] }, '00700023': { vr: 'CS', Value: ['POINT'] } },
      byReference,
    );
    const single = node(
      'CODE',
      coded('111059', 'DCM', 'Single Image Finding'),
      { '0040A168': sq(coded('129769006', 'SCT', 'Calcification Cluster')) },
      centreOfFinding,
      certainty(50),
    );
    const library = node('CONTAINER', coded('111028', 'DCM', 'Image Library'), {}, image('4.5.6'));
    const { findings } = readReport(
      node('CONTAINER', coded('111036', 'DCM', 'Mammography CAD Report'), {}, library, single),
    );
    expect(findings[0]).toMatchObject({ finding: 'Calcification Cluster', score: 0.5 });
    expect(findings[0]!.marks).toEqual([{ sopInstance: '4.5.6', frame: 1, shape: 'POINT', points: [7, 8] }]);
  });
});

describe('marks on the canvas', () => {
  const place = { origin: [100, 50] as [number, number], u: [2, 0] as [number, number], v: [0, 2] as [number, number] };

  it('puts 0.5 at the centre of the first pixel', () => {
    expect(onCanvas(place, 0.5, 0.5)).toEqual([100, 50]);
    expect(onCanvas(place, 10.5, 20.5)).toEqual([120, 90]);
  });

  it('never draws a ring so small that it covers what it marks', () => {
    const small = outline({ sopInstance: '', frame: 1, shape: 'CIRCLE', points: [10.5, 10.5, 11, 10.5] }, place);
    expect(small).toContain('A7.0 7.0');
    const large = outline({ sopInstance: '', frame: 1, shape: 'CIRCLE', points: [10.5, 10.5, 20.5, 10.5] }, place);
    expect(large).toContain('A20.0 20.0');
  });

  it('knows middle and size', () => {
    const square = { sopInstance: '', frame: 1, shape: 'POLYLINE' as const, points: [0, 0, 4, 0, 4, 2, 0, 2, 0, 0] };
    expect(centre(square)).toEqual([2, 1]);
    expect(extent(square)).toBe(4);
  });
});
