"""What a check gets: the server's ways in, the data that was made and stored there, and `expect`."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from conformance.check import Blocked, Finding, NoAnswer, NotApplicable, NotSupported
from conformance.client import Answer, Web
from conformance.data import Maker, Sample
from conformance.multipart import join, related

TEXT = 2000
"""How many characters of anything go into a report."""


@dataclass(frozen=True)
class DimseTarget:
    """An application entity, and how we call ourselves."""

    title: str
    host: str
    port: int
    calling: str = "CONFORMANCE"
    tls: ssl.SSLContext | None = field(default=None, compare=False)
    """How we speak TLS to it; None in plain."""


@dataclass(frozen=True)
class Options:
    """What the operator gave, beyond the addresses."""

    timeout_s: float = 60.0
    visible_s: float = 30.0
    """How long stored data may take until a search finds it."""
    results: tuple[str, ...] = ()
    """Study Instance UIDs in which result objects are judged."""
    listen: str = ""
    """AET@HOST:PORT at which the server knows the suite's own Storage SCP; needed for C-MOVE."""
    read_only_token: str = ""


@dataclass
class Context:
    """One run against one server; `finding`s are those of the check under way."""

    web_or_none: Web | None
    dimse_or_none: DimseTarget | None
    maker: Maker
    options: Options = field(default_factory=Options)
    findings: list[Finding] = field(default_factory=list)
    last: str = ""
    """The request that is being judged, in words; set by `asked` or taken from an answer."""
    _corpora: dict[str, dict[str, Sample]] = field(default_factory=dict)
    _facts: dict[str, Any] = field(default_factory=dict)
    studies: set[str] = field(default_factory=set)
    """Every study that was stored, for cleaning up."""
    workitems: set[str] = field(default_factory=set)
    """Every Workitem that was made."""

    @property
    def web(self) -> Web:
        """The DICOMweb service."""
        if self.web_or_none is None:
            raise NotApplicable("no --dicomweb was given")
        return self.web_or_none

    @property
    def dimse(self) -> DimseTarget:
        """The DIMSE application entity."""
        if self.dimse_or_none is None:
            raise NotApplicable("no --dimse was given")
        return self.dimse_or_none

    # What a check says

    def expect(self, expected: str, good: object, seen: object = "", *, about: Answer | str | None = None) -> bool:
        """Judge one thing: `expected` in the standard's words, whether it is so, and what was seen instead.

        `about` is the answer (or the request in words) that is judged; an answer also tells what was seen.
        """
        request = about.request if isinstance(about, Answer) else (about or self.last)
        shown = str(seen) if seen != "" else ""
        if isinstance(about, Answer):
            shown = f"{shown}\n{about.seen}" if shown else about.seen
        self.findings.append(Finding(request[:TEXT], expected, shown[:TEXT], bool(good)))
        return bool(good)

    def expect_status(self, answer: Answer, *statuses: int) -> bool:
        """Judge the status code."""
        return self.expect("status " + " or ".join(map(str, statuses)), answer.status in statuses, about=answer)

    def expect_equal(self, what: str, seen: object, expected: object, *, about: Answer | str | None = None) -> bool:
        """Judge that two things are equal; both go into the report, shortened."""
        return self.expect(f"{what}: {_short(expected)}", seen == expected, _short(seen), about=about)

    def objects(self, answer: Answer, *statuses: int) -> list[dict[str, Any]]:
        """The JSON objects of a successful answer, having judged status and form; none where it was not one."""
        if not self.expect_status(answer, *(statuses or (200,))):
            return []
        if answer.status == 204 or answer.status not in (200, 202, 206):
            return []
        try:
            return answer.objects()
        except (ValueError, NoAnswer) as error:
            self.expect("a body of DICOM JSON: an array of objects (PS3.18 F.2)", False, error, about=answer)
            return []

    def fact(self, name: str, find: Callable[[], Any]) -> Any:
        """Something about the server that several checks need: found once, remembered."""
        if name not in self._facts:
            self._facts[name] = find()
        return self._facts[name]

    # The data

    def stored(self, corpus: str) -> dict[str, Sample]:
        """The samples of a corpus (see `conformance.corpus`) by name, stored at the server at the first call.

        Raises Blocked where nothing of it could be stored.
        """
        if corpus not in self._corpora:
            made = import_module("conformance.corpus").CORPORA[corpus](self.maker)
            samples = {sample.name: sample for sample in made}
            self.store(list(samples.values()))
            self._corpora[corpus] = samples
        samples = self._corpora[corpus]
        if all(sample.refused for sample in samples.values()):
            reason = next(iter(samples.values())).refused
            raise Blocked(f"the data of this check could not be stored: {reason}")
        return samples

    def sample(self, corpus: str, name: str) -> Sample:
        """One stored sample. Raises NotSupported where the server refused it, NotApplicable where it was not made."""
        samples = self.stored(corpus)
        if name not in samples:
            raise NotApplicable(f"{name} could not be made here: an encoder is missing (pip install imagecodecs)")
        if samples[name].refused:
            raise NotSupported(f"the server refuses to store {name}: {samples[name].refused}")
        return samples[name]

    def store(self, samples: Sequence[Sample]) -> None:
        """Store them (STOW-RS where there is DICOMweb, else C-STORE), and wait until the service has them all.

        A refusal is noted in the sample, with its reason.
        """
        self.studies.update(sample.study for sample in samples)
        how = self._store_web if self.web_or_none is not None else self._store_dimse
        how(samples)
        if self.web_or_none is not None:
            self._wait([sample for sample in samples if not sample.refused])

    def _store_web(self, samples: Sequence[Sample]) -> None:
        for start in range(0, len(samples), 20):
            group = samples[start : start + 20]
            body = join(("Content-Type: application/dicom", sample.file) for sample in group)
            answer = self.web.post("/studies", body, related("application/dicom"))
            if answer.status in (404, 405, 501) and self.dimse_or_none is not None:
                self._store_dimse(group)
                continue
            good, failed = outcome(answer)
            for sample in group:
                if sample.instance in failed:
                    sample.refused = f"{failed[sample.instance]:04X}"
                elif sample.instance not in good:
                    sample.refused = f"STOW-RS answers {answer.status} without naming it"

    def _store_dimse(self, samples: Sequence[Sample]) -> None:
        refused: dict[str, str] = import_module("conformance.ae").store(self.dimse, samples)
        for sample in samples:
            sample.refused = refused.get(sample.instance, "")

    def _wait(self, samples: Iterable[Sample]) -> None:
        until = time.monotonic() + self.options.visible_s
        for study in {sample.study for sample in samples}:
            wanted = {sample.instance for sample in samples if sample.study == study}
            while True:
                answer = self.web.get(f"/studies/{study}/instances", "limit=1000")
                try:
                    seen = {text(each, "00080018") for each in answer.objects()} if answer.status == 200 else set()
                except ValueError:
                    seen = set()
                if wanted <= seen or time.monotonic() > until:
                    break
                time.sleep(0.2)

    def _close_workitems(self) -> None:
        """Ask for the cancellation of every Workitem that was made; one that is under way or final stays as it is."""
        for uid in sorted(self.workitems):
            with suppress(NoAnswer):
                self.web.post(f"/workitems/{uid}/cancelrequest", b"", "application/dicom+json")

    def clean(self) -> list[str]:
        """Delete what was stored where the server lets us; the studies that are still there."""
        left = []
        self._close_workitems()
        for study in sorted(self.studies):
            try:
                status = self.web.request("DELETE", f"/studies/{study}").status if self.web_or_none else 405
            except NoAnswer:
                status = 0
            if status not in (200, 202, 204, 404, 410) and self._is_there(study):
                left.append(study)
        return left

    def _is_there(self, study: str) -> bool:
        """Whether a study may still be at the server; not where a search there does not find it."""
        if self.web_or_none is None:
            return True
        try:
            answer = self.web.get("/studies", f"StudyInstanceUID={study}")
            return answer.status >= 500 or bool(answer.status == 200 and answer.objects())
        except (NoAnswer, ValueError):
            return False


