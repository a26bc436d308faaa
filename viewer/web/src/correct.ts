// The form that corrects a finding, made of what the finding says: numbers, codes and texts, and the reader's reason.
import { el, fill, modal } from './dom';
import { readable } from './form';
import { type Coded, type Correctable, type Corrections, type Value, valueWords } from './verdicts';

export interface Correcting {
  comment: string;
  corrections: Corrections;
}

const LISTS = { number: 'measurements', code: 'codes', text: 'texts' } as const;
const OTHER = 'other';

interface Line {
  field: Correctable;
  element: HTMLElement;
  /** The value that stands there now, or what is wrong with it. */
  read(): { value: Value } | { problem: string };
  focus(): void;
}

const isCoded = (value: Value): value is Coded => typeof value === 'object';

/** Whether two values say the same; a code does by value and scheme. */
export function same(one: Value, other: Value): boolean {
  if (isCoded(one) && isCoded(other)) return one.value === other.value && one.scheme === other.scheme;
  return one === other;
}

/** A number as it was typed, in the unit of the report; undefined where it is none. What was not touched stays exact. */
export function typedNumber(typed: string, field: Correctable): number | undefined {
  for (const known of [field.value, field.now])
    if (typeof known === 'number' && typed.trim() === valueWords(known, field.unit)) return known;
  const number = Number(typed.trim().replace(',', '.'));
  if (typed.trim() === '' || !Number.isFinite(number)) return undefined;
  return Number((number / readable(1, field.unit).value).toPrecision(12));
}

/** What of the fields is another value than the report has. */
export function changed(read: readonly { field: Correctable; value: Value }[]): Corrections {
  const found: Corrections = {};
  for (const { field, value } of read) {
    if (same(value, field.value)) continue;
    const { code, scheme, position } = field;
    const list = LISTS[field.kind];
    found[list] = [...(found[list] ?? []), { code, scheme, position, value }];
  }
  return found;
}

function numberLine(field: Correctable, id: string): Line {
  const input = el('input', {
    id,
    type: 'text',
    inputMode: 'text',
    autocomplete: 'off',
    value: valueWords(field.now, field.unit),
  });
  const { unit } = readable(1, field.unit);
  return {
    field,
    element: el('div', { class: 'input-line' }, input, unit && el('span', { class: 'unit' }, unit)),
    read: () => {
      const value = typedNumber(input.value, field);
      return value === undefined ? { problem: 'a number is needed' } : { value };
    },
    focus: () => input.focus(),
  };
}

function textLine(field: Correctable, id: string): Line {
  const input = el('textarea', { id, rows: 3, maxLength: 10_000, value: String(field.now) });
  return {
    field,
    element: input,
    read: () => (input.value.trim() ? { value: input.value } : { problem: 'some words are needed' }),
    focus: () => input.focus(),
  };
}

function codeLine(field: Correctable, id: string): Line {
  const now = field.now as Coded;
  const choices = field.choices.some((each) => same(each, now)) ? field.choices : [now, ...field.choices];
  const meanings = choices.map((each) => each.meaning);
  const select = el(
    'select',
    { id, onchange: () => draw() },
    ...choices.map((each, i) =>
      el(
        'option',
        { value: String(i), selected: same(each, now) },
        meanings.indexOf(each.meaning) === meanings.lastIndexOf(each.meaning)
          ? each.meaning || each.value
          : `${each.meaning} (${each.scheme})`,
      ),
    ),
    el('option', { value: OTHER }, 'Another code…'),
  );
  const parts = (['meaning', 'value', 'scheme'] as const).map((part) => {
    const words = { meaning: 'In words', value: 'Code', scheme: 'Coding scheme' }[part];
    const most = { meaning: 64, value: 64, scheme: 16 }[part];
    return { part, words, input: el('input', { type: 'text', maxLength: most, autocomplete: 'off' }) };
  });
  const other = el(
    'div',
    { class: 'other-code', hidden: true },
    ...parts.map(({ words, input }) => el('label', {}, words, input)),
  );
  function draw(): void {
    other.hidden = select.value !== OTHER;
    if (!other.hidden) parts[0]!.input.focus();
  }
  return {
    field,
    element: el('div', {}, select, other),
    read: () => {
      if (select.value !== OTHER) return { value: choices[Number(select.value)]! };
      const typed = Object.fromEntries(parts.map(({ part, input }) => [part, input.value.trim()]));
      if (Object.values(typed).some((each) => !each))
        return { problem: 'a code has words, a value and a coding scheme' };
      return { value: typed as unknown as Coded };
    },
    focus: () => select.focus(),
  };
}

