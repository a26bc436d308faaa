// Reading images: panes of Cornerstone stack viewports with their tools, text, marks, links and prefetch.
import {
  cache,
  Enums,
  getRenderingEngine,
  imageLoader,
  RenderingEngine,
  type Types,
  utilities,
} from '@cornerstonejs/core';
import {
  addTool,
  annotation,
  LengthTool,
  PanTool,
  StackScrollTool,
  Enums as ToolEnums,
  ToolGroupManager,
  WindowLevelTool,
  ZoomTool,
} from '@cornerstonejs/tools';
import { edges } from './dicom';
import { el, fill, svg } from './dom';
import { isPreview, register, startCornerstone } from './loader';
import { type Drawn, drawMarks, type Placement } from './marks';
import { centre, extent, type Finding, type Mark } from './sr';
import { corners, nearest, type Stack } from './stack';

export type ToolName = 'window' | 'pan' | 'zoom' | 'scroll' | 'length';

const ENGINE = 'm3';
const GROUP = 'm3-tools';
const TOOL: Record<ToolName, string> = {
  window: WindowLevelTool.toolName,
  pan: PanTool.toolName,
  zoom: ZoomTool.toolName,
  scroll: StackScrollTool.toolName,
  length: LengthTool.toolName,
};
const { MouseBindings } = ToolEnums;
const PREFETCH_LIMIT = 600;

/** One engine for the page's life: a browser allows about 16 WebGL contexts, and an engine does not give its own back. */
function theEngine(): RenderingEngine {
  const known = getRenderingEngine(ENGINE);
  if (known) return known as RenderingEngine;
  for (const tool of [WindowLevelTool, PanTool, ZoomTool, StackScrollTool, LengthTool]) addTool(tool);
  return new RenderingEngine(ENGINE);
}

export interface ReaderEvents {
  active(pane: number): void;
  /** A pane shows another image. */
  changed(pane: number): void;
  chosen(finding: Finding): void;
}

class Pane {
  readonly element: HTMLElement;
  readonly viewportElement = el('div', { class: 'viewport' });
  private readonly layer = svg('svg', { class: 'marks', 'aria-hidden': 'true' });
  private readonly hud = {
    topLeft: el('div', { class: 'hud hud-tl' }),
    topRight: el('div', { class: 'hud hud-tr' }),
    bottomLeft: el('div', { class: 'hud hud-bl' }),
    bottomRight: el('div', { class: 'hud hud-br' }),
  };
  private readonly edge = {
    left: el('span', { class: 'edge edge-left' }),
    right: el('span', { class: 'edge edge-right' }),
    top: el('span', { class: 'edge edge-top' }),
    bottom: el('span', { class: 'edge edge-bottom' }),
  };
  private readonly badge = el('div', { class: 'preview-badge', hidden: true }, 'Preview – rendered by the server');
  private readonly message = el('div', { class: 'pane-message', role: 'status' });
  private readonly slider: HTMLInputElement;
  private readonly id: string;
  stack: Stack | undefined;
  marks = new Map<string, Drawn[]>();
  selected = '';
  marksShown = true;
  private shown = 0; // counts stacks, so that a late answer for an old one is dropped
  private drawing = 0;

  constructor(
    private readonly reader: Reader,
    readonly index: number,
  ) {
    this.id = `pane-${index}`;
    this.slider = el('input', {
      type: 'range',
      class: 'slice',
      min: 0,
      max: 0,
      value: 0,
      'aria-label': 'Image in the series',
      oninput: () => void this.go(Number(this.slider.value)),
    });
    this.element = el(
      'div',
      {
        class: 'pane',
        role: 'group',
        tabIndex: 0,
        'aria-label': `Image pane ${index + 1}`,
        onpointerdown: () => reader.activate(index),
        onfocusin: () => reader.activate(index),
      },
      this.viewportElement,
      this.layer as unknown as HTMLElement,
      ...Object.values(this.hud),
      ...Object.values(this.edge),
      this.badge,
      this.slider,
      this.message,
    );
    this.viewportElement.addEventListener('contextmenu', (event) => event.preventDefault());
    // Cornerstone swallows every key on its element, Tab too, which would be a trap; nothing here needs its keys.
    this.element.addEventListener('keydown', (event) => event.stopPropagation(), true);
    const draw = () => this.draw();
    const { Events } = Enums;
    this.viewportElement.addEventListener(Events.IMAGE_RENDERED, draw);
    this.viewportElement.addEventListener(Events.VOI_MODIFIED, draw);
    this.viewportElement.addEventListener(Events.CAMERA_MODIFIED, () => {
      draw();
      this.reader.cameraMoved(this);
    });
    this.viewportElement.addEventListener(Events.STACK_NEW_IMAGE, () => {
      this.message.textContent = '';
      draw();
      this.reader.imageChanged(this);
      this.reader.events.changed(this.index);
    });
    this.viewportElement.addEventListener(Events.IMAGE_LOAD_ERROR, () => {
      this.message.textContent = 'This image cannot be shown.';
    });
  }

