// Structured reports as findings: TID 1500 measurement groups out of a content tree (PS3.3 C.17.3, PS3.16 TID 1500).
import { code, type Dataset, item, items, number, numbers, text } from './dicom';

/** One mark in one image, PS3.3 C.18.6 coordinates: (0.5, 0.5) is the centre of the first pixel. */
export interface Mark {
  sopInstance: string;
  frame: number;
  shape: 'POINT' | 'MULTIPOINT' | 'POLYLINE' | 'CIRCLE' | 'ELLIPSE';
  /** column, row, column, row, … */
  points: number[];
}

/** One mark in a frame of reference, mm (PS3.3 C.18.9). */
export interface Mark3D {
  frameOfReference: string;
  shape: string;
  /** x, y, z, … */
  points: number[];
}

export interface Measured {
  name: string;
  /** Of the measurement's name. */
  code: string;
  scheme: string;
  value: number;
  unit: string;
}

export interface Finding {
  /** Unique in the report; identifiers may start anew for each image. */
  key: string;
  /** Tracking Identifier, as drawn in the picture. */
  identifier: string;
  trackingUID: string;
  finding: string;
  /** 0 to 1 where the report gives a certainty. */
  score: number | undefined;
  /** The key of the finding it belongs to. */
  parent: string;
  marks: Mark[];
  marks3D: Mark3D[];
  measurements: Measured[];
  evaluations: { name: string; value: string }[];
  /** Images that the group refers to without a place in them. */
  images: { sopInstance: string; frame: number }[];
  segment: { sopInstance: string; number: number } | undefined;
}

export interface Report {
  title: string;
  algorithm: string;
  conclusions: string[];
  findings: Finding[];
  /** Every line of the document, for reports of other templates. */
  lines: { depth: number; name: string; value: string }[];
}

const DCM = {
  trackingIdentifier: '112039',
  trackingUID: '112040',
  finding: '121071',
  measurementGroup: '125007',
  certainty: '111012',
  probability: '111047',
  algorithmName: '111001',
  algorithmVersion: '111003',
  algorithmParameters: '111002',
  referencedSegment: '121191',
  segmentationFrame: '121214',
  singleImageFinding: '111059',
};

const ALGORITHM = new Set([DCM.algorithmName, DCM.algorithmVersion, DCM.algorithmParameters]);
const CONTENT = '0040A730';
const children = (node: Dataset): Dataset[] => items(node, CONTENT);
const conceptOf = (node: Dataset) => code(node, '0040A043');
const typeOf = (node: Dataset) => text(node, '0040A040');

interface Reference {
  sopInstance: string;
  frame: number;
  segment: number | undefined;
}

function reference(node: Dataset): Reference | undefined {
  const sop = item(node, '00081199');
  const sopInstance = text(sop, '00081155');
  if (!sopInstance) return undefined;
  return { sopInstance, frame: number(sop, '00081160') ?? 1, segment: number(sop, '0062000B') };
}

/** An item named by its place in the tree, counted from 1 (Referenced Content Item Identifier (0040,DB73)). */
function byPlace(root: Dataset, place: readonly number[]): Dataset | undefined {
  let node: Dataset | undefined = root;
  for (const position of place.slice(1)) node = node && children(node)[position - 1];
  return node;
}

function imageOf(node: Dataset, root: Dataset): Reference | undefined {
  for (const child of children(node)) {
    const place = numbers(child, '0040DB73');
    const target = place.length > 0 ? byPlace(root, place) : child;
    const found = target && (typeOf(target) === 'IMAGE' || place.length > 0) ? reference(target) : undefined;
    if (found) return found;
  }
  return undefined;
}

const SHAPES = ['POINT', 'MULTIPOINT', 'POLYLINE', 'CIRCLE', 'ELLIPSE'];

function readMark(node: Dataset, root: Dataset, fallback: Reference | undefined): Mark | undefined {
  const shape = text(node, '00700023');
  const points = numbers(node, '00700022');
  const image = imageOf(node, root) ?? fallback;
  if (!image || !SHAPES.includes(shape) || points.length < 2) return undefined;
  return { sopInstance: image.sopInstance, frame: image.frame, shape: shape as Mark['shape'], points };
}

function measured(node: Dataset): Measured | undefined {
  const value = item(node, '0040A300');
  const amount = number(value, '0040A161') ?? number(value, '0040A30A');
  if (amount === undefined) return undefined;
  const unit = code(value, '004008EA');
  const concept = conceptOf(node);
  return {
    name: concept?.meaning ?? '',
    code: concept?.value ?? '',
    scheme: concept?.scheme ?? '',
    value: amount,
    unit: unit && unit.value !== '1' ? (unit.value.startsWith('{') ? '' : unit.value) : '',
  };
}

