"""PS3.18 8.3.4: query parameters into a Query."""

from __future__ import annotations

import pytest

from dicomweb.params import MAX_RESULTS, MAX_WARNINGS, query
from dicomweb.qido import kind
from pacs.dicom.attributes import Level
from pacs.dicom.matching import ALL, AnyOf, Empty, Fuzzy, Item, Moments, Range, Single, UIDList, Universal, Wildcard
from pacs.errors import InvalidQuery


def criteria(*pairs: tuple[str, str], level: Level = Level.STUDY) -> dict[str, object]:
    return {key.attribute.keyword: key.criterion for key in query(pairs, level)[0].keys}


def test_keyword_and_tag_in_any_case_mean_the_same() -> None:
    expected = {"PatientID": Single("LO", "X")}
    for name in ("PatientID", "00100020"):
        assert criteria((name, "X")) == expected
    assert criteria(("0008103e", "d"), level=Level.SERIES) == criteria(("0008103E", "d"), level=Level.SERIES)


@pytest.mark.parametrize(
    "name",
    [
        "RequestAttributesSequence.ScheduledProcedureStepID", "00400275.00400009",
        "RequestAttributesSequence.00400009", "00400275.ScheduledProcedureStepID",
    ],
)  # fmt: skip
def test_sequence_paths(name: str) -> None:
    found = criteria((name, "P1"), level=Level.SERIES)
    assert found == {"RequestAttributesSequence.ScheduledProcedureStepID": Single("SH", "P1")}


def test_values() -> None:
    found = criteria(
        ("StudyDate", "20240101-20240131"), ("PatientName", "Do?^J*"), ("StudyInstanceUID", "1.2,1.3"),
        ("ReferringPhysicianName", "*"), ("AccessionNumber", '""'), ("emptyvaluematching", "true"),
    )  # fmt: skip
    assert found == {
        "StudyDate": Range("DA", "20240101", "20240131"),
        "PatientName": Wildcard("PN", "do?^j*"),
        "StudyInstanceUID": UIDList(("1.2", "1.3")),
        "ReferringPhysicianName": Universal(),
        "AccessionNumber": Empty(),
    }


def test_the_path_narrows_the_search() -> None:
    found, _ = query([("Modality", "CT")], Level.SERIES, [("StudyInstanceUID", "1.2")])
    assert [(k.attribute.keyword, k.criterion) for k in found.keys] == [
        ("StudyInstanceUID", UIDList(("1.2",))),
        ("Modality", Single("CS", "CT")),
    ]


def test_includefield_with_commas_repeated_and_all() -> None:
    assert query([("includefield", "00081030,00080060")], Level.STUDY)[0].include == {"00081030", "00080060"}
    both = query([("includefield", "StudyDescription"), ("includefield", "0008103e")], Level.STUDY)[0]
    assert both.include == {"00081030", "0008103E"}
    assert query([("includefield", "all")], Level.STUDY)[0].include is ALL
    assert query([("includefield", "NoSuchThing,00100010")], Level.STUDY)[0].include == {"00100010"}


def test_a_matching_key_is_returned_too() -> None:
    assert "00081030" in query([("StudyDescription", "x")], Level.STUDY)[0].include  # type: ignore[operator]


def test_paging() -> None:
    found, _ = query([("limit", "5"), ("offset", "10"), ("fuzzymatching", "true")], Level.STUDY)
    assert (found.limit, found.offset) == (5, 10)
    assert query([], Level.STUDY)[0].limit == query([("limit", "999999")], Level.STUDY)[0].limit == MAX_RESULTS


def test_what_is_unknown_is_ignored_and_said() -> None:
    asked = [("PatentID", "bar"), ("LIMIT", "1"), ("PatentID", "again"), ("Doe^J\r\n", ""), ("accept", "*/*")]
    found, warnings = query(asked, Level.STUDY)
    assert (found.keys, found.limit) == ((), MAX_RESULTS)
    ignored = "is nothing that can be matched here and has been ignored."
    assert warnings == (f"The parameter PatentID {ignored}", f"The parameter LIMIT {ignored}", f"A parameter {ignored}")
    assert len(query([(f"x{n}", "") for n in range(99)], Level.STUDY)[1]) == MAX_WARNINGS


