// Reading X3D scenes: a whitelist of geometry nodes, numbers scanned by char code, nothing executed, nothing fetched.
//
// The scanner walks the XML text once and never builds a document: tags and quoted attributes are all it knows, so
// entities, scripts, Inline and other nodes with addresses have no meaning here and their content is skipped.

export interface Mesh {
  label: string;
  /** mm, three a vertex, transforms applied. */
  points: Float32Array;
  /** Three indices a triangle. */
  triangles: Uint32Array;
  /** Three a vertex, or empty. */
  normals: Float32Array;
  /** sRGB, 0 to 1. */
  colour: [number, number, number];
  opacity: number;
  metadata: Record<string, string>;
}

export interface Scene {
  meshes: Mesh[];
  title: string;
}

export class SceneError extends Error {}

const MAX_NUMBERS = 60_000_000;
const MAX_DEPTH = 64;

/**
 * The numbers in text[from, to), separated by white space or commas, as `kind`.
 * Char codes are scanned straight into a typed array; splitting the string would cost several times the memory.
 */
export function scanNumbers<T extends Float32Array | Int32Array>(
  text: string,
  from: number,
  to: number,
  make: (length: number) => T,
): T {
  let out = make(Math.min(MAX_NUMBERS, Math.max(16, (to - from) >> 2)));
  let count = 0;
  let i = from;
  while (i < to) {
    let c = text.charCodeAt(i);
    if (c === 32 || c === 44 || (c >= 9 && c <= 13)) {
      i++;
      continue;
    }
    const start = i;
    let sign = 1;
    if (c === 45 || c === 43) {
      if (c === 45) sign = -1;
      c = text.charCodeAt(++i);
    }
    let value = 0;
    let digits = 0;
    while (i < to && c >= 48 && c <= 57) {
      value = value * 10 + (c - 48);
      digits++;
      c = text.charCodeAt(++i);
    }
    if (i < to && c === 46) {
      let scale = 1;
      c = text.charCodeAt(++i);
      while (i < to && c >= 48 && c <= 57) {
        value = value * 10 + (c - 48);
        scale *= 10;
        digits++;
        c = text.charCodeAt(++i);
      }
      value /= scale;
    }
    if (digits === 0) throw new SceneError(`Not a number at ${start}.`);
    if (i < to && (c === 101 || c === 69)) {
      let exponentSign = 1;
      let exponent = 0;
      let exponentDigits = 0;
      c = text.charCodeAt(++i);
      if (c === 45 || c === 43) {
        if (c === 45) exponentSign = -1;
        c = text.charCodeAt(++i);
      }
      while (i < to && c >= 48 && c <= 57) {
        exponent = exponent * 10 + (c - 48);
        exponentDigits++;
        c = text.charCodeAt(++i);
      }
      if (exponentDigits === 0) throw new SceneError(`Not a number at ${start}.`);
      value *= 10 ** (exponentSign * exponent);
    }
    if (i < to && !(c === 32 || c === 44 || (c >= 9 && c <= 13))) throw new SceneError(`Not a number at ${start}.`);
    if (count === out.length) {
      if (count >= MAX_NUMBERS) throw new SceneError('The scene is too large for this viewer.');
      const larger = make(Math.min(MAX_NUMBERS, count * 2));
      larger.set(out);
      out = larger;
    }
    out[count++] = sign * value;
  }
  return out.slice(0, count) as T;
}

const floats = (length: number) => new Float32Array(length);
const ints = (length: number) => new Int32Array(length);

interface Span {
  from: number;
  to: number;
}

type Attributes = Map<string, Span>;

const ENTITY: Record<string, string> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" };

function plain(source: string, span: Span | undefined): string {
  if (!span) return '';
  return source
    .slice(span.from, Math.min(span.to, span.from + 2000))
    .replace(/&(?:#x([0-9a-f]{1,6})|#(\d{1,7})|(\w{2,4}));/gi, (all, hex?: string, decimal?: string, name?: string) => {
      if (name) return ENTITY[name] ?? all;
      const point = hex ? Number.parseInt(hex, 16) : Number(decimal);
      return point > 0 && point <= 0x10ffff ? String.fromCodePoint(point) : '';
    });
}

