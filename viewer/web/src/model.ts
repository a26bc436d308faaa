// The 3-D panel: the meshes of an X3D scene as vtk.js actors, with labels to show and hide, opacity and standard views.
import '@kitware/vtk.js/Rendering/Profiles/Geometry.js';
import vtkDataArray from '@kitware/vtk.js/Common/Core/DataArray.js';
import vtkPolyData from '@kitware/vtk.js/Common/DataModel/PolyData.js';
import vtkActor from '@kitware/vtk.js/Rendering/Core/Actor.js';
import vtkMapper from '@kitware/vtk.js/Rendering/Core/Mapper.js';
import vtkGenericRenderWindow from '@kitware/vtk.js/Rendering/Misc/GenericRenderWindow.js';
import { el, fill, icon } from './dom';
import { type Mesh, parseScene } from './x3d';

/** Vertex normals from the triangles, weighted by area; shared vertices become smooth. */
export function vertexNormals(points: Float32Array, triangles: Uint32Array): Float32Array {
  const normals = new Float32Array(points.length);
  for (let t = 0; t < triangles.length; t += 3) {
    const [a, b, c] = [triangles[t]! * 3, triangles[t + 1]! * 3, triangles[t + 2]! * 3];
    const [ux, uy, uz] = [points[b]! - points[a]!, points[b + 1]! - points[a + 1]!, points[b + 2]! - points[a + 2]!];
    const [vx, vy, vz] = [points[c]! - points[a]!, points[c + 1]! - points[a + 1]!, points[c + 2]! - points[a + 2]!];
    const [x, y, z] = [uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx];
    for (const i of [a, b, c]) {
      normals[i]! += x;
      normals[i + 1]! += y;
      normals[i + 2]! += z;
    }
  }
  for (let i = 0; i < normals.length; i += 3) {
    const length = Math.hypot(normals[i]!, normals[i + 1]!, normals[i + 2]!) || 1;
    normals[i]! /= length;
    normals[i + 1]! /= length;
    normals[i + 2]! /= length;
  }
  return normals;
}

function actorOf(mesh: Mesh): vtkActor {
  const count = mesh.triangles.length / 3;
  const cells = new Uint32Array(count * 4);
  for (let t = 0, from = 0, to = 0; t < count; t++) {
    cells[to++] = 3;
    cells[to++] = mesh.triangles[from++]!;
    cells[to++] = mesh.triangles[from++]!;
    cells[to++] = mesh.triangles[from++]!;
  }
  const data = vtkPolyData.newInstance();
  data.getPoints().setData(mesh.points, 3);
  data.getPolys().setData(cells);
  const normals =
    mesh.normals.length === mesh.points.length ? mesh.normals : vertexNormals(mesh.points, mesh.triangles);
  data
    .getPointData()
    .setNormals(
      vtkDataArray.newInstance({ name: 'Normals', dataType: 'Float32Array', numberOfComponents: 3, values: normals }),
    );
  const mapper = vtkMapper.newInstance();
  mapper.setInputData(data);
  const actor = vtkActor.newInstance();
  actor.setMapper(mapper);
  const look = actor.getProperty();
  look.setColor(...mesh.colour);
  look.setOpacity(mesh.opacity);
  look.setAmbient(0.14);
  look.setDiffuse(0.85);
  look.setSpecular(0.18);
  look.setSpecularPower(18);
  return actor;
}

/** Looking along −direction with `up` upwards, patient frame (LPS). */
const VIEWS = [
  { name: 'Anterior', key: 'A', from: [0, -1, 0], up: [0, 0, 1] },
  { name: 'Left', key: 'L', from: [1, 0, 0], up: [0, 0, 1] },
  { name: 'Superior', key: 'S', from: [0, 0, 1], up: [0, -1, 0] },
  { name: 'Posterior', key: 'P', from: [0, 1, 0], up: [0, 0, 1] },
  { name: 'Right', key: 'R', from: [-1, 0, 0], up: [0, 0, 1] },
] as const;

export interface ModelView {
  element: HTMLElement;
  controls: HTMLElement;
  close(): void;
}

