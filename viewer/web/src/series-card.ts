// A series in the list beside the images: its picture, its name, what it is.
import { type Dataset, text } from './dicom';
import { el, fill, type IconName, icon } from './dom';
import type { Kind } from './stack';
import { badge } from './studies';

const KIND_ICON: Record<Kind, IconName> = {
  images: 'layers',
  capture: 'marks',
  report: 'report',
  model: 'cube',
  segmentation: 'layers',
  other: 'info',
};

const KIND_WORDS: Record<Kind, string> = {
  images: 'images',
  capture: 'marked image',
  report: 'report',
  model: '3-D model',
  segmentation: 'segmentation',
  other: 'document',
};

export interface CardSeries {
  uid: string;
  ds: Dataset;
  kind: Kind;
  instances: Dataset[];
}

/** Says on a card that newer results have replaced those of the series. */
export function markOutdated(card: HTMLElement): void {
  const words = card.querySelector('small');
  if (words && !words.querySelector('.outdated')) words.prepend(el('span', { class: 'badge outdated' }, 'outdated'));
}

/** `thumbnail` gives the address of a small picture of an instance. */
export function seriesCard(
  series: CardSeries,
  on: { thumbnail: (instance: Dataset) => Promise<string>; choose: () => void },
): HTMLElement {
  const { ds, kind } = series;
  const picture = el('span', { class: 'thumb' }, icon(KIND_ICON[kind]));
  const count = series.instances.length;
  const description = text(ds, '0008103E') || KIND_WORDS[kind];
  const middle = series.instances[Math.floor(count / 2)];
  if ((kind === 'images' || kind === 'capture') && middle)
    on.thumbnail(middle)
      .then((address) => fill(picture, el('img', { src: address, alt: '', draggable: false })))
      .catch(() => {});
  return el(
    'button',
    { type: 'button', class: `series-card kind-${kind}`, 'data-series': series.uid, onclick: on.choose },
    picture,
    el(
      'span',
      { class: 'series-words' },
      el('span', { class: 'series-name' }, description),
      el(
        'small',
        {},
        badge(text(ds, '00080060') || '?'),
        text(ds, '00200011') && `#${text(ds, '00200011')}`,
        ` ${count} ${count === 1 ? KIND_WORDS[kind].replace(/s$/, '') : kind === 'images' ? 'images' : 'objects'}`,
      ),
    ),
  );
}
