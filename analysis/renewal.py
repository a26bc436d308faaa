"""What waits for a version of a plug-in that no worker has any more is made again, for the version that is here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from analysis.registry import Registry
from analysis.rules import Rules
from pacs.dicom import ups_task
from pacs.index import waiting, workitems

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.index.workitems import WorkitemRow
    from pacs.workforce import Workforce

log = logging.getLogger("m3dicom.trigger")

EVERY_S = 30.0
AT_ONCE = 1000

Again = Callable[[str, str, str, float], int]
"""Lets the rule of a name look at a study, or at the results of a Workitem of it, at a time; how many it made."""


class Renewal:
    """Looks now and then for tasks that an upgrade has left behind."""

    def __init__(self, archive: Archive, registry: Registry, rules: Rules, workforce: Workforce, again: Again) -> None:
        self._archive = archive
        self._registry = registry
        self._rules = rules
        self._workforce = workforce
        self._again = again
        self._looked_at = 0.0

    def step(self, now: float) -> int:
        """Make again, for the version that is here, what was made for one that no worker has; how many were made.

        Only where a worker has the version that is here: servers with different ones leave each other's tasks alone.
        """
        if abs(now - self._looked_at) < EVERY_S:
            return 0
        self._looked_at = now
        with self._archive.index.read() as conn:
            lanes = waiting.lanes(conn)
        here = {each.id: each.manifest.version for each in self._registry}
        others = [lane for lane in lanes if lane[1] and here.get(lane[0], lane[1]) != lane[1]]
        posts = self._workforce.present(now) if others else ()
        made = 0
        for plugin, version in others:
            taken = any(post.takes(plugin, version) for post in posts)
            if taken or not any(post.takes(plugin, here[plugin]) for post in posts):
                continue
            with self._archive.index.read() as conn:
                rows = waiting.stranded(conn, (plugin, version), AT_ONCE)
            log.info("plug-in %s: %d tasks wait for version %s, which no worker has", plugin, len(rows), version)
            for rule, study, built_on in dict.fromkeys((r.rule, r.study_instance_uid, self._built_on(r)) for r in rows):
                if rule is not None and study is not None:
                    made += self._again(rule, study, built_on, now)
        return made

    def _built_on(self, row: WorkitemRow) -> str:
        """The Workitem whose results a task works on, "" where it works on what arrived."""
        rule = self._rules.get(row.rule or "")
        if rule is None or not rule.results_of:
            return ""
        named = [sop for each in ups_task.references_of(row.attributes) for _, sop in each.instances][:1]
        with self._archive.index.read() as conn:
            return next(iter(workitems.owners(conn, named)), "")
