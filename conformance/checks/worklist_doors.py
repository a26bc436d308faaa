"""One worklist behind two doors: Workitems of DIMSE are seen and led over HTTP, and the other way (PS3.4 CC.1)."""

from __future__ import annotations

from pydicom import Dataset

from conformance.ae import BOTH, Entity
from conformance.check import Level, check
from conformance.checks.dimse_ups import CLASSES, PULL, PUSH, Steps, fresh, performed, workitem
from conformance.context import Context
from conformance.pdu import Context as Proposed
from conformance.worklist import change, claimed, create, final, served, state_of, update


@check("H44", "PS3.4 CC.1, PS3.18 11.1", "a Workitem of one door is seen and led through the other",
       Level.CONDITIONAL, service="UPS-RS", needs="dicomweb,dimse")  # fmt: skip
def both_doors(c: Context) -> None:
    served(c)
    entity = Entity(c)
    with entity.open(*[Proposed(each, BOTH) for each in CLASSES]) as assoc:
        for each in (PUSH, PULL):
            assoc.context(each)
        steps = Steps(entity, assoc)
        there, transaction = fresh(), fresh()
        entity.status(steps.create(workitem(c), there), 0, 0xB300)
        c.workitems.add(there)
        c.expect_equal("state over HTTP of what N-CREATE made", state_of(c, there), "SCHEDULED")
        c.expect_status(change(c, there, "IN PROGRESS", transaction), 200)
        steps.is_in(there, "IN PROGRESS")
        entity.status(steps.set(there, performed(), transaction), 0)
        c.expect_status(change(c, there, "COMPLETED", transaction), 200)
        steps.is_in(there, "COMPLETED")

        here, _ = create(c, "both doors"), None
        steps.is_in(here, "SCHEDULED")
        own = fresh()
        entity.status(steps.state(here, "IN PROGRESS", own), 0)
        c.expect_equal("state over HTTP of what N-ACTION claimed", state_of(c, here), "IN PROGRESS")
        c.expect_status(update(c, here, final(c), own), 200)
        entity.status(steps.state(here, "COMPLETED", own), 0)
        c.expect_equal("state over HTTP of what N-ACTION completed", state_of(c, here), "COMPLETED")

        guarded, _ = claimed(c, "both doors guarded")
        entity.status(steps.set(guarded, Dataset(), fresh()), 0xC301)