  enable(): void {
    this.reader.engine.enableElement({
      viewportId: this.id,
      type: Enums.ViewportType.STACK,
      element: this.viewportElement as HTMLDivElement,
      defaultOptions: { background: [0, 0, 0] as Types.Point3 },
    });
    ToolGroupManager.getToolGroup(GROUP)?.addViewport(this.id, ENGINE);
  }

  disable(): void {
    this.shown++;
    ToolGroupManager.getToolGroup(GROUP)?.removeViewports(ENGINE, this.id);
    this.reader.engine.disableElement(this.id);
  }

  get viewport(): Types.IStackViewport | undefined {
    return getRenderingEngine(ENGINE)?.getViewport(this.id) as Types.IStackViewport | undefined;
  }

  get imageIndex(): number {
    return this.stack && this.viewport ? this.viewport.getCurrentImageIdIndex() : 0;
  }

  get image() {
    return this.stack?.images[this.imageIndex];
  }

  async show(stack: Stack, index = 0): Promise<void> {
    const turn = ++this.shown;
    this.stack = stack;
    this.message.textContent = stack.images.length === 0 ? 'There are no images in this series.' : 'Loading…';
    fill(this.layer);
    if (stack.images.length === 0) return;
    register(stack);
    this.slider.max = String(stack.images.length - 1);
    this.slider.hidden = stack.images.length < 2;
    try {
      await this.viewport?.setStack(
        stack.images.map((image) => image.imageId),
        index,
      );
      if (turn !== this.shown) return;
      this.message.textContent = '';
      this.viewport?.render();
      void this.prefetch(turn);
    } catch {
      if (turn === this.shown) this.message.textContent = 'This image cannot be shown.';
    }
  }

  async go(index: number): Promise<void> {
    if (!this.stack) return;
    const target = Math.min(this.stack.images.length - 1, Math.max(0, index));
    try {
      await this.viewport?.setImageIdIndex(target);
    } catch {
      this.message.textContent = 'This image cannot be shown.';
    }
  }

  /** Loads the rest of the stack, nearest first, three at a time, behind whatever is asked for meanwhile. */
  private async prefetch(turn: number): Promise<void> {
    const stack = this.stack;
    if (!stack || stack.images.length > PREFETCH_LIMIT) return;
    const from = this.imageIndex;
    const order = stack.images
      .map((image, i) => ({ image, far: Math.abs(i - from) }))
      .sort((a, b) => a.far - b.far)
      .slice(1);
    const worker = async () => {
      while (turn === this.shown) {
        const next = order.shift();
        if (!next) return;
        if (cache.getImageLoadObject(next.image.imageId)) continue;
        await imageLoader
          .loadAndCacheImage(next.image.imageId, { requestType: Enums.RequestType.Prefetch, priority: 0 })
          .catch(() => {});
      }
    };
    await Promise.all([worker(), worker(), worker()]);
  }

  /** Where the current image's pixels are on the canvas. */
  placement(): Placement | undefined {
    const viewport = this.viewport;
    const data = viewport?.getImageData()?.imageData as unknown as
      | { indexToWorld(index: number[]): number[] }
      | undefined;
    if (!viewport || !data) return undefined;
    const at = (i: number, j: number) => viewport.worldToCanvas([...data.indexToWorld([i, j, 0])] as Types.Point3);
    // A long base keeps rounding out of the direction vectors.
    const [o, a, b] = [at(0, 0), at(1000, 0), at(0, 1000)];
    return {
      origin: [o[0], o[1]],
      u: [(a[0] - o[0]) / 1000, (a[1] - o[1]) / 1000],
      v: [(b[0] - o[0]) / 1000, (b[1] - o[1]) / 1000],
    };
  }

  draw(): void {
    cancelAnimationFrame(this.drawing);
    this.drawing = requestAnimationFrame(() => this.drawNow());
  }

