import { describe, expect, it } from 'vitest';
import { fan, parseScene, SceneError, scanNumbers } from '../src/x3d';

const scan = (text: string) => [...scanNumbers(text, 0, text.length, (n) => new Float32Array(n))];
const ints = (text: string) => [...scanNumbers(text, 0, text.length, (n) => new Int32Array(n))];

describe('numbers', () => {
  it('reads what JavaScript reads', () => {
    const samples = '0 -1 +2.5, .5\n-0.125\t1e3 2.5E-2 -3e+1 10.  00012.50';
    const expected = samples.split(/[\s,]+/).map((each) => Math.fround(Number(each)));
    const found = scan(samples);
    expect(found).toHaveLength(expected.length);
    for (const [i, x] of found.entries()) expect(x).toBeCloseTo(expected[i]!, 6);
    expect(ints('0 1 2 -1 4')).toEqual([0, 1, 2, -1, 4]);
    expect(scan('   ')).toEqual([]);
  });

  it('is exact for the two decimals that scenes are written with', () => {
    const values = Array.from({ length: 5000 }, (_, i) => ((i * 7919) % 100_000) / 100 - 500);
    const found = scan(values.map((x) => x.toFixed(2)).join(' '));
    expect(found).toEqual(values.map((x) => Math.fround(Number(x.toFixed(2)))));
  });

  it.each(['1 2 x', '1..2', '--1', '1e', '0x10', 'NaN', '1-2'])('refuses %s', (text) => {
    expect(() => scan(text)).toThrow(SceneError);
  });
});

const triangle = `<IndexedTriangleSet index='0 1 2'><Coordinate point='0 0 0 1 0 0 0 1 0'/><Normal vector='0 0 1 0 0 1 0 0 1'/></IndexedTriangleSet>`;
const scene = (inside: string) =>
  `<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE X3D PUBLIC "ISO//Web3D//DTD X3D 4.0//EN" "https://www.web3d.org/x.dtd">\n<!-- a > b --><X3D profile='Interchange' version='4.0'><head><unit category='length' name='mm' conversionFactor='0.001'/><meta name='title' content='A &amp; B'/></head><Scene><Viewpoint position='0 0 9'/>${inside}</Scene></X3D>`;

describe('scenes', () => {
  it('reads a labelled shape with colour, opacity and normals', () => {
    const { meshes, title } = parseScene(
      scene(
        `<Group DEF='g1'><MetadataSet name='m'><MetadataString containerField='value' name='SegmentLabel' value='"Mandible"'/><MetadataString name='SegmentNumber' value='"2"'/></MetadataSet>
         <Shape><Appearance><Material diffuseColor='0.9 0.8 0.7' transparency='0.25'/></Appearance>${triangle}</Shape></Group>`,
      ),
    );
    expect(title).toBe('A & B');
    expect(meshes).toHaveLength(1);
    expect(meshes[0]).toMatchObject({ label: 'Mandible', opacity: 0.75, metadata: { SegmentNumber: '2' } });
    expect([...meshes[0]!.triangles]).toEqual([0, 1, 2]);
    expect(meshes[0]!.normals).toHaveLength(9);
    expect(meshes[0]!.colour[0]).toBeCloseTo(0.9);
  });

  it('applies transforms, nested ones too', () => {
    const { meshes } = parseScene(
      scene(
        `<Transform translation='10 0 0'><Transform rotation='0 0 1 1.5707963' scale='2 2 2'><Shape DEF='s'>${triangle}</Shape></Transform></Transform>`,
      ),
    );
    const points = [...meshes[0]!.points].map((x) => Math.round(x * 1000) / 1000);
    expect(points.map((x) => x + 0)).toEqual([10, 0, 0, 10, 2, 0, 8, 0, 0]);
    expect(meshes[0]!.label).toBe('s');
  });

  it('cuts faces into triangles and shares coordinates by USE', () => {
    expect([...fan(Int32Array.from([0, 1, 2, 3, -1, 4, 5, 6]))]).toEqual([0, 1, 2, 0, 2, 3, 4, 5, 6]);
    const { meshes } = parseScene(
      scene(
        `<Shape><IndexedFaceSet coordIndex='0 1 2 3 -1'><Coordinate DEF='c' point='0 0 0 1 0 0 1 1 0 0 1 0'/></IndexedFaceSet></Shape>
         <Shape><IndexedFaceSet coordIndex='0 2 3 -1'><Coordinate USE='c'/></IndexedFaceSet></Shape>`,
      ),
    );
    expect(meshes.map((mesh) => mesh.triangles.length)).toEqual([6, 3]);
  });

  it('knows nothing of nodes with scripts or addresses, nor of what is in them', () => {
    const { meshes } = parseScene(
      scene(
        `<Script><![CDATA[ecmascript: alert('<Shape>')]]></Script><Inline url='"https://example.org/x.x3d"'/>
         <Switch><Shape>${triangle}</Shape></Switch><Shape onclick='alert(1)'><Appearance><ImageTexture url='"x.png"'/></Appearance>${triangle}</Shape>`,
      ),
    );
    expect(meshes).toHaveLength(1);
  });

  it.each([
    ['a missing end', scene('<Shape>').replace('</Scene></X3D>', '')],
    ['crossed tags', scene('<Group><Shape></Group></Shape>')],
    ['an index beyond the points', scene(`<Shape>${triangle.replace("'0 1 2'", "'0 1 7'")}</Shape>`)],
    ['a negative index', scene(`<Shape>${triangle.replace("'0 1 2'", "'0 1 -1'")}</Shape>`)],
    ['definitions of its own', `<!DOCTYPE X3D [<!ENTITY a "b">]><X3D></X3D>`],
    ['an attribute without quotes', scene('<Shape DEF=a/>')],
    ['depth without end', scene('<Group>'.repeat(100) + '</Group>'.repeat(100))],
  ])('refuses %s', (_, source) => {
    expect(() => parseScene(source)).toThrow(SceneError);
  });
});
