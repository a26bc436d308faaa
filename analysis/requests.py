"""Requests for an analysis, judged when they come in: parameters that the plug-in takes, or a refusal in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from analysis.api import NotAnalysable
from analysis.registry import Registry
from pacs.dicom import ups, ups_task
from pacs.errors import InvalidInput


class Requests:
    """Judges Workitems that are requested; the plug-ins are looked for when the first one is."""

    def __init__(self, load: Callable[[], Registry] = Registry.load) -> None:
        self._registry = cache(load)

    def judge(self, attributes: Mapping[str, Any]) -> None:
        """Nothing, or InvalidInput for a request that a plug-in of this installation would never take.

        What asks for something that is not installed here is for somebody else: a worker elsewhere may have it.
        """
        plugin = ups_task.plugin_of(attributes)
        if plugin is None:
            return
        installed = self._registry().get(plugin)
        if installed is None:
            return
        parameters = ups_task.parameters_of(attributes)
        try:
            installed.params(parameters)
        except NotAnalysable as error:
            raise InvalidInput(str(error), about=ups.PARAMETERS_SEQUENCE) from None
