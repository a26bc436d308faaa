"""C-GET and C-MOVE of Query/Retrieve (PS3.4 C.4.2, C.4.3): L01 to L12."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from conformance import pdu
from conformance.ae import BOTH, STUDY_GET, STUDY_MOVE, Entity, Held, held, identifier
from conformance.check import Level, check
from conformance.context import Context
from conformance.data import CT, MR, Sample
from conformance.dimse import VERIFICATION, Message, decode
from conformance.pdu import Context as Proposed
from conformance.scp import Arrived, Listener, Manners

rule = partial(check, service="Retrieve", needs="dimse")

COUNTS = {
    "completed": "NumberOfCompletedSuboperations", "failed": "NumberOfFailedSuboperations",
    "warning": "NumberOfWarningSuboperations", "remaining": "NumberOfRemainingSuboperations",
}  # fmt: skip
FAILURES = (0xA701, 0xA702, 0xA801, 0xA900, 0xA700, range(0xC000, 0xD000))


def start(run: Context, model: str) -> tuple[Entity, Held]:
    """The server and its data. Raises NotSupported where it does not have the service."""
    entity = Entity(run)
    with entity.open(model, VERIFICATION) as assoc:
        assoc.context(model)
    data = held(entity)
    entity.target.said.clear()
    return entity, data


class Got:
    """What came of a C-GET or C-MOVE: the responses, and the instances that were sent."""

    def __init__(self) -> None:
        self.responses: list[Message] = []
        self.stores: list[Message] = []

    @property
    def final(self) -> Message:
        """The last response."""
        return self.responses[-1]

    @property
    def instances(self) -> list[str]:
        """The SOP Instance UIDs that were sent, sorted."""
        return sorted(str(each.fields.get("AffectedSOPInstanceUID")) for each in self.stores)


def counted(entity: Entity, message: Message, **counts: int) -> None:
    """Judge the counts of sub-operations in a response; one that is absent is a zero."""
    for name, wanted in counts.items():
        got = message.number(COUNTS[name])
        entity.expect(f"{wanted} {name} sub-operations", (got or 0) == wanted, got)


def get(entity: Entity, level: str | None, *, status: Callable[[Message], int] = lambda _: 0,
        offered: dict[str, tuple[str, ...]] | None = None, **keys: Any) -> Got:  # fmt: skip
    """A C-GET, with the suite as SCP of what is offered (SOP classes and their transfer syntaxes)."""
    got = Got()
    offered = offered or {CT: BOTH, MR: BOTH}
    storage = [Proposed(uid, syntaxes, scu=False, scp=True) for uid, syntaxes in offered.items()]
    with entity.open(STUDY_GET, *storage) as assoc:

        def take(message: Message) -> None:
            got.stores.append(message)
            assoc.answer(message, status(message))

        assoc.on_request = take
        got.responses = list(assoc.request("C-GET", STUDY_GET, identifier(level, keys)))
    return got


def uids(samples: list[Sample]) -> list[str]:
    """Their SOP Instance UIDs, sorted."""
    return sorted(each.instance for each in samples)


def transferred(entity: Entity, sample: Sample, message: Message) -> None:
    """Judge that a data set came across whole."""
    ds = decode(message.raw or b"", message.transfer_syntax)
    wrong = [
        element.keyword for element in sample.dataset
        if element.VR != "SQ" and (element.tag not in ds or ds[element.tag].value != element.value)
    ]  # fmt: skip
    entity.expect("every element as it was stored", not wrong, wrong)


@rule("L10", "PS3.4 C.4.3, PS3.7 9.1.3", "C-GET brings the study on the same association", Level.CONDITIONAL)
def get_study(run: Context) -> None:
    entity, data = start(run, STUDY_GET)
    got = get(entity, "STUDY", StudyInstanceUID=data.study("one"))
    entity.status(got.final, 0)
    entity.expect("each instance once", got.instances == uids(data.of("one")), f"{len(got.stores)} C-STORE requests")
    counted(entity, got.final, completed=5, failed=0, warning=0)
    for each in got.stores:
        good = each.name == "C-STORE-RQ" and each.raw and not each.faults
        entity.expect("a well-formed C-STORE-RQ with a data set", good, each.faults)
    for each in got.responses[:-1]:
        entity.expect("pending: FF00H", each.status == 0xFF00, each)
    left = got.final.number(COUNTS["remaining"])
    entity.expect("no Remaining in a final response (PS3.7 9.1.3.1.7)", left in (None, 0), left)
    sample = data.of("one", "ct")[0]
    for each in got.stores:
        if each.fields.get("AffectedSOPInstanceUID") == sample.instance:
            transferred(entity, sample, each)


@rule("L10a", "PS3.4 C.4.3", "C-GET at SERIES, and of a UID list at IMAGE", Level.CONDITIONAL)
def get_levels(run: Context) -> None:
    entity, data = start(run, STUDY_GET)
    study, series = data.study("one"), data.series("one", "ct")
    got = get(entity, "SERIES", StudyInstanceUID=study, SeriesInstanceUID=series)
    entity.status(got.final, 0)
    entity.expect("the three of the series", got.instances == uids(data.of("one", "ct")), len(got.stores))
    wanted = uids(data.of("one", "ct"))[:2]
    got = get(entity, "IMAGE", StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID=wanted)
    entity.status(got.final, 0)
    entity.expect("the two that were named", got.instances == wanted, len(got.stores))


@rule("L11", "PS3.4 C.4.3.2", "What the requester does not take fails alone, and the rest comes", Level.CONDITIONAL)
def get_some(run: Context) -> None:
    entity, data = start(run, STUDY_GET)
    got = get(entity, "STUDY", offered={CT: BOTH}, StudyInstanceUID=data.study("one"))
    entity.expect("the three CTs", got.instances == uids(data.of("one", "ct")), len(got.stores))
    _partly(entity, got, 3, data.of("one", "mr"))


def _refusing(bad: Sample) -> Callable[[Message], int]:
    """Out of resources for one instance, success for all others."""
    return lambda message: 0xA700 if message.fields.get("AffectedSOPInstanceUID") == bad.instance else 0


def _partly(entity: Entity, got: Got, completed: int, failed: list[Sample]) -> None:
    entity.status(got.final, 0xB000)
    counted(entity, got.final, completed=completed, failed=len(failed))
    value = got.final.dataset().get("FailedSOPInstanceUIDList") or []
    listed = [value] if isinstance(value, str) else list(value)
    entity.expect("Failed SOP Instance UID List names them", sorted(map(str, listed)) == uids(failed), listed)


@rule("L11a", "PS3.4 C.4.3.1.4", "What the requester answers with a failure is counted and listed", Level.CONDITIONAL)
def get_refused(run: Context) -> None:
    entity, data = start(run, STUDY_GET)
    bad = data.of("one", "ct")[1]
    got = get(entity, "STUDY", status=_refusing(bad), StudyInstanceUID=data.study("one"))
    entity.expect("all five are sent", len(got.stores) == 5, len(got.stores))
    _partly(entity, got, 4, [bad])


@rule("L12", "PS3.4 C.4.3, PS3.5 10.1", "An instance goes out in the transfer syntax of its context", Level.CONDITIONAL)
def get_syntaxes(run: Context) -> None:
    entity, data = start(run, STUDY_GET)
    sample = data.of("two")[0]
    for syntax in (pdu.IMPLICIT, pdu.EXPLICIT):
        got = get(entity, "STUDY", offered={CT: (syntax,)}, StudyInstanceUID=data.study("two"))
        if not entity.expect("it is sent", got.instances == [sample.instance], len(got.stores)):
            continue
        transferred(entity, sample, got.stores[0])


@rule("L05", "PS3.4 C.4.3.1.4", "C-GET of nothing sends nothing and ends well", Level.ROBUSTNESS)
def get_nothing(run: Context) -> None:
    entity, _ = start(run, STUDY_GET)
    got = get(entity, "STUDY", StudyInstanceUID="2.25.1")
    entity.expect("nothing is sent", not got.stores, len(got.stores))
    entity.status(got.final, 0)
    counted(entity, got.final, completed=0, failed=0, warning=0)


@rule(
    "L06",
    "PS3.4 C.4.3.1.3",
    "C-GET without a unique key or level is refused, and does not send the archive",
    Level.CONDITIONAL,
)
def get_everything(run: Context) -> None:
    entity, data = start(run, STUDY_GET)
    wrong: tuple[tuple[str | None, dict[str, Any]], ...] = (
        ("STUDY", {}),
        (None, {"StudyInstanceUID": data.study("two")}),
    )
    for level, keys in wrong:
        got = get(entity, level, **keys)
        entity.expect("nothing is sent", not got.stores, len(got.stores))
        entity.status(got.final, *FAILURES)


@rule("L08", "PS3.4 C.4.3.1.4, PS3.7 9.3.3.3", "C-CANCEL ends a C-GET, and its counts add up", Level.CONDITIONAL)
def get_cancelled(run: Context) -> None:
    entity, data = start(run, STUDY_GET)
    got = Got()
    with entity.open(STUDY_GET, *[Proposed(uid, BOTH, scu=False, scp=True) for uid in (CT, MR)]) as assoc:

        def take(message: Message) -> None:
            if not got.stores:
                assoc.cancel(STUDY_GET)
            got.stores.append(message)
            assoc.answer(message, 0)

        assoc.on_request = take
        sent = identifier("STUDY", {"StudyInstanceUID": data.study("one")})
        got.responses = list(assoc.request("C-GET", STUDY_GET, sent))
    entity.status(got.final, 0xFE00, 0x0000)  # it may have been over before
    done, left = (got.final.number(COUNTS[name]) or 0 for name in ("completed", "remaining"))
    entity.expect("as many completed as were sent", done == len(got.stores), f"{done} of {len(got.stores)}")
    if got.final.status == 0xFE00 and got.final.number(COUNTS["remaining"]) is not None:
        entity.expect("completed and remaining are the five", done + left == 5, f"{done} and {left}")


@contextmanager
def manners(listener: Listener, **wanted: Any) -> Iterator[None]:
    """The suite's SCP with other manners for a while."""
    before, listener.manners = listener.manners, Manners(**wanted)
    try:
        yield
    finally:
        listener.manners = before


