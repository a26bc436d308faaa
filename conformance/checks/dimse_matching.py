"""What matches what in C-FIND (PS3.4 C.2.2.2): single values, UID lists, universal, wild card, ranges, sequences."""

from __future__ import annotations

from functools import partial
from typing import Any

from pydicom import Dataset

from conformance.ae import STUDY_FIND, Entity, Found, Held, find, find_on, identifier
from conformance.check import Level, NotSupported, check
from conformance.checks.dimse_find import FAILURES, start, well
from conformance.context import Context
from conformance.dimse import encode

rule = partial(check, service="C-FIND", needs="dimse")


def studies(entity: Entity, data: Held, wanted: str, options: dict[str, Any] | None = None, **keys: Any) -> None:
    """Judge that the keys find just these of the test studies (their names, apart by blanks)."""
    if "PatientID" not in keys:
        keys["PatientID"] = data.everybody
    found = find(entity, "STUDY", options=options, **{"StudyInstanceUID": "", **keys})
    if not well(entity, found):
        return
    mine = {data.study(name): name for name in ("one", "two", "three", "four")}
    # A key of one of these tests may match studies of others as well: ours alone are judged
    got = sorted(mine[uid] for uid in found.values("StudyInstanceUID") if uid in mine)
    entity.expect(f"the studies {wanted or 'none'}", got == sorted(wanted.split()), " ".join(got) or "none")


def _no_match(entity: Entity, found: Found, keyword: str, value: str) -> None:
    """Judge that a value which is no wild card for its VR matched nothing; a refusal is as good."""
    assert found.final is not None
    entity.expect(
        f"{keyword}={value} matches nothing, or is refused", not found.pending, f"{len(found.pending)} matches"
    )
    entity.status(found.final, 0, *FAILURES)


@rule("J14", "PS3.4 C.2.2.2.3", "A key of zero length matches everything, and the value comes back")
def universal(run: Context) -> None:
    entity, data = start(run)
    studies(entity, data, "one two three four", AccessionNumber="", PatientName="", StudyDate="", StudyTime="")
    found = find(entity, "STUDY", StudyInstanceUID=data.study("two"), AccessionNumber="", StudyDate="")
    well(entity, found, 1)
    truth = data.of("two")[0].dataset
    for each in found.identifiers:
        got = str(each.get("AccessionNumber")), str(each.get("StudyDate"))
        entity.expect("the values as stored", got == (truth.AccessionNumber, truth.StudyDate), got)


@rule("J15", "PS3.4 C.2.2.2.1", "A single value of LO or SH matches exactly, upper and lower case apart")
def single_value(run: Context) -> None:
    entity, data = start(run)
    number = str(data.of("one")[0].dataset.AccessionNumber)
    patient = str(data.of("one")[0].dataset.PatientID)
    studies(entity, data, "one", AccessionNumber=number)
    studies(entity, data, "", AccessionNumber=number[:-1])
    studies(entity, data, "", AccessionNumber=number.swapcase())
    studies(entity, data, "one two", PatientID=patient)
    studies(entity, data, "", PatientID=patient.lower())


@rule("J16", "PS3.4 C.2.2.2.1", "A whole person name matches, and another one does not")
def person_name(run: Context) -> None:
    entity, data = start(run)
    studies(entity, data, "one two", PatientName="ZZConformance^Dimse^Anna")
    studies(entity, data, "", PatientName="ZZConformance^Dimse^Annabel")


@rule("J17", "PS3.4 C.2.2.2.4", "Wild cards * and ? in PN, LO, SH and CS")
def wild_card(run: Context) -> None:
    entity, data = start(run)
    number = str(data.of("one")[0].dataset.AccessionNumber)
    studies(entity, data, "one two", PatientName="ZZConformance^Dimse*")
    studies(entity, data, "one two", PatientName="ZZConf?rmance^D*^Anna")
    studies(entity, data, "one two", AccessionNumber=number[:-1] + "?")
    studies(entity, data, "one", AccessionNumber="*" + number[-9:])
    studies(entity, data, "two", AccessionNumber=number[:4] + "*2")
    studies(entity, data, "", AccessionNumber=number + "?")
    studies(entity, data, "one two", StudyID="ZZD?", PatientName="ZZConformance*")


@rule("J17a", "PS3.4 C.2.2.2.4", "* alone is universal: it matches what has no value, too")
def star(run: Context) -> None:
    entity, data = start(run)
    studies(entity, data, "one two three four", AccessionNumber="*")
    studies(entity, data, "one two three four", PatientName="*")


@rule("J18", "PS3.4 C.2.2.2.4", "* is no wild card in UI and DA")
def no_wild_card(run: Context) -> None:
    entity, data = start(run)

    def raw(keyword: str, value: str) -> Found:
        def make(syntax: str) -> bytes:
            ds = identifier("STUDY", {"PatientID": data.everybody, "StudyInstanceUID": ""})
            vr = ds[keyword].VR if keyword in ds else "DA"
            ds.add_new(keyword, "LT", value)  # a text, so that nothing on our side objects to it
            ds[keyword].VR = vr
            return encode(ds, syntax)

        return find(entity, "STUDY", raw=make)

    uid = data.study("one")[:-2] + "*"
    _no_match(entity, raw("StudyInstanceUID", uid), "StudyInstanceUID", uid)
    _no_match(entity, raw("StudyDate", "2024*"), "StudyDate", "2024*")


@rule("J19", "PS3.4 C.2.2.2.2", "A list of UIDs matches any of them")
def uid_list(run: Context) -> None:
    entity, data = start(run)
    uids = [data.study("one"), data.study("four"), "2.25.1"]
    studies(entity, data, "one four", StudyInstanceUID=uids)


