// A finding's verdict on the page: who said what and why, and the three buttons.
import type { App } from './app';
import { askForCorrections, askForReason } from './correct';
import { el, icon } from './dom';
import type { Finding } from './sr';
import { correctedWords, SAID_WORDS, type Said, type Verdict, type Verdicts } from './verdicts';

const KEYS: Record<'accepted' | 'rejected' | 'corrected', [words: string, key: string]> = {
  accepted: ['Accept', 'A'],
  rejected: ['Reject', 'X'],
  corrected: ['Correct…', 'C'],
};

/** What a reader does: says a verdict, or gives the one that was said a reason. */
export type Judgement = 'accepted' | 'rejected' | 'corrected' | 'reason';

export type Judge = (finding: Finding, said: Judgement) => void;

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
    ...(Object.keys(KEYS) as (keyof typeof KEYS)[]).map((said) =>
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

/** What each reader says of a finding beyond the word: what was corrected, and why. */
export function verdictLines(said: readonly Verdict[]): HTMLElement[] {
  return said
    .map((each) => ({ each, words: [...correctedWords(each), each.comment].filter(Boolean) }))
    .filter(({ words }) => words.length > 0)
    .map(({ each, words }) =>
      el(
        'p',
        { class: 'verdict-line' },
        el('b', {}, `${SAID_WORDS[each.verdict]} by ${each.reader}: `),
        words.join('; '),
      ),
    );
}

/** The button that gives one's own verdict a reason, where it is no correction: that has one. */
export function reasonButton(own: Verdict | undefined, ask: () => void): HTMLElement | false {
  if (!own || own.verdict === 'corrected' || own.verdict === 'missed') return false;
  return el(
    'button',
    { type: 'button', class: 'link-button', onclick: ask },
    own.comment ? 'Change reason' : 'Reason…',
  );
}

/** Says it, and tells what went wrong; a correction asks for it first. Resolves once it is said or given up. */
export async function sayVerdict(
  app: App,
  verdicts: Verdicts,
  report: string,
  finding: Finding,
  said: Judgement,
): Promise<void> {
  const own = verdicts.own(report, finding.trackingUID);
  try {
    if (said === 'reason') {
      if (!own) return;
      const reason = await askForReason(`${SAID_WORDS[own.verdict]}: ${finding.identifier}`, own.comment);
      if (reason !== undefined) await verdicts.say(report, finding.trackingUID, own.verdict, reason);
    } else if (said === 'corrected') {
      const fields = await verdicts.form(report, finding.trackingUID);
      if (fields.length === 0) {
        app.notice('This finding says nothing that could be corrected: accept or reject it.');
        return;
      }
      const before = own?.verdict === 'corrected' ? own : undefined;
      const answer = await askForCorrections(finding.identifier, fields, before?.comment ?? '');
      // The form has no places: one that was corrected stays so.
      const { shape, points } = before?.corrected ?? {};
      const corrections = { ...answer?.corrections, ...(shape && { shape, points }) };
      if (answer) await verdicts.say(report, finding.trackingUID, said, answer.comment, corrections);
    } else await verdicts.say(report, finding.trackingUID, said);
  } catch (error) {
    app.notice((error as Error).message, { kind: 'error' });
  }
}
