import { describe, expect, it } from 'vitest';
import { counted, duration } from '../src/batches';

describe('a batch in words', () => {
  it('counts its tasks in the order of their lives', () => {
    const items = { completed: 12, waiting: 3, canceled: 1, open: 2 };
    expect(counted({ items, unchanged: 0 })).toBe('3 waiting, 2 running, 12 completed, 1 failed');
    expect(counted({ items: {}, unchanged: 4 })).toBe('4 unchanged');
    expect(counted({ items: {}, unchanged: 0 })).toBe('No tasks yet');
  });

  it('says how long it may take', () => {
    expect(duration(null)).toBe('');
    expect(duration(12.4)).toBe('about 12 s');
    expect(duration(600)).toBe('about 10 min');
    expect(duration(9000)).toBe('about 2.5 h');
  });
});