def _title(entity: Entity) -> str:
    """The destination. Raises NotApplicable where none was given."""
    assert entity.listener.port
    return entity.title


def move(entity: Entity, level: str, destination: str, **keys: Any) -> tuple[Got, list[Arrived], int]:
    """A C-MOVE: what was answered, what arrived at the suite's SCP, and the Message ID."""
    got = Got()
    listener = entity.listener if destination == entity.title else None
    mark = listener.mark() if listener else 0
    with entity.open(STUDY_MOVE) as assoc:
        sent = identifier(level, keys)
        got.responses = list(assoc.request("C-MOVE", STUDY_MOVE, sent, MoveDestination=destination))
        number = assoc.last_id
    arrived = listener.wait(lambda new: True, mark) if listener else []
    arrived = [each for each in arrived if each.message.name == "C-STORE-RQ"]
    got.stores = [each.message for each in arrived]
    return got, arrived, number


@rule("L01", "PS3.4 C.4.2, PS3.7 9.1.4", "C-MOVE sends the study to the destination, and counts it", Level.CONDITIONAL)
def move_study(run: Context) -> None:
    entity, data = start(run, STUDY_MOVE)
    got, _, _ = move(entity, "STUDY", _title(entity), StudyInstanceUID=data.study("one"))
    entity.status(got.final, 0)
    entity.expect("each instance arrives once", got.instances == uids(data.of("one")), f"{len(got.stores)} arrived")
    counted(entity, got.final, completed=5, failed=0, warning=0)
    for each in got.responses:
        known = [each.number(COUNTS[name]) or 0 for name in COUNTS]
        entity.expect("no response counts more than there are", sum(known) <= 5, known)
    sample = data.of("one", "ct")[0]
    for each in got.stores:
        if each.fields.get("AffectedSOPInstanceUID") == sample.instance:
            transferred(entity, sample, each)


