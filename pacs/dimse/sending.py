"""Stored instances on their way to another AE by C-STORE: associations that fit, one message after the other.

C-MOVE and the return path send by it. An association that breaks is opened again for what is left, as long as it got
anything across; whatever is not sent is in the tally with its reason.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pacs.dicom.transfer_syntaxes import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN, TRANSFER_SYNTAXES
from pacs.dimse.requestor import Move, Remote, Requestor, Timeouts
from pacs.dimse.sub_operations import Tally, read_ahead
from pacs.dimse.upper_layer import MAX_CONTEXTS
from pacs.errors import ArchiveError

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.retrieve import InstanceLocation


@dataclass(slots=True)
class Group:
    """Instances that one association can carry, and the presentation contexts that they need."""

    contexts: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    locations: list[InstanceLocation] = field(default_factory=list)


def plan(locations: Sequence[InstanceLocation]) -> list[Group]:
    """The instances in groups of at most 128 contexts, by SOP class in order of appearance.

    Each stored transfer syntax gets a context of its own, so that the peer has to take or refuse each; the native ones
    into which we can make over what it refuses follow.
    """
    classes: dict[str, list[InstanceLocation]] = {}
    for location in locations:
        classes.setdefault(location.sop_class_uid, []).append(location)
    groups = [Group()]
    for sop_class_uid, members in classes.items():
        contexts = proposals(sop_class_uid, {member.transfer_syntax_uid for member in members})
        if len(groups[-1].contexts) + len(contexts) > MAX_CONTEXTS:
            groups.append(Group())
        groups[-1].contexts += contexts
        groups[-1].locations += members
    return groups


def proposals(sop_class_uid: str, stored: set[str]) -> list[tuple[str, tuple[str, ...]]]:
    """The contexts to propose for instances of a SOP class that are stored in these transfer syntaxes."""
    syntaxes = sorted(stored)
    if any((row := TRANSFER_SYNTAXES.get(each)) is not None and row.codec is not None for each in stored):
        syntaxes += [each for each in (EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN) if each not in stored]
    return [(sop_class_uid, (syntax,)) for syntax in syntaxes]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one instance: the peer's status, or None where it never answered, and why it was not taken."""

    location: InstanceLocation
    status: int | None
    reason: str = ""

    @property
    def taken(self) -> bool:
        """Whether the peer has it now: success, or a warning (PS3.4 B.2.3)."""
        return not self.reason


def send_over(
    archive: Archive,
    assoc: Requestor,
    locations: Sequence[InstanceLocation],
    *,
    priority: int = 0,
    move: Move | None = None,
) -> Generator[Outcome, None, None]:
    """The outcome of each instance sent on this association, in order; ends early when the association has ended.

    Never raises an ArchiveError. Close the iterator to send no more.
    """
    with closing(read_ahead(archive, locations, lambda each: assoc.accepted(each.sop_class_uid))) as ready:
        for prepared in ready:
            location = prepared.location
            if prepared.error is not None:
                yield Outcome(location, None, prepared.error.reason)
                continue
            context = assoc.contexts[prepared.context_id]
            try:
                reply = assoc.store(
                    context, location.sop_instance_uid, prepared.pieces, prepared.length, priority=priority, move=move
                )
            except ArchiveError as error:
                yield Outcome(location, None, error.reason)
            else:
                yield Outcome(location, reply.status, "" if reply.ok else f"refused with {reply.words}")
            if not assoc.alive:
                return


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
        for group in plan(locations):
            rest = group.locations
            while rest:
                try:
                    assoc = Requestor.open(self.remote, self.calling_ae_title, group.contexts, timeouts=self.timeouts)
                except ArchiveError as error:
                    yield from _none(rest, error.reason)
                    break
                done, taken = 0, False
                on = send_over(self.archive, assoc, rest, priority=self.priority, move=self.move)
                with assoc, closing(on) as outcomes:
                    for outcome in outcomes:
                        done, taken = done + 1, taken or outcome.taken
                        yield outcome
                rest = rest[done:]
                if rest and not taken:
                    yield from _none(rest, f"the association with {self.remote} was lost before it took anything")
                    break


def _none(locations: Sequence[InstanceLocation], reason: str) -> Generator[Outcome, None, None]:
    for location in locations:
        yield Outcome(location, None, reason)
