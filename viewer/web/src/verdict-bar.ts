// A finding's verdict on the page: who said what, the three buttons, and the form for corrected numbers.
import type { App } from './app';
import { el, fill, icon, modal } from './dom';
import type { Finding } from './sr';
import { type Correction, SAID_WORDS, type Said, type Verdict, type Verdicts } from './verdicts';

const KEYS: Record<'accepted' | 'rejected' | 'corrected', [words: string, key: string]> = {
  accepted: ['Accept', 'A'],
  rejected: ['Reject', 'X'],
  corrected: ['Correct…', 'C'],
};

export type Judge = (finding: Finding, said: 'accepted' | 'rejected' | 'corrected') => void;

/** A short badge with the verdict that counts, "" before there is one. */
export function verdictBadge(said: readonly Verdict[]): HTMLElement | undefined {
  const first = said[0];
  if (!first) return undefined;
  const words = said.map((each) => `${SAID_WORDS[each.verdict]} by ${each.reader}`).join(', ');
  return el(
    'span',
    { class: `verdict verdict-${first.verdict}`, title: words },
    icon(first.verdict === 'rejected' ? 'close' : 'check'),
    el('span', {}, SAID_WORDS[first.verdict]),
  );
}

/** The buttons for one finding. */
export function verdictButtons(finding: Finding, own: Said | undefined, judge: Judge): HTMLElement {
  return el(
    'div',
    { class: 'verdict-buttons', role: 'group', 'aria-label': `Verdict on ${finding.identifier}` },
    ...(Object.keys(KEYS) as (keyof typeof KEYS)[])
      .filter((said) => said !== 'corrected' || finding.measurements.length > 0)
      .map((said) =>
        el(
          'button',
          {
            type: 'button',
            class: 'button small',
            'data-verdict': said,
            'aria-pressed': String(own === said),
            'aria-keyshortcuts': KEYS[said][1],
            title: `${KEYS[said][0]} (${KEYS[said][1]})`,
            onclick: () => judge(finding, said),
          },
          KEYS[said][0],
        ),
      ),
  );
}

/** Says it, and tells what went wrong; a correction asks for the numbers first. Resolves once it is said or given up. */
export async function sayVerdict(
  app: App,
  verdicts: Verdicts,
  report: string,
  finding: Finding,
  said: 'accepted' | 'rejected' | 'corrected',
): Promise<void> {
  const answer = said === 'corrected' ? await askForNumbers(finding) : { comment: '', measurements: [] };
  if (!answer) return;
  try {
    await verdicts.say(report, finding.trackingUID, said, answer.comment, answer.measurements);
  } catch (error) {
    app.notice((error as Error).message, { kind: 'error' });
  }
}

interface Corrected {
  comment: string;
  measurements: Correction[];
}

function askForNumbers(finding: Finding): Promise<Corrected | undefined> {
  return new Promise((resolve) => {
    let answer: Corrected | undefined;
    const problem = el('p', { class: 'field-problem', role: 'alert' });
    const comment = el('textarea', { id: 'verdict-comment', rows: 2, maxLength: 1024 });
    const inputs = finding.measurements.map((measured, i) => ({
      measured,
      input: el('input', { id: `verdict-${i}`, type: 'number', step: 'any', value: String(measured.value) }),
    }));
    const form = el(
      'form',
      {
        noValidate: true,
        onsubmit: (event: Event) => {
          event.preventDefault();
          const wrong = inputs.find(({ input }) => input.value.trim() === '' || !Number.isFinite(input.valueAsNumber));
          if (wrong) {
            problem.textContent = `${wrong.measured.name}: a number is needed.`;
            wrong.input.focus();
            return;
          }
          const measurements = inputs
            .filter(({ measured, input }) => input.valueAsNumber !== measured.value)
            .map(({ measured, input }) => ({
              code: measured.code,
              scheme: measured.scheme,
              value: input.valueAsNumber,
            }));
          if (measurements.length === 0) {
            problem.textContent = 'Nothing was changed.';
            return;
          }
          answer = { comment: comment.value.trim(), measurements };
          dialog.close();
        },
      },
      ...inputs.map(({ measured, input }) =>
        el(
          'div',
          { class: 'field' },
          el('label', { for: input.id }, measured.name),
          el('div', { class: 'input-line' }, input, measured.unit && el('span', { class: 'unit' }, measured.unit)),
        ),
      ),
      el('div', { class: 'field' }, el('label', { for: comment.id }, 'Comment'), comment),
      problem,
      el('button', { type: 'submit', class: 'button primary' }, 'Save'),
    );
    const body = el('div', {});
    fill(body, form);
    const dialog = modal(`Correct ${finding.identifier}`, body, { onclose: () => resolve(answer) });
  });
}
