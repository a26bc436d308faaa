"""Judges a plug-in as the host and its users will meet it: `m3dicom plugin check`.

It is run on the phantom its input asks for, on odd forms of it, at the bounds of its parameters, twice in different
processes, and is cancelled in the middle. Judged are: what it declares, what it hands out, that it refuses in words,
that the same input gives the same bytes (but for times), that it stops, and that it keeps to its limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydicom import Dataset
from pydicom.uid import UID

from analysis.api import NotAnalysable
from analysis.kit import cases
from analysis.kit.cases import Case
from analysis.kit.trial import PATIENCE_S, RUNNING_AT, WHEN, Bench, Outcome
from analysis.process import GRACE_S
from analysis.registry import Installed
from analysis.results.meanings import is_unit
from pacs.dicom.ups_task import MOST_LO

KIND_OF_SOP_CLASS: Mapping[str, str] = {
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.104.3": "M3D",
    "1.2.840.10008.5.1.4.1.1.88.34": "SR",
    "1.2.840.10008.5.1.4.1.1.88.50": "SR",
    "1.2.840.10008.5.1.4.1.1.88.59": "KO",
    "1.2.840.10008.5.1.4.1.1.11.1": "PR",
    "1.2.840.10008.5.1.4.1.1.7": "SC",
    "1.2.840.10008.5.1.4.1.1.7.2": "SC",
    "1.2.840.10008.5.1.4.1.1.7.4": "SC",
}
"""The kind (`Output.kind`) of each SOP class that the host encodes."""

_TIMES = ("DA", "TM", "DT")
_ADVISED_SHARE = 0.8  # of a declared limit, beyond which it is tight
_FEWEST_WORDS = 3


@dataclass(frozen=True)
class Finding:
    """One judgement. `what`: what was tried; `words`: what was seen."""

    verdict: Literal["ok", "advice", "failed"]
    what: str
    words: str


def check(installed: Installed, own: Sequence[Dataset] = (), device: str = "cpu") -> Iterator[Finding]:
    """Every finding on the plug-in, as it is made; own: instances of the author that have to give a result."""
    yield from declared(installed)
    if (defaults := _defaults(installed)) is None:
        return
    manifest = installed.manifest
    good: Case | None = None
    peak, longest = 0, 0.0
    with Bench(installed, device) as bench:
        tried = [*([cases.from_files(manifest, own)] if own else []), *cases.cases(manifest)]
        for case in tried:
            outcome = bench.run(case, defaults)
            yield judged(installed, case, outcome)
            peak, longest = max(peak, outcome.memory_mb), max(longest, outcome.seconds)
            if outcome.how == "result" and good is None:
                good = case
        if good is None:
            yield Finding("advice", "repetition", "no case gave a result: name a folder of your own with --data")
            return
        for name, params in _bounds(installed, defaults):
            yield judged(installed, Case(name, good.inputs), bench.run(good, params))
        yield repeated(bench, good, defaults)
        yield cancelled(bench, good, defaults)
    yield _within("time", longest, manifest.resources.timeout_s, "s")
    yield _within("memory", peak, manifest.resources.memory_mb, "MB")


# What is declared ----------------------------------------------------------------------------------------------------


def declared(installed: Installed) -> Iterator[Finding]:
    """Findings on the manifest and the parameters alone."""
    manifest = installed.manifest
    if not manifest.inputs or not manifest.outputs:
        yield Finding("failed", "manifest", "a plug-in declares at least one input and one output")
    if manifest.auto and not all(each.where for each in manifest.inputs):
        yield Finding(
            "failed", "manifest", "it runs by itself (auto) on everything that arrives: give each input a test, `where`"
        )
    if not manifest.description:
        yield Finding("advice", "manifest", "no description: users of the viewer read it before they start it")
    for what, text in (("title", manifest.title), ("version", manifest.version)):
        yield from _as_text("manifest", what, text)
    for name, shape in installed.schema().get("properties", {}).items():
        if "title" in shape:
            yield from _as_text(f"parameter {name}", "title", shape["title"])
        if "unit" in shape:
            yield from _as_text(f"parameter {name}", "unit", str(shape["unit"]))
            if not is_unit(str(shape["unit"])):
                words = f'its unit {shape["unit"]!r} is none that PS3.16 knows: is it of UCUM, as "[hnsf\'U]" is?'
                yield Finding("advice", f"parameter {name}", words)
        if not shape.get("description") and not shape.get("title"):
            yield Finding("advice", f"parameter {name}", "neither title nor description")
        if shape.get("type") in ("number", "integer"):
            if not {"minimum", "exclusiveMinimum"} & set(shape) or not {"maximum", "exclusiveMaximum"} & set(shape):
                yield Finding(
                    "advice", f"parameter {name}", "no bounds: a form can offer none, and any number is taken"
                )
            if "unit" not in shape and shape["type"] == "number" and not _is_share(shape):
                yield Finding("advice", f"parameter {name}", 'no unit: json_schema_extra={"unit": …} in UCUM')
    if _defaults(installed) is None:
        yield Finding("failed", "parameters", "they have to have defaults that are valid together: rules run with them")
    else:
        yield Finding("ok", "manifest", f"{manifest.id} {manifest.version}: {manifest.title}")


def _as_text(what: str, part: str, text: str) -> Iterator[Finding]:
    """A finding where a Workitem and results cannot carry a text as it is: as Code Meaning, Code Value or LO."""
    if 0 < len(text) <= MOST_LO and text.isprintable() and "\\" not in text and text == text.strip():
        return
    why = "is empty" if not text.strip() else f"{text!r} has no place in DICOM (LO, PS3.5 6.2)"
    words = f"its {part} {why}: 1 to {MOST_LO} characters on one line, no backslash, no blanks at its ends"
    yield Finding("failed", what, words)


def _is_share(shape: Mapping[str, Any]) -> bool:
    return shape.get("minimum") == 0 and shape.get("maximum") == 1


def _defaults(installed: Installed) -> dict[str, Any] | None:
    try:
        return installed.params({}).model_dump(mode="json")
    except NotAnalysable:
        return None


def _bounds(installed: Installed, defaults: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each numeric parameter at its inclusive bounds, one at a time."""
    for name, shape in installed.schema().get("properties", {}).items():
        for bound in ("minimum", "maximum"):
            if shape.get("type") in ("number", "integer") and bound in shape:
                params = {**defaults, name: shape[bound]}
                try:
                    installed.params(params)
                except NotAnalysable:
                    continue  # parameters that are refused together never reach `run`
                yield f"{name} = {shape[bound]:g}", params


