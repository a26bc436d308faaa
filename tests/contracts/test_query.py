"""Searching and retrieving on every database, against the reference matcher and pydicom."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dicom_data
import numpy as np
import pydicom
import pytest
from pydicom import Dataset, Sequence
from pydicom.encaps import encapsulate

from pacs import uids
from pacs.auth import CLINICAL_RIGHTS, SYSTEM, Principal, Right
from pacs.dicom import attributes
from pacs.dicom.attributes import TABLE, Attribute, Level, by_keyword, by_tag, level_of
from pacs.dicom.json_model import loads, texts
from pacs.dicom.matching import (
    ALL,
    Criterion,
    Item,
    MatchKey,
    Moments,
    Options,
    Query,
    Single,
    UIDList,
    Universal,
    Wildcard,
    combined,
    fold,
    matches,
    parse,
    within,
)
from pacs.errors import Corrupt, Forbidden, NotFound, TooLarge
from pacs.events import Events
from pacs.index.engine import Index, open_index
from pacs.ingest import Ingest
from pacs.query import Matches, QueryService, Row
from pacs.retrieve import Retrieve
from pacs.settings import Settings
from pacs.storage.memory import MemoryStore

EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"


def store(ingest: Ingest, ds: Dataset, ts: str = EXPLICIT) -> None:
    receiving = ingest.receive(ts)
    receiving.write(dicom_data.dataset_bytes(ds, ts))
    ingest.store(receiving, principal=SYSTEM)


NAMES = ["Doe^John", "doe^jane", "Müller^Ärzte", "Yamada^Tarou=山田^太郎=やまだ^たろう", "D[o]e^J%_", "O'Neil^\"X", ""]
MODALITIES = ["CT", "MR", "SR", "CR"]


def population() -> Iterator[Dataset]:
    """Forty instances of nine studies with every kind of odd value."""
    dice = random.Random(7)
    for n in range(40):
        study = n % 9
        odd = random.Random(study)
        series = study * 10 + n % 2
        chosen = random.Random(series)
        ds = dicom_data.image(
            n,
            StudyInstanceUID=f"1.2.{study + 1}",
            SeriesInstanceUID=f"1.3.{series + 1}",
            SOPInstanceUID=f"1.4.{n + 1}",
            PatientName=odd.choice(NAMES),
            PatientID=odd.choice(["A1", "a1", "A*", "B_2", ""]),
            StudyDate=odd.choice(["20240101", "20240131", "19991231", ""]),
            StudyTime=odd.choice(["083000", "0830", "120000.5", "2359", ""]),
            AccessionNumber=f"ACC{study}",
            StudyID=str(study),
            ReferringPhysicianName=odd.choice(["Referrer^Rae", "Other^Ann"]),
            Modality=chosen.choice(MODALITIES),
            SeriesNumber=chosen.choice([1, 2, 10, None]),
            InstanceNumber=dice.choice([1, 2, 3]),
            SeriesDescription=chosen.choice(["Head", "head", "Thorax lung"]),
            SOPClassUID=dice.choice(["1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"]),
            ContentDate=dice.choice(["20240101", "20250101"]),
        )
        if chosen.random() < 0.6:
            ds.PerformedProcedureStepStartDate = "20240102"
            ds.PerformedProcedureStepStartTime = "101112"
            request = Dataset()
            request.ScheduledProcedureStepID = chosen.choice(["SPS1", "SPS2"])
            request.RequestedProcedureID = chosen.choice(["RP1", "RP2"])
            ds.RequestAttributesSequence = Sequence([request])
        yield ds


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Index, list[Dataset]]]:
    """An index that holds the population."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('index') / 'index.db'}"
    else:
        url = request.getfixturevalue("postgresql_cluster").new_database()
    index, objects = open_index(url), MemoryStore()
    ingest = Ingest(objects, index, Events(), Settings())
    people = list(population())
    for ds in people:
        store(ingest, ds)
    yield index, people
    index.close()
    objects.close()


