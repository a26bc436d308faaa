"""What an SCU gets and gives: replies, events of the peer, instances on their way in, and where a C-STORE is from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pacs.dimse.messages import Command, Tag
from pacs.dimse.status import comment


@dataclass(frozen=True, slots=True)
class Reply:
    """One response: its command set, and its data set where it has one."""

    command: Command
    dataset: bytes | None = None

    @property
    def status(self) -> int:
        """The status code (PS3.7 annex C)."""
        return self.command.status if self.command.status is not None else 0x0110

    @property
    def pending(self) -> bool:
        """Whether more responses follow."""
        return self.status in (0xFF00, 0xFF01)

    @property
    def ok(self) -> bool:
        """Whether it says success, or a warning."""
        return self.status == 0 or self.status in (0x0001, 0x0107, 0x0116) or self.status >> 12 == 0xB

    @property
    def words(self) -> str:
        """Status and Error Comment, for a person."""
        return f"{self.status:04X}H {comment(self.command.comment)}".strip()

    def count(self, tag: Tag) -> int:
        """A number of sub-operations; 0 where the peer does not say."""
        return self.command.numbers.get(tag, 0)


@dataclass(frozen=True, slots=True)
class Move:
    """Where a C-STORE sub-operation comes from (PS3.7 9.1.1.1): who asked for the C-MOVE, with which Message ID."""

    originator_ae_title: str
    message_id: int


@dataclass(frozen=True, slots=True)
class Event:
    """An N-EVENT-REPORT request of the peer, with its data set."""

    sop_class_uid: str
    sop_instance_uid: str
    event_type_id: int
    dataset: bytes
    transfer_syntax: str


class Sink(Protocol):
    """Takes one instance that a C-GET sends."""

    def write(self, piece: memoryview) -> object:
        """Take the next bytes of its data set; they are gone afterwards."""

    def finish(self) -> int:
        """The status to answer, once the instance is safe."""

    def abort(self) -> None:
        """The instance does not come whole."""
