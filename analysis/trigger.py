"""From news to work: for each study that has become stable, one Workitem per plug-in, version, parameters and input.

Reads `change` from the durable cursor "trigger". Whatever happens twice makes nothing twice: a Workitem's UID and task
key derive from its inputs. A late instance changes the inputs, so a new Workitem is made that supersedes the old one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from analysis.api import Manifest
from analysis.matching import Match, candidates, tasks
from analysis.registry import Installed, Registry, job_key
from pacs import uids
from pacs.auth import SYSTEM, Principal
from pacs.dicom import ups_task
from pacs.errors import ArchiveError

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.index.workitems import WorkitemRow

log = logging.getLogger("m3dicom.trigger")

CURSOR = "trigger"
BATCH = 1000


class Trigger:
    """Turns stable studies into Workitems."""

    def __init__(self, archive: Archive, registry: Registry) -> None:
        self._archive = archive
        self._registry = registry

    def step(self, now: float | None = None) -> int:
        """Handle what is new; how many Workitems were made. Safe to run in several processes at once."""
        made = 0
        changes = self._archive.changes
        more = True
        while more:  # until the end is reached, not until nothing new comes meanwhile
            batch = changes.after(changes.cursor(CURSOR), BATCH)
            if not batch:
                break
            more = len(batch) == BATCH
            studies = {c.study_instance_uid: c.scope for c in batch if c.kind == "stable" and c.study_instance_uid}
            for study, scope in studies.items():
                made += len(self.plan(study, replace(SYSTEM, scope=scope), time.time() if now is None else now))
            self._archive.index.transact(partial(changes.advance, name=CURSOR, seq=batch[-1].seq))
        return made

    def plan(self, study_instance_uid: str, principal: Principal, now: float) -> list[str]:
        """Make the Workitems that the study's instances ask for and that are not there yet; their UIDs."""
        made = []
        found = candidates(self._archive.index, study_instance_uid, principal)
        for installed in self._registry:
            if not installed.manifest.auto:
                continue
            for inputs in tasks(installed.manifest, found):
                try:
                    uid = self._create(installed, inputs, principal, now)
                except ArchiveError as error:
                    log.error("no Workitem for plug-in %s on study %s: %s", installed.id, study_instance_uid, error)
                    continue
                if uid is not None:
                    made.append(uid)
        return made

    def _create(self, installed: Installed, inputs: Sequence[Match], principal: Principal, now: float) -> str | None:
        worklist = self._archive.worklist
        manifest, params = installed.manifest, installed.params({})
        key = job_key(manifest, params, [each.digest for match in inputs for each in match.instances])
        known = worklist.of_plugin(manifest.id, inputs[0].instances[0].study_instance_uid)
        if any(row.task_key == key for row in known):
            return None
        older = [row for row in known if same_target(manifest, row, inputs)]
        attributes = ups_task.build(
            plugin=manifest.id,
            title=manifest.title,
            label=f"{manifest.title}: {inputs[0].label}",
            parameters=installed.written(params),
            inputs=[reference for match in inputs for reference in match.references],
            patient=inputs[0].instances[0].corrected,
            now=now,
            replaces=older[-1].uid if older else None,
        )
        uid = worklist.create(attributes, uids.derived("workitem", key), principal, task=key)
        for row in older:
            if not row.state.final:
                worklist.supersede(row.uid, uid)
        log.info("Workitem %s made for plug-in %s %s", uid, manifest.id, manifest.version)
        return uid


def same_target(manifest: Manifest, row: WorkitemRow, inputs: Sequence[Match]) -> bool:
    """Whether an older Workitem of the plug-in worked on the same study, series or instance as `inputs` do."""
    references = ups_task.references_of(row.attributes)
    if not references:
        return False
    match manifest.inputs[0].level:
        case "study":
            target: str | None = references[0].study_instance_uid
        case "series":
            target = references[0].series_instance_uid
        case _:
            target = references[0].instances[0][1] if references[0].instances else None
    return target == inputs[0].target