@rule("L02", "PS3.4 table C.4-2", "C-MOVE to an AE that nobody knows: A801H", Level.CONDITIONAL)
def move_nowhere(run: Context) -> None:
    entity, data = start(run, STUDY_MOVE)
    got, _, _ = move(entity, "STUDY", "ZZNOWHERE", StudyInstanceUID=data.study("two"))
    entity.status(got.final, 0xA801)


@rule("L03", "PS3.4 table C.4-2", "C-MOVE to who takes nothing does not end in success", Level.CONDITIONAL)
def move_refused(run: Context) -> None:
    entity, data = start(run, STUDY_MOVE)
    with manners(entity.listener, transfer_syntaxes=("2.25.1",)):
        got, _, _ = move(entity, "STUDY", entity.title, StudyInstanceUID=data.study("one"))
    entity.status(got.final, *FAILURES, 0xB000)
    entity.expect("nothing arrives", not got.stores, len(got.stores))
    failed = got.final.number(COUNTS["failed"])  # need not be there (PS3.7 9.1.4.1.9)
    entity.expect("five failed, where they are counted", failed in (None, 5), failed)


@rule("L04", "PS3.4 C.4.2.1.4, C.4.2.1.5", "Sub-operations that fail are counted and listed: B000H", Level.CONDITIONAL)
def move_partly(run: Context) -> None:
    entity, data = start(run, STUDY_MOVE)
    bad = data.of("one", "ct")[1]
    with manners(entity.listener, store_status=_refusing(bad)):
        got, _, _ = move(entity, "STUDY", entity.title, StudyInstanceUID=data.study("one"))
    _partly(entity, got, 4, [bad])


