"""How many workers a plug-in should have: a function of its queue, for `m3dicom scale` and for hooks of others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pacs.workforce import Queued


@dataclass(frozen=True)
class Policy:
    """When there are too few workers for a plug-in, and when too many.

    per_worker: tasks, waiting or running, that one worker is enough for; oldest_s: a task that waits longer asks for
    one worker more; idle_s: so long nothing may have waited before a worker is sent home; least and most: of workers.
    """

    per_worker: int = 4
    oldest_s: float = 60.0
    idle_s: float = 60.0
    least: int = 0
    most: int = 4


def wanted(queue: Queued, have: int, calm_s: float, policy: Policy) -> int:
    """The number of workers to have now; `calm_s` is how long nothing has waited for this plug-in.

    Grows at once to what the queue needs, and by one more for each round in which a task waits too long. Shrinks only
    after a calm, and never below what the running tasks keep busy.
    """
    # Where there are workers and none of them takes a task, for its version, more of them would not help it.
    waiting = queue.waiting - (queue.stranded if queue.posts else 0)
    needed = math.ceil((waiting + queue.running) / max(1, policy.per_worker))
    if waiting and queue.oldest_s > policy.oldest_s:
        needed = max(needed, have + 1)
    if needed < have:
        needed = max(needed, queue.running) if calm_s >= policy.idle_s else have
    return min(max(needed, policy.least), policy.most)