  private drawNow(): void {
    const image = this.image;
    const viewport = this.viewport;
    if (!image || !viewport || !this.stack) return;
    const words = corners(image.ds, this.imageIndex, this.stack.images.length);
    const lines = (all: string[]) => all.map((line) => el('div', {}, line));
    fill(this.hud.topLeft, ...lines(words.patient));
    fill(this.hud.topRight, ...lines(words.study));
    fill(this.hud.bottomLeft, ...lines(words.image));
    const { voiRange } = viewport.getProperties();
    const level = voiRange && utilities.windowLevel.toWindowLevel(voiRange.lower, voiRange.upper);
    fill(
      this.hud.bottomRight,
      el('div', {}, level ? `W ${Math.round(level.windowWidth)}  L ${Math.round(level.windowCenter)}` : ''),
      el('div', {}, `Zoom ${viewport.getZoom().toFixed(1)}×`),
    );
    const sides = edges(image.ds);
    for (const side of ['left', 'right', 'top', 'bottom'] as const) this.edge[side].textContent = sides?.[side] ?? '';
    this.badge.hidden = !isPreview(image.imageId);
    this.slider.value = String(this.imageIndex);
    this.slider.setAttribute('aria-valuetext', `Image ${this.imageIndex + 1} of ${this.stack.images.length}`);
    const marks = this.marksShown ? (this.marks.get(`${image.sopInstance}/${image.frame}`) ?? []) : [];
    drawMarks(this.layer, marks, this.placement(), this.selected, (finding) => this.reader.events.chosen(finding));
    this.element.dataset.rendered = String(Number(this.element.dataset.rendered ?? 0) + 1);
  }

  /** Moves and zooms so that a mark is in the middle and well seen. */
  centreOn(mark: Mark): void {
    const viewport = this.viewport;
    const info = viewport?.getImageData();
    if (!viewport || !info) return;
    const data = info.imageData as unknown as { indexToWorld(index: number[]): number[] };
    const [column, row] = centre(mark);
    const world = data.indexToWorld([column - 0.5, row - 0.5, 0]);
    const camera = viewport.getCamera();
    if (!camera.focalPoint || !camera.position) return;
    const shift = world.map((x, i) => x - camera.focalPoint![i]!);
    const spacing = (info.spacing?.[1] as number) || 1;
    const half = Math.max(extent(mark) * 1.6, 140) * spacing;
    viewport.setCamera({
      focalPoint: camera.focalPoint.map((x, i) => x + shift[i]!) as Types.Point3,
      position: camera.position.map((x, i) => x + shift[i]!) as Types.Point3,
      parallelScale: Math.min(camera.parallelScale ?? half, half),
    });
    viewport.render();
  }
}

export class Reader {
  readonly element = el('div', { class: 'panes', 'data-panes': 1 });
  readonly engine: RenderingEngine;
  readonly panes: Pane[] = [];
  active = 0;
  linked = true;
  private following = false;
  private readonly resizing: ResizeObserver;

  static async create(events: ReaderEvents): Promise<Reader> {
    await startCornerstone();
    return new Reader(events);
  }

  private constructor(readonly events: ReaderEvents) {
    this.engine = theEngine();
    ToolGroupManager.destroyToolGroup(GROUP);
    const group = ToolGroupManager.createToolGroup(GROUP)!;
    for (const name of Object.values(TOOL)) group.addTool(name);
    // Styles are replaced as a whole: what is not named here must stay, or drawing fails without a word.
    const usual = annotation.config.style.getDefaultToolStyles();
    annotation.config.style.setDefaultToolStyles({
      ...usual,
      global: {
        ...usual.global,
        color: 'rgb(111, 208, 220)',
        colorHighlighted: 'rgb(170, 236, 243)',
        colorSelected: 'rgb(170, 236, 243)',
        lineWidth: '1.5',
        textBoxColor: 'rgb(200, 240, 245)',
        textBoxColorHighlighted: 'rgb(225, 250, 252)',
        textBoxColorSelected: 'rgb(225, 250, 252)',
        textBoxFontFamily: 'system-ui, sans-serif',
        textBoxFontSize: '13px',
        textBoxBackground: 'rgba(0, 0, 0, 0.65)',
      },
    });
    this.setTool('window');
    let pending = 0;
    this.resizing = new ResizeObserver(() => {
      cancelAnimationFrame(pending);
      pending = requestAnimationFrame(() => {
        if (this.element.clientWidth > 0 && this.panes.length > 0) this.engine.resize(true, true);
      });
    });
    this.resizing.observe(this.element);
  }

  close(): void {
    this.resizing.disconnect();
    for (const pane of this.panes) pane.disable();
    this.panes.length = 0;
    ToolGroupManager.destroyToolGroup(GROUP);
    annotation.state.removeAllAnnotations();
    cache.purgeCache();
  }

