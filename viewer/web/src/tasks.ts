// The tasks this page knows: what the worklist said, kept current by the server's events.
import { cancelWorkitem, findWorkitems, unservedPlugins, workitem } from './api';
import { asState, isOver, readTask, type Task } from './workitem';

/** The `workitem` event of /api/events. */
export interface WorkitemEvent {
  uid: string;
  state: string;
  label?: string;
  plugin?: string;
  study_instance_uid?: string;
  progress?: number;
  message?: string;
  reason?: string;
  updated_at?: number | string;
}

function instant(value: number | string | undefined): number {
  if (typeof value === 'number') return value < 1e11 ? value * 1000 : value;
  const parsed = value ? Date.parse(value) : Number.NaN;
  return Number.isNaN(parsed) ? Date.now() : parsed;
}

/** `before` after `event`: late and repeated events change nothing. */
export function applyEvent(before: Task | undefined, event: WorkitemEvent): Task | undefined {
  const state = asState(event.state);
  const updated = instant(event.updated_at);
  if (before && isOver(before) && !isOver({ state })) return undefined;
  if (before && before.state === state && updated < before.updated) return undefined;
  return {
    uid: event.uid,
    state,
    label: event.label || before?.label || '',
    plugin: event.plugin || before?.plugin || '',
    study: event.study_instance_uid || before?.study || '',
    patient: before?.patient ?? '',
    progress: state === 'COMPLETED' ? 100 : Math.min(100, Math.max(0, event.progress ?? before?.progress ?? 0)),
    message: event.message ?? before?.message ?? '',
    reason: event.reason || before?.reason || '',
    updated,
    outputs: before?.outputs ?? [],
  };
}

/** Running tasks first, then waiting ones, then what ended, newest first. */
export function inOrder(tasks: Iterable<Task>): Task[] {
  const rank = (task: Task) => (task.state === 'IN PROGRESS' ? 0 : task.state === 'SCHEDULED' ? 1 : 2);
  return [...tasks].sort((a, b) => rank(a) - rank(b) || b.updated - a.updated);
}

type Listener = () => void;

export class Tasks {
  private readonly known = new Map<string, Task>();
  private readonly listeners = new Set<Listener>();
  /** Plug-ins whose tasks nobody takes now. */
  unserved: ReadonlySet<string> = new Set();
  /** Called once when a task that was seen running has ended. */
  onEnded: (task: Task) => void = () => {};

  all(): Task[] {
    return inOrder(this.known.values());
  }

  of(study: string): Task[] {
    return this.all().filter((task) => task.study === study);
  }

  running(study?: string): number {
    return this.all().filter((task) => !isOver(task) && (!study || task.study === study)).length;
  }

  subscribe(listener: Listener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  private changed(): void {
    for (const listener of [...this.listeners]) listener();
  }

  async load(): Promise<void> {
    for (const ds of await findWorkitems()) {
      const task = readTask(ds);
      const known = this.known.get(task.uid);
      if (task.uid && (!known || !isOver(known) || isOver(task))) this.keep(task);
    }
    if (this.all().some((task) => task.state === 'SCHEDULED'))
      this.unserved = await unservedPlugins().catch(() => new Set<string>());
    this.changed();
  }

  private keep(task: Task): void {
    const before = this.known.get(task.uid);
    this.known.set(task.uid, { ...task, patient: task.patient || before?.patient || '' });
    if (before && !isOver(before) && isOver(task)) void this.ended(task);
  }

  /** The whole Workitem, for the outputs and reasons that events do not carry. */
  async refresh(uid: string): Promise<Task | undefined> {
    const ds = (await workitem(uid))[0];
    if (!ds) return this.known.get(uid);
    const task = { ...readTask(ds), uid };
    this.known.set(uid, { ...task, reason: task.reason || this.known.get(uid)?.reason || '' });
    this.changed();
    return this.known.get(uid);
  }

  private async ended(task: Task): Promise<void> {
    const whole = await this.refresh(task.uid).catch(() => undefined);
    this.onEnded(whole ?? task);
  }

  receive(event: WorkitemEvent): void {
    if (!event?.uid) return;
    const task = applyEvent(this.known.get(event.uid), event);
    if (!task) return;
    this.keep(task);
    this.changed();
  }

  /** A task that this page has just asked for. */
  add(task: Task): void {
    if (!this.known.has(task.uid)) this.known.set(task.uid, task);
    this.changed();
  }

  cancel(uid: string): Promise<void> {
    return cancelWorkitem(uid);
  }
}
