// Marks over an image: findings as SVG that follows the viewport's camera, with a dark halo and the id of the report.
import { svg } from './dom';
import type { Finding, Mark } from './sr';

/** Where pixels lie on the canvas: index (i, j) is at origin + i·u + j·v, CSS pixels. */
export interface Placement {
  origin: [number, number];
  u: [number, number];
  v: [number, number];
}

/** A point of PS3.3 C.18.6 coordinates (0.5 is the first pixel's centre) on the canvas. */
export function onCanvas(place: Placement, column: number, row: number): [number, number] {
  const [i, j] = [column - 0.5, row - 0.5];
  return [place.origin[0] + i * place.u[0] + j * place.v[0], place.origin[1] + i * place.u[1] + j * place.v[1]];
}

export interface Drawn {
  finding: Finding;
  mark: Mark;
  /** Computed, computed and corrected since, or where a reader says that it is. */
  place: 'computed' | 'outdated' | 'corrected';
  /** The words beside it. */
  label: string;
}

const SMALLEST = 7; // CSS pixels: a ring never covers what it marks

/** The outline of a mark as SVG path data. */
export function outline(mark: Mark, place: Placement): string {
  const { points, shape } = mark;
  const at = (i: number) => onCanvas(place, points[2 * i]!, points[2 * i + 1]!);
  const ring = (x: number, y: number, rx: number, ry: number, angle = 0) => {
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    const [dx, dy] = [rx * cos, rx * sin];
    const degrees = (angle * 180) / Math.PI;
    const f = (n: number) => n.toFixed(1);
    return `M${f(x - dx)} ${f(y - dy)}A${f(rx)} ${f(ry)} ${f(degrees)} 1 0 ${f(x + dx)} ${f(y + dy)}A${f(rx)} ${f(ry)} ${f(degrees)} 1 0 ${f(x - dx)} ${f(y - dy)}Z`;
  };
  if (shape === 'POINT' || shape === 'MULTIPOINT')
    return Array.from({ length: points.length / 2 }, (_, i) => {
      const [x, y] = at(i);
      return ring(x, y, SMALLEST, SMALLEST);
    }).join('');
  if (shape === 'CIRCLE') {
    const [x, y] = at(0);
    const [ex, ey] = at(1);
    const radius = Math.max(SMALLEST, Math.hypot(ex - x, ey - y));
    return ring(x, y, radius, radius);
  }
  if (shape === 'ELLIPSE' && points.length >= 8) {
    // Ends of the major axis, then ends of the minor axis.
    const [a, b, c, d] = [at(0), at(1), at(2), at(3)];
    const major = Math.hypot(b[0] - a[0], b[1] - a[1]) / 2;
    const minor = Math.hypot(d[0] - c[0], d[1] - c[1]) / 2;
    const angle = Math.atan2(b[1] - a[1], b[0] - a[0]);
    return ring((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, Math.max(major, SMALLEST), Math.max(minor, SMALLEST), angle);
  }
  return Array.from({ length: points.length / 2 }, (_, i) => {
    const [x, y] = at(i);
    return `${i === 0 ? 'M' : 'L'}${x.toFixed(1)} ${y.toFixed(1)}`;
  }).join('');
}

/** The rightmost top of a mark, where its label goes. */
function anchor(mark: Mark, place: Placement): [number, number] {
  const { points, shape } = mark;
  if (shape === 'POLYLINE') {
    const all = Array.from({ length: points.length / 2 }, (_, i) =>
      onCanvas(place, points[2 * i]!, points[2 * i + 1]!),
    );
    return [Math.max(...all.map((p) => p[0])), Math.min(...all.map((p) => p[1]))];
  }
  const [x, y] = onCanvas(place, points[0]!, points[1]!);
  let radius = SMALLEST;
  if (shape === 'CIRCLE') {
    const [ex, ey] = onCanvas(place, points[2]!, points[3]!);
    radius = Math.max(radius, Math.hypot(ex - x, ey - y));
  }
  return [x + radius * 0.75, y - radius * 0.75];
}

/** Draws marks anew. Labels are buttons for the mouse; the list beside the image is their keyboard. */
export function drawMarks(
  layer: SVGElement,
  marks: readonly Drawn[],
  place: Placement | undefined,
  selected: string,
  choose: (finding: Finding) => void,
): void {
  layer.replaceChildren();
  if (!place) return;
  const scale = Math.hypot(place.u[0], place.u[1]);
  const crowded = marks.length > 5;
  const wanted: (Drawn & { name: string; rank: number })[] = [];
  for (const drawn of marks) {
    const { finding, mark, place: kind } = drawn;
    const chosen = finding.key === selected;
    const child = finding.parent !== '' || mark.shape === 'POINT' || mark.shape === 'CIRCLE';
    const d = outline(mark, place);
    const name = `mark ${child ? 'mark-child' : 'mark-main'} mark-${kind}${chosen ? ' mark-chosen' : ''}`;
    layer.append(
      svg(
        'g',
        { class: name, 'data-mark': finding.identifier, 'data-key': finding.key, 'data-place': kind },
        svg('path', { d, class: 'halo' }),
        svg('path', { d, class: 'line' }),
      ),
    );
    const corrected = kind === 'corrected';
    if (chosen || corrected || !child || !crowded || scale > 1.5)
      wanted.push({ ...drawn, name, rank: (chosen ? 0 : child ? 4 : 2) + (corrected ? 0 : 1) });
  }
  // Labels that would lie over each other are left out, the least important first; the list has them all.
  const taken: [number, number, number][] = [];
  const labels: SVGElement[] = [];
  for (const { finding, mark, name, label: words } of wanted.sort((a, b) => a.rank - b.rank)) {
    const [x, y] = anchor(mark, place);
    const width = words.length * 8 + 6;
    if (taken.some(([left, bottom, other]) => x < left + other && left < x + width && Math.abs(y - bottom) < 15))
      continue;
    taken.push([x, y, width]);
    const label = svg('text', { x: (x + 4).toFixed(1), y: (y - 3).toFixed(1), class: `mark-label ${name}` });
    label.textContent = words;
    label.addEventListener('click', () => choose(finding));
    labels.push(label);
  }
  layer.append(...labels);
}