def key(name: str, text: str) -> MatchKey:
    attribute = by_keyword(name)
    assert attribute is not None
    return MatchKey(attribute, parse(attribute, text))


def ask(index: Index, level: Level, *keys: MatchKey, **options: Any) -> Matches:
    return QueryService(index).search(Query(level, keys, **options), SYSTEM)


def values(ds: Dataset, attribute: Attribute) -> list[str]:
    tag, _, inner = attribute.tag.partition(".")
    element = ds.get(int(tag, 16))
    if element is None or element.value in (None, ""):
        return []
    return [str(item[int(inner, 16)].value) for item in element.value] if inner else [str(element.value)]


def own(ds: Dataset, level: Level) -> str:
    return str(
        {Level.STUDY: ds.StudyInstanceUID, Level.SERIES: ds.SeriesInstanceUID, Level.IMAGE: ds.SOPInstanceUID}[level]
    )


def expected(people: list[Dataset], level: Level, keys: tuple[MatchKey, ...]) -> set[str]:
    """What matches by the reference: study and series values are those of the first arrival."""
    first: dict[tuple[Level, str], Dataset] = {}
    for ds in people:
        for each in (Level.STUDY, Level.SERIES, Level.IMAGE):
            first.setdefault((each, own(ds, each)), ds)

    def fits(ds: Dataset, each: MatchKey) -> bool:
        if each.attribute.tag == "00080061":
            held = [
                d.Modality
                for (lv, _), d in first.items()
                if lv is Level.SERIES and d.StudyInstanceUID == ds.StudyInstanceUID
            ]
            return matches(each.criterion, held)
        if each.attribute.tag == "00080062":
            return matches(each.criterion, [d.SOPClassUID for d in people if d.StudyInstanceUID == ds.StudyInstanceUID])
        at = Level.STUDY if each.attribute.level is Level.PATIENT else each.attribute.level
        if isinstance(each.criterion, Moments):
            held = first[at, own(ds, at)]
            date, time = (fold(a.vr, "".join(values(held, a))) for a in (each.attribute, each.criterion.time))
            return date is not None and within(each.criterion, str(date), None if time is None else str(time))
        return matches(each.criterion, values(first[at, own(ds, at)], each.attribute))

    return {own(ds, level) for ds in people if all(fits(ds, each) for each in keys)}


def found(matches: Matches, level: Level) -> set[str]:
    at = {Level.STUDY: "study_instance_uid", Level.SERIES: "series_instance_uid", Level.IMAGE: "sop_instance_uid"}[
        level
    ]
    return {getattr(row, at) for row in matches.rows}


def trials_of(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(name, text) for name, texts_ in table.items() for text in texts_]


TRIALS = trials_of(
    {
        "PatientName": (
            "doe*", "DOE^JOHN", "*", "*^j*", "山田*", "=山田^太郎", "yamada*=山田*", "müller^ÄRZTE", "D[o]e*",
            "d?e^j?n?", "*%_", "o'neil*", "[d]oe*",
        ),
        "PatientID": ("A1", "a1", "a*", "?1", "B_2", "B?2", "A1\\B_2", "", "b*", "%"),
        "StudyDate": ("20240101", "20240101-20240131", "-20240101", "20240115-", "2024.01.31"),
        "StudyTime": ("083000", "0830", "08", "080000-120000", "-0830", "12-"),
        "AccessionNumber": ("ACC3", "acc3", "ACC?", "*3"),
        "ModalitiesInStudy": ("CT", "C*", "CT\\SR", "XX", "?R"),
        "SOPClassesInStudy": ("1.2.840.10008.5.1.4.1.1.4", "1.2.3"),
        "ReferringPhysicianName": ("other*",),
        "StudyInstanceUID": ("1.2.1,1.2.5", "1.2.77"),
        "StudyID": ("4",),
    }
)  # fmt: skip
SERIES_TRIALS = trials_of(
    {
        "Modality": ("CT", "?R"),
        "SeriesNumber": ("10", "01"),
        "SeriesInstanceUID": ("1.3.1",),
        "SeriesDescription": ("Head", "*ead"),
        "PerformedProcedureStepStartDate": ("20240101-20240103",),
        "PerformedProcedureStepStartTime": ("10-11",),
        "RequestAttributesSequence.ScheduledProcedureStepID": ("SPS1",),
        "RequestAttributesSequence.RequestedProcedureID": ("RP*",),
    }
)
IMAGE_TRIALS = trials_of(
    {
        "SOPClassUID": ("1.2.840.10008.5.1.4.1.1.4",),
        "SOPInstanceUID": ("1.4.1\\1.4.7",),
        "InstanceNumber": ("2",),
        "Rows": ("16", "17"),
        "ContentDate": ("2025.01.01",),
    }
)


