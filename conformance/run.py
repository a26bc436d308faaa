"""Runs checks one after the other against one server, and keeps what came of each."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import conformance.checks  # noqa: F401  (registers every check)
from conformance.check import Blocked, Check, Level, NoAnswer, NotApplicable, NotSupported, Outcome, Result
from conformance.context import Context


@dataclass(frozen=True)
class Report:
    """A whole run: against what, when, and what came of every check."""

    target: str
    started: str
    results: tuple[Result, ...]
    left: tuple[str, ...] = ()
    """Studies of the suite that the server did not let us delete."""
    seconds: float = 0.0

    @property
    def broken(self) -> tuple[Result, ...]:
        """The mandatory checks that failed or could not be carried out."""
        return tuple(result for result in self.results if result.breaks)

    @property
    def judged(self) -> bool:
        """Whether any check came to a verdict, or tried to: no failure among none at all means nothing."""
        beside = (Outcome.NOT_SUPPORTED, Outcome.NOT_APPLICABLE)
        return any(result.outcome not in beside for result in self.results)

    def count(self, outcome: Outcome, level: Level | None = None) -> int:
        """How many checks came out so."""
        return sum(1 for each in self.results if each.outcome is outcome and level in (None, each.check.level))


def run(
    context: Context,
    checks: Iterable[Check],
    *,
    target: str = "",
    keep: bool = False,
    progress: Callable[[Result], None] = lambda _: None,
) -> Report:
    """The report of these checks; everything stored is deleted afterwards unless `keep`, where the server allows it."""
    began, started = time.monotonic(), time.strftime("%Y-%m-%d %H:%M:%S %Z")
    results: list[Result] = []
    gone = ""
    for check in checks:
        if gone:
            results.append(Result(check, Outcome.ERROR, reason=f"the server went away during {gone}"))
        else:
            results.append(judge(context, check))
            gone = check.id if _gone(context, results[-1]) else ""
        progress(results[-1])
    left = [] if keep else context.clean()
    return Report(target, started, tuple(results), tuple(left), time.monotonic() - began)


def _gone(context: Context, result: Result) -> bool:
    """Whether nobody listens any more after a check in which an answer was missing; a supervisor gets ten seconds."""
    if context.web_or_none is None or all(finding.expected != "an answer" for finding in result.findings):
        return False
    for _ in range(10):
        try:
            context.web.reachable()
            return False
        except NoAnswer:
            time.sleep(1)
    return True


def judge(context: Context, check: Check) -> Result:
    """What comes of one check. Whatever it raises becomes an outcome; findings made before are kept."""
    context.findings, context.last = [], ""
    began = time.monotonic()
    outcome, reason = Outcome.PASSED, ""
    have = {"dicomweb": context.web_or_none is not None, "dimse": context.dimse_or_none is not None}
    missing = sorted(name for name in check.needs if not have.get(name, False))
    try:
        if missing:
            raise NotApplicable(" and ".join(f"no --{name}" for name in missing) + " was given")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what pydicom thinks of values is not the server's affair
            check.function(context)
    except NotSupported as error:
        outcome, reason = Outcome.NOT_SUPPORTED, str(error)
    except NotApplicable as error:
        outcome, reason = Outcome.NOT_APPLICABLE, str(error)
    except Blocked as error:
        outcome, reason = Outcome.ERROR, str(error)
    except NoAnswer as error:
        context.expect("an answer", False, str(error))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome, reason = Outcome.ERROR, f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"
    findings = tuple(context.findings)
    if any(not finding.good for finding in findings):
        outcome = Outcome.FAILED
    elif outcome is Outcome.PASSED and not findings:
        outcome, reason = Outcome.ERROR, "the check judged nothing"
    return Result(check, outcome, findings, reason, time.monotonic() - began)
