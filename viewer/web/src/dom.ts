// Building the page: elements whose text is always text (never markup), and the icons.

type Child = Node | string | number | null | undefined | false;
type Props = Record<string, unknown>;

/**
 * An element with properties, attributes, listeners and children.
 * `class`, `data-*`, `aria-*` and `role` are attributes; `on…` functions are listeners; the rest are properties.
 */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === 'class') node.className = String(value);
    else if (key.startsWith('on') && typeof value === 'function') {
      node.addEventListener(key.slice(2).toLowerCase(), value as EventListener);
    } else if (key in node && !key.includes('-')) (node as unknown as Props)[key] = value;
    else node.setAttribute(key, value === true ? '' : String(value));
  }
  put(node, children);
  return node;
}

function put(node: Element, children: readonly Child[]): void {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
}

/** Empties `node` and fills it anew. */
export function fill(node: Element, ...children: Child[]): void {
  node.replaceChildren();
  put(node, children);
}

const SVG = 'http://www.w3.org/2000/svg';

export function svg(tag: string, attributes: Record<string, string | number> = {}, ...children: Node[]): SVGElement {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value));
  node.append(...children);
  return node;
}

// 24 × 24, strokes of 1.6; drawn for this viewer.
const ICONS = {
  back: 'M15 5l-7 7 7 7',
  search: 'M10.5 4.5a6 6 0 1 0 0 12a6 6 0 1 0 0-12M15 15l5 5',
  upload: 'M12 16V4.5M7 9l5-4.5L17 9M4.5 15.5v4h15v-4',
  download: 'M12 4v11.5M7 11l5 4.5 5-4.5M4.5 19.5h15',
  close: 'M6 6l12 12M18 6L6 18',
  window: 'M12 4a8 8 0 1 0 0 16a8 8 0 1 0 0-16M12 4v16M12 8.5h6.6M12 12h8M12 15.5h6.6',
  pan: 'M12 3.5v17M3.5 12h17M9.5 6L12 3.5 14.5 6M9.5 18l2.5 2.5 2.5-2.5M6 9.5L3.5 12 6 14.5M18 9.5l2.5 2.5-2.5 2.5',
  zoom: 'M10.5 4.5a6 6 0 1 0 0 12a6 6 0 1 0 0-12M15 15l5 5M10.5 8v5M8 10.5h5',
  scroll: 'M5 7.5h14M5 12h14M5 16.5h14M12 2v2M12 20v2',
  length: 'M4 16.5L16.5 4 20 7.5 7.5 20zM8 12.5l2 2M11 9.5l2 2M14 6.5l2 2',
  invert: 'M12 4a8 8 0 1 0 0 16a8 8 0 1 0 0-16M12 4a8 8 0 0 1 0 16z',
  reset: 'M5 12a7 7 0 1 0 2.2-5.1M5 4.5V8.5h4',
  marks: 'M12 5a7 7 0 1 0 0 14a7 7 0 1 0 0-14M12 2v5M12 17v5M2 12h5M17 12h5',
  one: 'M4.5 5h15v14h-15z',
  two: 'M4.5 5h15v14h-15zM12 5v14',
  four: 'M4.5 5h15v14h-15zM12 5v14M4.5 12h15',
  series: 'M4 7h11v12H4zM8 7V4.5h12V16h-5',
  panel: 'M4.5 5h15v14h-15zM14.5 5v14M16.5 9h1M16.5 12h1',
  analyse: 'M12 3.5l2 5.5 5.5 2-5.5 2-2 5.5-2-5.5-5.5-2 5.5-2zM19 16.5v4M17 18.5h4',
  tasks: 'M4.5 6.5l1.5 1.5L9 5M12.5 6.5h7M4.5 13l1.5 1.5L9 11.5M12.5 13h7M12.5 19h7M5 19h2',
  info: 'M12 4a8 8 0 1 0 0 16a8 8 0 1 0 0-16M12 11v5.5M12 7.6v.4',
  help: 'M12 4a8 8 0 1 0 0 16a8 8 0 1 0 0-16M9.7 9.6a2.4 2.4 0 1 1 3.6 2.1c-.9.5-1.3 1-1.3 1.9M12 16.4v.3',
  next: 'M9 5l7 7-7 7',
  cube: 'M12 3.5l7.5 4.3v8.4L12 20.5l-7.5-4.3V7.8zM4.5 7.8L12 12l7.5-4.2M12 12v8.5',
  report: 'M6 3.5h8.5L18 7v13.5H6zM9 11h6M9 14h6M9 17h4M14 3.5V7.5h4',
  layers: 'M12 4l8 4-8 4-8-4zM4 12l8 4 8-4M4 16l8 4 8-4',
  check: 'M5 12.5l4.5 4.5L19 7.5',
  warning: 'M12 4.5l8.5 15h-17zM12 10v4.5M12 16.8v.3',
  logout: 'M14 4.5H5.5v15H14M10 12h10M16.5 8.5L20 12l-3.5 3.5',
  folder: 'M3.5 6.5h6l2 2.5h9v10h-17z',
  link: 'M9 15l6-6M10.5 7.5l2-2a4 4 0 0 1 6 6l-2 2M13.5 16.5l-2 2a4 4 0 0 1-6-6l2-2',
} as const;

export type IconName = keyof typeof ICONS;

export function icon(name: IconName): SVGElement {
  return svg(
    'svg',
    { viewBox: '0 0 24 24', class: 'icon', 'aria-hidden': 'true', focusable: 'false' },
    svg('path', { d: ICONS[name] }),
  );
}

export function brandMark(): SVGElement {
  return svg(
    'svg',
    { viewBox: '0 0 32 32', class: 'brand-mark', 'aria-hidden': 'true', focusable: 'false' },
    svg('path', { d: 'M16 3 27 9.4v13.2L16 29 5 22.6V9.4Z', class: 'brand-edge' }),
    svg('path', { d: 'M5 9.4 16 16l11-6.6M16 16v13', class: 'brand-inner' }),
    svg('circle', { cx: 16, cy: 16, r: 3, class: 'brand-dot' }),
  );
}

/** A button with an icon; its label is spoken, shown as a tooltip, and on wide screens maybe in words. */
export function iconButton(name: IconName, label: string, props: Props = {}): HTMLButtonElement {
  return el(
    'button',
    { type: 'button', 'aria-label': label, title: label, ...props, class: `icon-button ${props.class ?? ''}` },
    icon(name),
  );
}

/** Calls `run` once, `ms` after the last call. */
export function debounce<A extends unknown[]>(ms: number, run: (...args: A) => void): (...args: A) => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(run, ms, ...args);
  };
}

/** A modal dialog that gives the focus back; resolves when it is closed. */
export function modal(
  title: string,
  body: Node,
  options: { class?: string; onclose?: () => void } = {},
): HTMLDialogElement {
  const heading = el('h2', { id: `d${Math.random().toString(36).slice(2)}` }, title);
  const dialog = el(
    'dialog',
    { class: `modal ${options.class ?? ''}`, 'aria-labelledby': heading.id },
    el('header', { class: 'modal-head' }, heading, iconButton('close', 'Close', { onclick: () => dialog.close() })),
    el('div', { class: 'modal-body' }, body),
  );
  dialog.addEventListener('close', () => {
    dialog.remove();
    options.onclose?.();
  });
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
