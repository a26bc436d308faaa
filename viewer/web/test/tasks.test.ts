import { describe, expect, it } from 'vitest';
import { place } from '../src/app';
import type { Dataset } from '../src/dicom';
import { backoff, parseEvent } from '../src/events';
import { boundsText, check, fields, type Schema } from '../src/form';
import { envelope, failureReason, isPart10, readAnswer } from '../src/stow';
import { applyEvent, inOrder, type WorkitemEvent } from '../src/tasks';
import { contentItem, longString, newWorkitem, readTask, type Task } from '../src/workitem';

// What pydantic 2 writes for bounds, enums, options and defaults.
const schema: Schema = {
  type: 'object',
  properties: {
    threshold_hu: {
      anyOf: [{ type: 'number', minimum: 100, maximum: 3000 }, { type: 'null' }],
      default: null,
      title: 'Threshold',
      unit: "[hnsf'U]",
    },
    error_mm: { type: 'number', exclusiveMinimum: 0, maximum: 2, default: 0.1, unit: 'mm', description: 'How far.' },
    passes: { type: 'integer', minimum: 0, default: 3 },
    skin: { type: 'boolean', default: true },
    quality: { $ref: '#/$defs/Quality', default: 'fine' },
    note: { type: 'string', default: '', maxLength: 4 },
    nested: { type: 'object' },
  },
  $defs: { Quality: { type: 'string', enum: ['draft', 'fine'], title: 'Quality' } },
};
const all = fields(schema);
const field = (name: string) => all.find((each) => each.name === name)!;

describe('a form out of a JSON Schema', () => {
  it('has a field for everything that a person can set', () => {
    expect(all.map((each) => [each.name, each.kind, each.optional, each.initial])).toEqual([
      ['threshold_hu', 'number', true, null],
      ['error_mm', 'number', false, 0.1],
      ['passes', 'integer', false, 3],
      ['skin', 'boolean', false, true],
      ['quality', 'choice', false, 'fine'],
      ['note', 'text', true, ''],
    ]);
    expect(field('error_mm').title).toBe('Error mm');
    expect(field('quality').choices).toEqual(['draft', 'fine']);
    expect(boundsText(field('threshold_hu'))).toBe('100 to 3000 HU');
    expect(boundsText(field('passes'))).toBe('at least 0');
  });

  it('checks what is typed, in words', () => {
    expect(check(field('threshold_hu'), '')).toEqual({ value: null });
    expect(check(field('threshold_hu'), '99')).toEqual({ problem: 'At least 100 HU.' });
    expect(check(field('error_mm'), '0,5')).toEqual({ value: 0.5 });
    expect(check(field('error_mm'), '0')).toEqual({ problem: 'More than 0 mm.' });
    expect(check(field('error_mm'), '')).toHaveProperty('problem');
    expect(check(field('passes'), '1.5')).toHaveProperty('problem');
    expect(check(field('passes'), 'many')).toHaveProperty('problem');
    expect(check(field('skin'), false)).toEqual({ value: false });
    expect(check(field('quality'), 'rough')).toHaveProperty('problem');
    expect(check(field('note'), 'abcde')).toHaveProperty('problem');
    expect(check(field('note'), '')).toEqual({ value: '' });
  });
});

