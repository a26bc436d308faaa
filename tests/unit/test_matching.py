"""Matching keys as PS3.4 C.2.2.2 has them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs.dicom.attributes import TABLE, Level, by_keyword, by_tag, level_of, of_level
from pacs.dicom.matching import (
    AllOf,
    AnyOf,
    Empty,
    Fuzzy,
    Item,
    MatchKey,
    Moments,
    Options,
    Range,
    Single,
    UIDList,
    Universal,
    Wildcard,
    combined,
    fits,
    fold,
    fold_name,
    matches,
    matches_in,
    parse,
)
from pacs.errors import InvalidQuery


def key(keyword: str, text: str) -> object:
    attribute = by_keyword(keyword)
    assert attribute is not None
    return parse(attribute, text)


def test_the_table_is_whole() -> None:
    assert len({a.tag for a in TABLE}) == len(TABLE)
    assert len({a.keyword for a in TABLE}) == len(TABLE)
    columns = [(a.level, c) for a in TABLE for c in a.columns]
    assert len(set(columns)) == len(columns)
    assert by_tag("0010002a") is None
    assert by_tag("0020000d") is by_keyword("StudyInstanceUID")
    assert by_tag("00400275.00400009") is by_keyword("RequestAttributesSequence.ScheduledProcedureStepID")
    assert [a.tag for a in of_level(Level.IMAGE)] == sorted(a.tag for a in TABLE if a.level is Level.IMAGE)
    assert level_of("00091001") is Level.IMAGE


@pytest.mark.parametrize(
    ("keyword", "text", "criterion"),
    [
        ("PatientID", "", Universal()),
        ("PatientID", "*", Universal()),
        ("StudyInstanceUID", "*", Universal()),
        ("StudyDate", "*", Universal()),
        ("SeriesNumber", " * ", Universal()),
        ("PatientName", "**", Universal()),
        ("PatientName", "*=*", Universal()),
        ("PatientID", " AB ", Single("LO", "AB")),
        ("PatientID", "a**b?", Wildcard("LO", "a*b?")),
        ("PatientName", "Doe^JOHN^^", Single("PN", "doe^john")),
        ("PatientName", "Do?^J*", Wildcard("PN", "do?^j*")),
        ("ModalitiesInStudy", "CT\\MR", AnyOf((Single("CS", "CT"), Single("CS", "MR")))),
        ("ModalitiesInStudy", "CT,MR", AnyOf((Single("CS", "CT"), Single("CS", "MR")))),
        ("ModalitiesInStudy", "C*", Wildcard("CS", "C*")),
        ("StudyInstanceUID", "1.2,1.3\\1.2", UIDList(("1.2", "1.3"))),
        ("StudyDate", "20240131", Single("DA", "20240131")),
        ("StudyDate", "2024.01.31", Single("DA", "20240131")),
        ("StudyDate", "20240101-20240131", Range("DA", "20240101", "20240131")),
        ("StudyDate", "-20240131", Range("DA", None, "20240131")),
        ("StudyDate", "20240101-", Range("DA", "20240101", None)),
        ("StudyTime", "0830", Range("TM", "083000.000000", "083059.999999")),
        ("StudyTime", "080000-12", Range("TM", "080000.000000", "125959.999999")),
        ("StudyTime", "08:30:15.5", Range("TM", "083015.500000", "083015.599999")),
        ("AcquisitionDateTime", "20240101120000-0500", Range("DT", "20240101170000.000000", "20240101170000.999999")),
        ("AcquisitionDateTime", "2024-2025", Range("DT", "20240101000000.000000", "20251231235959.999999")),
        ("AcquisitionDateTime", "-202402", Range("DT", None, "20240229235959.999999")),
        ("SeriesNumber", "007", Single("IS", 7)),
        ("Rows", "512", Single("US", 512)),
        ("RequestAttributesSequence.RequestedProcedureID", "R1", Single("SH", "R1")),
    ],
)
def test_keys_are_read(keyword: str, text: str, criterion: object) -> None:
    assert key(keyword, text) == criterion


def test_several_values_ask_for_all_where_that_was_agreed() -> None:
    """Only of attributes that can have several values (PS3.4 C.2.2.2.8)."""
    agreed = Options(multiple_values=True)
    several, one = by_keyword("ModalitiesInStudy"), by_keyword("Modality")
    assert several is not None
    assert one is not None
    both = parse(several, "CT\\MR", agreed)
    assert both == AllOf((Single("CS", "CT"), Single("CS", "MR")))
    assert matches(both, ["MR", "SR", "CT"])
    assert not matches(both, ["CT", "SR"])
    assert parse(several, "CT", agreed) == Single("CS", "CT")
    assert parse(one, "CT\\MR", agreed) == AnyOf((Single("CS", "CT"), Single("CS", "MR")))


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("StudyDate", "2024-01-01"),
        ("StudyDate", "-"),
        ("StudyDate", "2024*"),
        ("StudyDate", "20241301"),
        ("StudyTime", "2500"),
        ("StudyInstanceUID", "1.2.*"),
        ("StudyInstanceUID", "1.2.x"),
        ("StudyInstanceUID", "1" * 65),
        ("SeriesNumber", "one"),
        ("SeriesNumber", "1*"),
        ("PatientID", "a" * 5000),
        ("PatientID", "a\nb"),
        ("PatientID", "\\".join("abc" * 100)),
        ("RequestAttributesSequence", "X"),
        ("AcquisitionDateTime", "soon"),
    ],
)
def test_nonsense_is_refused_by_name_and_without_its_value(keyword: str, text: str) -> None:
    with pytest.raises(InvalidQuery) as refused:
        key(keyword, text)
    assert refused.value.reason.startswith(f"{keyword}: ")
    assert text not in refused.value.reason or len(text) == 1


def test_empty_values_match_only_where_that_was_agreed() -> None:
    attribute = by_keyword("PatientID")
    assert attribute is not None
    agreed = Options(empty_values=True)
    assert parse(attribute, '""', agreed) == Empty()
    assert parse(attribute, 'A1\\""', agreed) == AnyOf((Single("LO", "A1"), Empty()))
    date = by_keyword("StudyDate")
    assert date is not None
    assert parse(date, '""', agreed) == Empty()
    assert parse(attribute, '""') == Single("LO", '""')
    assert matches(Empty(), [])
    assert matches(Empty(), [""])
    assert not matches(Empty(), ["A"])


@pytest.mark.parametrize(
    ("keyword", "text", "values", "expected"),
    [
        ("PatientID", "abc", ["ABC"], False),
        ("PatientID", "ABC", ["ABC "], True),
        ("PatientID", "AB*", [], False),
        ("PatientID", "*", [], True),
        ("PatientName", "do*", ["Doe^John"], True),
        ("PatientName", "DOE^JOHN", ["Doe^John^^"], True),
        ("PatientName", "Doe", ["Doe^John"], False),
        ("PatientName", "山田*", ["Yamada^Tarou=山田^太郎=やまだ^たろう"], True),
        ("PatientName", "=山田*", ["Yamada^Tarou=山田^太郎"], True),
        ("PatientName", "=yamada*", ["Yamada^Tarou=山田^太郎"], False),
        ("PatientName", "yamada*==やま*", ["Yamada^Tarou=山田^太郎=やまだ^たろう"], True),
        ("PatientName", "ÄRZTIN^Zoë", ["ärztin^ZOË"], True),
        ("ModalitiesInStudy", "SR", ["CT", "SR"], True),
        ("ModalitiesInStudy", "C*", ["SR", "CR"], True),
        ("StudyInstanceUID", "1.2,1.3", ["1.3"], True),
        ("StudyDate", "20240101-20240131", ["20240131"], True),
        ("StudyDate", "20240101-20240131", ["2024.02.01"], False),
        ("StudyDate", "-20240131", [""], False),
        ("StudyTime", "080000-120000", ["120000.5"], True),
        ("StudyTime", "080000-120000", ["0759"], False),
        ("StudyTime", "083000", ["083000.00"], True),
        ("SeriesNumber", "7", ["+007"], True),
        ("AcquisitionDateTime", "20240101170000", ["20240101120000-0500"], True),
    ],
)
def test_values_match(keyword: str, text: str, values: list[str], expected: bool) -> None:
    assert matches(key(keyword, text), values) is expected  # type: ignore[arg-type]


def test_values_are_folded_for_the_index() -> None:
    assert fold("DA", "2024.01.31") == "20240131"
    assert fold("DA", "yesterday") is None
    assert fold("TM", "0830") == "083000.000000"
    assert fold("IS", "1.5") is None
    assert fold("LO", " a\0b ") == "ab"
    assert fold_name("Doe^John^^=山田^太郎") == ("doe^john", "山田^太郎", None)
    assert fold_name("^^") == (None, None, None)


@given(st.text("ab*?[]", max_size=8), st.text("ab[]", max_size=12))
def test_wildcards_mean_what_the_obvious_pattern_means(pattern: str, text: str) -> None:
    obvious = "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    assert fits(pattern, text) is bool(re.fullmatch(obvious, text, re.DOTALL))


def test_a_hostile_wildcard_costs_little() -> None:
    assert not fits("*a" * 500 + "b", "a" * 5000)


def asked(keyword: str, text: str, options: Options = Options()) -> MatchKey:  # noqa: B008  frozen
    attribute = by_keyword(keyword)
    assert attribute is not None
    return MatchKey(attribute, parse(attribute, text, options))


def test_fuzzy_names() -> None:
    agreed = Options(fuzzy=True)
    key = asked("PatientName", "john MUELLER", agreed)
    assert isinstance(key.criterion, Fuzzy)
    assert matches(key.criterion, ["Müller^Jon^^Dr."])
    assert matches(key.criterion, ["Miller^John=米勒"])
    assert not matches(key.criterion, ["Müller^Anna"])
    assert not matches(key.criterion, [""])
    assert matches(asked("PatientName", "山田*", agreed).criterion, ["Yamada^Tarou=山田^太郎"])
    # Where there is no word to compare, or no name, nothing is fuzzy
    assert parse(key.attribute, "^", agreed) == parse(key.attribute, "^")
    assert asked("PatientID", "john", agreed).criterion == Single("LO", "john")


def test_what_matches_by_spelling_matches_by_sound_too() -> None:
    for name in ("Doe^John", "O'Neil^Séan^Q", "Smith-Jones^Mary Ann", "van den Berg^Jan", "Müller^Ärztin"):
        for key in (name, name.upper(), name.split("^")[0] + "*", "*^" + name.split("^")[1] + "*"):
            plain, fuzzy = (asked("PatientName", key, options) for options in (Options(), Options(fuzzy=True)))
            assert matches(plain.criterion, [name])
            assert matches(fuzzy.criterion, [name]), (key, name)


@pytest.mark.parametrize(
    ("date", "time", "together"),
    [
        ("20240101-20240103", "1200-1100", (("20240101", "120000.000000"), ("20240103", "110059.999999"))),
        ("20240101-", "12-", (("20240101", "120000.000000"), None)),
        ("-20240103", "-11", (None, ("20240103", "115959.999999"))),
        ("20240101-20240103", "12-", None),  # not of the same form
        ("20240101", "1200-1300", None),
        ("20240101-20240103", "12", None),  # the hour from 12 to 13 is one value
        ("20240101-20240103", "", None),
    ],
)
def test_date_and_time_as_one(date: str, time: str, together: object) -> None:
    keys = (asked("StudyDate", date), asked("PatientID", "1"), asked("StudyTime", time))
    found = combined(keys)
    if together is None:
        assert found == keys
    else:
        assert found == (MatchKey(keys[0].attribute, Moments(keys[2].attribute, *together)), keys[1])  # type: ignore[misc]


@pytest.mark.parametrize(
    ("date", "time", "within"),
    [
        ("20240101", "115959.9", False), ("20240101", "12", True), ("20240102", "0000", True), ("20240102", "", True),
        ("20240101", "", False), ("20240103", "110059", True), ("20240103", "1101", False), ("", "12", False),
        ("20231231", "23", False), ("20240104", "", False),
    ],
)  # fmt: skip
def test_a_moment_lies_within(date: str, time: str, within: bool) -> None:
    (key,) = combined((asked("StudyDate", "20240101-20240103"), asked("StudyTime", "1200-1100")))
    held = {"00080020": {"vr": "DA", "Value": [date]}, "00080030": {"vr": "TM", "Value": [time]}}
    assert matches_in(key, held) is within


def test_datetime_keys_are_in_the_zone_of_the_request() -> None:
    key = asked("AcquisitionDateTime", "20240101120000", Options(offset="-0500"))
    assert key.criterion == Range("DT", "20240101170000.000000", "20240101170000.999999")
    key = asked("AcquisitionDateTime", "20240101120000+0100", Options(offset="-0500"))
    assert key.criterion == Range("DT", "20240101110000.000000", "20240101110000.999999")


def test_one_item_of_a_sequence_has_to_match_all_keys() -> None:
    def coded(value: str, scheme: str) -> dict[str, object]:
        return {"00080100": {"vr": "SH", "Value": [value]}, "00080102": {"vr": "SH", "Value": [scheme]}}

    held = {"00081032": {"vr": "SQ", "Value": [coded("A", "X"), coded("B", "Y"), {}]}}
    sequence = by_tag("00081032")
    assert sequence is not None

    def test(value: str, scheme: str) -> bool:
        inner = (("00080100", Single("SH", value)), ("00080102", Single("SH", scheme)))
        return matches_in(MatchKey(sequence, Item(inner)), held)

    assert test("A", "X")
    assert test("B", "Y")
    assert not test("A", "Y")
    assert not matches_in(MatchKey(sequence, Item((("00080104", Single("LO", "A")),))), held)
    assert matches_in(MatchKey(sequence, Empty()), {"00081032": {"vr": "SQ"}})
    assert not matches_in(MatchKey(sequence, Empty()), held)
