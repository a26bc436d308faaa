"""Our own checks before filing: true results pass, and each of many broken copies is found, at the right object."""

from __future__ import annotations

import copy
import importlib
import io
import json
import pkgutil
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import broken_results
import pytest
import result_objects
from broken_results import BROKEN, Broken
from pydicom import DataElement, Dataset, config, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.uid import Comprehensive3DSRStorage
from result_objects import PRIORS

import analysis
from analysis import verdict_document
from analysis.api import Code
from analysis.results import checks, provenance, segmentation
from analysis.results.checks import attributes, concepts, trees
from analysis.results.checks.modules import IODS, Attribute

Sets = dict[bool, tuple[list[Dataset], list[Dataset], list[bytes]]]


@pytest.fixture(scope="module")
def sets() -> Sets:
    return broken_results.results()


@pytest.fixture(scope="module", autouse=True)
def _true_objects_are_read_once() -> Iterator[None]:
    """Of a set with one broken copy the others are sound, and known: the set is judged as ever, each object once."""
    seen: dict[tuple[bytes, int], tuple[Dataset, Sequence[str]]] = {}
    whole = checks.read

    def read(data: bytes, inherited: Any, sizes: dict[str, tuple[int, int]]) -> tuple[Dataset, Sequence[str]]:
        key = (data, hash(tuple(sizes)))  # of these inputs
        if key not in seen:
            seen[key] = whole(data, inherited, sizes)
        return seen[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "read", read)
        yield


@pytest.mark.parametrize("volume", [True, False])
def test_true_results_pass(sets: Sets, volume: bool) -> None:
    sources, _, files = sets[volume]
    assert checks.examine(files, sources) == []


def test_every_kind_of_result_is_made_and_broken(sets: Sets) -> None:
    made = {str(ds.SOPClassUID) for _, results, _ in sets.values() for ds in results}
    assert made == set(IODS)
    assert {each.sop_class_uid for each in BROKEN} == set(IODS)


@pytest.mark.parametrize("each", BROKEN, ids=lambda each: each.what)
def test_a_broken_copy_is_found(sets: Sets, each: Broken) -> None:
    sources, *true = sets[broken_results.of_volume(each)]
    index, files = each.of_set(*true)
    found = checks.examine(files, sources)
    assert index in {defect.index for defect in found}
    told = " ".join(defect.words for defect in found)
    assert str(sources[0].PatientName) not in told
    assert "SOMEBODY ELSE" not in told


def test_a_verdict_on_a_report_has_lawful_attributes_and_codes(sets: Sets) -> None:
    """It goes into the archive by another door than results, and says the same by the same codes."""
    read = [dcmread(io.BytesIO(file)) for file in sets[False][2]]
    report = next(ds for ds in read if ds.SOPClassUID == Comprehensive3DSRStorage)
    [measured] = trees.children(report, "126010")
    group = trees.children(measured, "125007")[-1]
    for verdict in verdict_document.VALUES:
        made = verdict_document.encode(
            report, group, uid="1.2.3", verdict=verdict, comment="seen", reader="eve", number=1, when=1767348900.0
        )
        ds = dcmread(io.BytesIO(provenance.part10(made)))
        assert list(attributes.defects(ds, attributes.Inherited(()))) == []
        assert list(concepts.defects(ds)) == []


def test_every_code_that_is_written_means_what_ps316_says() -> None:
    """Also those of documents that are not results: batches, verdicts."""
    written = {
        value
        for module in pkgutil.walk_packages(analysis.__path__, "analysis.")
        if module.name.startswith(("analysis.results.", "analysis.plugins.", "analysis.verdict", "analysis.batch"))
        for value in vars(importlib.import_module(module.name)).values()
        if isinstance(value, Code)
    }
    assert len(written) > 50
    assert [code for code in written if concepts.unknown(provenance.code(code))] == []


def test_bytes_that_are_no_dicom_are_found(sets: Sets) -> None:
    sources, _, files = sets[False]
    [first, *_] = checks.examine([b"no DICOM at all", *files], sources)
    assert (first.index, first.sop_instance_uid) == (0, "")