# What a run gave -----------------------------------------------------------------------------------------------------


def judged(installed: Installed, case: Case, outcome: Outcome) -> Finding:
    """One run: a result as declared, or a refusal in words."""
    if outcome.how == "failed":
        words = f"{outcome.words} It has to give a result or raise NotAnalysable.\n{outcome.places}".strip()
        return Finding("failed", case.name, words)
    if outcome.how == "refused":
        if len(outcome.words.split()) < _FEWEST_WORDS:
            return Finding("failed", case.name, f'refused with "{outcome.words}": a clinician cannot tell why')
        if case.expects_result:
            return Finding("failed", case.name, f"refused: {outcome.words}")
        return Finding("ok", case.name, f"refused in words: {outcome.words}")
    faults = [*_faults(installed, case, outcome.results), *outcome.defects[:3]]
    if faults:
        return Finding("failed", case.name, "; ".join(faults))
    kinds = ", ".join(sorted({_kind(ds) for ds in outcome.results}))
    return Finding("ok", case.name, f"{kinds} in {outcome.seconds:.1f} s, {outcome.memory_mb} MB")


def _kind(ds: Dataset) -> str:
    return KIND_OF_SOP_CLASS.get(str(ds.SOPClassUID), UID(ds.SOPClassUID).name)


def _faults(installed: Installed, case: Case, results: Sequence[Dataset]) -> list[str]:
    """What is wrong with the result objects of one run."""
    faults = []
    made = {_kind(ds) for ds in results}
    wanted = {output.kind for output in installed.manifest.outputs if not output.optional}
    allowed = {output.kind for output in installed.manifest.outputs}
    if missing := wanted - made:
        faults.append(f"declared, and not made: {', '.join(sorted(missing))}")
    # What the host makes of image findings besides is declared as well, with `optional` where there may be none.
    if surplus := made - allowed:
        faults.append(f"made, and not declared: {', '.join(sorted(surplus))}")
    sources = [ds for instances in case.inputs.values() for ds in instances]
    known = {str(ds.get("SOPInstanceUID")) for ds in (*sources, *results)}
    studies = {str(ds.get("StudyInstanceUID")) for ds in sources}
    for ds in results:
        if str(ds.StudyInstanceUID) not in studies:
            faults.append(f"a {_kind(ds)} lies outside the study of its input")
        strangers = {uid for uid in _referenced(ds) if uid not in known}
        if strangers:
            faults.append(f"a {_kind(ds)} refers to {len(strangers)} instances that are neither input nor result")
    return faults


