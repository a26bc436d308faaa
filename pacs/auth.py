"""Who asks, and what they may do: principals and rights; bearer tokens, login links and sessions; AE titles.

Secrets are random 256-bit values of which only the SHA-256 is kept, so neither the database nor a backup of it can
be used to log in.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pacs.errors import Forbidden


class Right(StrEnum):
    """What a principal may be allowed to do."""

    QUERY = "query"
    READ = "read"
    STORE = "store"
    DELETE = "delete"
    PROCESS = "process"
    ADMIN = "admin"


ALL_RIGHTS = frozenset(Right)
CLINICAL_RIGHTS = frozenset({Right.QUERY, Right.READ, Right.STORE, Right.PROCESS})


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: recorded on what is stored, asked and done.

    `scope` is the access scope that new objects get and that queries are limited to; the empty scope sees everything.
    """

    name: str
    kind: str  # "ae", "token", "session", "system"
    rights: frozenset[Right] = CLINICAL_RIGHTS
    scope: str = ""

    def require(self, right: Right) -> None:
        """Nothing, or Forbidden where the principal lacks `right`."""
        if right not in self.rights:
            raise Forbidden(f"{self.kind} {self.name} may not {right.value}")


SYSTEM = Principal("m3dicom", "system", ALL_RIGHTS)