@pytest.mark.parametrize("level", [Level.STUDY, Level.SERIES, Level.IMAGE])
def test_the_index_matches_what_the_reference_matches(filled: tuple[Index, list[Dataset]], level: Level) -> None:
    index, people = filled
    trials = (
        TRIALS + (SERIES_TRIALS if level is not Level.STUDY else []) + (IMAGE_TRIALS if level is Level.IMAGE else [])
    )
    some = 0
    for name, text in trials:
        keys = (key(name, text),)
        want = expected(people, level, keys)
        assert found(ask(index, level, *keys), level) == want, (name, text)
        some += bool(want)
    assert some > len(trials) * 0.7
    dice = random.Random(level)
    for _ in range(40):
        keys = tuple(key(*trial) for trial in dice.sample(trials, 2))
        assert found(ask(index, level, *keys), level) == expected(people, level, keys), keys


def test_two_keys_of_one_sequence_ask_for_one_item(filled: tuple[Index, list[Dataset]]) -> None:
    index, people = filled
    keys = (
        key("RequestAttributesSequence.ScheduledProcedureStepID", "SPS1"),
        key("RequestAttributesSequence.RequestedProcedureID", "RP2"),
    )
    for level in (Level.SERIES, Level.IMAGE):
        assert found(ask(index, level, *keys), level) == expected(people, level, keys)
    both = {
        (d.StudyInstanceUID)
        for d in people
        if own(d, Level.SERIES) in found(ask(index, Level.SERIES, *keys), Level.SERIES)
    }
    assert found(ask(index, Level.STUDY, *keys), Level.STUDY) == both


def test_keys_of_lower_levels_ask_for_a_child(filled: tuple[Index, list[Dataset]]) -> None:
    index, people = filled
    keys = (key("Modality", "CT"), key("InstanceNumber", "2"))
    first = {d.SeriesInstanceUID: d for d in reversed(people)}
    want = {d.StudyInstanceUID for d in people if first[d.SeriesInstanceUID].Modality == "CT" and d.InstanceNumber == 2}
    assert found(ask(index, Level.STUDY, *keys), Level.STUDY) == want
    want = {d.SeriesInstanceUID for d in people if d.InstanceNumber == 2}
    assert found(ask(index, Level.SERIES, keys[1]), Level.SERIES) == want
    want = {d.StudyInstanceUID for d in people if d.InstanceNumber == 2}
    assert found(ask(index, Level.STUDY, keys[1]), Level.STUDY) == want


@pytest.mark.parametrize("level", [Level.STUDY, Level.SERIES, Level.IMAGE])
def test_pages_are_disjoint_and_whole_and_know_what_remains(filled: tuple[Index, list[Dataset]], level: Level) -> None:
    index, _ = filled
    whole = [row.json for row in ask(index, level).rows]
    assert whole == [row.json for row in ask(index, level).rows]
    assert len(set(whole)) == len(whole)
    for size in (1, 4, len(whole)):
        seen: list[bytes] = []
        while len(seen) < len(whole):
            page = ask(index, level, limit=size, offset=len(seen))
            seen += [row.json for row in page.rows]
            assert page.remaining == len(whole) - len(seen)
        assert seen == whole
    assert ask(index, level, limit=0).rows == []
    assert ask(index, level, limit=5, offset=len(whole)) == Matches([], 0)
    assert [row.json for row in ask(index, level, offset=2).rows] == whole[2:]