describe('Workitems', () => {
  const study: Dataset = {
    '00100010': { vr: 'PN', Value: [{ Alphabetic: 'Doe^Jane' }] },
    '00100020': { vr: 'LO', Value: ['P1'] },
    '00080050': { vr: 'SH', Value: ['A1'] },
  };
  const order = newWorkitem({
    plugin: { id: 'mammography_calcifications', title: 'Calcifications' },
    label: 'Calcifications',
    inputs: [{ study: '1.2', series: '1.2.3', instances: [{ sopClass: '1.9', sopInstance: '1.2.3.4' }] }],
    parameters: [
      { field: field('error_mm'), value: 0.2 },
      { field: field('skin'), value: false },
      { field: field('threshold_hu'), value: null },
    ],
    study,
    dicomweb: 'http://host/dicom-web',
    now: new Date('2026-01-02T03:04:05Z'),
  });

  it('ask for a task as PS3.4 table CC.2.5-3 wants it', () => {
    expect(order['00741000']?.Value).toEqual(['SCHEDULED']);
    expect(order['00081195']).toBeUndefined();
    expect(order['00100010']).toEqual(study['00100010']);
    expect(order['00100030']).toEqual({ vr: 'DA' });
    expect(order['00404018']?.Value).toEqual([
      {
        '00080119': { vr: 'UC', Value: ['mammography_calcifications'] }, // beyond 16 characters
        '00080102': { vr: 'SH', Value: ['99M3DICOM'] },
        '00080104': { vr: 'LO', Value: ['Calcifications'] },
      },
    ]);
    expect(order['00404021']?.Value).toEqual([
      {
        '0020000D': { vr: 'UI', Value: ['1.2'] },
        '0020000E': { vr: 'UI', Value: ['1.2.3'] },
        '00081199': {
          vr: 'SQ',
          Value: [{ '00081150': { vr: 'UI', Value: ['1.9'] }, '00081155': { vr: 'UI', Value: ['1.2.3.4'] } }],
        },
        '0040E020': { vr: 'CS', Value: ['DICOM'] },
        '0040E025': {
          vr: 'SQ',
          Value: [{ '00081190': { vr: 'UR', Value: ['http://host/dicom-web/studies/1.2/series/1.2.3'] } }],
        },
      },
    ]);
    expect(Object.keys(order)).toEqual(Object.keys(order).sort());
  });

  it('carry parameters as content items, and leave out what is not set', () => {
    const parameters = order['00741210']?.Value as Dataset[];
    expect(parameters).toHaveLength(2);
    expect(parameters[0]).toMatchObject({
      '0040A040': { Value: ['NUMERIC'] },
      '0040A30A': { vr: 'DS', Value: [0.2] },
      '004008EA': { Value: [{ '00080100': { Value: ['mm'] }, '00080102': { Value: ['UCUM'] } }] },
    });
    expect(parameters[1]).toMatchObject({ '0040A040': { Value: ['TEXT'] }, '0040A160': { Value: ['false'] } });
    expect(contentItem({ ...field('threshold_hu'), initial: 300 }, null)).toMatchObject({
      '0040A160': { Value: ['null'] },
    });
  });

  it('have names and titles that LO can carry', () => {
    expect(longString('Round\\oval\n shape ')).toBe('Round/oval shape');
    expect(longString(`${'x'.repeat(63)} yz`)).toBe('x'.repeat(63));
    expect(contentItem({ ...field('threshold_hu'), name: 'shape', title: ' ' }, 'round')).toMatchObject({
      '0040A043': { Value: [{ '00080104': { Value: ['shape'] } }] },
    });
  });

  it('are read as tasks', () => {
    const task = readTask({
      ...order,
      '00080018': { vr: 'UI', Value: ['2.25.1'] },
      '00741000': { vr: 'CS', Value: ['COMPLETED'] },
      '00741216': {
        vr: 'SQ',
        Value: [
          {
            '00404033': {
              vr: 'SQ',
              Value: [{ '0020000D': { vr: 'UI', Value: ['1.2'] }, '0020000E': { vr: 'UI', Value: ['1.9'] } }],
            },
          },
        ],
      },
    });
    expect(task).toMatchObject({
      uid: '2.25.1',
      state: 'COMPLETED',
      study: '1.2',
      progress: 100,
      plugin: 'mammography_calcifications',
    });
    expect(task.outputs).toEqual([{ study: '1.2', series: '1.9', sopClass: '' }]);
  });
});