def test_what_is_no_attribute_is_not_included_and_said() -> None:
    asked = [("includefield", "PatentID,all, ,00100010,"), ("includefield", "Doe^J\r\n"), ("includefield", "00091001")]
    found, warnings = query(asked, Level.STUDY)
    assert found.include is ALL
    ignored = "is no attribute and has been ignored."
    assert warnings == (f"The includefield PatentID {ignored}", f"An includefield {ignored}")


def test_what_is_not_supported_is_said() -> None:
    _, warnings = query([("multiplevaluematching", "true"), ("KVP", "120"), ("RetrieveURL", "x")], Level.STUDY)
    ignored = "cannot be matched here and has been ignored."
    assert warnings == (f"The key 00180060 {ignored}", f"The key RetrieveURL {ignored}")


def test_keys_without_a_column_and_sequences() -> None:
    pairs = (
        ("PatientSize", "1.8"), ("ProcedureCodeSequence.CodeValue", "A*"), ("00081032.CodingSchemeDesignator", "X"),
        ("ProcedureCodeSequence.00080121.00080100", "Y"), ("ProcedureCodeSequence.CodeMeaning", ""),
    )  # fmt: skip
    inner = (
        ("00080100", Wildcard("SH", "A*")), ("00080102", Single("SH", "X")),
        ("00080121", Item((("00080100", Single("SH", "Y")),))),
    )  # fmt: skip
    assert criteria(*pairs) == {"PatientSize": Single("DS", 1.8), "ProcedureCodeSequence": Item(inner)}
    assert query(pairs, Level.STUDY)[0].include == {"00101020", "00081032"}
    asked, warnings = query([("ProcedureCodeSequence", ""), ("00400275", "*")], Level.SERIES)
    assert (asked.keys, asked.include, warnings) == ((), {"00081032", "00400275"}, ())
    request = (("00400275.00400009", "S"), ("RequestAttributesSequence.ScheduledProcedureStepDescription", "D"))
    in_one_item = Item((("00400007", Single("LO", "D")), ("00400009", Single("SH", "S"))))
    assert [key.criterion for key in query(request, Level.SERIES)[0].keys] == [Single("SH", "S"), in_one_item]
    for name in ("PatientID.CodeValue", "ProcedureCodeSequence", "ProcedureCodeSequence.PixelData"):
        found, warnings = query([(name, "X")], Level.STUDY)
        assert (found.keys, len(warnings)) == ((), 1)
    with pytest.raises(InvalidQuery):
        query([pairs[1], ("00081032.00080100", "B")], Level.STUDY)


def test_options() -> None:
    fuzzy = criteria(("PatientName", "Doe^J*"), ("fuzzymatching", "true"))
    assert fuzzy == {"PatientName": Fuzzy(("*|DOE|*", "*|j*|*"))}
    both = criteria(("PatientID", 'A\\""'), ("emptyvaluematching", "true"), ("multiplevaluematching", "true"))
    assert both == {"PatientID": AnyOf((Single("LO", "A"), Empty()))}
    (moments,) = criteria(("StudyDate", "20240101-"), ("StudyTime", "12-")).values()
    assert isinstance(moments, Moments)
    assert (moments.low, moments.high) == (("20240101", "120000.000000"), None)


@pytest.mark.parametrize(
    "pairs",
    [
        [("limit", "abc")], [("limit", "-1")], [("offset", "-1")], [("limit", "")], [("limit", "²")],
        [("limit", "1"), ("limit", "2")], [("PatientID", "1"), ("00100020", "1")], [("fuzzymatching", "maybe")],
        [("emptyvaluematching", "1")], [("StudyDate", "2024-01-01")], [("StudyDate", "-")],
        [("StudyInstanceUID", "1.2.*")], [("limit", "9" * 30)], [("PatientID", "x" * 5000)],
    ],
)  # fmt: skip
def test_nonsense_is_refused(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidQuery):
        query(pairs, Level.STUDY)


def test_what_is_slow_is_known_apart_from_what_is_quick() -> None:
    assert kind([("PatientID", "A"), ("limit", "20")]) == kind([("PatientID", "B"), ("limit", "50")])
    few = [("limit", "1")]
    for other in ([("limit", "20000")], [*few, ("offset", "90000")], [*few, ("includefield", "all")], []):
        assert kind(other) != kind(few)
    assert kind([("includefield", "all")]) != kind([("includefield", "00081030")])
    assert kind([("PatientName", "A*")]) != kind([("PatientName", "A")])
