// The Analyse dialog: the plug-ins that fit a study, a form out of the chosen one's schema, and the Workitem it makes.
import { createWorkitem, DICOMWEB, findInstances, type Match, type PluginInfo, plugins } from './api';
import type { App } from './app';
import { type Dataset, text } from './dicom';
import { el, fill, icon, modal } from './dom';
import { boundsText, check, type Field, fields, type Value } from './form';
import { type Instance, newWorkitem, type TaskInput } from './workitem';

interface Shown {
  field: Field;
  element: HTMLElement;
  read(): { value: Value } | undefined;
  focus(): void;
}

export function showField(field: Field): Shown {
  const id = `parameter-${field.name}`;
  const hint = boundsText(field);
  const problem = el('p', { class: 'field-problem', id: `${id}-problem`, role: 'alert' });
  const described = `${id}-help ${id}-problem`;
  const initial = field.initial === null ? '' : String(field.initial);
  const step = field.kind === 'integer' ? 1 : 'any';
  let input: HTMLInputElement | HTMLSelectElement;
  let current: () => string | boolean;
  if (field.kind === 'boolean' && !field.optional) {
    const box = el('input', { id, type: 'checkbox', checked: field.initial === true, 'aria-describedby': described });
    input = box;
    current = () => box.checked;
  } else if (field.kind === 'boolean' || field.kind === 'choice') {
    const choices = field.kind === 'boolean' ? ['true', 'false'] : field.choices.map(String);
    const words: Record<string, string> = field.kind === 'boolean' ? { true: 'Yes', false: 'No' } : {};
    const select = el(
      'select',
      { id, 'aria-describedby': described },
      (field.optional || initial === '') && el('option', { value: '' }, field.optional ? 'Automatic' : 'Choose…'),
      ...choices.map((each) =>
        el('option', { value: each, selected: each === initial }, words[each] ?? each.replaceAll('_', ' ')),
      ),
    );
    input = select;
    current = () => select.value;
  } else {
    const numeric = field.kind !== 'text';
    const box = el('input', {
      id,
      type: 'text',
      inputMode: numeric ? (field.minimum !== undefined && field.minimum >= 0 ? 'decimal' : 'text') : 'text',
      value: initial,
      autocomplete: 'off',
      spellcheck: false,
      placeholder: field.optional && numeric ? 'automatic' : '',
      maxLength: field.maxLength ?? 1024,
      'aria-describedby': described,
      'data-step': step,
    });
    input = box;
    current = () => box.value;
  }
  const read = () => {
    const result = check(field, current());
    const wrong = 'problem' in result;
    problem.textContent = wrong ? result.problem : '';
    input.setAttribute('aria-invalid', String(wrong));
    return wrong ? undefined : result;
  };
  input.addEventListener('change', read);
  // A problem goes as soon as it is mended, not when the field is left: nothing may move under a click on Start.
  input.addEventListener('input', () => {
    if (input.getAttribute('aria-invalid') === 'true') read();
  });
  const label = el('label', { for: id }, field.title);
  const help = el('p', { class: 'field-help', id: `${id}-help` }, field.description);
  const isBox = input instanceof HTMLInputElement && input.type === 'checkbox';
  const element = el(
    'div',
    { class: `field field-${field.kind}${isBox ? ' field-check' : ''}` },
    isBox ? el('div', { class: 'check-line' }, input, label) : label,
    !isBox && el('div', { class: 'input-line' }, input, hint && el('span', { class: 'unit' }, hint)),
    help,
    problem,
  );
  return { field, element, read, focus: () => input.focus() };
}

/** A match as inputs: the whole study or series, or the named instances, series by series. */
async function taskInputs(match: Match): Promise<TaskInput[]> {
  const { study_instance_uid: study, series_instance_uid: series, sop_instance_uids: wanted } = match;
  if (!wanted?.length) return [{ study, series }];
  const named = new Set(wanted);
  const bySeries = new Map<string, Instance[]>();
  for (const ds of await findInstances(study, series)) {
    const sopInstance = text(ds, '00080018');
    if (!named.has(sopInstance)) continue;
    const uid = text(ds, '0020000E');
    bySeries.set(uid, [...(bySeries.get(uid) ?? []), { sopClass: text(ds, '00080016'), sopInstance }]);
  }
  return [...bySeries].map(([uid, instances]) => ({ study, series: uid, instances }));
}