/** MFString: "one" "two". A value without quotes is one string. */
function strings(value: string): string {
  const parts = [...value.matchAll(/"((?:[^"\\]|\\.)*)"/g)].map((match) => match[1]!.replace(/\\(.)/g, '$1'));
  return parts.length > 0 ? parts.join(', ') : value;
}

type Matrix = readonly number[]; // 3 × 4, row by row
const IDENTITY: Matrix = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0];

function multiply(a: Matrix, b: Matrix): Matrix {
  const out: number[] = [];
  for (let r = 0; r < 3; r++)
    for (let c = 0; c < 4; c++) {
      let sum = c === 3 ? a[r * 4 + 3]! : 0;
      for (let k = 0; k < 3; k++) sum += a[r * 4 + k]! * b[k * 4 + c]!;
      out.push(sum);
    }
  return out;
}

function rotation(x: number, y: number, z: number, angle: number): Matrix {
  const length = Math.hypot(x, y, z) || 1;
  const [u, v, w] = [x / length, y / length, z / length];
  const [c, s] = [Math.cos(angle), Math.sin(angle)];
  const t = 1 - c;
  return [
    t * u * u + c, t * u * v - s * w, t * u * w + s * v, 0,
    t * u * v + s * w, t * v * v + c, t * v * w - s * u, 0,
    t * u * w - s * v, t * v * w + s * u, t * w * w + c, 0,
  ]; // biome-ignore format: a matrix
}

const move = (x: number, y: number, z: number): Matrix => [1, 0, 0, x, 0, 1, 0, y, 0, 0, 1, z];

/** Transform's matrix: T × C × R × SR × S × −SR × −C (ISO/IEC 19775-1 10.4.4). */
function transform(source: string, attributes: Attributes): Matrix {
  const vector = (name: string, fallback: number[]): number[] => {
    const span = attributes.get(name);
    if (!span) return fallback;
    const found = [...scanNumbers(source, span.from, span.to, floats)];
    return found.length === fallback.length ? found : fallback;
  };
  const [tx, ty, tz] = vector('translation', [0, 0, 0]) as [number, number, number];
  const [cx, cy, cz] = vector('center', [0, 0, 0]) as [number, number, number];
  const [rx, ry, rz, ra] = vector('rotation', [0, 0, 1, 0]) as [number, number, number, number];
  const [ox, oy, oz, oa] = vector('scaleOrientation', [0, 0, 1, 0]) as [number, number, number, number];
  const [sx, sy, sz] = vector('scale', [1, 1, 1]) as [number, number, number];
  return [
    move(tx, ty, tz),
    move(cx, cy, cz),
    rotation(rx, ry, rz, ra),
    rotation(ox, oy, oz, oa),
    [sx, 0, 0, 0, 0, sy, 0, 0, 0, 0, sz, 0],
    rotation(ox, oy, oz, -oa),
    move(-cx, -cy, -cz),
  ].reduce(multiply);
}

const CONTAINERS = new Set(['X3D', 'head', 'Scene', 'Group', 'Transform', 'Shape', 'Appearance', 'MetadataSet']);
const GEOMETRY = new Set(['IndexedTriangleSet', 'IndexedFaceSet']);
const LEAVES = new Set(['Coordinate', 'Normal', 'Material', 'MetadataString', 'meta']);

interface Open {
  name: string;
  matrix: Matrix;
  label: string;
  metadata: Record<string, string>;
  shape?: Shape;
}

interface Shape {
  geometry: string;
  index: Int32Array;
  points: Float32Array;
  normals: Float32Array;
  perVertex: boolean;
  colour: [number, number, number];
  opacity: number;
  use: string;
}

/** The triangles of a face list: faces end with -1 and are convex, so a fan serves. */
export function fan(coordIndex: Int32Array): Uint32Array {
  const out: number[] = [];
  let start = 0;
  for (let i = 0; i <= coordIndex.length; i++) {
    if (i < coordIndex.length && coordIndex[i] !== -1) continue;
    for (let k = start + 1; k + 1 < i; k++) out.push(coordIndex[start]!, coordIndex[k]!, coordIndex[k + 1]!);
    start = i + 1;
  }
  return Uint32Array.from(out);
}

