// Unified Procedure Steps as DICOM JSON: the Workitem that asks for a task, and a task read out of one (PS3.4 CC).
import { code, type Dataset, dateTime, formatDateTime, item, items, number, text } from './dicom';
import type { Field, Value } from './form';

export const SCHEME = '99M3DICOM';

export type TaskState = 'SCHEDULED' | 'IN PROGRESS' | 'COMPLETED' | 'CANCELED';

export interface Output {
  study: string;
  series: string;
  sopClass: string;
}

export interface Task {
  uid: string;
  state: TaskState;
  label: string;
  plugin: string;
  study: string;
  patient: string;
  progress: number;
  message: string;
  reason: string;
  updated: number;
  outputs: Output[];
}

export interface Instance {
  sopClass: string;
  sopInstance: string;
}

export interface TaskInput {
  study: string;
  series?: string;
  instances?: Instance[];
}

export interface Order {
  plugin: { id: string; title: string };
  label: string;
  inputs: TaskInput[];
  parameters: { field: Field; value: Value }[];
  /** A study's attributes out of QIDO: patient and accession are copied from it. */
  study: Dataset;
  dicomweb: string;
  now: Date;
}

/** A text as LO can carry it (PS3.5 6.2): one value of at most 64 characters, none of them for control. */
export function longString(words: string): string {
  return words
    .replaceAll('\\', '/')
    .replace(/[\p{C}\s]+/gu, ' ')
    .trim()
    .slice(0, 64)
    .trimEnd();
}

function coded(value: string, scheme: string, meaning: string): Dataset {
  // PS3.3 8.1: a value beyond 16 characters is a Long Code Value.
  const own: Dataset =
    value.length > 16 ? { '00080119': { vr: 'UC', Value: [value] } } : { '00080100': { vr: 'SH', Value: [value] } };
  return {
    ...own,
    '00080102': { vr: 'SH', Value: [scheme] },
    '00080104': { vr: 'LO', Value: [longString(meaning) || value.slice(0, 64)] },
  };
}

const sequence = (...value: Dataset[]) => ({ vr: 'SQ', Value: value });

/** A parameter as a content item (PS3.3 10.2). "Not set" has none where that is the default, else it is written. */
export function contentItem(field: Field, value: Value): Dataset | undefined {
  if (value === null && field.initial === null) return undefined;
  const concept = sequence(coded(field.name, SCHEME, field.title));
  if (typeof value === 'number')
    return {
      '0040A040': { vr: 'CS', Value: ['NUMERIC'] },
      '0040A043': concept,
      '0040A30A': { vr: 'DS', Value: [value] },
      '004008EA': sequence(coded(field.unit || '1', 'UCUM', field.unit || 'no units')),
    };
  return {
    '0040A040': { vr: 'CS', Value: ['TEXT'] },
    '0040A043': concept,
    '0040A160': { vr: 'UT', Value: [String(value)] },
  };
}

function inputItem(input: TaskInput, dicomweb: string): Dataset {
  const address = `${dicomweb}/studies/${input.study}${input.series ? `/series/${input.series}` : ''}`;
  return {
    '0020000D': { vr: 'UI', Value: [input.study] },
    ...(input.series ? { '0020000E': { vr: 'UI', Value: [input.series] } } : {}),
    ...(input.instances?.length
      ? {
          '00081199': sequence(
            ...input.instances.map((instance) => ({
              '00081150': { vr: 'UI', Value: [instance.sopClass] },
              '00081155': { vr: 'UI', Value: [instance.sopInstance] },
            })),
          ),
        }
      : {}),
    '0040E020': { vr: 'CS', Value: ['DICOM'] },
    '0040E025': sequence({ '00081190': { vr: 'UR', Value: [address] } }),
  };
}

