"""Rules as they are written: tests in words, what is refused at the start, and which input a reference is meant for."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from task_plugins import BUILDING, TARGETS

from analysis.api import AnyOf, Input, Manifest, NotAnalysable, When
from analysis.assign import assigned
from analysis.attribute_tests import holds, like
from analysis.prior_sources import first_part
from analysis.registry import Registry
from analysis.rules import load
from analysis.tests_in_words import parsed, written
from pacs.dicom.ups_task import References
from pacs.errors import InvalidInput, PeerFailed
from pacs.settings import AE, Forward, Rule, Settings


def holding(text: str, *values: str) -> bool:
    test = parsed(text)
    assert isinstance(test, When)
    return holds(test, values)


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("Modality = CT", ["CT"], True),
        ("Modality = CT", ["MR"], False),
        ("Modality = CT", [], False),
        ("Modality != CT", ["MR"], True),
        ("Modality != CT", [], True),
        ("Modality in CT, PT", ["PT"], True),
        ("Modality in CT, PT", ["MR"], False),
        ("SliceThickness <= 1.5", ["1.50"], True),
        ("SliceThickness < 1.5", ["1.5"], False),
        ("SliceThickness = 5.0", ["5"], True),
        ("SliceThickness >= 1.5", ["thin"], False),
        ("SliceThickness > 1.5", ["2"], True),
        ("PatientAge >= 018Y", ["017Y"], False),
        ("PatientAge >= 18", ["018Y"], True),
        ("PatientAge < 018Y", ["011M"], True),
        ("StudyDate >= 20260101", ["20260102"], True),
        ("SeriesDescription like *BONE*", ["Head bone 1.0"], True),
        ("SeriesDescription like H?AD", ["HEAD"], True),
        ("SeriesDescription like H?AD", ["HED"], False),
        ("SeriesDescription like *", [""], False),
        ("SeriesDescription matches (Head|Jaw) [0-9]+", ["Jaw 12"], True),
        ("SeriesDescription matches Head", ["Head 1"], False),
        ("SeriesDescription matches (?:[A-Z]{2,4} ?){1,4}[0-9]*", ["CT HEAD 12"], True),
        ('SeriesDescription = " a or b "', [" a or b "], True),
        ("ImageType contains PRIMARY", ["ORIGINAL", "PRIMARY"], True),
        ("ContrastBolusAgent exists", ["x"], True),
        ("ContrastBolusAgent missing", [""], True),
        ("ContrastBolusAgent missing", ["x"], False),
        ("AnatomicRegionSequence.CodeValue = T-11100", ["T-11100"], True),
        ("00080060 = CT", ["CT"], True),
    ],
)
def test_tests_in_words(text: str, values: list[str], expected: bool) -> None:
    assert holding(text, *values) is expected


def test_alternatives() -> None:
    test = parsed('Modality = CT or Modality = PT or SeriesDescription = "x or y"')
    assert isinstance(test, AnyOf)
    assert [each.value for each in test.tests] == ["CT", "PT", "x or y"]
    assert written(test) == "Modality = CT or Modality = PT or SeriesDescription = x or y"
    for text in ("Modality in CT, PT", "SliceThickness <= 1.5", "ContrastBolusAgent missing", "Rows exists"):
        assert written(parsed(text)) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Modality", "is no test"),
        ("Modality CT", "is no test"),
        ("Modality is CT", "is no test"),
        ("Modalitty = CT", "'Modalitty' is no keyword of PS3.6"),
        ("Modality =", "a value is missing"),
        ("Modality exists now", "nothing follows 'exists'"),
        ("SliceThickness < thin", "'thin' is no number"),
        ("SeriesDescription matches (", "is no regular expression"),
        ("SeriesDescription matches (a+)+b", "ages"),
        ("SeriesDescription matches (a|aa)*b", "ages"),
        ("SeriesDescription matches .*.*.*.*x", "ages"),
        ("SeriesDescription matches (?:(?:a?){16}){16}b", "ages"),
        ("SeriesDescription matches " + "a?" * 40 + "b", "ages"),
        ("SeriesDescription matches " + "(?:a|aa)" * 40 + "b", "ages"),
    ],
)
def test_what_is_no_test_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words.replace("(", r"\(")):
        parsed(text)


def test_wildcards_cost_little() -> None:
    assert not like("*a" * 200 + "b", "a" * 5000)


# Rules ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry() -> Registry:
    loaded = Registry.load({**TARGETS, **BUILDING})
    assert loaded.broken == ()
    return loaded


def made(registry: Registry, *rules: Rule, **settings: Any) -> list[tuple[str, str, bool]]:
    """Name, plug-in and whether it is the plug-in's own rule."""
    loaded = load(replace(Settings(), rules=rules, **settings), registry)
    return [(rule.name, rule.installed.id, rule.own) for rule in loaded]