@rule("J20", "PS3.4 C.2.2.2.5", "Ranges of dates and times, closed and open, with both ends in them")
def ranges(run: Context) -> None:
    entity, data = start(run)
    studies(entity, data, "one two", StudyDate="20240115-20240120")
    studies(entity, data, "one two four", StudyDate="-20240131")
    studies(entity, data, "three four", StudyDate="20240131-")
    studies(entity, data, "four", StudyDate="20240131")
    studies(entity, data, "", StudyDate="20240116-20240119")
    studies(entity, data, "one two", StudyTime="080000-123000")
    studies(entity, data, "three four", StudyTime="180000-")
    studies(entity, data, "one", StudyTime="-080000")


@rule("J20a", "PS3.4 C.2.2.2.5", "Without more agreed, a date range and a time range match each on its own")
def date_and_time(run: Context) -> None:
    entity, data = start(run)
    studies(entity, data, "two", StudyDate="20240115-20240120", StudyTime="120000-130000")
    studies(entity, data, "", StudyDate="20240114-20240121", StudyTime="100000-110000")


@rule("J21", "PS3.4 C.2.2.2.5.3", "A date range and a time range are one range where that is agreed", Level.CONDITIONAL)
def combined(run: Context) -> None:
    entity, data = start(run)
    options: dict[str, Any] = {"extended": {STUDY_FIND: b"\0\1"}}
    with entity.open(STUDY_FIND, **options) as assoc:
        if assoc.accepted.extended.get(STUDY_FIND, b"\0\0")[1:2] != b"\1":
            raise NotSupported("combined date-time matching is not agreed")
    # 14 January 10:00 to 20 January 13:00 holds 15 January 08:00, though 08:00 is not between 10:00 and 13:00
    studies(entity, data, "one two", options, StudyDate="20240114-20240120", StudyTime="100000-130000")
    studies(entity, data, "one", options, StudyDate="20240114-20240120", StudyTime="100000-120000")


@rule("J22", "PS3.4 C.2.2.2.6", "A sequence key matches by an item that has its keys", Level.CONDITIONAL)
def sequence(run: Context) -> None:
    entity, data = start(run)

    def asked(study: str, step: str) -> Found:
        item = Dataset()
        item.ScheduledProcedureStepID = step
        return find(
            entity, "SERIES", StudyInstanceUID=data.study(study), SeriesInstanceUID="", RequestAttributesSequence=[item]
        )

    universal = asked("two", "")
    well(entity, universal, 1)
    got = universal.identifiers[0] if universal.pending else Dataset()
    if "RequestAttributesSequence" not in got or universal.pending[0].status == 0xFF01:
        raise NotSupported("Request Attributes Sequence is not a supported key")
    items = got.RequestAttributesSequence
    names = [str(each.get("ScheduledProcedureStepID")) for each in items]
    entity.expect("the item as stored: ZZSPS9", names == ["ZZSPS9"], names)
    well(entity, asked("two", "ZZSPS9"), 1)
    well(entity, asked("two", "ZZSPS8"), 0)
    well(entity, asked("one", "ZZSPS9"), 0)
    empty = find(entity, "SERIES", StudyInstanceUID=data.study("two"), SeriesInstanceUID="",
                 RequestAttributesSequence=[Dataset()])  # fmt: skip
    well(entity, empty, 1)


@rule(
    "J23",
    "PS3.4 C.2.2.2.7",
    'Where empty value matching is agreed, "" matches what has no value alone',
    Level.CONDITIONAL,
)
def empty_value(run: Context) -> None:
    entity, data = start(run)
    options: dict[str, Any] = {"extended": {STUDY_FIND: bytes((0, 0, 0, 0, 0, 1))}}
    with entity.open(STUDY_FIND, **options) as assoc:
        if assoc.accepted.extended.get(STUDY_FIND, b"").ljust(6, b"\0")[5] != 1:
            raise NotSupported("empty value matching is not agreed")
    studies(entity, data, "three", options, AccessionNumber='""')


@rule("J26", "PS3.4 C.2.2.2", "Keys are read in the character set of the request, whatever the objects are in")
def request_character_set(run: Context) -> None:
    entity, data = start(run)
    studies(entity, data, "three", PatientName="ZZConförmance^Dimse^Änne", SpecificCharacterSet="ISO_IR 192")
    studies(entity, data, "three", PatientName="ZZConförmance^Dimse^Änne", SpecificCharacterSet="ISO_IR 100")
    studies(entity, data, "three", PatientName="ZZConförm*", SpecificCharacterSet="ISO_IR 192")


@rule("J27", "PS3.4 C.2.2.2", "Specific Character Set of zero length does no harm", Level.ROBUSTNESS)
def empty_character_set(run: Context) -> None:
    entity, data = start(run)
    with entity.open(STUDY_FIND) as assoc:
        found = find_on(assoc, "STUDY", StudyInstanceUID=data.study("one"), SpecificCharacterSet="")
        assert found.final is not None
        entity.status(found.final, 0, *FAILURES)
        well(entity, find_on(assoc, "STUDY", StudyInstanceUID=data.study("one")), 1)


@rule("J28", "PS3.4 C.2.2.2", "A key may be longer than its VR allows; it is matched, not refused")
def long_key(run: Context) -> None:
    entity, data = start(run)
    number = str(data.of("one")[0].dataset.AccessionNumber)

    def raw(value: str) -> Found:
        def make(syntax: str) -> bytes:
            ds = identifier("STUDY", {"StudyInstanceUID": "", "PatientID": data.everybody})
            ds.add_new("AccessionNumber", "LT", value)
            ds["AccessionNumber"].VR = "SH"
            return encode(ds, syntax)

        return find(entity, "STUDY", raw=make)

    well(entity, raw("*" * 20 + number), 1)
    well(entity, raw(number + "X" * 20), 0)
