// The keys and gestures of the study page, told in a dialog.
import { el, modal } from './dom';

const ROWS: [string, string][] = [
  ['N  P', 'next, previous finding'],
  ['A  X  C', 'accept, reject, correct the chosen finding'],
  ['↑  ↓', 'previous, next image'],
  ['Page ↑  Page ↓', 'ten images'],
  ['W  S  Z  H  L', 'window, scroll, zoom, move, length'],
  ['1 – 9', 'window presets'],
  ['+  −', 'zoom'],
  ['I  R  M', 'invert, reset, marks'],
  ['Esc', 'close a drawer'],
];

export function showKeys(): void {
  modal(
    'Keys and gestures',
    el(
      'div',
      {},
      el(
        'dl',
        { class: 'keys-list' },
        ...ROWS.flatMap(([keys, words]) => [el('dt', {}, el('kbd', {}, keys)), el('dd', {}, words)]),
      ),
      el(
        'p',
        { class: 'muted' },
        'Mouse: left button the chosen tool, middle move, right zoom, wheel scroll. Touch: one finger the chosen tool, two fingers zoom and move.',
      ),
    ),
  );
}