describe('events', () => {
  const event = (more: Partial<WorkitemEvent>): WorkitemEvent => ({
    uid: '1',
    state: 'IN PROGRESS',
    label: 'L',
    updated_at: 1000,
    ...more,
  });

  it('move a task on, and late ones change nothing', () => {
    const running = applyEvent(undefined, event({ progress: 40, message: 'Halfway' })) as Task;
    expect(running).toMatchObject({ state: 'IN PROGRESS', progress: 40, message: 'Halfway', updated: 1_000_000 });
    const done = applyEvent(running, event({ state: 'COMPLETED', updated_at: 1001 })) as Task;
    expect(done.progress).toBe(100);
    expect(applyEvent(done, event({ progress: 50, updated_at: 1002 }))).toBeUndefined();
    expect(applyEvent(running, event({ progress: 10, updated_at: 999 }))).toBeUndefined();
    const failed = applyEvent(running, event({ state: 'CANCELED', reason: 'No bone in it.', updated_at: 1003 }));
    expect(failed).toMatchObject({ state: 'CANCELED', reason: 'No bone in it.' });
  });

  it('are listed running first, then waiting, then the newest', () => {
    const task = (uid: string, state: string, at: number) =>
      applyEvent(undefined, event({ uid, state, updated_at: at })) as Task;
    const tasks = [
      task('a', 'COMPLETED', 1),
      task('b', 'COMPLETED', 2),
      task('c', 'SCHEDULED', 0),
      task('d', 'IN PROGRESS', 0),
    ];
    expect(inOrder(tasks).map((each) => each.uid)).toEqual(['d', 'c', 'b', 'a']);
  });

  it('are checked before they are believed', () => {
    expect(parseEvent('{"uid":"1","state":"SCHEDULED"}', 'uid' as never)).toEqual({ uid: '1', state: 'SCHEDULED' });
    for (const data of ['', 'null', '[]', '{', '"x"', 7]) expect(parseEvent(data, 'uid' as never)).toBeUndefined();
    expect([backoff(0), backoff(3), backoff(50)]).toEqual([1000, 8000, 30_000]);
  });
});

describe('storing', () => {
  it('reads what was stored and what was refused', () => {
    const answer = readAnswer({
      '00081199': {
        vr: 'SQ',
        Value: [
          {
            '00081155': { vr: 'UI', Value: ['1.1'] },
            '00081190': { vr: 'UR', Value: ['http://h/dicom-web/studies/1.2/series/3/instances/1.1'] },
          },
        ],
      },
      '00081198': {
        vr: 'SQ',
        Value: [{ '00081155': { vr: 'UI', Value: ['1.4'] }, '00081197': { vr: 'US', Value: [0x0111] } }],
      },
    });
    expect(answer.stored).toEqual([{ sop: '1.1', study: '1.2', warning: '' }]);
    expect(answer.refused).toEqual([{ sop: '1.4', reason: 'another instance with this UID is already stored' }]);
    expect(failureReason(0xa900)).toMatch(/does not match/);
    expect(failureReason(0xc001)).toBe('cannot be understood');
    expect(failureReason(0x0199)).toContain('0199H');
    expect(failureReason(undefined)).toMatch(/without a reason/);
  });

  it('wraps one file in one part', async () => {
    const body = await envelope(new Blob(['DATA']), 'b').text();
    expect(body).toBe('--b\r\nContent-Type: application/dicom\r\n\r\nDATA\r\n--b--\r\n');
    const file = new Uint8Array(200);
    file.set([68, 73, 67, 77], 128);
    expect(await isPart10(new Blob([file]))).toBe(true);
    expect(await isPart10(new Blob(['short']))).toBe(false);
  });
});

describe('addresses', () => {
  it('lead to pages, and nothing but UIDs gets through', () => {
    expect(place('#/study/1.2.3/series/4.5')).toEqual({ page: 'study', study: '1.2.3', series: '4.5' });
    expect(place('#/study/1.2.3')).toEqual({ page: 'study', study: '1.2.3', series: '' });
    expect(place('#/study/../../api').page).toBe('studies');
    expect(place('#/tasks').page).toBe('tasks');
    expect(place('').page).toBe('studies');
  });
});