  /** One, two or four panes; call with the element on the page. */
  layout(count: 1 | 2 | 4): void {
    this.element.dataset.panes = String(count);
    while (this.panes.length > count) {
      const pane = this.panes.pop()!;
      pane.disable();
      pane.element.remove();
    }
    while (this.panes.length < count) {
      const pane = new Pane(this, this.panes.length);
      const first = this.panes[0];
      if (first) {
        pane.marks = first.marks;
        pane.selected = first.selected;
        pane.marksShown = first.marksShown;
      }
      this.panes.push(pane);
      this.element.append(pane.element);
      pane.enable();
    }
    this.activate(Math.min(this.active, count - 1));
    this.engine.resize(true, true);
  }

  activate(index: number): void {
    this.active = index;
    this.panes.forEach((pane, i) => {
      pane.element.classList.toggle('active', i === index && this.panes.length > 1);
    });
    this.events.active(index);
  }

  get pane(): Pane | undefined {
    return this.panes[this.active];
  }

  setTool(name: ToolName): void {
    const group = ToolGroupManager.getToolGroup(GROUP);
    if (!group) return;
    for (const tool of Object.values(TOOL)) group.setToolPassive(tool);
    const bind = (tool: string, ...bindings: ToolEnums.MouseBindings[]) =>
      bindings.map((mouseButton) => ({ mouseButton, tool }));
    const bindings: Record<string, Record<string, unknown>[]> = {};
    const add = (tool: string, binding: Record<string, unknown>) => {
      bindings[tool] = [...(bindings[tool] ?? []), binding];
    };
    for (const { tool, mouseButton } of [
      ...bind(TOOL[name], MouseBindings.Primary),
      ...bind(TOOL.pan, MouseBindings.Auxiliary),
      ...bind(TOOL.zoom, MouseBindings.Secondary),
      ...bind(TOOL.scroll, MouseBindings.Wheel),
    ])
      add(tool, { mouseButton });
    add(TOOL[name], { numTouchPoints: 1 });
    add(TOOL.zoom, { numTouchPoints: 2 });
    for (const [tool, all] of Object.entries(bindings)) group.setToolActive(tool, { bindings: all as never });
  }

  preset(centreValue: number, width: number): void {
    const viewport = this.pane?.viewport;
    if (!viewport) return;
    viewport.setProperties({ voiRange: utilities.windowLevel.toLowHighRange(width, centreValue) });
    viewport.render();
  }

  invert(): void {
    const viewport = this.pane?.viewport;
    if (!viewport) return;
    viewport.setProperties({ invert: !viewport.getProperties().invert });
    viewport.render();
  }

  reset(): void {
    const viewport = this.pane?.viewport;
    if (!viewport) return;
    viewport.resetCamera();
    viewport.resetProperties();
    viewport.render();
  }

  zoom(factor: number): void {
    const viewport = this.pane?.viewport;
    if (!viewport) return;
    viewport.setZoom(viewport.getZoom() * factor);
    viewport.render();
  }

  clearMeasurements(): void {
    annotation.state.removeAllAnnotations();
    this.engine.render();
  }

  scroll(by: number): void {
    const pane = this.pane;
    if (pane) void pane.go(pane.imageIndex + by);
  }

  setMarks(marks: Map<string, Drawn[]>): void {
    for (const pane of this.panes) {
      pane.marks = marks;
      pane.draw();
    }
  }

  select(identifier: string): void {
    for (const pane of this.panes) {
      pane.selected = identifier;
      pane.draw();
    }
  }

  showMarks(shown: boolean): void {
    for (const pane of this.panes) {
      pane.marksShown = shown;
      pane.draw();
    }
  }

  /** Two panes that show pictures of one size and shape move together: an image and its marked copy. */
  cameraMoved(pane: Pane): void {
    if (!this.linked || this.following || this.panes[this.active] !== pane) return;
    const size = pane.viewport?.getImageData()?.dimensions;
    if (!size) return;
    this.following = true;
    for (const other of this.panes) {
      if (other === pane || !other.stack) continue;
      const same = other.viewport?.getImageData()?.dimensions;
      if (!same || same[0] !== size[0] || same[1] !== size[1]) continue;
      other.viewport!.setZoom(pane.viewport!.getZoom());
      other.viewport!.setPan(pane.viewport!.getPan());
      other.viewport!.render();
    }
    this.following = false;
  }

  /** Panes of one frame of reference and direction scroll together. */
  imageChanged(pane: Pane): void {
    if (!this.linked || this.following || this.panes[this.active] !== pane || !pane.image) return;
    for (const other of this.panes) {
      if (other === pane || !other.stack || other.stack.series === pane.stack?.series) continue;
      const index = nearest(other.stack, pane.image.ds);
      if (index >= 0 && index !== other.imageIndex) void other.go(index);
    }
  }

  /** Puts the other panes where the active one is. */
  align(): void {
    const pane = this.pane;
    if (pane) this.cameraMoved(pane);
  }
}
