"""Requests for an analysis, judged when they come in: parameters that the plug-in takes, or a refusal in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from analysis.api import NotAnalysable
from analysis.registry import Installed, Registry
from pacs.dicom import ups, ups_task
from pacs.errors import InvalidInput
from pacs.worklist import Hold

REQUESTS = "requests: "
"""What comes before the id of a plug-in in the name of the rule that looks after requests for it."""


class Requests:
    """Judges Workitems that are requested; the plug-ins are looked for when the first one is."""

    def __init__(self, load: Callable[[], Registry] = Registry.load) -> None:
        self._registry = cache(load)

    def judge(self, attributes: Mapping[str, Any]) -> Hold | None:
        """What a request has to wait for, None for nothing. Raises InvalidInput for what would never be taken.

        What asks for something that is not installed here is for somebody else: a worker elsewhere may have it.
        """
        plugin = ups_task.plugin_of(attributes)
        if plugin is None:
            return None
        installed = self._registry().get(plugin)
        if installed is None:
            return None
        try:
            installed.asked(attributes)
        except NotAnalysable as error:
            raise InvalidInput(str(error), about=ups.PARAMETERS_SEQUENCE) from None
        study = _lacks_prior(installed, attributes)
        if not study:
            return None
        return Hold(REQUESTS + installed.id, study, "earlier studies are looked for")


def _lacks_prior(installed: Installed, attributes: Mapping[str, Any]) -> str | None:
    """The study of a request that says that it is READY and names no other one, to a plug-in that takes an earlier."""
    ready = ups.value(attributes, ups.INPUT_READINESS_STATE) == "READY"
    if not ready or not any(wanted.prior for wanted in installed.manifest.inputs):
        return None
    studies = {each.study_instance_uid for each in ups_task.references_of(attributes)}
    return studies.pop() if len(studies) == 1 else None
