import { describe, expect, it } from 'vitest';
import { explain, firstPart, NO_SEARCH, studyQuery } from '../src/api';
import {
  code,
  type Dataset,
  date,
  dateTime,
  directionLetters,
  edges,
  formatDateTime,
  number,
  numbers,
  personName,
  sortInstances,
  text,
  time,
} from '../src/dicom';

const ds: Dataset = {
  '00100010': { vr: 'PN', Value: [{ Alphabetic: 'Doe^Jane^Q', Ideographic: '山田^太郎' }] },
  '00100020': { vr: 'LO', Value: ['  P1 '] },
  '00080020': { vr: 'DA', Value: ['20260102'] },
  '00280030': { vr: 'DS', Value: ['0.5', 0.25] },
  '00080050': { vr: 'SH' },
  '00081140': { vr: 'SQ', Value: [{}] },
};

describe('the DICOM JSON model', () => {
  it('reads names, text and numbers, and nothing out of empty attributes', () => {
    expect(personName(ds, '00100010')).toBe('Doe, Jane Q');
    expect(text(ds, '00100020')).toBe('P1');
    expect(numbers(ds, '00280030')).toEqual([0.5, 0.25]);
    expect(text(ds, '00080050')).toBe('');
    expect(number(ds, '00280010')).toBeUndefined();
    expect(code(ds, '00081140')?.value).toBe('');
  });

  it('keeps markup as text', () => {
    const name = '<img src=x onerror=alert(1)>';
    expect(text({ '00081030': { vr: 'LO', Value: [name] } }, '00081030')).toBe(name);
  });

  it('writes dates and times as people read them', () => {
    expect(date('20260102')).toBe('2026-01-02');
    expect(date('')).toBe('');
    expect(time('030405.123')).toBe('03:04');
    expect(dateTime('20260102030405.5+0100')?.toISOString()).toBe('2026-01-02T02:04:05.000Z');
    expect(dateTime('nonsense')).toBeUndefined();
    const when = new Date('2026-01-02T03:04:05Z');
    expect(dateTime(formatDateTime(when))?.getTime()).toBe(when.getTime());
  });
});

describe('orientation', () => {
  it('names directions in the patient frame, larger part first', () => {
    expect(directionLetters([1, 0, 0])).toBe('L');
    expect(directionLetters([0, -0.95, 0.31])).toBe('AH');
    expect(directionLetters([0, 0.1, -1])).toBe('F');
  });

  it('takes edges from orientation or from Patient Orientation', () => {
    expect(edges({ '00200037': { vr: 'DS', Value: [1, 0, 0, 0, 1, 0] } })).toEqual({
      left: 'R',
      right: 'L',
      top: 'A',
      bottom: 'P',
    });
    expect(edges({ '00200020': { vr: 'CS', Value: ['A', 'FL'] } })).toEqual({
      left: 'P',
      right: 'A',
      top: 'HR',
      bottom: 'FL',
    });
    expect(edges({})).toBeUndefined();
  });
});

function slice(instance: number, z: number, orientation = [1, 0, 0, 0, 1, 0]): Dataset {
  return {
    '00080018': { vr: 'UI', Value: [`1.2.${instance}`] },
    '00200013': { vr: 'IS', Value: [instance] },
    '00200032': { vr: 'DS', Value: [0, 0, z] },
    '00200037': { vr: 'DS', Value: orientation },
  };
}
const order = (instances: Dataset[]) => sortInstances(instances).map((each) => number(each, '00200013'));

describe('reading order', () => {
  it('goes along the normal, from the end with the lower number', () => {
    expect(order([slice(3, 10), slice(1, 30), slice(2, 20)])).toEqual([1, 2, 3]);
    expect(order([slice(1, 0), slice(2, 20), slice(3, 10)])).toEqual([1, 3, 2]);
  });

  it('goes by number where positions repeat or directions differ', () => {
    expect(order([slice(2, 5), slice(1, 5)])).toEqual([1, 2]);
    expect(order([slice(2, 1), slice(1, 2, [0, 1, 0, 0, 0, -1])])).toEqual([1, 2]);
  });
});

describe('asking', () => {
  it('makes a QIDO-RS query: text anywhere, wildcards kept, open date ranges', () => {
    const query = studyQuery(
      { ...NO_SEARCH, patientName: 'Doe, J', patientID: 'P?1', from: '2026-01-02', modality: 'CT' },
      51,
      50,
    );
    expect(query.get('PatientName')).toBe('*Doe^J*');
    expect(query.get('PatientID')).toBe('P?1');
    expect(query.get('StudyDate')).toBe('20260102-');
    expect(query.get('ModalitiesInStudy')).toBe('CT');
    expect([query.get('limit'), query.get('offset')]).toEqual(['51', '50']);
    const day = studyQuery({ ...NO_SEARCH, from: '2026-01-02', to: '2026-01-02' }, 1, 0);
    expect(day.get('StudyDate')).toBe('20260102');
    expect(day.has('PatientName')).toBe(false);
  });

  it('explains errors in the words of the server, else its own', () => {
    expect(explain(409, 'application/problem+json', '{"title":"Conflict","detail":"already there"}')).toBe(
      'already there',
    );
    expect(explain(503, 'text/html', '<h1>x</h1>')).toMatch(/busy/);
    expect(explain(418, '', '')).toBe('The server answered 418.');
  });

  it('takes the body out of a multipart answer', () => {
    const bytes = new TextEncoder().encode('--b\r\nContent-Type: model/stl\r\n\r\nsolid\r\n\r\n--b--\r\n');
    const part = firstPart('multipart/related; type="model/stl"; boundary=b', bytes);
    expect(new TextDecoder().decode(part)).toBe('solid\r\n');
    expect(firstPart('model/stl', bytes)).toBe(bytes);
  });
});