@rule("L07", "PS3.4 C.4.2.1.3", "C-MOVE of a list of UIDs at IMAGE, and of a series", Level.CONDITIONAL)
def move_levels(run: Context) -> None:
    entity, data = start(run, STUDY_MOVE)
    title = _title(entity)
    study, series = data.study("one"), data.series("one", "ct")
    wanted = uids(data.of("one", "ct"))[1:]
    got, _, _ = move(entity, "IMAGE", title, StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID=wanted)
    entity.expect("the two that were named", got.instances == wanted, len(got.stores))
    got, _, _ = move(entity, "SERIES", title, StudyInstanceUID=study, SeriesInstanceUID=data.series("one", "mr"))
    entity.expect("the two of the series", got.instances == uids(data.of("one", "mr")), len(got.stores))


@rule("L09", "PS3.7 9.1.1.1.11, PS3.4 C.4.2.2", "C-STOREs of a C-MOVE say who asked for it", Level.CONDITIONAL)
def move_originator(run: Context) -> None:
    entity, data = start(run, STUDY_MOVE)
    got, arrived, number = move(entity, "STUDY", _title(entity), StudyInstanceUID=data.study("two"))
    entity.expect("it arrives", len(arrived) == 1, len(arrived))
    for each in got.stores:
        title = each.fields.get("MoveOriginatorApplicationEntityTitle")
        entity.expect("Move Originator AE Title is ours", title == entity.target.calling, title)
        entity.expect(f"Move Originator Message ID {number}", each.number("MoveOriginatorMessageID") == number,
                      each.number("MoveOriginatorMessageID"))  # fmt: skip


@rule(
    "L12a",
    "PS3.4 C.4.2, PS3.5 10.1",
    "A destination that takes Implicit VR alone gets it, or the sub-operation fails",
    Level.CONDITIONAL,
)
def move_syntax(run: Context) -> None:
    entity, data = start(run, STUDY_MOVE)
    sample = data.of("two")[0]
    with manners(entity.listener, transfer_syntaxes=(pdu.IMPLICIT,)):
        got, _, _ = move(entity, "STUDY", entity.title, StudyInstanceUID=data.study("two"))
    if got.stores:
        entity.expect("in Implicit VR Little Endian", got.stores[0].transfer_syntax == pdu.IMPLICIT)
        transferred(entity, sample, got.stores[0])
    else:
        counted(entity, got.final, completed=0, failed=1)
