// Reading the DICOM JSON model (PS3.18 Annex F): values by tag, names, dates and lengths as people read them.

export interface Attribute {
  vr: string;
  Value?: unknown[];
  BulkDataURI?: string;
  InlineBinary?: string;
}

export type Dataset = Record<string, Attribute>;

/** The values of an attribute; an absent or empty one has none. */
export function values(ds: Dataset | undefined, tag: string): unknown[] {
  const value = ds?.[tag]?.Value;
  return Array.isArray(value) ? value : [];
}

function asText(value: unknown): string {
  if (value === null || value === undefined) return '';
  if (typeof value === 'object') {
    const name = value as Record<string, unknown>;
    return String(name.Alphabetic ?? name.Ideographic ?? name.Phonetic ?? '');
  }
  return String(value);
}

/** The first value as text, '' where there is none. */
export function text(ds: Dataset | undefined, tag: string): string {
  return asText(values(ds, tag)[0]).trim();
}

export function texts(ds: Dataset | undefined, tag: string): string[] {
  return values(ds, tag)
    .map((value) => asText(value).trim())
    .filter((value) => value !== '');
}

/** All values as numbers; DS and IS may come as JSON strings (PS3.18 F.2.3). */
export function numbers(ds: Dataset | undefined, tag: string): number[] {
  return values(ds, tag)
    .filter((value) => value !== null && value !== '')
    .map(Number)
    .filter((value) => !Number.isNaN(value));
}

export function number(ds: Dataset | undefined, tag: string): number | undefined {
  return numbers(ds, tag)[0];
}

/** The items of a sequence. */
export function items(ds: Dataset | undefined, tag: string): Dataset[] {
  return values(ds, tag).filter((value): value is Dataset => typeof value === 'object' && value !== null);
}

export function item(ds: Dataset | undefined, tag: string): Dataset | undefined {
  return items(ds, tag)[0];
}

export interface Code {
  value: string;
  scheme: string;
  meaning: string;
}

/** A code sequence's first item (PS3.3 section 8). */
export function code(ds: Dataset | undefined, tag: string): Code | undefined {
  const found = item(ds, tag);
  if (!found) return undefined;
  const value = text(found, '00080100') || text(found, '00080119') || text(found, '00080120');
  return { value, scheme: text(found, '00080102'), meaning: text(found, '00080104') || value };
}

/** "Family, Given Middle" out of "Family^Given^Middle^Prefix^Suffix" (PS3.5 6.2). */
export function personName(ds: Dataset | undefined, tag: string): string {
  const [family = '', given = '', middle = ''] = text(ds, tag).split('^');
  const first = [given, middle].filter(Boolean).join(' ');
  return [family, first].filter(Boolean).join(', ');
}

/** "2026-01-02" out of a DA value; anything else stays as it is. */
export function date(value: string): string {
  const match = /^(\d{4})(\d{2})(\d{2})/.exec(value);
  return match ? `${match[1]}-${match[2]}-${match[3]}` : value;
}

/** "03:04" out of a TM value. */
export function time(value: string): string {
  const match = /^(\d{2})(\d{2})/.exec(value);
  return match ? `${match[1]}:${match[2]}` : '';
}

/** The instant of a DT value (PS3.5 6.2), local time where it names no offset. */
export function dateTime(value: string): Date | undefined {
  const match = /^(\d{4})(\d{2})(\d{2})(\d{2})?(\d{2})?(\d{2})?(?:\.\d+)?([+-]\d{4})?$/.exec(value);
  if (!match) return undefined;
  const [, year, month, day, hour = '00', minute = '00', second = '00', offset] = match;
  const zone = offset ? `${offset.slice(0, 3)}:${offset.slice(3)}` : '';
  const when = new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}${zone}`);
  return Number.isNaN(when.getTime()) ? undefined : when;
}

/** A DT value with the offset from UTC. */
export function formatDateTime(when: Date): string {
  const two = (n: number) => String(Math.trunc(Math.abs(n))).padStart(2, '0');
  const minutes = -when.getTimezoneOffset();
  const offset = `${minutes < 0 ? '-' : '+'}${two(minutes / 60)}${two(minutes % 60)}`;
  return (
    `${when.getFullYear()}${two(when.getMonth() + 1)}${two(when.getDate())}` +
    `${two(when.getHours())}${two(when.getMinutes())}${two(when.getSeconds())}${offset}`
  );
}

export const SEX: Record<string, string> = { F: 'female', M: 'male', O: 'other' };

const LETTERS: [string, string][] = [
  ['L', 'R'],
  ['P', 'A'],
  ['H', 'F'],
];

/** The letters of a direction in the patient frame (LPS), largest part first: [0, 0.9, 0.4] is "PH". */
export function directionLetters(direction: readonly number[]): string {
  return direction
    .map((part, axis) => ({ size: Math.abs(part), letter: LETTERS[axis]?.[part > 0 ? 0 : 1] ?? '' }))
    .filter((part) => part.size > 0.25)
    .sort((a, b) => b.size - a.size)
    .slice(0, 2)
    .map((part) => part.letter)
    .join('');
}

const OPPOSITE: Record<string, string> = { L: 'R', R: 'L', A: 'P', P: 'A', H: 'F', F: 'H' };

export function opposite(letters: string): string {
  return [...letters].map((letter) => OPPOSITE[letter] ?? letter).join('');
}

export interface Edges {
  left: string;
  right: string;
  top: string;
  bottom: string;
}

/** What stands at the image's edges, from Image Orientation (Patient) or Patient Orientation; undefined if unknown. */
export function edges(ds: Dataset): Edges | undefined {
  const cosines = numbers(ds, '00200037');
  let [right = '', bottom = ''] = texts(ds, '00200020');
  if (cosines.length === 6) {
    right = directionLetters(cosines.slice(0, 3));
    bottom = directionLetters(cosines.slice(3));
  }
  if (!right && !bottom) return undefined;
  return { left: opposite(right), right, top: opposite(bottom), bottom };
}

/**
 * Instances in reading order: along the common normal where all share one orientation and have distinct positions,
 * starting at the end with the lower Instance Number; else by Instance Number.
 */
export function sortInstances(instances: readonly Dataset[]): Dataset[] {
  const byNumber = [...instances].sort(
    (a, b) =>
      (number(a, '00200013') ?? 0) - (number(b, '00200013') ?? 0) ||
      text(a, '00080018').localeCompare(text(b, '00080018')),
  );
  const first = byNumber[0];
  const o = numbers(first, '00200037');
  if (!first || o.length !== 6) return byNumber;
  const [a, b, c, d, e, f] = o as [number, number, number, number, number, number];
  const normal = [b * f - c * e, c * d - a * f, a * e - b * d];
  const placed: { ds: Dataset; at: number }[] = [];
  for (const ds of byNumber) {
    const other = numbers(ds, '00200037');
    const position = numbers(ds, '00200032');
    if (position.length !== 3 || other.length !== 6 || other.some((x, i) => Math.abs(x - o[i]!) > 1e-3))
      return byNumber;
    placed.push({ ds, at: position.reduce((sum, x, i) => sum + x * normal[i]!, 0) });
  }
  const along = [...placed].sort((x, y) => x.at - y.at);
  if (along.some((x, i) => i > 0 && x.at - along[i - 1]!.at < 1e-4)) return byNumber;
  const descending = placed.length > 1 && placed[0]!.at > placed[placed.length - 1]!.at;
  return (descending ? along.reverse() : along).map((x) => x.ds);
}