def outcome(answer: Answer) -> tuple[set[str], dict[str, int]]:
    """What a store answer says (PS3.18 Annex I): the instances kept, and those refused with their reasons."""
    try:
        objects = answer.objects()
    except (ValueError, NoAnswer):
        return set(), {}
    good: set[str] = set()
    failed: dict[str, int] = {}
    for each in objects:
        good |= {text(item, "00081155") for item in values(each, "00081199")}
        for item in values(each, "00081198"):
            reason = values(item, "00081197")
            failed[text(item, "00081155")] = int(reason[0]) if reason else 0
    return good, failed


def values(attributes: Any, tag: str) -> list[Any]:
    """The Value of an attribute of a DICOM JSON object; empty where it has none."""
    found = attributes.get(tag) if isinstance(attributes, dict) else None
    value = found.get("Value") if isinstance(found, dict) else None
    return value if isinstance(value, list) else []


def text(attributes: Any, tag: str) -> str:
    """The first value as text; of a person name its Alphabetic group."""
    first = next(iter(values(attributes, tag)), "")
    if isinstance(first, dict):
        first = first.get("Alphabetic", "")
    return str(first)


def _short(thing: object) -> str:
    shown = f"{len(thing)} bytes {thing[:32].hex()}" if isinstance(thing, bytes) else str(thing)
    return shown if len(shown) <= 600 else shown[:600] + "…"
