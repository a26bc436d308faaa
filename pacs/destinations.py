"""Where instances may be sent on to, and which rule sends what: pure functions of settings and rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sqlalchemy import Row

from pacs.errors import InvalidInput

if TYPE_CHECKING:
    from pacs.retrieve import InstanceLocation
    from pacs.settings import Forward as Rule
    from pacs.settings import Settings

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 3600.0


@dataclass(frozen=True, slots=True)
class Destination:
    """Where something can be sent: a configured AE, or a DICOMweb root. `names` are what people call it."""

    to: str
    names: tuple[str, ...]
    commitment: bool = False
    token_file: str = ""

    @property
    def is_web(self) -> bool:
        """Whether it is a DICOMweb root."""
        return self.to.startswith(("http://", "https://"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one instance: "later" counts as nobody's fault, "refused" is tried a limited number of times."""

    sop_instance_uid: str
    verdict: Literal["taken", "refused", "later"]
    reason: str = ""


class Courier(Protocol):
    """Sends to one destination."""

    def send(self, locations: Sequence[InstanceLocation]) -> Generator[Outcome, None, None]:
        """The outcome of each instance, as it becomes known. Raises ArchiveError where the rest was not sent."""

    def ask_commitment(self, instances: Sequence[tuple[str, str]]) -> str:
        """The Transaction UID under which the destination was asked to keep (SOP Class UID, SOP Instance UID) pairs."""


Couriers = Callable[[Destination], Courier]


def destinations(settings: Settings) -> dict[str, Destination]:
    """Every destination by each of its names. Raises InvalidInput for a rule that cannot be."""
    callable_titles = {ae.title.strip() for ae in settings.aes if ae.host and ae.port}
    found = {title: Destination(title, (title,)) for title in callable_titles}
    seen: set[str] = set()
    for rule in settings.forward:
        where = f"setting forward: {rule.name}"
        if rule.name in seen:
            raise InvalidInput(f"{where} is given twice")
        seen.add(rule.name)
        web = rule.to.startswith(("http://", "https://"))
        if not web and rule.to.strip() not in callable_titles:
            raise InvalidInput(f"{where}: {rule.to!r} is neither a URL nor the title of an AE with host and port")
        if rule.what not in ("results", "all", "nothing"):
            raise InvalidInput(f'{where}: what must be "results", "all" or "nothing"')
        if web and rule.commitment:
            raise InvalidInput(f"{where}: commitment is asked over DIMSE only; name an AE, or leave it out")
        to = rule.to.rstrip("/") if web else rule.to.strip()
        found[rule.name] = Destination(to, (rule.name,), rule.commitment, rule.token_file)
    return found


def wanted(rule: Rule, found: Row[Any]) -> bool:
    """Whether the rule sends this instance on (`found` is a row of `deliveries.candidates`)."""
    if found.source_ae and found.source_ae == rule.to.strip():
        return False  # never back to where it came from
    return (
        (rule.what == "all" or (rule.what == "results" and found.result_of is not None))
        and (not rule.modalities or found.modality in {each.upper() for each in rule.modalities})
        and (not rule.sop_classes or found.sop_class_uid in rule.sop_classes)
        and (not rule.sources or found.source_ae in rule.sources)
        and (not rule.plugins or found.plugin in rule.plugins)
    )


def pause_s(attempt: int) -> float:
    """How long to wait after so many attempts: doubling, bounded, and not everybody at the same moment."""
    longest: float = min(FIRST_PAUSE_S * 2.0 ** min(attempt, 20), LONGEST_PAUSE_S)
    return longest * random.uniform(0.8, 1.2)  # noqa: S311  jitter needs no secrecy


def delivery_row(destination: Destination, rule: str, found: Row[Any], principal: str, now: float) -> dict[str, Any]:
    """A new delivery of an instance (a row of `deliveries.candidates`), as a row of its table."""
    return {
        "destination": destination.to,
        "rule": rule,
        "study_instance_uid": found.study_instance_uid,
        "series_instance_uid": found.series_instance_uid,
        "sop_instance_uid": found.sop_instance_uid,
        "digest": found.digest,
        "scope": found.scope,
        "principal": principal,
        "state": "pending",
        "commitment": int(destination.commitment),
        "not_before": now,
        "created_at": now,
        "updated_at": now,
    }
