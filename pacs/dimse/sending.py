"""Stored instances on their way to another AE by C-STORE: associations that fit, one message after the other.

C-MOVE and the return path send by it. An association that breaks is opened again for what is left, as long as it got
anything across; whatever is not sent is in the tally with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Generic

from pacs.dicom.transfer_syntaxes import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN, TRANSFER_SYNTAXES
from pacs.dimse.requestor import Move, Remote, Requestor, Timeouts
from pacs.dimse.sub_operations import Item, Prepared, Sendable, Tally, prepare, read_ahead
from pacs.dimse.upper_layer import MAX_CONTEXTS
from pacs.errors import ArchiveError

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.retrieve import InstanceLocation


Contexts = list[tuple[str, tuple[str, ...]]]
"""Presentation contexts to propose: abstract syntax and transfer syntaxes."""

Prepare = Callable[[Item, Mapping[str, int]], Prepared]


@dataclass(slots=True)
class Group(Generic[Item]):
    """Instances that one association can carry, and the presentation contexts that they need."""

    contexts: Contexts = field(default_factory=list)
    items: list[Item] = field(default_factory=list)


def plan(items: Sequence[Item]) -> list[Group[Item]]:
    """The instances in groups of at most 128 contexts, by SOP class in order of appearance.

    Each stored transfer syntax gets a context of its own, so that the peer has to take or refuse each; the native ones
    into which we can make over what it refuses follow.
    """
    classes: dict[str, list[Item]] = {}
    for item in items:
        classes.setdefault(item.sop_class_uid, []).append(item)
    groups = [Group[Item]()]
    for sop_class_uid, members in classes.items():
        contexts = proposals(sop_class_uid, {member.transfer_syntax_uid for member in members})
        if len(groups[-1].contexts) + len(contexts) > MAX_CONTEXTS:
            groups.append(Group())
        groups[-1].contexts += contexts
        groups[-1].items += members
    return groups


def proposals(sop_class_uid: str, stored: set[str]) -> Contexts:
    """The contexts to propose for instances of a SOP class that are stored in these transfer syntaxes."""
    syntaxes = sorted(stored)
    if any((row := TRANSFER_SYNTAXES.get(each)) is not None and row.codec is not None for each in stored):
        syntaxes += [each for each in (EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN) if each not in stored]
    return [(sop_class_uid, (syntax,)) for syntax in syntaxes]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one instance: the peer's status, or None where it never answered, and why it was not taken."""

    location: Sendable
    status: int | None
    reason: str = ""

    @property
    def taken(self) -> bool:
        """Whether the peer has it now: success, or a warning (PS3.4 B.2.3)."""
        return not self.reason


def send_over(
    assoc: Requestor, items: Sequence[Item], prepared: Prepare[Item], *, priority: int = 0, move: Move | None = None
) -> Generator[Outcome, None, None]:
    """The outcome of each instance sent on this association, in order; ends early when the association has ended.

    `prepared` makes an instance ready for the contexts that its SOP class has. Never raises an ArchiveError. Close the
    iterator to send no more.
    """
    with closing(read_ahead(items, lambda each: prepared(each, assoc.accepted(each.sop_class_uid)))) as ready:
        for one in ready:
            if one.error is not None:
                yield Outcome(one.location, None, one.error.reason)
                continue
            context, uid = assoc.contexts[one.context_id], one.location.sop_instance_uid
            try:
                reply = assoc.store(context, uid, one.pieces, one.length, priority=priority, move=move)
            except ArchiveError as error:
                yield Outcome(one.location, None, error.reason)
            else:
                yield Outcome(one.location, reply.status, "" if reply.ok else f"refused with {reply.words}")
            if not assoc.alive:
                return


def send_all(
    opened: Callable[[Contexts], Requestor],
    items: Sequence[Item],
    prepared: Prepare[Item],
    *,
    priority: int = 0,
    move: Move | None = None,
) -> Generator[Outcome, None, None]:
    """The outcome of every instance, on as many associations as that takes. Never raises an ArchiveError.

    `opened` requests an association with such contexts.
    """
    for group in plan(items):
        rest = group.items
        while rest:
            try:
                assoc = opened(group.contexts)
            except ArchiveError as error:
                yield from _none(rest, error.reason)
                break
            done, taken = 0, False
            with assoc, closing(send_over(assoc, rest, prepared, priority=priority, move=move)) as outcomes:
                for outcome in outcomes:
                    done, taken = done + 1, taken or outcome.taken
                    yield outcome
            rest = rest[done:]
            if rest and not taken:
                yield from _none(rest, f"the association with {assoc.remote} was lost before it took anything")
                break


def _none(items: Sequence[Sendable], reason: str) -> Generator[Outcome, None, None]:
    for item in items:
        yield Outcome(item, None, reason)


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends instances to `remote` in our name."""

    archive: Archive
    remote: Remote
    calling_ae_title: str
    priority: int = 0
    move: Move | None = None
    timeouts: Timeouts | None = None

    def send(self, locations: Sequence[InstanceLocation], tally: Tally) -> Generator[None, None, None]:
        """Send everything, counting into `tally`; stops after each instance. Close the iterator to send no more."""
        with closing(self.outcomes(locations)) as outcomes:
            for outcome in outcomes:
                if outcome.status is None or outcome.reason:
                    tally.fail(outcome.location.sop_instance_uid, outcome.reason)
                else:
                    tally.take(outcome.location.sop_instance_uid, outcome.status)
                yield

    def outcomes(self, locations: Sequence[InstanceLocation]) -> Generator[Outcome, None, None]:
        """The outcome of every instance, on as many associations as that takes. Never raises an ArchiveError."""
        return send_all(self._open, locations, partial(prepare, self.archive), priority=self.priority, move=self.move)

    def _open(self, contexts: Contexts) -> Requestor:
        return Requestor.open(self.remote, self.calling_ae_title, contexts, timeouts=self.timeouts)
