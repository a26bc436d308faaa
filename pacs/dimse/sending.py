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
        for group in plan(locations):
            rest = group.locations
            while rest:
                try:
                    assoc = Requestor.open(self.remote, self.calling_ae_title, group.contexts, timeouts=self.timeouts)
                except ArchiveError as error:
                    tally.fail_all(rest, error.reason)
                    yield
                    break
                done, taken = 0, tally.taken
                with assoc, closing(self._send_on(assoc, rest, tally)) as sending:
                    for done in sending:  # noqa: B007  (used after the loop)
                        yield
                rest = rest[done:]
                if rest and tally.taken == taken:
                    tally.fail_all(rest, f"the association with {self.remote} was lost before it took anything")
                    yield
                    break

    def _send_on(
        self, assoc: Requestor, locations: Sequence[InstanceLocation], tally: Tally
    ) -> Generator[int, None, None]:
        """Send on this association until it breaks; gives how many are dealt with, after each."""
        with closing(read_ahead(self.archive, locations, lambda each: assoc.accepted(each.sop_class_uid))) as ready:
            for number, prepared in enumerate(ready, 1):
                location = prepared.location
                if prepared.error is not None:
                    tally.fail(location.sop_instance_uid, prepared.error.reason)
                    yield number
                    continue
                try:
                    reply = assoc.store(
                        assoc.contexts[prepared.context_id],
                        location.sop_instance_uid,
                        prepared.pieces,
                        prepared.length,
                        priority=self.priority,
                        move=self.move,
                    )
                except ArchiveError as error:
                    tally.fail(location.sop_instance_uid, error.reason)
                else:
                    tally.take(location.sop_instance_uid, reply.status, reply.command.comment)
                yield number
                if not assoc.alive:
                    return