function matchLabel(match: Match, index: number): string {
  return match.label || (match.series_instance_uid ? `Series ${index + 1}` : 'The whole study');
}

export async function openAnalyse(app: App, study: Dataset, preferredSeries: string): Promise<void> {
  const uid = text(study, '0020000D');
  const body = el('div', { class: 'analyse' }, el('p', { class: 'muted' }, 'Asking which analyses fit…'));
  const dialog = modal('Analyse', body, { class: 'modal-analyse' });
  let list: PluginInfo[];
  try {
    list = await plugins(uid);
  } catch (error) {
    fill(body, el('p', { class: 'field-problem', role: 'alert' }, (error as Error).message));
    return;
  }
  if (list.length === 0) {
    fill(body, el('p', { class: 'muted' }, 'This server has no analysis plug-ins.'));
    return;
  }
  list.sort((a, b) => Number((b.matches?.length ?? 0) > 0) - Number((a.matches?.length ?? 0) > 0));
  const right = el('div', { class: 'analyse-form' });
  const buttons = list.map((plugin) => {
    const fits = (plugin.matches?.length ?? 0) > 0;
    return el(
      'button',
      { type: 'button', class: 'plugin', 'aria-pressed': 'false', disabled: !fits, onclick: () => choose(plugin) },
      el('strong', {}, plugin.title),
      el('small', {}, fits ? plugin.description : 'Nothing in this study fits.'),
    );
  });

  function choose(plugin: PluginInfo): void {
    buttons.forEach((button, i) => {
      button.setAttribute('aria-pressed', String(list[i] === plugin));
    });
    const matches = plugin.matches ?? [];
    const preferred = Math.max(
      0,
      matches.findIndex((match) => match.series_instance_uid === preferredSeries),
    );
    const choice = el(
      'select',
      { id: 'analyse-input' },
      ...matches.map((match, i) => el('option', { value: i, selected: i === preferred }, matchLabel(match, i))),
    );
    const shown = fields(plugin.schema).map(showField);
    const problem = el('p', { class: 'field-problem', role: 'alert' });
    const start = el('button', { type: 'submit', class: 'button primary' }, icon('analyse'), 'Start');
    const form = el(
      'form',
      {
        noValidate: true,
        onsubmit: async (event: Event) => {
          event.preventDefault();
          const values = shown.map((each) => ({ field: each.field, read: each.read(), focus: each.focus }));
          const wrong = values.find((each) => !each.read);
          if (wrong) {
            wrong.focus();
            return;
          }
          start.disabled = true;
          problem.textContent = '';
          try {
            const match = matches[Number(choice.value)]!;
            const label = plugin.title;
            const workitem = await createWorkitem(
              newWorkitem({
                plugin: { id: plugin.id, title: plugin.title },
                label,
                inputs: await taskInputs(match),
                parameters: values.map(({ field, read }) => ({ field, value: read!.value })),
                study,
                dicomweb: DICOMWEB,
                now: new Date(),
              }),
            );
            if (workitem) {
              app.tasks.add({
                uid: workitem,
                state: 'SCHEDULED',
                label,
                plugin: plugin.id,
                study: uid,
                patient: text(study, '00100020'),
                progress: 0,
                message: '',
                reason: '',
                updated: Date.now(),
                outputs: [],
              });
            }
            dialog.close();
            app.notice(`${label}: started.`);
            document.dispatchEvent(new CustomEvent('m3-show-tasks'));
          } catch (error) {
            problem.textContent = (error as Error).message;
          } finally {
            start.disabled = false;
          }
        },
      },
      el('p', { class: 'plugin-about' }, plugin.description, el('small', {}, ` Version ${plugin.version}`)),
      el('div', { class: 'field' }, el('label', { for: 'analyse-input' }, 'Applies to'), choice),
      ...shown.map((each) => each.element),
      problem,
      el('div', { class: 'form-foot' }, start),
    );
    fill(right, form);
  }

  fill(body, el('div', { class: 'plugin-list', role: 'group', 'aria-label': 'Analyses' }, ...buttons), right);
  const first = list.find((plugin) => (plugin.matches?.length ?? 0) > 0);
  if (first) choose(first);
  else fill(right, el('p', { class: 'muted' }, 'No analysis fits the images of this study.'));
}
