import { describe, expect, it } from 'vitest';
import { changed, same, typedNumber } from '../src/correct';
import { type Correctable, correctedWords, type Verdict } from '../src/verdicts';

const field = (
  kind: Correctable['kind'],
  value: Correctable['value'],
  more: Partial<Correctable> = {},
): Correctable => ({
  kind,
  code: 'c',
  scheme: 's',
  meaning: 'Volume',
  position: 1,
  of: 1,
  value,
  now: value,
  unit: '',
  choices: [],
  ...more,
});
const coded = (value: string, meaning = value) => ({ value, scheme: 'SCT', meaning });

describe('a number that is corrected', () => {
  const volume = field('number', 23_412.123_456_789, { unit: 'mm3' });

  it('is typed in the unit of the lists and sent in that of the report', () => {
    expect(typedNumber('22.5', volume)).toBe(22_500);
    expect(typedNumber('22,5', volume)).toBe(22_500);
    expect(typedNumber('0.3', field('number', 1))).toBe(0.3);
    expect(typedNumber('-1e-3', field('number', 1))).toBe(-0.001);
  });

  it('stays exact where it was not touched', () => {
    expect(typedNumber('23.4121', volume)).toBe(23_412.123_456_789);
    expect(changed([{ field: volume, value: typedNumber('23.4121', volume)! }])).toEqual({});
  });

  it('is a number', () => {
    for (const typed of ['', ' ', 'a lot', '1 2', 'NaN', 'Infinity'])
      expect(typedNumber(typed, volume)).toBeUndefined();
  });
});

describe('what is corrected', () => {
  it('is what differs from the report, by kind', () => {
    const number = field('number', 1);
    const code = field('code', coded('1', 'one'), { position: 2 });
    const words = field('text', 'as seen');
    expect(
      changed([
        { field: number, value: 2 },
        { field: code, value: coded('2') },
        { field: words, value: 'as seen' },
      ]),
    ).toEqual({
      measurements: [{ code: 'c', scheme: 's', position: 1, value: 2 }],
      codes: [{ code: 'c', scheme: 's', position: 2, value: coded('2') }],
    });
    expect(same(coded('1', 'one'), coded('1', 'ONE'))).toBe(true);
  });

  it('is told in words', () => {
    const corrected: Verdict['corrected'] = {
      measurements: [{ code: 'c', meaning: 'Volume', value: 20_000, was: 23_412.123, unit: 'mm3' }],
      codes: [
        { code: 'a', meaning: 'Assessment', value: coded('3', 'Benign'), was: coded('4', 'Suspicious'), unit: '' },
      ],
      shape: 'circle',
    };
    expect(correctedWords({ verdict: 'corrected', corrected } as Verdict)).toEqual([
      'Volume 23.4121 → 20 mL',
      'Assessment Suspicious → Benign',
      'its place, drawn clear (computed: faint)',
    ]);
  });
});