def parsed(row: Row) -> dict[str, Any]:
    """The row as a strict reader takes it: one address, ascending tags, no empty values."""
    assert row.json.count(b"\xff") == 1
    read = loads(row.json.replace(b"\xff", b"http://here"))
    assert list(read) == sorted(read)
    for held in read.values():
        assert held["vr"]
        assert held.get("Value") != []
    return read


DEFAULTS = {
    Level.STUDY: "00080020 00080030 00080050 00080056 00080061 00080062 00080090 00081190 00100010 00100020 00100030 "
    "00100040 0020000D 00200010 00201206 00201208",
    Level.SERIES: "00080056 00080060 00081190 0020000D 0020000E 00200011 00201209",
    Level.IMAGE: "00080016 00080018 00080056 00081190 00083002 0020000D 0020000E 00200013 00280010 00280011 00280100",
}


def test_rows_hold_what_the_tables_ask_for(filled: tuple[Index, list[Dataset]]) -> None:
    index, people = filled
    (study,) = ask(index, Level.STUDY, key("StudyInstanceUID", "1.2.1")).rows
    row = parsed(study)
    assert set(row) == set(DEFAULTS[Level.STUDY].split())
    mine = [ds for ds in people if ds.StudyInstanceUID == "1.2.1"]
    assert row["00201208"]["Value"] == [len(mine)]
    assert row["00201206"]["Value"] == [len({ds.SeriesInstanceUID for ds in mine})]
    assert row["00080062"]["Value"] == sorted({ds.SOPClassUID for ds in mine})
    assert row["00081190"]["Value"] == ["http://here/studies/1.2.1"]
    empty = parsed(next(r for r in ask(index, Level.STUDY).rows if not texts(r.attributes, "00100020")))
    assert empty["00100020"] == {"vr": "LO"}

    in_study = (key("StudyInstanceUID", "1.2.1"),)
    for series in ask(index, Level.SERIES, *in_study).rows:
        row = parsed(series)
        known = {"0008103E", "00400244", "00400245", "00400275"}
        assert set(row) - known == set(DEFAULTS[Level.SERIES].split())
        assert row["00081190"]["Value"] == [f"http://here/studies/1.2.1/series/{series.series_instance_uid}"]
    relational = parsed(ask(index, Level.SERIES, limit=1).rows[0])
    assert set(DEFAULTS[Level.STUDY].split()) | set(DEFAULTS[Level.SERIES].split()) <= set(relational)
    assert relational["00081190"]["Value"][0].startswith("http://here/studies/1.2.")
    assert "/series/" in relational["00081190"]["Value"][0]

    one = ask(index, Level.IMAGE, *in_study, key("SeriesInstanceUID", "1.3.1"), limit=1).rows[0]
    assert set(parsed(one)) == set(DEFAULTS[Level.IMAGE].split())
    of_study = parsed(ask(index, Level.IMAGE, *in_study, limit=1).rows[0])
    assert set(DEFAULTS[Level.IMAGE].split()) | set(DEFAULTS[Level.SERIES].split()) <= set(of_study)
    assert "00100010" not in of_study
    everywhere = parsed(ask(index, Level.IMAGE, limit=1).rows[0])
    assert {tag for names in DEFAULTS.values() for tag in names.split()} <= set(everywhere)