def test_configured_rules_take_the_place_of_the_plugins_own(registry: Registry) -> None:
    own = [("compare", "compare", True), ("count", "count", True), ("review", "review", True), ("views", "views", True)]
    assert sorted(made(registry)) == own
    rules = Rule("thin", plugin="count"), Rule("thick", plugin="count"), Rule("never", plugin="views", run=False)
    assert made(registry, *rules)[:2] == [("thin", "count", False), ("thick", "count", False)]
    assert sorted(made(registry, *rules)[2:]) == [own[0], own[2]]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule("r", plugin="cuont"), "r: no plug-in named 'cuont' is installed; installed: compare, count"),
        (Rule("r", plugin="count", when=("Modality",)), "r: 'Modality' is no test"),
        (Rule("r", plugin="count", priority="ASAP"), "r: priority is HIGH, MEDIUM or LOW"),
        (Rule("r", plugin="count", parameters=("threshold",)), "r: parameters: 'threshold' is not NAME = VALUE"),
        (Rule("r", plugin="count", parameters=("threshold = 99999",)), "r: the parameters cannot be used: threshold"),
        (Rule("r", plugin="count", expect=("many",)), "r: expect: 'many' is neither N, nor N of a test"),
        (Rule("r", plugin="count", expect=("2 of View = CC",)), "r: 'View' is no keyword"),
        (Rule("r", plugin="count", results_of=("count",)), "r: a plug-in is never started by results of its own"),
        (Rule("r", plugin="count", results_of=("nope",)), "r: results_of: no plug-in named 'nope'"),
        (Rule("r", plugin="review", results_of=("views",)), "r: results_of: the plug-in takes results of count only"),
        (Rule("r", plugin="review", expect=("3",)), "r: expect: results of a task come all at once"),
        (Rule("r", plugin="count", priors=1), "r: priors: the plug-in has no input for an earlier study"),
        (Rule("r", plugin="compare", priors=2), "r: priors: the plug-in takes one earlier series at most"),
        (Rule("r", plugin="compare", priors_from=("OLD",)), "r: priors_from: 'OLD' is neither an AE with host"),
        (Rule(" ", plugin="count"), " : it has no name"),
        (Rule("count", plugin="views"), "count: another plug-in has that name"),
        (Rule("r", plugin="count", wait_s=-1), "r: wait_s is less than 0"),
        (Rule("r", plugin="count", quiet_s=-1), "r: quiet_s is less than 0"),
        (Rule("r", plugin="compare", priors_days=-1), "r: priors_days is less than 0"),
        (Rule("r", plugin="count", parameters=("pause_s = Infinity",)), "r: parameters: Infinity is no number"),
        (Rule("r", plugin="count", parameters=("pause_s = 1", "pause_s = 2")), "r: parameters: one is given twice"),
        (Rule("r", plugin="count", expect=("9" * 5000,)), "r: expect: '999"),
        (Rule("r", plugin="review", quiet_s=60), "r: quiet_s: it looks at results of a task"),
        (Rule("r", plugin="review", sources=("CT1",)), "r: sources: it looks at results of a task"),
    ],
)
def test_rules_that_cannot_be_are_refused_at_the_start_by_name(registry: Registry, rule: Rule, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        made(registry, rule)
    assert refused.value.reason.startswith(f"setting rules: {words}")


def test_results_never_start_one_another_in_a_circle(registry: Registry) -> None:
    with pytest.raises(InvalidInput, match="for ever: count → review → count"):
        made(registry, Rule("again", plugin="count", results_of=("review",)), Rule("review", plugin="review"))
    # The plug-in's own rule gives way where only that would close the circle.
    names = [name for name, _, _ in made(registry, Rule("again", plugin="count", results_of=("review",)))]
    assert "again" in names
    assert "review" not in names


def test_earlier_studies_come_from_what_is_configured(registry: Registry) -> None:
    rule = Rule("r", plugin="compare", priors_from=("OLD", "web"))
    places = {
        "aes": (AE("OLD", host="10.0.0.7", port=104),),
        "forward": (Forward("web", to="https://pacs.example/dicom-web", what="nothing"),),
    }
    assert ("r", "compare", False) in made(registry, rule, **places)
    with pytest.raises(InvalidInput, match="twice"):
        made(registry, rule, rule, **places)


def test_the_documented_rules_are_good(registry: Registry) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
    written = "".join(re.findall(r"```toml\n(.*?)```", page, re.DOTALL)).replace("PLUGIN", "compare")
    assert written.count("[[rules]]") == 3
    tables = tomllib.loads(written)["rules"]
    rules = tuple(Rule(**{k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}) for table in tables)
    everything = Registry([*Registry.load(), *registry])
    places = {
        "aes": (AE("OLDPACS", host="10.0.0.7", port=104),),
        "forward": (Forward("archive", to="https://pacs.example/dicom-web", what="nothing"),),
    }
    assert [name for name, _, own in made(everything, *rules, **places) if not own] == [t["name"] for t in tables]


# Which reference is meant for which input ----------------------------------------------------------------------------

NOW = References("1.1", "1.1.1")
MORE = References("1.1", "1.1.2")
BEFORE = References("1.0", "1.0.1")
RESULT = References("1.1", "1.1.9", (("1.2", "1.1.9.1"),))
MADE_BY = {"1.1.9.1": "count"}


def names(inputs: tuple[Input, ...], *references: References) -> dict[str, list[References]]:
    manifest = Manifest(id="abc", version="1", title="T", inputs=inputs, outputs=())
    return {wanted.name: given for wanted, given in assigned(manifest, references, MADE_BY)}


def test_inputs_are_told_apart() -> None:
    now, prior = Input(name="now"), Input(name="prior", prior=True, optional=True)
    report = Input(name="report", results_of="count", load="datasets")
    other = Input(name="other", optional=True)
    assert names((now,), NOW, BEFORE, RESULT) == {"now": [NOW, BEFORE, RESULT]}
    assert names((now, prior), NOW, BEFORE) == {"now": [NOW], "prior": [BEFORE]}
    assert names((now, prior), NOW, MORE) == {"now": [NOW, MORE], "prior": []}
    assert names((report, now), NOW, RESULT) == {"report": [RESULT], "now": [NOW]}
    assert names((now, other), NOW) == {"now": [NOW], "other": []}
    assert names((now, other), NOW, MORE) == {"now": [NOW], "other": [MORE]}
    assert names((now, other, prior, report), NOW, MORE, BEFORE, RESULT) == {
        "now": [NOW], "other": [MORE], "prior": [BEFORE], "report": [RESULT],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("inputs", "references", "words"),
    [
        ((Input(name="now"),), (), "names no input"),
        ((Input(name="a"), Input(name="b")), (NOW,), r"2 inputs are needed \(a, b\), 1 are given"),
        ((Input(name="now"), Input(name="prior", prior=True)), (NOW,), r"1 inputs are needed \(prior\), 0 are given"),
        ((Input(name="now"), Input(name="r", results_of="other")), (NOW, RESULT), r"\(r\), 0 are given"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    inputs: tuple[Input, ...], references: tuple[References, ...], words: str
) -> None:
    with pytest.raises(NotAnalysable, match=words):
        names(inputs, *references)


@pytest.mark.parametrize(
    "inputs",
    [
        (),
        (Input(name="a"), Input(name="a")),
        (Input(name="a", prior=True),),
        (Input(name="a", optional=True),),
        (Input(name="a", results_of="abc"),),
    ],
)
def test_manifests_that_cannot_be(inputs: tuple[Input, ...]) -> None:
    with pytest.raises(ValueError, match=r"input|results"):
        Manifest(id="abc", version="1", title="T", inputs=inputs, outputs=())


# What a DICOMweb root answers ----------------------------------------------------------------------------------------


class Pieces:
    """An answer that comes a few bytes at a time."""

    def __init__(self, body: bytes, size: int) -> None:
        self.body, self.size = body, size

    def read(self, _most: int) -> bytes:
        piece, self.body = self.body[: self.size], self.body[self.size :]
        return piece


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_first_part_of_an_answer(size: int) -> None:
    content = b"\r\n--not the mark\r\n" * 5
    body = b"--mark\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--mark--\r\n"
    kind = 'multipart/related; type="application/dicom"; boundary="mark"'
    assert b"".join(first_part(Pieces(body, size), kind)) == content
    for broken in (body[:-12], body.replace(b"--mark\r\nC", b"--other\r\nC"), b""):
        with pytest.raises(PeerFailed):
            list(first_part(Pieces(broken, size), kind))
    with pytest.raises(PeerFailed, match="text/html"):
        list(first_part(Pieces(body, size), "text/html; charset=utf-8"))