function emptyFinding(): Finding {
  return {
    key: '',
    identifier: '',
    trackingUID: '',
    finding: '',
    score: undefined,
    parent: '',
    marks: [],
    marks3D: [],
    measurements: [],
    evaluations: [],
    images: [],
    segment: undefined,
  };
}

function collect(node: Dataset, root: Dataset, into: Finding, nested: boolean): void {
  const own = typeOf(node) === 'IMAGE' ? reference(node) : undefined;
  for (const child of children(node)) {
    const concept = conceptOf(child);
    const type = typeOf(child);
    const key = concept?.value ?? '';
    if (type === 'TEXT' && key === DCM.trackingIdentifier) into.identifier ||= text(child, '0040A160');
    else if (type === 'UIDREF' && key === DCM.trackingUID) into.trackingUID ||= text(child, '0040A124');
    else if (type === 'CODE') {
      const value = code(child, '0040A168')?.meaning ?? '';
      if (key === DCM.finding && !into.finding) into.finding = value;
      else if (!nested) into.evaluations.push({ name: concept?.meaning ?? '', value });
    } else if (type === 'NUM') {
      const amount = measured(child);
      if (amount && (key === DCM.certainty || key === DCM.probability)) {
        into.score = amount.unit === '%' ? amount.value / 100 : amount.value;
      } else if (amount) into.measurements.push(amount);
      collect(child, root, into, true);
    } else if (type === 'TEXT' && !nested) {
      if (!ALGORITHM.has(key)) into.evaluations.push({ name: concept?.meaning ?? '', value: text(child, '0040A160') });
    } else if (type === 'SCOORD') {
      const mark = readMark(child, root, own);
      if (mark) into.marks.push(mark);
    } else if (type === 'SCOORD3D') {
      into.marks3D.push({
        frameOfReference: text(child, '30060024'),
        shape: text(child, '00700023'),
        points: numbers(child, '00700022'),
      });
    } else if (type === 'IMAGE') {
      const target = reference(child);
      if (target && (key === DCM.referencedSegment || key === DCM.segmentationFrame || target.segment !== undefined))
        into.segment = { sopInstance: target.sopInstance, number: target.segment ?? 1 };
      else if (target) into.images.push({ sopInstance: target.sopInstance, frame: target.frame });
    }
  }
}

function walk(node: Dataset, visit: (node: Dataset, depth: number) => boolean, depth = 0): void {
  if (depth > 40 || !visit(node, depth)) return;
  for (const child of children(node)) walk(child, visit, depth + 1);
}

function lineValue(node: Dataset): string {
  switch (typeOf(node)) {
    case 'CODE':
      return code(node, '0040A168')?.meaning ?? '';
    case 'NUM': {
      const amount = measured(node);
      return amount ? `${amount.value} ${amount.unit}`.trim() : '';
    }
    case 'PNAME':
      return text(node, '0040A123').replaceAll('^', ' ').trim();
    case 'DATE':
      return text(node, '0040A121');
    case 'TIME':
      return text(node, '0040A122');
    case 'DATETIME':
      return text(node, '0040A120');
    case 'UIDREF':
      return text(node, '0040A124');
    case 'TEXT':
      return text(node, '0040A160');
    default:
      return '';
  }
}

/** What a report says. A document without measurement groups still has its title, conclusions and lines. */
export function readReport(root: Dataset): Report {
  const report: Report = {
    title: conceptOf(root)?.meaning ?? 'Report',
    algorithm: '',
    conclusions: [],
    findings: [],
    lines: [],
  };
  let name = '';
  let version = '';
  walk(root, (node, depth) => {
    const concept = conceptOf(node);
    const type = typeOf(node);
    const value = lineValue(node);
    if (depth > 0 && (value || children(node).length > 0) && report.lines.length < 2000)
      report.lines.push({ depth, name: concept?.meaning ?? '', value });
    if (type === 'TEXT' && concept?.value === DCM.algorithmName) name ||= value;
    if (type === 'TEXT' && concept?.value === DCM.algorithmVersion) version ||= value;
    if (type === 'CONTAINER' && concept?.value === DCM.measurementGroup) {
      const finding = emptyFinding();
      collect(node, root, finding, false);
      report.findings.push(finding);
      return true;
    }
    if (type === 'CODE' && concept?.value === DCM.singleImageFinding) {
      // Mammography CAD SR (PS3.16 TID 4006): the finding's properties are its children.
      const finding = emptyFinding();
      finding.finding = value;
      collect(node, root, finding, false);
      finding.identifier ||= `F${report.findings.length + 1}`;
      report.findings.push(finding);
    }
    return true;
  });
  report.algorithm = [name, version].filter(Boolean).join(' ');
  report.conclusions = conclusions(root);
  report.findings.forEach((finding, i) => {
    finding.identifier ||= `${i + 1}`;
    finding.key = `${i + 1}`;
  });
  return report;
}