def test_asked_attributes_come_from_their_level_and_those_above(filled: tuple[Index, list[Dataset]]) -> None:
    index, _ = filled
    asked = frozenset(("00081030", "00080060", "00281050", "0018A001", "00080005", "7FE00010", "00091001"))
    study = parsed(ask(index, Level.STUDY, include=asked, limit=1).rows[0])
    assert study["00081030"]["Value"] == ["Synthetic study"]
    assert not {"00080060", "00281050"} & set(study)
    series = parsed(ask(index, Level.SERIES, key("StudyInstanceUID", "1.2.1"), include=asked, limit=1).rows[0])
    assert series["00081030"]["Value"] == ["Synthetic study"]
    assert "00281050" not in series
    image = parsed(ask(index, Level.IMAGE, include=asked, limit=1).rows[0])
    assert image["00281050"]["Value"] == [40]
    assert not {"7FE00010", "0018A001", "00091001"} & set(image)
    matched = parsed(ask(index, Level.STUDY, key("StudyDescription", "Syn*"), limit=1).rows[0])
    assert matched["00081030"]["Value"] == ["Synthetic study"]
    unknown = parsed(ask(index, Level.STUDY, include=frozenset(("00380010",)), limit=1).rows[0])
    assert unknown["00380010"] == {"vr": "LO"}
    for level in (Level.STUDY, Level.SERIES, Level.IMAGE):
        for row in ask(index, level, include=ALL).rows:
            tags = parsed(row)
            assert all(level_of(tag) != Level.IMAGE or level is Level.IMAGE for tag in tags)
            assert set(DEFAULTS[level].split()) <= set(tags)
    everything = parsed(ask(index, Level.IMAGE, include=ALL, limit=1).rows[0])
    assert {"00080008", "00281050", "00200032"} <= set(everything)


def test_private_attributes_come_with_their_creator(index: Index, ingest: Ingest) -> None:
    ds = dicom_data.image()
    ds.private_block(0x0009, "M3 TEST", create=True).add_new(0x01, "LO", "secret of nobody")
    store(ingest, ds)
    row = parsed(ask(index, Level.IMAGE, include=frozenset(("00091001",))).rows[0])
    assert row["00090010"]["Value"] == ["M3 TEST"]
    assert row["00091001"]["Value"] == ["secret of nobody"]


def test_patients_are_told_with_their_counts(index: Index, ingest: Ingest) -> None:
    for study in range(3):
        for number in range(2):
            for ds in dicom_data.series(2, study=study, number=number, PatientID="A" if study < 2 else "B"):
                store(ingest, ds)
    store(ingest, dicom_data.image(90, StudyInstanceUID="1.9", PatientID=""))
    store(ingest, dicom_data.image(91, StudyInstanceUID="1.8", PatientID=""))
    rows = ask(index, Level.PATIENT).rows
    assert [texts(row.attributes, "00100020") for row in rows] == [[], [], ["B"], ["A"]]
    last = rows[-1].attributes
    assert [last[tag]["Value"] for tag in ("00201200", "00201202", "00201204")] == [[2], [4], [8]]
    assert "0020000D" not in last
    assert ask(index, Level.PATIENT, key("PatientID", "A"), limit=1).remaining == 0
    page = ask(index, Level.PATIENT, limit=1, offset=1)
    assert page.remaining == 2
    assert texts(ask(index, Level.PATIENT, key("PatientName", "SYN*"), limit=9).rows[2].attributes, "00100020") == ["B"]
    issuer = ask(index, Level.PATIENT, include=frozenset(("00100021", "00081030")), limit=1).rows[0].attributes
    assert issuer["00100021"] == {"vr": "LO"}
    assert "00081030" not in issuer


def test_searching_needs_the_right(filled: tuple[Index, list[Dataset]]) -> None:
    index, _ = filled
    with pytest.raises(Forbidden):
        QueryService(index).search(Query(Level.STUDY), Principal("x", "token", frozenset({Right.STORE})))


FUZZY = (
    "john doe", "DOE^jon", "do*", "*o*^j*", "taro yamada", "yamada", "山田", "ärzte muller", "mueller", "O’Neil",
    "oneil", "d?e", "j*", "[doe", "%", "smith", "_", "|", "JN",
)  # fmt: skip


