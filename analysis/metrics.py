"""What a process counts of its tasks, and the text in which Prometheus reads it (exposition format 0.0.4).

Names and plug-in ids only: nothing here tells of patients, studies or instances.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.worker import Worker
    from pacs.workforce import Queued, Workforce

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)


class TaskMetrics:
    """Runs of tasks that ended in this process, by plug-in and outcome. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._seconds: Counter[str] = Counter()
        self._buckets: Counter[tuple[str, float]] = Counter()

    def ended(self, plugin: str, outcome: str, seconds: float) -> None:
        """Count one run."""
        with self._lock:
            self._outcomes[plugin, outcome] += 1
            self._seconds[plugin] += seconds  # type: ignore[assignment]
            for bucket in BUCKETS_S:
                self._buckets[plugin, bucket] += seconds <= bucket

    def counts(self) -> dict[str, int]:
        """Runs by outcome, over all plug-ins."""
        with self._lock:
            found: Counter[str] = Counter()
            for (_, outcome), number in self._outcomes.items():
                found[outcome] += number
            return dict(found)

    def families(self) -> Iterator[Family]:
        """The counters and the histogram."""
        with self._lock:
            outcomes, seconds, buckets = Counter(self._outcomes), Counter(self._seconds), Counter(self._buckets)
        yield Family(
            "m3dicom_task_runs_total", "counter", "Runs of tasks that ended in this process, by how they ended.",
            [({"plugin": plugin, "outcome": outcome}, n) for (plugin, outcome), n in sorted(outcomes.items())],
        )  # fmt: skip
        name = "m3dicom_task_run_seconds"
        samples: list[Sample] = []
        for plugin in sorted(seconds):
            runs = sum(n for (of, _), n in outcomes.items() if of == plugin)
            for bucket in BUCKETS_S:
                samples.append(({"plugin": plugin, "le": f"{bucket:g}"}, buckets[plugin, bucket], "_bucket"))
            samples.append(({"plugin": plugin, "le": "+Inf"}, runs, "_bucket"))
            samples.append(({"plugin": plugin}, seconds[plugin], "_sum"))
            samples.append(({"plugin": plugin}, runs, "_count"))
        yield Family(name, "histogram", "How long these runs took, from claim to end.", samples)


Sample = tuple[Mapping[str, str], float] | tuple[Mapping[str, str], float, str]
"""Labels, value, and what is added to the name of the family."""


class Family:
    """One metric: its name, type and help, and its samples."""

    def __init__(self, name: str, kind: str, told: str, samples: Iterable[Sample]) -> None:
        self.name, self.kind, self.told, self.samples = name, kind, told, list(samples)

    def lines(self) -> Iterator[str]:
        """Its part of the text; nothing where there are no samples."""
        if not self.samples:
            return
        yield f"# HELP {self.name} {self.told}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value, *more in self.samples:
            inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            yield (
                f"{self.name}{''.join(map(str, more))}{{{inner}}} {value:.10g}"
                if inner
                else f"{self.name} {value:.10g}"
            )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def text(families: Iterable[Family]) -> str:
    """All of it, as Prometheus reads it."""
    return "".join(f"{line}\n" for family in families for line in family.lines())


def of_queues(queues: Iterable[Queued]) -> Iterator[Family]:
    """What waits and runs, over all workers: the truth of the database, the same from every process."""
    found = list(queues)

    def gauge(name: str, told: str, values: Iterable[float]) -> Family:
        samples = [({"plugin": each.plugin}, value) for each, value in zip(found, values, strict=True)]
        return Family(f"m3dicom_tasks_{name}", "gauge", told, samples)

    yield gauge("waiting", "Tasks that a worker could take now.", (each.waiting for each in found))
    yield gauge("oldest_waiting_seconds", "How long the oldest of them has waited.", (each.oldest_s for each in found))
    yield gauge("later", "Tasks that are not due, or whose inputs are not ready.", (each.later for each in found))
    yield gauge("running", "Tasks that a worker has.", (each.running for each in found))
    yield gauge("dead", "Tasks that were given up after their last attempt.", (each.dead for each in found))
    yield gauge("workers", "Worker processes that take these tasks.", (len(each.posts) for each in found))
    yield gauge("stranded", "Tasks that wait and that none of the workers can take.", (each.stranded for each in found))


def of_worker(worker: Worker) -> Iterator[Family]:
    """What this process does itself."""
    yield from worker.metrics.families()
    yield Family(
        "m3dicom_worker_slots", "gauge", "Tasks that this process does at one time.", [({}, worker.post.slots)]
    )
    yield Family("m3dicom_worker_children", "gauge", "Warm processes that plug-ins run in.", [({}, worker.warm)])
    states = worker.states
    yield Family(
        "m3dicom_gpu_busy", "gauge", "Whether a task of this process has the device.",
        [({"device": device.id}, float(busy)) for device, busy, _ in states],
    )  # fmt: skip
    yield Family(
        "m3dicom_gpu_memory_bytes", "gauge", "Size of the device's memory.",
        [({"device": device.id}, device.memory_mb << 20) for device, _, _ in states],
    )  # fmt: skip
    yield Family(
        "m3dicom_gpu_memory_used_bytes", "gauge", "What processes of this worker have taken of it.",
        [({"device": device.id}, used_mb << 20) for device, _, used_mb in states],
    )  # fmt: skip


def exposition(workforce: Workforce, worker: Worker, now: float) -> str:
    """The whole text of a process. Raises Unavailable where the database cannot be asked."""
    return text([*of_queues(workforce.queues(now)), *of_worker(worker)])
