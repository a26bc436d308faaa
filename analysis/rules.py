"""Rules: which plug-in runs by itself on what, when, and with which parameters; from settings and from manifests.

A plug-in's manifest brings a rule of its own. Once the settings have a rule for a plug-in, only those start it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from analysis.api import AnyOf, Input, NotAnalysable, When
from analysis.registry import Installed, Registry
from analysis.tests_in_words import parsed
from pacs.destinations import destinations
from pacs.dicom import ups
from pacs.errors import InvalidInput
from pacs.settings import Rule as Configured
from pacs.settings import Settings

log = logging.getLogger("m3dicom.rules")

COUNTED = {
    "NumberOfStudyRelatedInstances": "study",
    "NumberOfStudyRelatedSeries": "study",
    "NumberOfSeriesRelatedInstances": "series",
    "ImagesInAcquisition": "acquisition",
}
"""Attributes that say how many there will be, and of what: instances of the study or series, series of the study, or
instances of the series with the same Acquisition Number."""


@dataclass(frozen=True)
class Expected:
    """How much has to be there: a number of instances that pass the tests, or as many as an attribute says."""

    text: str
    number: int = 0
    tests: tuple[When | AnyOf, ...] = ()
    attribute: str = ""


@dataclass(frozen=True)
class Rule:
    """One rule, checked against its plug-in. Times are in seconds."""

    name: str
    installed: Installed
    tests: tuple[When | AnyOf, ...] = ()
    sources: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    priority: str = "MEDIUM"
    quiet_s: float = 0.0
    expect: tuple[Expected, ...] = ()
    wait_s: float = 600.0
    late: bool = True
    results_of: frozenset[str] = frozenset()
    priors: int = 0
    priors_from: tuple[str, ...] = ()
    priors_days: int = 0
    own: bool = False  # the manifest's

    @property
    def prior_input(self) -> Input | None:
        """The input of the plug-in that takes an earlier study."""
        return next((each for each in self.installed.manifest.inputs if each.prior), None)


class Rules:
    """All rules, in the order in which they are looked at."""

    def __init__(self, rules: Iterable[Rule], on_request: Mapping[str, Rule] | None = None) -> None:
        """`on_request`: by plug-in, the rule that says where earlier studies for requests come from."""
        self._rules = {rule.name: rule for rule in rules}
        self.on_request = on_request or {}

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules.values())

    def get(self, name: str) -> Rule | None:
        """The rule of that name."""
        return self._rules.get(name)


def load(settings: Settings, registry: Registry) -> Rules:
    """The rules of the settings, then those of the manifests. Raises InvalidInput, naming the rule, for what cannot be.

    No plug-in may be started, through whatever others, by results of its own.
    """
    rules: dict[str, Rule] = {}
    for entry in settings.rules:
        if entry.name in rules:
            raise InvalidInput(f"setting rules: {entry.name} is given twice")
        try:
            rules[entry.name] = _configured(entry, settings, registry)
        except (InvalidInput, NotAnalysable) as error:
            reason = error.reason if isinstance(error, InvalidInput) else str(error)
            raise InvalidInput(f"setting rules: {entry.name}: {reason}") from None
    ruled = {rule.installed.id for rule in rules.values()}
    made = [rule for entry in settings.rules if (rule := rules[entry.name]) and entry.run]
    _refuse_circles(made)
    for installed in registry:
        manifest = installed.manifest
        if not manifest.auto or manifest.id in ruled:
            continue
        of = frozenset(each.results_of for each in manifest.inputs if each.results_of)
        own = Rule(manifest.id, installed, results_of=of, own=True, priors=int(any(i.prior for i in manifest.inputs)))
        if circle := _circle([*made, own]):
            log.error("plug-in %s does not run by itself: %s", manifest.id, " → ".join(circle))
            continue
        made.append(own)
    asked: dict[str, Rule] = {}
    for rule in rules.values():
        known = asked.get(rule.installed.id)
        if rule.prior_input is not None and (known is None or (rule.priors_from and not known.priors_from)):
            asked[rule.installed.id] = rule
    return Rules(made, asked)


def _configured(entry: Configured, settings: Settings, registry: Registry) -> Rule:
    installed = registry.get(entry.plugin)
    if installed is None:
        raise InvalidInput(f"no plug-in named {entry.plugin!r} is installed; installed: {', '.join(registry.ids)}")
    manifest = installed.manifest
    if not entry.name.strip():
        raise InvalidInput("it has no name")
    if entry.name != manifest.id and registry.get(entry.name) is not None:
        raise InvalidInput("another plug-in has that name, and a rule of its own by it")
    if entry.priority not in ups.PRIORITIES:
        raise InvalidInput("priority is HIGH, MEDIUM or LOW")
    for name in ("quiet_s", "wait_s", "priors", "priors_days"):
        if getattr(entry, name) < 0:
            raise InvalidInput(f"{name} is less than 0")
    parameters = dict(_parameter(text) for text in entry.parameters)
    if len(parameters) < len(entry.parameters):
        raise InvalidInput("parameters: one is given twice")
    installed.params(parameters)
    declared = {each.results_of for each in manifest.inputs if each.results_of}
    of = frozenset(entry.results_of) or frozenset(declared)
    for other in of:
        if other == manifest.id:
            raise InvalidInput("a plug-in is never started by results of its own")
        if registry.get(other) is None:
            raise InvalidInput(f"results_of: no plug-in named {other!r} is installed")
    if declared and not of <= declared:
        raise InvalidInput(f"results_of: the plug-in takes results of {', '.join(sorted(declared))} only")
    if of and entry.expect:
        raise InvalidInput("expect: results of a task come all at once")
    if of and (entry.sources or entry.quiet_s):
        raise InvalidInput(
            f"{'sources' if entry.sources else 'quiet_s'}: it looks at results of a task, not at arrivals"
        )
    prior = next((each for each in manifest.inputs if each.prior), None)
    if (entry.priors > 0 or entry.priors_from) and prior is None:
        raise InvalidInput("priors: the plug-in has no input for an earlier study")
    if prior is not None and entry.priors > 1 and prior.load == "volume":
        raise InvalidInput("priors: the plug-in takes one earlier series at most")
    reachable = destinations(settings)
    for name in entry.priors_from:
        if name not in reachable:
            raise InvalidInput(f"priors_from: {name!r} is neither an AE with host and port nor a [[forward]] entry")
    return Rule(
        name=entry.name,
        installed=installed,
        tests=tuple(map(parsed, entry.when)),
        sources=frozenset(entry.sources),
        scopes=frozenset(entry.scopes),
        parameters=parameters,
        priority=entry.priority,
        quiet_s=entry.quiet_s,
        expect=tuple(map(_expected, entry.expect)),
        wait_s=entry.wait_s,
        late=entry.late,
        results_of=of,
        priors=0 if prior is None else entry.priors or 1,
        priors_from=entry.priors_from,
        priors_days=entry.priors_days,
    )


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name:
        raise InvalidInput(f"parameters: {text!r} is not NAME = VALUE")
    try:
        return name, json.loads(value, parse_constant=_refuse_constant)
    except ValueError:
        return name, value


def _refuse_constant(text: str) -> NoReturn:
    raise InvalidInput(f"parameters: {text} is no number that a Workitem can carry")


def _expected(text: str) -> Expected:
    counted = re.fullmatch(r"\s*([0-9]{1,9})(?:\s+of\s+(.+))?\s*", text)
    if counted is not None and int(counted[1]) > 0:
        return Expected(text, int(counted[1]), (parsed(counted[2]),) if counted[2] else ())
    if text.strip() in COUNTED:
        return Expected(text, attribute=text.strip())
    raise InvalidInput(f"expect: {text!r} is neither N, nor N of a test, nor one of {', '.join(COUNTED)}")


def _refuse_circles(rules: Sequence[Rule]) -> None:
    circle = _circle(rules)
    if circle:
        raise InvalidInput(f"setting rules: results would start one another for ever: {' → '.join(circle)}")


def _circle(rules: Sequence[Rule]) -> list[str]:
    """Plug-ins of which each is started by results of the one before, back to the first; none without a circle."""
    follows: dict[str, set[str]] = {}
    for rule in rules:
        for other in rule.results_of:
            follows.setdefault(other, set()).add(rule.installed.id)

    def search(path: list[str]) -> list[str]:
        for after in sorted(follows.get(path[-1], ())):
            if after in path:
                return [*path[path.index(after) :], after]
            found = search([*path, after])
            if found:
                return found
        return []

    return next((found for start in sorted(follows) if (found := search([start]))), [])