def test_fuzzy_names_are_those_of_the_reference(filled: tuple[Index, list[Dataset]]) -> None:
    index, people = filled
    names = by_tag("00100010")
    assert names is not None
    some = 0
    for text in FUZZY:
        keys = (MatchKey(names, parse(names, text, Options(fuzzy=True))),)
        for level in (Level.STUDY, Level.IMAGE):
            want = expected(people, level, keys)
            assert found(ask(index, level, *keys), level) == want, text
            some += bool(want)
    assert some > len(FUZZY)


def test_date_and_time_as_one(filled: tuple[Index, list[Dataset]]) -> None:
    index, people = filled
    moments = sorted({(ds.get("StudyDate", ""), ds.get("StudyTime", "")) for ds in people})
    some = 0
    for date in ("20240101-20240131", "20240101-", "-20240131", "20240101-20240101"):
        for time in ("080000-0900", "10-", "-1030", "12-11"):
            keys = combined((key("StudyDate", date), key("StudyTime", time)))
            want = expected(people, Level.STUDY, keys)
            assert found(ask(index, Level.STUDY, *keys), Level.STUDY) == want, (date, time, moments)
            some += isinstance(keys[0].criterion, Moments) and bool(want)
    assert some > 3


def numbered(number: int) -> Dataset:
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    return dicom_data.image(number, **{name: f"1.{at}.{number}" for at, name in enumerate(names, 2)})


def test_keys_without_a_column_are_matched_on_what_is_held(index: Index, ingest: Ingest) -> None:
    for number in range(5):
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = f"C{number}", "99X", "A procedure"
        ds = numbered(number)
        ds.PatientSize, ds.PatientComments, ds.ProcedureCodeSequence = f"1.{number}0", f"No. {number}", [code]
        store(ingest, ds)

    def studies(tag: str, criterion: Criterion, **options: Any) -> set[str]:
        return found(ask(index, Level.STUDY, MatchKey(by_tag(tag), criterion), **options), Level.STUDY)  # type: ignore[arg-type]

    assert studies("00101020", Single("DS", 1.3)) == {"1.2.3"}
    assert studies("00104000", Wildcard("LT", "*4")) == {"1.2.4"}
    assert studies("00081032", Item((("00080100", Single("SH", "C2")), ("00080102", Single("SH", "99X"))))) == {"1.2.2"}
    assert studies("00081032", Item((("00080100", Single("SH", "C2")), ("00080102", Single("SH", "Z"))))) == set()
    assert studies("00201208", Single("IS", 1)) == {f"1.2.{n}" for n in range(5)}
    rows = (
        MatchKey(attributes.held("00280030", "DS"), Single("DS", 0.7)),
        MatchKey(attributes.held("00280004", "CS"), Wildcard("CS", "MONO*")),
    )
    assert found(ask(index, Level.IMAGE, rows[1]), Level.IMAGE) == {f"1.4.{n}" for n in range(5)}
    assert found(ask(index, Level.IMAGE, *rows), Level.IMAGE) == set()
    some = Wildcard("LT", "No*")
    page = ask(index, Level.STUDY, MatchKey(by_tag("00104000"), some), limit=2, offset=1)  # type: ignore[arg-type]
    assert ([row.study_instance_uid for row in page.rows], page.remaining) == (["1.2.3", "1.2.2"], 2)