/** The view of a scene; raises SceneError. The element must be put on the page by the caller, then `ready` is called. */
export function modelView(source: string, downloads: HTMLElement): ModelView & { ready(): void } {
  const scene = parseScene(source);
  const canvasHost = el('div', {
    class: 'model-canvas',
    tabIndex: 0,
    role: 'application',
    'aria-label': '3-D model. Arrow keys turn it, plus and minus zoom.',
  });
  const window3d = vtkGenericRenderWindow.newInstance({ background: [0.035, 0.047, 0.06], listenWindowResize: false });
  const renderer = window3d.getRenderer();
  const render = () => {
    window3d.getRenderWindow().render();
    canvasHost.dataset.rendered = String(Number(canvasHost.dataset.rendered ?? 0) + 1);
  };
  const actors = scene.meshes.map(actorOf);
  for (const actor of actors) renderer.addActor(actor);

  function view(from: readonly number[], up: readonly number[]): void {
    const camera = renderer.getActiveCamera();
    const [x1 = 0, x2 = 0, y1 = 0, y2 = 0, z1 = 0, z2 = 0] = renderer.computeVisiblePropBounds();
    const middle = [(x1 + x2) / 2, (y1 + y2) / 2, (z1 + z2) / 2];
    camera.setFocalPoint(middle[0]!, middle[1]!, middle[2]!);
    camera.setPosition(middle[0]! + from[0]!, middle[1]! + from[1]!, middle[2]! + from[2]!);
    camera.setViewUp(up[0]!, up[1]!, up[2]!);
    camera.setViewAngle(30);
    renderer.resetCamera();
    // The sphere around the model is fitted to the height; a tall, narrow view needs its width to fit.
    camera.zoom(1.25 * Math.min(1, canvasHost.clientWidth / Math.max(1, canvasHost.clientHeight)));
    renderer.resetCameraClippingRange();
    render();
  }

  const total = scene.meshes.reduce((sum, mesh) => sum + mesh.triangles.length / 3, 0);
  const rows = scene.meshes.map((mesh, i) => {
    const actor = actors[i]!;
    const id = `label-${i}`;
    const swatch = el('i', { class: 'swatch', 'aria-hidden': 'true' });
    swatch.style.backgroundColor = `rgb(${mesh.colour.map((x) => Math.round(x * 255)).join(',')})`;
    const box = el('input', {
      id,
      type: 'checkbox',
      checked: true,
      onchange: () => {
        actor.setVisibility(box.checked);
        render();
      },
    });
    const opacity = el('input', {
      type: 'range',
      min: 5,
      max: 100,
      value: Math.round(mesh.opacity * 100),
      'aria-label': `Opacity of ${mesh.label}`,
      title: 'Opacity',
      oninput: () => {
        actor.getProperty().setOpacity(Number(opacity.value) / 100);
        render();
      },
    });
    return el(
      'li',
      {},
      box,
      el('label', { for: id }, swatch, mesh.label),
      el('small', {}, `${(mesh.triangles.length / 3).toLocaleString('en')} triangles`),
      opacity,
    );
  });
  const controls = el(
    'div',
    { class: 'model-controls' },
    el('h3', {}, 'View'),
    el(
      'div',
      { class: 'view-buttons', role: 'group', 'aria-label': 'Standard views' },
      ...VIEWS.map((each) =>
        el('button', { type: 'button', class: 'button small', onclick: () => view(each.from, each.up) }, each.name),
      ),
    ),
    el('h3', {}, 'Labels'),
    rows.length > 0
      ? el('ul', { class: 'labels' }, ...rows)
      : el('p', { class: 'muted' }, 'The scene has no surfaces.'),
    el(
      'p',
      { class: 'muted triangle-count' },
      `${total.toLocaleString('en')} triangles in ${scene.meshes.length} surface${scene.meshes.length === 1 ? '' : 's'}`,
    ),
    el('h3', {}, 'Download'),
    downloads,
  );
  fill(canvasHost);
  const hint = el(
    'p',
    { class: 'model-hint' },
    icon('cube'),
    'Drag to turn, wheel or pinch to zoom, Shift-drag to move',
  );

  canvasHost.addEventListener('keydown', (event) => {
    const camera = renderer.getActiveCamera();
    const step = 7;
    if (event.key === 'ArrowLeft') camera.azimuth(step);
    else if (event.key === 'ArrowRight') camera.azimuth(-step);
    else if (event.key === 'ArrowUp') camera.elevation(-step);
    else if (event.key === 'ArrowDown') camera.elevation(step);
    else if (event.key === '+' || event.key === '=') camera.zoom(1.15);
    else if (event.key === '-') camera.zoom(1 / 1.15);
    else return;
    event.preventDefault();
    event.stopPropagation();
    camera.orthogonalizeViewUp();
    renderer.resetCameraClippingRange();
    render();
  });

  const resizing = new ResizeObserver(() => {
    if (canvasHost.clientWidth === 0) return;
    window3d.resize();
    render();
  });

  return {
    element: el('div', { class: 'model' }, canvasHost, hint),
    controls,
    ready() {
      window3d.setContainer(canvasHost);
      window3d.resize();
      resizing.observe(canvasHost);
      view(VIEWS[0].from, VIEWS[0].up);
    },
    close() {
      resizing.disconnect();
      for (const actor of actors) {
        renderer.removeActor(actor);
        actor.delete();
      }
      const context = window3d.getApiSpecificRenderWindow().getContext?.();
      window3d.delete();
      (context as WebGL2RenderingContext | undefined)?.getExtension('WEBGL_lose_context')?.loseContext();
    },
  };
}