function finish(open: Open, shape: Shape): Mesh | undefined {
  const raw = shape.geometry === 'IndexedFaceSet' ? fan(shape.index) : Uint32Array.from(shape.index);
  const vertices = shape.points.length / 3;
  if (raw.length < 3 || vertices < 3) return undefined;
  for (const index of raw) if (index >= vertices) throw new SceneError('A triangle names a vertex that is not there.');
  const m = open.matrix;
  const points = new Float32Array(vertices * 3);
  const identity = m === IDENTITY;
  if (identity) points.set(shape.points.subarray(0, vertices * 3));
  else
    for (let i = 0; i < points.length; i += 3) {
      const [x, y, z] = [shape.points[i]!, shape.points[i + 1]!, shape.points[i + 2]!];
      for (let r = 0; r < 3; r++) points[i + r] = m[r * 4]! * x + m[r * 4 + 1]! * y + m[r * 4 + 2]! * z + m[r * 4 + 3]!;
    }
  const usable = identity && shape.perVertex && shape.normals.length === points.length;
  return {
    label: open.label,
    points,
    triangles: raw.length % 3 === 0 ? raw : raw.slice(0, raw.length - (raw.length % 3)),
    normals: usable ? shape.normals : new Float32Array(0),
    colour: shape.colour,
    opacity: shape.opacity,
    metadata: open.metadata,
  };
}

const LABEL_KEYS = ['SegmentLabel', 'label', 'Label', 'name', 'title'];

