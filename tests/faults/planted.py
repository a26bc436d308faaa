"""The shape of a planted fault: its name, what it breaks, the checks that have to notice, and how it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from faults.breaking_proxy import NOTHING, Break
from pydicom import Dataset


@dataclass(frozen=True)
class Fault:
    """One thing that a server does wrong."""

    name: str
    checks: str
    """Ids of the checks that must fail, by commas."""
    how: Break = NOTHING
    back: Break = NOTHING
    """What is done to associations that the server opens."""
    objects: Callable[[list[Dataset]], object] | None = None
    """What is done to result objects before they are stored, for faults of these."""
    absent: bool = False
    """Whether the good server has nothing that the check could judge, and only the fault makes it do so."""
    ground: Break = NOTHING
    """What gives the good server a service that it lacks, in good order; `how` then has the service and the fault."""