def _referenced(ds: Dataset) -> Iterator[str]:
    for element in ds.iterall():
        if element.keyword == "ReferencedSOPInstanceUID" and element.value:
            yield str(element.value)


# Again, and not at all -----------------------------------------------------------------------------------------------


def repeated(bench: Bench, case: Case, params: dict[str, Any]) -> Finding:
    """The same input twice, a day apart, each in a new process: the same bytes but for times."""
    seen = []
    for when in (WHEN, WHEN + 86_400):
        bench.fresh()
        outcome = bench.run(case, params, when=when)
        if outcome.how != "result":
            return Finding("failed", "the same input again", f"the second time it {outcome.how}: {outcome.words}")
        seen.append([_timeless(ds) for ds in outcome.results])
    differ = [
        f"{element.keyword or element.tag} of the {_kind(first)}"
        for first, second in zip(*seen, strict=False)
        for element in (*first, *(each for each in second if each.tag not in first))
        if first.get(element.tag) != second.get(element.tag)
    ]
    if len(seen[0]) != len(seen[1]):
        differ.append("the number of objects")
    if differ:
        return Finding(
            "failed", "the same input again", f"differs in {', '.join(differ[:5])}: fix seeds, read no clock"
        )
    return Finding("ok", "the same input again", f"{len(seen[0])} objects, the same but for their times")


def _timeless(ds: Dataset) -> Dataset:
    for element in list(ds):
        if element.VR in _TIMES:
            del ds[element.tag]
        elif element.VR == "SQ":
            for item in element.value:
                _timeless(item)
    return ds


def cancelled(bench: Bench, case: Case, params: dict[str, Any], patience_s: float = PATIENCE_S) -> Finding:
    """Asked to stop when it had begun: it stops by itself at its next `progress`, or is killed after a moment."""
    outcome = bench.run(case, params, stop_at=RUNNING_AT, patience_s=patience_s)
    if outcome.how == "result":
        return Finding("ok", "cancelled in the middle", f"it was done before that, after {outcome.seconds:.1f} s")
    if outcome.how != "stopped":
        return Finding("failed", "cancelled in the middle", f"it {outcome.how}: {outcome.words}")
    if outcome.seconds_to_stop >= GRACE_S:
        words = f"killed after {outcome.seconds_to_stop:.1f} s: call ctx.progress more often"
        return Finding("advice", "cancelled in the middle", words)
    return Finding("ok", "cancelled in the middle", f"stopped by itself after {outcome.seconds_to_stop:.1f} s")


def _within(what: str, seen: float, limit: float, unit: str) -> Finding:
    words = f"{seen:.1f} of {limit:g} {unit} that are declared, on small phantoms"
    return Finding("advice" if seen > limit * _ADVISED_SHARE else "ok", what, words)
