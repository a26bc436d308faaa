"""What a check is, what it may conclude, and the register that all checks stand in.

A check is a function of a `Context` (see `conformance.context`) under the decorator `check`. It asks the server and
calls `context.expect` for everything that it judges; one that judged nothing is an error: none can pass by accident.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conformance.context import Context

EDITION = "2026b"
"""The edition of the standard in which a section was read, where a check does not name another."""


class Level(StrEnum):
    """How far the standard binds a server."""

    MANDATORY = "mandatory"
    """Every server of that service has to."""
    CONDITIONAL = "conditional"
    """Only a server that claims the feature has to."""
    ROBUSTNESS = "robustness"
    """Not demanded in words, or only by good sense: a warning."""
    PRACTICE = "practice"
    """What clients in the field send, or users expect, beyond the standard."""


class Outcome(StrEnum):
    """What became of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_SUPPORTED = "not supported"
    """The server declares, or plainly shows, that it does not have the feature or the whole service."""
    NOT_APPLICABLE = "not applicable"
    """The check has no meaning here: an option was not given, or a library is missing on this side."""
    ERROR = "error"
    """The check itself could not be carried out; nothing is known."""


class NotSupported(Exception):
    """The server does not have what this check is about; the text says how that was seen."""


class NotApplicable(Exception):
    """This check cannot be made in this run; the text says why."""


class Blocked(Exception):
    """Something that the check rests on, such as storing its data, did not work."""


class NoAnswer(Exception):
    """The server did not answer a request in time, or broke off; it counts as a failure."""


@dataclass(frozen=True)
class Finding:
    """One thing that was judged: what was asked, what the standard expects, what came."""

    request: str
    expected: str
    seen: str
    good: bool


@dataclass(frozen=True)
class Check:
    """One check of the register; `section` and `edition` say which text it rests on."""

    id: str
    section: str
    title: str
    level: Level
    edition: str
    service: str
    needs: frozenset[str]
    """Of `dicomweb`, `dimse`: what has to be given on the command line."""
    function: Callable[[Context], None]
    last: int = 0
    """Checks are made in this order: 1 after all of 0, because a server might not survive it, 2 after those."""


@dataclass(frozen=True)
class Result:
    """What came of one check."""

    check: Check
    outcome: Outcome
    findings: tuple[Finding, ...] = ()
    reason: str = ""
    seconds: float = 0.0

    @property
    def breaks(self) -> bool:
        """Whether it makes the exit code 1: a mandatory check that failed or could not be carried out."""
        return self.check.level is Level.MANDATORY and self.outcome in (Outcome.FAILED, Outcome.ERROR)

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that were not as expected."""
        return tuple(finding for finding in self.findings if not finding.good)


@dataclass
class Register:
    """All checks by their ids."""

    checks: dict[str, Check] = field(default_factory=dict)

    def add(self, check: Check) -> None:
        """Put one in; two with one id is an error of ours."""
        assert check.id not in self.checks, f"two checks are called {check.id}"
        self.checks[check.id] = check

    def chosen(self, only: str = "", services: str = "") -> list[Check]:
        """The checks named in `only` (ids or their beginnings, by commas; empty for all), in the order of their ids,
        those at the end that are made last.

        A name that ends in a digit is one check and its lettered parts (`A03`, also `A03a`); one that does not is a
        whole part of the list (`A`, `H`). `services` are names of services, by commas. Raises ValueError for a name
        that fits none.
        """
        ordered = sorted(self.checks.values(), key=lambda each: (each.last, *key(each.id)))
        if services:
            wanted = {name.strip().lower() for name in services.split(",") if name.strip()}
            unknown = wanted - {each.service.lower() for each in ordered}
            if unknown or not wanted:
                raise ValueError(f"no checks are about a service called {', '.join(sorted(unknown)) or services}")
            ordered = [each for each in ordered if each.service.lower() in wanted]
        names = [name.strip() for name in only.split(",") if name.strip()]
        if not names:
            return ordered
        found = {name: [each for each in ordered if fits(each.id, name)] for name in names}
        missing = [name for name, fitting in found.items() if not fitting]
        if missing:
            raise ValueError(f"no check is called {', '.join(missing)}")
        chosen = {each.id for fitting in found.values() for each in fitting}
        return [each for each in ordered if each.id in chosen]


REGISTER = Register()


def key(identifier: str) -> tuple[str, int, str]:
    """The order of ids: by letter, then by number, then by what follows."""
    match = re.fullmatch(r"([A-Z]+)(\d+)(\w*)", identifier)
    assert match, f"{identifier} is no id of a check"
    return match[1], int(match[2]), match[3]


def fits(identifier: str, name: str) -> bool:
    """Whether the id is the name, a lettered part of it, or in the part of the list that the name is."""
    letters, number, _ = key(identifier)
    return identifier == name or name in (letters, f"{letters}{number:02}")


def check(
    identifier: str,
    section: str,
    title: str,
    level: Level = Level.MANDATORY,
    *,
    edition: str = EDITION,
    service: str,
    needs: str = "dicomweb",
    last: int = 0,
) -> Callable[[Callable[[Context], None]], Callable[[Context], None]]:
    """Register the function below as a check; `needs` names what it asks, by commas."""

    def register(function: Callable[[Context], None]) -> Callable[[Context], None]:
        required = frozenset(name for name in needs.split(",") if name)
        REGISTER.add(Check(identifier, section, title, level, edition, service, required, function, last))
        return function

    return register