/** The meshes of an X3D scene in XML encoding. Raises SceneError, in words, on anything broken. */
export function parseScene(source: string): Scene {
  const scene: Scene = { meshes: [], title: '' };
  const stack: Open[] = [{ name: '', matrix: IDENTITY, label: '', metadata: {} }];
  const points = new Map<string, Float32Array>(); // DEF → coordinates, for USE
  let skip = 0; // depth inside a node that is not on the whitelist
  let at = 0;

  const textOf = (attributes: Attributes, name: string) => plain(source, attributes.get(name));
  const arrayOf = <T extends Float32Array | Int32Array>(
    attributes: Attributes,
    name: string,
    make: (n: number) => T,
  ) => {
    const span = attributes.get(name);
    return span ? scanNumbers(source, span.from, span.to, make) : make(0);
  };

  const begin = (name: string, attributes: Attributes): void => {
    const parent = stack[stack.length - 1]!;
    if (stack.length > MAX_DEPTH) throw new SceneError('The scene is nested too deeply.');
    const own = textOf(attributes, 'DEF');
    const open: Open = {
      name,
      matrix: parent.matrix,
      label: parent.label,
      metadata: parent.metadata,
      shape: parent.shape,
    };
    stack.push(open);
    if (name === 'Transform' || name === 'Group') {
      if (name === 'Transform') {
        const m = transform(source, attributes);
        open.matrix = m.every((x, i) => x === IDENTITY[i]) ? parent.matrix : multiply(parent.matrix, m);
      }
      open.metadata = { ...parent.metadata };
      if (own) open.label = own;
    } else if (name === 'Shape') {
      open.metadata = { ...parent.metadata };
      if (own) open.label = own;
      open.shape = {
        geometry: '',
        index: ints(0),
        points: floats(0),
        normals: floats(0),
        perVertex: true,
        colour: [0.8, 0.8, 0.8],
        opacity: 1,
        use: '',
      };
    } else if (GEOMETRY.has(name) && open.shape) {
      open.shape.geometry = name;
      open.shape.index = arrayOf(attributes, name === 'IndexedFaceSet' ? 'coordIndex' : 'index', ints);
      open.shape.perVertex = textOf(attributes, 'normalPerVertex') !== 'false' && !attributes.has('normalIndex');
    } else if (name === 'Coordinate' && open.shape) {
      const use = textOf(attributes, 'USE');
      open.shape.points = use ? (points.get(use) ?? floats(0)) : arrayOf(attributes, 'point', floats);
      if (own) points.set(own, open.shape.points);
    } else if (name === 'Normal' && open.shape) open.shape.normals = arrayOf(attributes, 'vector', floats);
    else if (name === 'Material' && open.shape) {
      const colour = arrayOf(attributes, 'diffuseColor', floats);
      if (colour.length === 3) open.shape.colour = [colour[0]!, colour[1]!, colour[2]!];
      const transparency = arrayOf(attributes, 'transparency', floats)[0] ?? 0;
      open.shape.opacity = Math.min(1, Math.max(0, 1 - transparency));
    } else if (name === 'MetadataString') {
      const key = textOf(attributes, 'name');
      const value = strings(textOf(attributes, 'value'));
      // A node's metadata are children: they belong to the nearest node that is not metadata itself.
      for (let i = stack.length - 2; i >= 0; i--) {
        const owner = stack[i]!;
        if (owner.name === 'MetadataSet') continue;
        owner.metadata[key] = value;
        if (LABEL_KEYS.includes(key) && value) owner.label = value;
        break;
      }
    } else if (name === 'meta' && textOf(attributes, 'name') === 'title') scene.title = textOf(attributes, 'content');
  };

  const end = (): void => {
    const open = stack.pop()!;
    if (open.name === 'Shape' && open.shape?.geometry) {
      const mesh = finish(open, open.shape);
      if (mesh) scene.meshes.push({ ...mesh, label: mesh.label || `Surface ${scene.meshes.length + 1}` });
    }
  };

  while (true) {
    const tag = source.indexOf('<', at);
    if (tag < 0) break;
    if (source.startsWith('<!--', tag)) at = closing(source, '-->', tag);
    else if (source.startsWith('<![CDATA[', tag)) at = closing(source, ']]>', tag);
    else if (source.startsWith('<?', tag)) at = closing(source, '?>', tag);
    else if (source.startsWith('<!', tag)) {
      at = closing(source, '>', tag);
      if (source.slice(tag, at).includes('[')) throw new SceneError('A scene with definitions of its own is not read.');
    } else if (source[tag + 1] === '/') {
      at = closing(source, '>', tag);
      if (skip > 0) skip--;
      else if (stack.length > 1) {
        const name = source.slice(tag + 2, at - 1).trim();
        if (name !== stack[stack.length - 1]!.name) throw new SceneError('The scene is not well-formed.');
        end();
      } else throw new SceneError('The scene is not well-formed.');
    } else {
      const read = readTag(source, tag);
      at = read.next;
      const known = CONTAINERS.has(read.name) || GEOMETRY.has(read.name) || LEAVES.has(read.name);
      if (skip > 0 || !known) {
        if (!read.empty) skip++;
      } else {
        begin(read.name, read.attributes);
        if (read.empty) end();
      }
    }
  }
  if (stack.length > 1 || skip > 0) throw new SceneError('The scene ends early.');
  return scene;
}

function closing(source: string, mark: string, from: number): number {
  const found = source.indexOf(mark, from);
  if (found < 0) throw new SceneError('The scene ends early.');
  return found + mark.length;
}

const NAME = /[A-Za-z_][\w.:-]*/y;

function readTag(source: string, tag: number): { name: string; attributes: Attributes; next: number; empty: boolean } {
  const attributes: Attributes = new Map();
  const word = (from: number): string => {
    NAME.lastIndex = from;
    return NAME.exec(source)?.[0] ?? '';
  };
  const name = word(tag + 1);
  if (!name) throw new SceneError('The scene is not well-formed.');
  let i = tag + 1 + name.length;
  while (i < source.length) {
    const c = source.charCodeAt(i);
    if (c === 32 || (c >= 9 && c <= 13)) i++;
    else if (c === 62) return { name, attributes, next: i + 1, empty: false };
    else if (c === 47 && source.charCodeAt(i + 1) === 62) return { name, attributes, next: i + 2, empty: true };
    else {
      const key = word(i);
      const mark = i + key.length + 1;
      const quote = source[mark];
      if (!key || source[mark - 1] !== '=' || (quote !== '"' && quote !== "'")) break;
      const stop = source.indexOf(quote, mark + 1);
      if (stop < 0) break;
      attributes.set(key, { from: mark + 1, to: stop });
      i = stop + 1;
    }
  }
  throw new SceneError('The scene is not well-formed.');
}
