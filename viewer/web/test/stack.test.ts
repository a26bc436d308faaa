import { describe, expect, it } from 'vitest';
import { kindOf } from '../src/stack';

const SECONDARY_CAPTURE = '1.2.840.10008.5.1.4.1.1.7';

describe('what a series holds', () => {
  it('tells a digitised film from a marked copy of ours', () => {
    expect(kindOf('RG', SECONDARY_CAPTURE, 1)).toBe('images');
    expect(kindOf('RG', SECONDARY_CAPTURE, 9004)).toBe('capture');
  });

  it('goes by the SOP Class before the modality', () => {
    expect(kindOf('SR', '1.2.840.10008.5.1.4.1.1.88.34', 9003)).toBe('report');
    expect(kindOf('M3D', '1.2.840.10008.5.1.4.1.1.104.3', 9002)).toBe('model');
    expect(kindOf('SEG', '1.2.840.10008.5.1.4.1.1.66.4', 9001)).toBe('segmentation');
    expect(kindOf('CT', '1.2.840.10008.5.1.4.1.1.2', 1)).toBe('images');
  });
});
