// A series as something to look at: what kind it is, its images in reading order, presets that fit it. Pure.
import { DICOMWEB } from './api';
import { type Dataset, date, number, numbers, personName, sortInstances, text, texts } from './dicom';

export type Kind = 'images' | 'capture' | 'report' | 'model' | 'segmentation' | 'other';

const CAPTURE = /^1\.2\.840\.10008\.5\.1\.4\.1\.1\.7(\.|$)/;
const NO_PIXELS = new Set([
  'SR',
  'KO',
  'PR',
  'DOC',
  'PLAN',
  'RTSTRUCT',
  'RTPLAN',
  'RTRECORD',
  'REG',
  'FID',
  'RWV',
  'ECG',
  'HD',
  'STAIN',
]);

/**
 * What a series holds, from its Modality, the SOP Class of an instance and its Series Number.
 *
 * A digitised film is a Secondary Capture too: marked copies of ours are told from it by their Series Number, 9000 up.
 */
export function kindOf(modality: string, sopClass: string, seriesNumber: number): Kind {
  if (/\.88\.(?!59$)/.test(sopClass) || modality === 'SR') return 'report';
  if (/\.104\.[345]$/.test(sopClass) || modality === 'M3D') return 'model';
  if (modality === 'SEG') return 'segmentation';
  if (CAPTURE.test(sopClass)) return seriesNumber >= 9000 ? 'capture' : 'images';
  return NO_PIXELS.has(modality) ? 'other' : 'images';
}

export interface StackImage {
  imageId: string;
  sopInstance: string;
  frame: number;
  ds: Dataset;
}

export interface Stack {
  study: string;
  series: string;
  modality: string;
  images: StackImage[];
}

/**
 * The attributes a loader should see. Modality is never absent, because the loader fails without one. Projection images
 * without Pixel Spacing get the spacing at the detector, divided by the estimated magnification where it is given
 * (PS3.3 10.7.1.3), so that lengths have a unit.
 */
export function displayAttributes(given: Dataset): Dataset {
  const ds = text(given, '00080060') ? given : { ...given, '00080060': { vr: 'CS', Value: ['OT'] } };
  if (numbers(ds, '00280030').length === 2) return ds;
  const detector = numbers(ds, '00181164');
  if (detector.length !== 2) return ds;
  const magnification = number(ds, '00181114') || 1;
  return { ...ds, '00280030': { vr: 'DS', Value: detector.map((x) => x / magnification) } };
}

/** The stack of a series' metadata; instances without pixels are left out. */
export function stackOf(study: string, series: string, metadata: readonly Dataset[]): Stack {
  const images = sortInstances(metadata.filter((ds) => (number(ds, '00280010') ?? 0) > 0)).flatMap((given) => {
    const ds = displayAttributes(given);
    const sopInstance = text(ds, '00080018');
    return Array.from({ length: Math.max(1, number(ds, '00280008') ?? 1) }, (_, i) => ({
      imageId: `wadors:${DICOMWEB}/studies/${study}/series/${series}/instances/${sopInstance}/frames/${i + 1}`,
      sopInstance,
      frame: i + 1,
      ds,
    }));
  });
  return { study, series, modality: text(metadata[0], '00080060'), images };
}

export interface Preset {
  name: string;
  centre: number;
  width: number;
}

const CT: Preset[] = [
  { name: 'Soft tissue', centre: 50, width: 400 },
  { name: 'Bone', centre: 500, width: 2500 },
  { name: 'Brain', centre: 40, width: 80 },
  { name: 'Lung', centre: -600, width: 1500 },
  { name: 'Teeth', centre: 1200, width: 4000 },
];

/** Windows to choose from: those of the image by name, then the usual ones of its modality. */
export function presets(ds: Dataset | undefined): Preset[] {
  const centres = numbers(ds, '00281050');
  const widths = numbers(ds, '00281051');
  const names = texts(ds, '00281055');
  const own = centres.flatMap((centre, i) => {
    const width = widths[i];
    return width === undefined || width <= 0
      ? []
      : [{ name: names[i] || (i === 0 ? 'As acquired' : `As acquired ${i + 1}`), centre, width }];
  });
  return [...own.slice(0, 4), ...(text(ds, '00080060') === 'CT' ? CT : [])];
}

/** The four corners of text over an image; the words come from the data set and are only ever shown as text. */
export function corners(
  ds: Dataset,
  index: number,
  count: number,
): { patient: string[]; study: string[]; image: string[] } {
  const sex = text(ds, '00100040');
  const laterality = [text(ds, '00200062') || text(ds, '00200060'), text(ds, '00185101')].filter(Boolean).join(' ');
  const location = number(ds, '00201041');
  const thickness = number(ds, '00180050');
  const seriesWords = text(ds, '0008103E') === text(ds, '00081030') ? '' : text(ds, '0008103E');
  return {
    patient: [
      personName(ds, '00100010'),
      text(ds, '00100020'),
      [date(text(ds, '00100030')), sex].filter(Boolean).join(' · '),
    ].filter(Boolean),
    study: [
      [text(ds, '00081030'), date(text(ds, '00080020'))].filter(Boolean).join(' · '),
      [text(ds, '00200011') && `${text(ds, '00080060')} ${text(ds, '00200011')}`, seriesWords]
        .filter(Boolean)
        .join(' · '),
      laterality,
    ].filter(Boolean),
    image: [
      `${index + 1} / ${count}`,
      [
        location !== undefined && `${location.toFixed(1)} mm`,
        thickness !== undefined && thickness > 0 && `thickness ${Number(thickness.toFixed(2))} mm`,
      ]
        .filter(Boolean)
        .join(' · '),
    ].filter(Boolean),
  };
}

/** The image of `stack` nearest to a position along its normal, for linked scrolling; -1 where it has no geometry. */
export function nearest(stack: Stack, from: Dataset): number {
  const position = numbers(from, '00200032');
  const frame = text(from, '00200052');
  const o = numbers(from, '00200037');
  if (position.length !== 3 || o.length !== 6 || !frame) return -1;
  const normal = [o[1]! * o[5]! - o[2]! * o[4]!, o[2]! * o[3]! - o[0]! * o[5]!, o[0]! * o[4]! - o[1]! * o[3]!];
  const along = (p: number[]) => p.reduce((sum, x, i) => sum + x * normal[i]!, 0);
  const target = along(position);
  let best = -1;
  let distance = Number.POSITIVE_INFINITY;
  stack.images.forEach((image, i) => {
    const other = numbers(image.ds, '00200032');
    const turned = numbers(image.ds, '00200037');
    if (other.length !== 3 || text(image.ds, '00200052') !== frame) return;
    if (turned.length !== 6 || turned.some((x, k) => Math.abs(x - o[k]!) > 0.05)) return;
    const off = Math.abs(along(other) - target);
    if (off < distance) {
      best = i;
      distance = off;
    }
  });
  return best;
}