def test_a_request_is_held_whole(index: Index, ingest: Ingest) -> None:
    for number in range(2):
        items = [Dataset(), Dataset()]
        for at, item in enumerate(items):
            code = Dataset()
            code.CodeValue = f"P{number}{at}"
            item.ScheduledProcedureStepID, item.ScheduledProtocolCodeSequence = f"SPS{at}", [code]
        ds = numbered(number)
        ds.RequestAttributesSequence = items
        store(ingest, ds)
    requests = attributes.by_tag("00400275")
    assert requests is not None

    def protocol(value: str) -> tuple[str, Criterion]:
        return "00400008", Item((("00080100", Single("SH", value)),))

    def series(*inside: tuple[str, Criterion]) -> set[str]:
        return found(ask(index, Level.SERIES, MatchKey(requests, Item(inside))), Level.SERIES)

    assert series(protocol("P11")) == series(protocol("P11"), ("00400009", Single("SH", "SPS1"))) == {"1.3.1"}
    assert series(protocol("P11"), ("00400009", Single("SH", "SPS0"))) == set()
    for include, tags in (frozenset(), {"00400009"}), (frozenset(["00400275"]), {"00400009", "00400008"}), (ALL, None):
        [first, _] = ask(index, Level.SERIES, include=include).rows
        for item in first.attributes["00400275"]["Value"]:
            assert item.keys() == (tags or {"00400009", "00400008"})