const CONCLUSION = new Set(['121077', '121073', '121111', '121076', '121070', '18748-4', '59776-5']);
const QUALITATIVE = 'C0034375';

/** Conclusion, impression, summary and the evaluations outside of groups ("no findings"), in words. */
function conclusions(root: Dataset): string[] {
  const found: string[] = [];
  walk(root, (node) => {
    const concept = conceptOf(node);
    const type = typeOf(node);
    if (concept?.value === DCM.measurementGroup) return false;
    if (type === 'TEXT' && CONCLUSION.has(concept?.value ?? '')) found.push(text(node, '0040A160'));
    if (type === 'CONTAINER' && (concept?.value === QUALITATIVE || /qualitative/i.test(concept?.meaning ?? '')))
      for (const child of children(node)) {
        const value = lineValue(child);
        if (value) found.push(typeOf(child) === 'TEXT' ? value : `${conceptOf(child)?.meaning ?? ''}: ${value}`);
      }
    return true;
  });
  return [...new Set(found)];
}

export const REPORT_CLASSES = /^1\.2\.840\.10008\.5\.1\.4\.1\.1\.88\./;

/** A point in the middle of a mark, column and row. */
export function centre(mark: Mark): [number, number] {
  const { points, shape } = mark;
  if (shape === 'CIRCLE' || shape === 'POINT') return [points[0]!, points[1]!];
  let [x, y] = [0, 0];
  const closed =
    shape === 'POLYLINE' && points.length > 4 && points[0] === points.at(-2) && points[1] === points.at(-1);
  const count = points.length / 2 - (closed ? 1 : 0);
  for (let i = 0; i < count; i++) {
    x += points[2 * i]!;
    y += points[2 * i + 1]!;
  }
  return [x / count, y / count];
}

/** The size of a mark in pixels, from edge to edge; 0 for a point. */
export function extent(mark: Mark): number {
  const { points, shape } = mark;
  if (shape === 'CIRCLE') return 2 * Math.hypot(points[2]! - points[0]!, points[3]! - points[1]!);
  const columns = points.filter((_, i) => i % 2 === 0);
  const rows = points.filter((_, i) => i % 2 === 1);
  return Math.max(Math.max(...columns) - Math.min(...columns), Math.max(...rows) - Math.min(...rows));
}

function encloses(outer: Mark, column: number, row: number): boolean {
  const { points, shape } = outer;
  if (shape === 'CIRCLE') {
    const radius = Math.hypot(points[2]! - points[0]!, points[3]! - points[1]!);
    return Math.hypot(column - points[0]!, row - points[1]!) <= radius;
  }
  if (shape !== 'POLYLINE' || points.length < 6) return false;
  let inside = false;
  const count = points.length / 2;
  for (let i = 0, j = count - 1; i < count; j = i++) {
    const [xi, yi, xj, yj] = [points[2 * i]!, points[2 * i + 1]!, points[2 * j]!, points[2 * j + 1]!];
    if (yi > row !== yj > row && column < ((xj - xi) * (row - yi)) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
}

/** Whether a finding is of an image as a whole: no mark and no number, only what was made of it. */
export function isOfImage(finding: Finding): boolean {
  return (
    finding.marks.length === 0 &&
    finding.marks3D.length === 0 &&
    finding.measurements.length === 0 &&
    finding.images.length > 0
  );
}

/** Every finding gets as parent the smallest finding of another kind that lies around it, if there is one. */
export function nest(findings: readonly Finding[]): Finding[] {
  return findings.map((finding) => {
    const mark = finding.marks[0];
    if (!mark) return { ...finding, parent: '' };
    const [column, row] = centre(mark);
    const around = findings
      .filter((other) => other !== finding && other.finding !== finding.finding)
      .flatMap((other) => other.marks.map((outer) => ({ other, outer })))
      .filter(
        ({ outer }) =>
          outer.sopInstance === mark.sopInstance &&
          outer.frame === mark.frame &&
          extent(outer) > extent(mark) &&
          encloses(outer, column, row),
      )
      .sort((a, b) => extent(a.outer) - extent(b.outer))[0];
    return { ...finding, parent: around?.other.key ?? '' };
  });
}

/** Findings in the order of a list: as the report has them, each followed by those that belong to it. */
export function listed(findings: readonly Finding[]): Finding[] {
  const known = new Set(findings.map((finding) => finding.key));
  const tops = findings.filter((finding) => !finding.parent || !known.has(finding.parent));
  return tops.flatMap((top) => [top, ...findings.filter((finding) => finding.parent === top.key)]);
}