/** The attributes of a Workitem that asks for a task (PS3.4 table CC.2.5-3). Transaction UID is absent, as it must be. */
export function newWorkitem(order: Order): Dataset {
  const now = formatDateTime(order.now);
  const patient: Dataset = {};
  for (const [tag, vr] of [
    ['00100010', 'PN'],
    ['00100020', 'LO'],
    ['00100030', 'DA'],
    ['00100040', 'CS'],
  ] as const)
    patient[tag] = order.study[tag] ?? { vr };
  const request: Dataset = {
    '00080050': order.study['00080050'] ?? { vr: 'SH' },
    '00080051': { vr: 'SQ' },
    '0020000D': { vr: 'UI', Value: [order.inputs[0]?.study ?? text(order.study, '0020000D')] },
    '00321060': { vr: 'LO' },
    '00321064': { vr: 'SQ' },
    '00401001': { vr: 'SH' },
  };
  const workitem: Dataset = {
    ...patient,
    '0020000D': request['0020000D']!,
    '00380010': { vr: 'LO' },
    '0040A370': sequence(request),
    '00404005': { vr: 'DT', Value: [now] },
    '00404018': sequence(coded(order.plugin.id, SCHEME, order.plugin.title)),
    '00404021': sequence(...order.inputs.map((input) => inputItem(input, order.dicomweb))),
    '00404041': { vr: 'CS', Value: ['READY'] },
    '00741000': { vr: 'CS', Value: ['SCHEDULED'] },
    '00741200': { vr: 'CS', Value: ['MEDIUM'] },
    '00741202': { vr: 'LO', Value: ['M3DICOM'] },
    '00741204': { vr: 'LO', Value: [longString(order.label) || order.plugin.id] },
    '00741210': sequence(
      ...order.parameters.flatMap(({ field, value }) => {
        const content = contentItem(field, value);
        return content ? [content] : [];
      }),
    ),
  };
  return Object.fromEntries(Object.entries(workitem).sort(([a], [b]) => a.localeCompare(b)));
}

const STATES: readonly string[] = ['SCHEDULED', 'IN PROGRESS', 'COMPLETED', 'CANCELED'];

export function asState(value: string): TaskState {
  return (STATES.includes(value) ? value : 'SCHEDULED') as TaskState;
}

export function isOver(task: Pick<Task, 'state'>): boolean {
  return task.state === 'COMPLETED' || task.state === 'CANCELED';
}

/** A task out of a Workitem's attributes. */
export function readTask(ds: Dataset): Task {
  const progress = item(ds, '00741002');
  const why = code(progress, '0074100E')?.meaning ?? '';
  const outputs = items(item(ds, '00741216'), '00404033').map((output) => ({
    study: text(output, '0020000D'),
    series: text(output, '0020000E'),
    sopClass: text(item(output, '00081199'), '00081150'),
  }));
  const state = asState(text(ds, '00741000'));
  const input = item(ds, '00404021');
  return {
    uid: text(ds, '00080018'),
    state,
    label: text(ds, '00741204'),
    plugin: code(ds, '00404018')?.value ?? '',
    study: text(input, '0020000D') || text(ds, '0020000D'),
    patient: text(ds, '00100020'),
    progress: state === 'COMPLETED' ? 100 : Math.min(100, Math.max(0, number(progress, '00741004') ?? 0)),
    message: text(progress, '00741006'),
    reason: text(progress, '00741238') || text(ds, '00741238') || why,
    updated: (dateTime(text(ds, '00404010')) ?? dateTime(text(ds, '00404005')))?.getTime() ?? 0,
    outputs,
  };
}

// What a reader wants to see first: a model, a marked image, a report.
const FIRST_SEEN = [/\.104\.[345]$/, /\.1\.1\.7(\.\d)?$/, /\.1\.1\.88\./];

/** The output to open when a task has ended. */
export function mainOutput(task: Task): Output | undefined {
  const rank = (output: Output) => {
    const found = FIRST_SEEN.findIndex((pattern) => pattern.test(output.sopClass));
    return found < 0 ? FIRST_SEEN.length : found;
  };
  return [...task.outputs].filter((output) => output.series).sort((a, b) => rank(a) - rank(b))[0];
}