/** Asks for corrections and the reason; undefined where it was given up. */
export function askForCorrections(
  identifier: string,
  fields: readonly Correctable[],
  reason: string,
): Promise<Correcting | undefined> {
  return new Promise((resolve) => {
    let answer: Correcting | undefined;
    const problem = el('p', { class: 'field-problem', role: 'alert' });
    const comment = el('textarea', { id: 'verdict-comment', rows: 2, maxLength: 1024, required: true, value: reason });
    const lines = fields.map((field, i) => {
      const make = { number: numberLine, code: codeLine, text: textLine }[field.kind];
      return make(field, `verdict-${i}`);
    });
    const submit = (event: Event) => {
      event.preventDefault();
      const read: { field: Correctable; value: Value }[] = [];
      for (const line of lines) {
        const told = line.read();
        if ('problem' in told) {
          problem.textContent = `${line.field.meaning}: ${told.problem}.`;
          line.focus();
          return;
        }
        read.push({ field: line.field, value: told.value });
      }
      const corrections = changed(read);
      if (Object.keys(corrections).length === 0) {
        problem.textContent = 'Nothing was changed: accept the finding if it is right as it is.';
        return;
      }
      if (!comment.value.trim()) {
        problem.textContent = 'Please give a reason: it stands in the verified report.';
        comment.focus();
        return;
      }
      answer = { comment: comment.value.trim(), corrections };
      dialog.close();
    };
    const body = el('div', {});
    fill(
      body,
      el(
        'form',
        {
          class: 'correct-form',
          noValidate: true,
          onsubmit: submit,
          oninput: () => {
            problem.textContent = '';
          },
        },
        ...lines.map((line, i) =>
          el(
            'div',
            { class: 'field' },
            el(
              'label',
              { for: `verdict-${i}` },
              line.field.meaning,
              line.field.of > 1 && ` (${line.field.position} of ${line.field.of})`,
            ),
            line.element,
            el(
              'p',
              { class: 'field-help' },
              !same(line.field.now, line.field.value) &&
                `Computed: ${valueWords(line.field.value, line.field.unit)} ${readable(1, line.field.unit).unit}`.trim(),
            ),
          ),
        ),
        el('div', { class: 'field' }, el('label', { for: comment.id }, 'Reason'), comment),
        problem,
        el('button', { type: 'submit', class: 'button primary' }, 'Save'),
      ),
    );
    const dialog = modal(`Correct ${identifier}`, body, { onclose: () => resolve(answer) });
  });
}

/** Asks for the reason of a verdict; undefined where it was given up. */
export function askForReason(title: string, reason: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    let answer: string | undefined;
    const words = el('textarea', { id: 'verdict-reason', rows: 3, maxLength: 1024, value: reason });
    const form = el(
      'form',
      {
        noValidate: true,
        onsubmit: (event: Event) => {
          event.preventDefault();
          answer = words.value.trim();
          dialog.close();
        },
      },
      el('div', { class: 'field' }, el('label', { for: words.id }, 'Reason'), words),
      el('button', { type: 'submit', class: 'button primary' }, 'Save'),
    );
    const dialog = modal(title, form, { onclose: () => resolve(answer) });
  });
}
