"""One task from claim to end: inputs fetched, the plug-in run in a child process, results filed with the completion.

The lease is kept by a thread of its own, so that neither a slow store nor a busy plug-in loses it. Every way a task
can end is a Workitem in a final state with a reason that a person can read, or one that another worker takes over.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from sqlalchemy import select

from analysis.api import Manifest, NotAnalysable
from analysis.assign import assigned
from analysis.devices import Device
from analysis.process import Child, Limits, TaskFailed, TaskLost, TaskStopped
from analysis.registry import Installed, Registry, job_key
from pacs.auth import ALL_RIGHTS, SYSTEM, Principal
from pacs.dicom import ups_task
from pacs.dicom.ups_task import References
from pacs.errors import (
    ArchiveError,
    DuplicateInstance,
    InvalidInput,
    NotFound,
    OutOfResources,
    StateConflict,
    Unavailable,
)
from pacs.index import schema

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.ingest import Prepared
    from pacs.leases import Claim
    from pacs.retrieve import InstanceLocation

log = logging.getLogger("m3dicom.runner")

LOOK_S = 0.25  # how often a worker asks whether its task was cancelled
MAX_WARM = 2  # child processes a runner keeps for the next task of their plug-in

Outcome = Literal["completed", "cancelled", "refused", "failed", "retried", "handed back", "lost"]
"""How a run ended. "lost": another worker has the Workitem, or somebody cancelled it while results were filed."""


class LeaseKeeper:
    """A thread that keeps one lease: heartbeats, progress on its way out, cancellation on its way in."""

    def __init__(self, archive: Archive, claim: Claim) -> None:
        self._worklist = archive.worklist
        self._claim = claim
        self._latest = (0.0, "")
        self._end = threading.Event()
        self.verdict: Literal["continue", "cancel", "lost"] = "continue"
        self._thread = threading.Thread(target=self._run, name=f"lease-{claim.uid[-8:]}", daemon=True)
        self._thread.start()

    def report(self, progress: float, message: str) -> None:
        """Note the latest progress (0 to 1); it goes out with the next look."""
        self._latest = (progress, message)

    def close(self) -> None:
        """Stop keeping it."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        every = self._claim.lease_s / 3
        sent, last = (0.0, ""), time.monotonic()
        while not self._end.wait(min(LOOK_S, every)):
            latest, now = self._latest, time.monotonic()
            try:
                if latest != sent or now - last >= every:
                    self.verdict = self._worklist.heartbeat(self._claim, time.time(), *latest)
                    sent, last = latest, now
                else:
                    self.verdict = self._worklist.verdict(self._claim)
            except ArchiveError as error:
                log.warning("Workitem %s: heartbeat failed: %s", self._claim.uid, error)
                if now - last > self._claim.lease_s:
                    self.verdict = "lost"  # by now somebody else may have it
            if self.verdict != "continue":
                return


@dataclass(frozen=True)
class _Chosen:
    """The instances that one input of the plug-in gets."""

    name: str
    locations: tuple[InstanceLocation, ...]