def test_too_much_to_look_at_is_refused(index: Index, ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacs.query.MAX_EXAMINED", 2)
    for number in range(3):
        store(ingest, numbered(number))
    comments = MatchKey(by_tag("00104000"), Single("LT", "x"))  # type: ignore[arg-type]
    with pytest.raises(TooLarge):
        ask(index, Level.STUDY, comments)
    assert ask(index, Level.STUDY, comments, key("StudyInstanceUID", "1.2.1")).rows == []


def test_hostile_values_are_only_values(filled: tuple[Index, list[Dataset]]) -> None:
    index, people = filled
    for text in ("'; DROP TABLE study; --", "%' OR '1'='1", "\\'", "a*" * 100, "[[[[", "*" * 4000, "?" * 4000, "{$gt}"):
        for name in ("PatientID", "PatientName", "StudyDescription"):
            ask(index, Level.STUDY, key(name, text))
    assert len(ask(index, Level.STUDY).rows) == len({ds.StudyInstanceUID for ds in people})
    many = MatchKey(by_tag("0020000D"), UIDList(tuple(f"1.2.{n}" for n in range(10_000))))  # type: ignore[arg-type]
    assert len(ask(index, Level.STUDY, many).rows) == 9


def test_every_column_can_be_matched(filled: tuple[Index, list[Dataset]]) -> None:
    index, _ = filled
    texts_of = {"DA": "20240101", "TM": "08", "DT": "2024", "IS": "1", "US": "1", "UI": "1.2", "AS": "030Y"}
    for attribute in TABLE:
        criterion: Criterion = Universal()
        if attribute.matchable:
            criterion = parse(attribute, texts_of.get(attribute.vr, "NOTHING"))
        for level in Level:
            ask(index, level, MatchKey(attribute, criterion), include=ALL, limit=1)


# Retrieval


@pytest.fixture
def retrieve(memory: MemoryStore, index: Index) -> Retrieve:
    return Retrieve(memory, index)


def multiframe(frames: int = 5) -> Dataset:
    ds = dicom_data.image(rows=6, columns=5)
    pixels = np.arange(frames * 30, dtype="<u2")
    ds.NumberOfFrames, ds.PixelData = frames, pixels.tobytes()
    return ds


def test_instances_are_located_in_their_order(ingest: Ingest, retrieve: Retrieve) -> None:
    for ds in reversed([*dicom_data.series(3), *dicom_data.series(2, number=1)]):
        store(ingest, ds)
    study = uids.derived("study", 0)
    found = retrieve.locate(SYSTEM, study)
    assert [each.sop_instance_uid for each in found] == [
        uids.derived("instance", 0, number, z) for number, count in ((0, 3), (1, 2)) for z in range(count)
    ]
    assert len(retrieve.locate(SYSTEM, study, uids.derived("series", 0, 1))) == 2
    for path in ((study, "1.2"), ("1.2",), (study, uids.derived("series", 0, 1), found[0].sop_instance_uid)):
        with pytest.raises(NotFound):
            retrieve.locate(SYSTEM, *path)
    with pytest.raises(Forbidden):
        retrieve.locate(Principal("x", "token", frozenset({Right.QUERY})), study)
    with pytest.raises(NotFound):
        retrieve.locate(Principal("x", "token", CLINICAL_RIGHTS, scope="elsewhere"), study)


@pytest.mark.parametrize("ts", [EXPLICIT, "1.2.840.10008.1.2", DEFLATED])
def test_frames_bulk_data_and_metadata_are_those_of_the_data_set(ingest: Ingest, retrieve: Retrieve, ts: str) -> None:
    ds = multiframe()
    store(ingest, ds, ts)
    (location,) = retrieve.locate(SYSTEM, str(ds.StudyInstanceUID))
    assert location.transfer_syntax_uid == ts
    for number in range(1, 6):
        assert retrieve.frame(location, number) == ds.PixelData[(number - 1) * 60 : number * 60]
    for number in (0, 6):
        with pytest.raises(NotFound):
            retrieve.frame(location, number)
    assert retrieve.bulkdata(location, "7FE00010") == ds.PixelData
    with pytest.raises(NotFound):
        retrieve.bulkdata(location, "00100010")
    (metadata,) = retrieve.metadata([location])
    read = loads(metadata.replace(b"\xff", b"http://here"))
    assert read["7FE00010"]["BulkDataURI"] == "http://here/bulkdata/7FE00010"
    assert read["00100020"]["Value"] == ["SYN-1"]
    whole = pydicom.dcmread(io.BytesIO(b"".join(retrieve.part10(location))))
    assert whole.file_meta.TransferSyntaxUID == ts
    assert whole == pydicom.dcmread(io.BytesIO(dicom_data.part10(ds, ts)))
    assert retrieve.dataset(location) == dicom_data.dataset_bytes(ds, ts)


def test_encapsulated_frames_in_fragments_are_joined(ingest: Ingest, retrieve: Retrieve) -> None:
    ds = multiframe(3)
    streams = [b"\xff\xd8\xff" + bytes([n]) * (50 + n * 2) + b"\0" for n in range(3)]
    ds.PixelData = encapsulate(streams, fragments_per_frame=2)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    store(ingest, ds, JPEG_LOSSLESS)
    (location,) = retrieve.locate(SYSTEM, str(ds.StudyInstanceUID))
    for number, stream in enumerate(streams, start=1):
        assert retrieve.frame(location, number).rstrip(b"\0") == stream.rstrip(b"\0")


def test_metadata_of_many_keeps_the_order(ingest: Ingest, retrieve: Retrieve) -> None:
    for ds in dicom_data.series(20):
        store(ingest, ds)
    found = retrieve.locate(SYSTEM, uids.derived("study", 0))[::-1]
    read = [loads(each.replace(b"\xff", b"x:")) for each in retrieve.metadata(found)]
    assert [texts(each, "00080018")[0] for each in read] == [each.sop_instance_uid for each in found]


def test_spoilt_bytes_are_noticed(ingest: Ingest, retrieve: Retrieve, memory: MemoryStore, tmp_path: Path) -> None:
    ds = multiframe()
    store(ingest, ds)
    (location,) = retrieve.locate(SYSTEM, str(ds.StudyInstanceUID))
    (here,) = memory.walk()
    key = here.object_key
    raw = memory._objects[key]
    for spoilt in (raw[:-1] + b"\1", raw[:-2], raw + b"", b""):
        memory._objects[key] = spoilt
        if spoilt == raw:
            retrieve.dataset(location)
            continue
        with pytest.raises(Corrupt):
            retrieve.dataset(location)
        with pytest.raises(Corrupt):
            b"".join(retrieve.part10(location))
    with pytest.raises(Corrupt):
        retrieve.frame(location, 5)
    memory.delete(here)
    with pytest.raises(NotFound):
        retrieve.part10(location)