def test_what_an_input_says_wrongly_is_no_defect_of_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Archives hold UIDs, codes and values that the standard forbids; results refer to and repeat some of them."""
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
    monkeypatch.setattr(config.settings, "writing_validation_mode", config.IGNORE)
    sources = []
    for ds in result_objects.volume_results()[0]:
        source = copy.deepcopy(ds)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            wrong = f"{ds[keyword].value[:40]}.007"
            source[keyword] = DataElement(keyword, "UI", wrong, validation_mode=0)
        procedure, unnamed, earlier = Dataset(), Dataset(), Dataset()
        procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "CT1", "99HOSP", "Head"
        unnamed.CodeValue, unnamed.CodingSchemeDesignator = "CT2", "99HOSP"
        source.ProcedureCodeSequence = [procedure, unnamed]
        earlier.Manufacturer = ""
        source.ContributingEquipmentSequence = [earlier]
        source["StudyID"] = DataElement("StudyID", "SH", "AN ID OF TOO MANY CHARACTERS", validation_mode=0)
        sources.append(source)
    results = result_objects.volume_objects(sources[:-PRIORS], sources[-PRIORS:])
    assert checks.examine([provenance.part10(ds) for ds in results], sources) == []


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("SpecificCharacterSet", ["", "ISO 2022 IR 87"]),
        ("SpecificCharacterSet", ""),
        ("SliceThickness", None),
        ("SliceThickness", "0"),
        ("SpacingBetweenSlices", "-1.5"),
        ("LossyImageCompression", "YES"),
    ],
)
def test_labels_of_real_scanners_are_lawful(sets: Sets, keyword: str, value: Any) -> None:
    """Japan's character sets, thickness unknown, distances that count downwards: nothing that a scan may not say."""
    sources = copy.deepcopy(sets[True][0][:-PRIORS])
    for ds in sources:
        ds[keyword] = DataElement(keyword, dictionary_VR(keyword), value, validation_mode=0)
    for kind in (segmentation.KIND, segmentation.LABELMAP):
        made = segmentation.encode(result_objects.run_on(sources), result_objects.labels(sources), kind=kind)
        assert checks.examine([provenance.part10(made)], sources) == []


def test_half_a_look_up_table_is_no_defect_of_what_is_made() -> None:
    """A slope without an intercept, a width without a centre: the marked picture and the state do without."""
    sources, results = result_objects.mammogram_results(
        RescaleSlope="1", RescaleIntercept=None, WindowWidth="300", WindowCenter=None
    )
    assert checks.examine([provenance.part10(ds) for ds in results], sources) == []


def test_the_tables_ask_for_what_the_standard_asks_for() -> None:
    """Our tables against those that highdicom has from the standard's own text: no attribute is of another type."""
    [modules, iods, classes] = [
        json.loads(resources.files("highdicom").joinpath("_standard", name).read_text())
        for name in ("module_attribute_map.json", "iod_module_map.json", "sop_class_iod_map.json")
    ]
    for sop_class, table in IODS.items():
        wanted: dict[tuple[str, ...], set[str]] = {}
        for module in iods[classes[sop_class]]:
            for entry in modules.get(module["key"], ()):
                wanted.setdefault((*entry["path"], entry["keyword"]), set()).add(entry["type"])
        checked: dict[tuple[str, ...], list[str]] = {}
        for path, attribute in flat(table):
            checked.setdefault(path, []).append(attribute.type)
        for path, types in checked.items():
            if path[0] not in OURS and path in wanted:
                assert max(map(rank, types)) >= min(map(rank, wanted[path])), (sop_class, path)
        mandatory = {m["key"] for m in iods[classes[sop_class]] if m["usage"] == "M"}
        ours = {
            (entry["keyword"],)
            for key in mandatory
            for entry in modules.get(key, ())
            if entry["type"] == "1" and not entry["path"]
        }
        assert ours - set(checked) - UNUSED == set(), sop_class


OURS = {"ContributingEquipmentSequence", "CodingSchemeIdentificationSequence", "DerivationDescription"}
UNUSED = {
    # of the value types and shutters that a module describes in one table with what is used
    (keyword,)
    for keyword in (
        "ReferencedSOPSequence", "ConceptCodeSequence", "TemporalRangeType", "GraphicData", "GraphicType",
        "TabulatedValuesSequence", "ReferencedFrameOfReferenceUID", "MeasuredValueSequence",
    )
}  # fmt: skip


def flat(attributes: tuple[Attribute, ...], path: tuple[str, ...] = ()) -> Any:
    """(path, attribute) of a table and of the items in it."""
    for each in attributes:
        yield (*path, each.keyword), each
        yield from flat(each.items, (*path, each.keyword))


def rank(type_: str) -> int:
    """How much a type asks for."""
    return {"3": 0, "2C": 1, "2": 2, "1C": 2, "1": 3}[type_]