class Runner:
    """Runs claimed tasks, one at a time, with warm child processes. Belongs to one thread."""

    def __init__(self, archive: Archive, registry: Registry, *, threads: int | None = None) -> None:
        self._archive = archive
        self._registry = registry
        self._threads = threads or max(1, (os.cpu_count() or 1) // max(1, archive.settings.workers))
        self._children: dict[tuple[str, str], Child] = {}
        self._device: Device | None = None
        self._scratch = archive.settings.data / "scratch" / str(os.getpid())

    @property
    def children(self) -> list[tuple[str, int]]:
        """Device and process id of each child process, at work or warm for the next task of its plug-in."""
        return [(device, child.pid) for (_, device), child in list(self._children.items())]

    def close(self) -> None:
        """End the child processes."""
        for child in self._children.values():
            child.close()
        self._children.clear()

    def run(self, claim: Claim, stop: threading.Event, device: Device | None = None) -> Outcome:
        """Do the task and end its Workitem; `stop` hands it back unfinished, for another worker to take.

        `device` is the GPU that is free for this task alone, None where it computes on the CPU or, with the setting
        "auto" or "gpu" and no device known, where the process finds out by itself.
        """
        self._device = device
        worklist = self._archive.worklist
        keeper = LeaseKeeper(self._archive, claim)
        log.info("Workitem %s: plug-in %s, attempt %d", claim.uid, claim.plugin, claim.attempt)
        try:
            self._perform(claim, keeper, stop)
            return "completed"
        except TaskStopped:
            log.info("Workitem %s: stopped", claim.uid)
            if keeper.verdict == "cancel":
                worklist.fail(claim, "cancelled on request", time.time())
                return "cancelled"
            if keeper.verdict == "continue":
                worklist.release(claim, time.time())
                return "handed back"
            return "lost"
        except TaskLost as error:
            log.warning("Workitem %s: %s", claim.uid, error)
            worklist.fail(claim, str(error), time.time(), retry=True, lost=True)
            return "retried"
        except (NotAnalysable, TaskFailed, InvalidInput) as error:
            reason = error.reason if isinstance(error, InvalidInput) else str(error)
            log.warning("Workitem %s: %s", claim.uid, type(error).__name__)
            worklist.fail(claim, reason, time.time(), refused=isinstance(error, NotAnalysable))
            return "refused" if isinstance(error, NotAnalysable) else "failed"
        except StateConflict:
            log.warning("Workitem %s: the lease was lost or the Workitem cancelled; nothing was filed", claim.uid)
            worklist.fail(claim, "cancelled on request", time.time())
            return "lost"
        except (Unavailable, OutOfResources) as error:
            log.warning("Workitem %s: %s", claim.uid, error)
            worklist.fail(claim, error.reason, time.time(), retry=True)
            return "retried"
        except ArchiveError as error:
            log.error("Workitem %s: %s", claim.uid, error)
            worklist.fail(claim, error.reason, time.time())
            return "failed"
        except Exception:
            log.exception("Workitem %s: the worker failed", claim.uid)
            worklist.fail(claim, "An internal error of the worker; its log tells more.", time.time())
            return "failed"
        finally:
            keeper.close()

    def _perform(self, claim: Claim, keeper: LeaseKeeper, stop: threading.Event) -> None:
        def check(progress: float, message: str) -> Literal["continue", "stop"]:
            keeper.report(progress, message)
            return "stop" if stop.is_set() or keeper.verdict != "continue" else "continue"

        def go_on() -> None:
            if stop.is_set() or keeper.verdict != "continue":
                raise TaskStopped

        installed = self._registry.get(claim.plugin)
        if installed is None:
            raise NotAnalysable(f"the plug-in {claim.plugin} is not installed here")
        manifest = installed.manifest
        params = installed.asked(claim.attributes)
        chosen = self._choose(manifest, ups_task.references_of(claim.attributes))
        digests = sorted(location.digest for each in chosen for location in each.locations)
        self._scratch.mkdir(parents=True, exist_ok=True)
        # What a killed command still writes must not decide how the task ends; `sweep` takes what is left.
        with tempfile.TemporaryDirectory(prefix="task-", dir=self._scratch, ignore_cleanup_errors=True) as folder:
            out = Path(folder) / "out"
            out.mkdir()
            task: dict[str, Any] = {
                "workitem_uid": claim.uid,
                "task_key": job_key(manifest, params, self._identities(chosen)),
                "params": params.model_dump(mode="json"),
                "input_digests": digests,
                "digests": {found.sop_instance_uid: found.digest for each in chosen for found in each.locations},
                "forms": list(self._archive.settings.result_forms),
                "when": claim.started,
                "out": str(out),
                "inputs": [{"name": each.name, "files": self._fetch(each, Path(folder), go_on)} for each in chosen],
            }
            wanted = manifest.resources
            limits = Limits(wanted.timeout_s, wanted.memory_mb, self._device, wanted.gpu_memory_mb)
            made = self._child(installed).run(task, limits, check)
            self._file(claim, made, go_on, manifest.version)

    def _child(self, installed: Installed) -> Child:
        """A warm process of that plug-in, or a new one; the oldest of the others goes when there are too many."""
        device = self._archive.settings.device if installed.manifest.resources.gpu else "cpu"
        if device != "cpu" and self._device is not None:
            device = self._device.id
        key = (installed.target, device)
        child = self._children.pop(key, None)
        if child is not None and not child.reusable:
            child.close()
            child = None
        while len(self._children) >= MAX_WARM:
            self._children.pop(next(iter(self._children))).close()
        if child is None:
            child = Child(installed.target, device, self._threads, version=installed.manifest.version)
        self._children[key] = child
        return child

    # Inputs

    def _choose(self, manifest: Manifest, references: Sequence[References]) -> list[_Chosen]:
        """The stored instances for each input, in the order of the manifest; none for one that it does without."""
        named = [sop for each in references for _, sop in each.instances[:1]]
        chosen = []
        for wanted, given in assigned(manifest, references, self._results_among(named)):
            locations = tuple(location for each in given for location in self._locate(each))
            if not locations and not wanted.optional:
                raise NotAnalysable("the input is empty")
            if wanted.load == "volume" and len({location.series_instance_uid for location in locations}) > 1:
                raise NotAnalysable("the input is more than one series; one is needed")
            chosen.append(_Chosen(wanted.name, locations))
        return chosen

    def _identities(self, chosen: Sequence[_Chosen]) -> list[str]:
        """What tells inputs apart for the task key: digests; of results of ours their UIDs, which derive from those.

        Of several inputs, all but the first have their name before it: two studies exchanged are another task.
        """
        ours = self._results_among(location.sop_instance_uid for each in chosen for location in each.locations)
        found = []
        for number, each in enumerate(chosen):
            for location in each.locations:
                uid = location.sop_instance_uid
                told = uid if uid in ours else location.digest
                found.append(f"{each.name}:{told}" if number else told)
        return sorted(found)

    def _locate(self, references: References) -> list[InstanceLocation]:
        try:
            found = self._archive.retrieve.locate(SYSTEM, references.study_instance_uid, references.series_instance_uid)
        except NotFound:
            raise NotAnalysable("the input is not (or no longer) stored here") from None
        if not references.instances:
            results = self._results_among(location.sop_instance_uid for location in found)
            return [location for location in found if location.sop_instance_uid not in results]
        named = {uid for _, uid in references.instances}
        found = [location for location in found if location.sop_instance_uid in named]
        if len(found) < len(named):
            raise NotAnalysable(f"{len(named) - len(found)} of {len(named)} input instances are not stored here")
        return found

    def _results_among(self, sop_instance_uids: Iterable[str]) -> dict[str, str]:
        """Those of the instances that are results of ours, with the plug-in that made them ("" where nobody knows)."""
        t, w = schema.instance.c, schema.workitem.c
        uids = list(sop_instance_uids)
        found: dict[str, str] = {}
        with self._archive.index.read() as conn:
            for start in range(0, len(uids), 500):
                wanted = (
                    select(t.sop_instance_uid, w.plugin)
                    .outerjoin_from(schema.instance, schema.workitem, w.uid == t.result_of)
                    .where(t.sop_instance_uid.in_(uids[start : start + 500]), t.result_of.is_not(None))
                )
                found.update({uid: plugin or "" for uid, plugin in conn.execute(wanted)})
        return found

    def _fetch(self, chosen: _Chosen, folder: Path, go_on: Any) -> list[str]:
        """The input as Part 10 files for the child: it reads files, and knows no store.

        They are as received: results carry that identity too, and get the corrections of the study on the way out.
        """
        paths = []
        for number, location in enumerate(chosen.locations):
            go_on()
            path = folder / f"{chosen.name}-{number:06d}.dcm"
            with path.open("wb") as file:
                for chunk in self._archive.retrieve.part10(location, as_received=True):
                    file.write(chunk)
            paths.append(str(path))
        return paths

    # Results

    def _file(self, claim: Claim, made: Sequence[dict[str, Any]], go_on: Any, version: str) -> None:
        """File the results and complete the Workitem in one transaction.

        Instances that are here already under their derived UIDs stay as they are: an earlier run made them. When one
        of them appears only now, by a run at the same time, the rest is filed without it.
        """
        if any(each["defects"] for each in made):
            self._hold_back(claim, [each for each in made if each["defects"]])
        outputs = ups_task.grouped([(m["study"], m["series"], m["sop_class"], m["sop_instance"]) for m in made])
        principal = Principal("m3dicom", "system", ALL_RIGHTS, claim.scope)
        for _ in range(3):
            prepared: list[Prepared] = []
            for each in made:
                go_on()
                one = self._prepare(Path(each["path"]), claim, principal)
                if one is not None:
                    prepared.append(one)
            try:
                self._archive.worklist.complete(
                    claim, outputs, time.time(), partial(self._archive.ingest.file, prepared), version=version
                )
            except DuplicateInstance:
                continue
            log.info("Workitem %s: completed with %d objects", claim.uid, len(made))
            return
        raise Unavailable("the results could not be filed beside those of another run")

    def _hold_back(self, claim: Claim, faulty: Sequence[dict[str, Any]]) -> NoReturn:
        """Quarantine results that did not pass their checks, each with its report, and fail the task in words."""
        principal = Principal("m3dicom", "system", ALL_RIGHTS, claim.scope)
        held = []
        for each in faulty:
            report = f"a result that did not pass its checks: {'; '.join(each['defects'])}"
            log.warning("Workitem %s: %s: %s", claim.uid, each["sop_instance"], report)
            try:
                prepared = self._prepare(Path(each["path"]), claim, principal)
            except ArchiveError as error:
                log.warning("Workitem %s: %s is not even kept aside: %s", claim.uid, each["sop_instance"], error.reason)
                continue
            if prepared is not None:
                held.append((prepared, report))
        self._archive.ingest.hold_back(held)
        raise TaskFailed(
            f"{len(faulty)} of the results did not pass their checks and are quarantined: {faulty[0]['defects'][0]}"
        )

    def _prepare(self, path: Path, claim: Claim, principal: Principal) -> Prepared | None:
        ingest = self._archive.ingest
        with ingest.receive_part10() as receiving, path.open("rb") as file:
            while chunk := file.read(1 << 20):
                receiving.write(chunk)
            try:
                return ingest.prepare(receiving, principal=principal, result_of=claim.uid)
            except DuplicateInstance:
                return None  # made by an earlier run of the same task: that one stays


_swept: set[Path] = set()


def sweep(scratch: Path) -> None:
    """Remove the scratch folders of processes of this host that are gone: a worker that was killed left them.

    The first time in a process also the folder of its own number: in a container the next process has the same one.
    """
    again = scratch in _swept
    _swept.add(scratch)
    for folder in scratch.glob("[0-9]*"):
        if not Path("/proc", folder.name).exists() or (folder.name == str(os.getpid()) and not again):
            shutil.rmtree(folder, ignore_errors=True)
