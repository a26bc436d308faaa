"""C-FIND of Query/Retrieve: the conversation, and what a response holds (PS3.4 C.4.1, PS3.7 9.3.2)."""

from __future__ import annotations

import struct
from functools import partial
from typing import Any, Final

from pydicom import Dataset

from conformance import pdu
from conformance.ae import BOTH, PATIENT_FIND, STUDY_FIND, Entity, Found, Held, find, find_on, held, identifier
from conformance.check import Level, NotApplicable, NotSupported, check
from conformance.context import Context, text
from conformance.dimse import PENDING, VERIFICATION, encode
from conformance.pdu import Context as Proposed

rule = partial(check, service="C-FIND", needs="dimse")

MODALITY_WORKLIST: Final = "1.2.840.10008.5.1.4.31"
FAILURES: Final = (0xA700, 0xA900, range(0xC000, 0xD000))
REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    "STUDY": ("StudyDate", "StudyTime", "AccessionNumber", "PatientName", "PatientID", "StudyID", "StudyInstanceUID"),
    "SERIES": ("Modality", "SeriesNumber", "SeriesInstanceUID"),
    "IMAGE": ("InstanceNumber", "SOPInstanceUID"),
}
"""Required and unique keys of the Study Root model (PS3.4 tables C.6-5, C.6-2, C.6-3)."""
OPTIONAL: Final = ("ContentDate", "ContentTime", "SOPClassUID", "Rows")


def start(run: Context) -> tuple[Entity, Held]:
    """The server and its data. Raises NotSupported where it has no Study Root C-FIND."""
    entity = Entity(run)
    with entity.open(STUDY_FIND, VERIFICATION) as assoc:
        assoc.context(STUDY_FIND)
    data = held(entity)
    entity.target.said.clear()
    return entity, data


def well(entity: Entity, found: Found, count: int | None = None) -> bool:
    """Judge that a query ended in success, with so many matches where given."""
    final = found.final
    assert final is not None
    good = entity.expect("the final response: 0000H", final.status == 0, final)
    if count is None:
        return good
    return entity.expect(f"{count} matches", len(found.pending) == count, len(found.pending)) and good


@rule("J01", "PS3.4 C.4.1.1, PS3.7 9.1.2.2", "A pending response with identifier for each match, then success")
def conversation(run: Context) -> None:
    entity, data = start(run)
    found = find(entity, "STUDY", PatientID=data.everybody, StudyInstanceUID="")
    well(entity, found, 4)
    entity.expect("every pending response carries an identifier", all(each.raw for each in found.pending))
    entity.expect("the final response carries none", found.final is not None and found.final.raw is None)
    wanted = sorted({each.study for each in data.samples})
    entity.expect("the four studies", found.values("StudyInstanceUID") == wanted, found.values("StudyInstanceUID"))


@rule("J02", "PS3.4 C.4.1.1.4", "FF01H where an optional key is not supported, FF00H where all are")
def optional_keys(run: Context) -> None:
    entity, data = start(run)
    found = _optional(entity, data)
    missing = [[key for key in OPTIONAL if key not in each] for each in found.identifiers]
    for message, lacks in zip(found.pending, missing, strict=True):
        if lacks:
            entity.expect(f"FF01H: {', '.join(lacks)} did not come back", message.status == 0xFF01, message)
        else:
            entity.expect("FF00H or FF01H: every key came back", message.status in PENDING, message)
    plain = find(entity, "STUDY", PatientID=data.everybody, StudyInstanceUID="")
    entity.expect("FF00H for required and unique keys alone",
                  plain.pending and all(each.status == 0xFF00 for each in plain.pending))  # fmt: skip


@rule("J03", "PS3.4 C.2.2.1.3", "An optional key comes back with the true value, or not at all")
def optional_values(run: Context) -> None:
    entity, data = start(run)
    truth = data.of("one", "ct")[0].dataset
    for each in _optional(entity, data).identifiers:
        for key in OPTIONAL:
            if key in each:
                entity.expect(
                    f"{key} is {truth[key].value}, as stored", each[key].value == truth[key].value, each[key].value
                )
    entity.expect("matches to judge by", run.findings)


def _optional(entity: Entity, data: Held) -> Found:
    where = {"StudyInstanceUID": data.study("one"), "SeriesInstanceUID": data.series("one", "ct")}
    wanted: dict[str, Any] = {**where, "SOPInstanceUID": "", **dict.fromkeys(OPTIONAL[:3], ""), "Rows": None}
    found = find(entity, "IMAGE", **wanted)
    well(entity, found, 3)
    return found


@rule("J04", "PS3.4 C.4.1.1.3.2", "Query/Retrieve Level in a response is that of the request")
def level(run: Context) -> None:
    entity, data = start(run)
    for name, keys in _keys(data).items():
        found = find(entity, name, **keys)
        well(entity, found)
        levels = {str(each.get("QueryRetrieveLevel", "")) for each in found.identifiers}
        entity.expect(f"{name} in every response", levels == {name}, levels or "no matches")


def _keys(data: Held) -> dict[str, dict[str, Any]]:
    study, series = {"StudyInstanceUID": data.study("one")}, {"SeriesInstanceUID": data.series("one", "ct")}
    return {
        "STUDY": {**dict.fromkeys(REQUIRED["STUDY"], ""), **study},
        "SERIES": {**study, **dict.fromkeys(REQUIRED["SERIES"], "")},
        "IMAGE": {**study, **series, **dict.fromkeys(REQUIRED["IMAGE"], "")},
    }


@rule("J05", "PS3.4 C.4.1.1.3.2", "Where instances can be retrieved from is told by Retrieve AE Title or media")
def retrieve_ae_title(run: Context) -> None:
    entity, data = start(run)
    found = find(entity, "IMAGE", **_keys(data)["IMAGE"])
    well(entity, found, 3)
    for each in found.identifiers:
        where = each.get("RetrieveAETitle") or each.get("StorageMediaFileSetUID")
        entity.expect(
            "Retrieve AE Title with a value, or a Storage Media File-Set UID", where, each.get("RetrieveAETitle")
        )


@rule("J06", "PS3.4 C.4.1.1.3.2", "Text beyond ASCII comes with Specific Character Set, and reads right")
def character_set(run: Context) -> None:
    entity, data = start(run)
    for study in ("three", "four"):
        truth = str(data.of(study)[0].dataset.PatientName)
        found = find(entity, "STUDY", StudyInstanceUID=data.study(study), PatientName="")
        well(entity, found, 1)
        for each in found.identifiers:
            entity.expect(
                "Specific Character Set is there", each.get("SpecificCharacterSet"), each.get("SpecificCharacterSet")
            )
            entity.expect(f"the name is {truth}", str(each.get("PatientName")) == truth, each.get("PatientName"))


@rule("J06a", "PS3.4 C.4.1.1.3.2", "No Specific Character Set where no text needs one", Level.ROBUSTNESS)
def no_character_set(run: Context) -> None:
    entity, data = start(run)
    found = find(entity, "STUDY", StudyInstanceUID=data.study("one"), PatientName="")
    well(entity, found, 1)
    entity.expect("no (0008,0005)", all("SpecificCharacterSet" not in each for each in found.identifiers))


@rule("J07", "PS3.4 C.4.1.1.3.2", "Timezone Offset From UTC is never empty")
def timezone(run: Context) -> None:
    entity, data = start(run)
    found = find(entity, "STUDY", StudyInstanceUID=data.study("one"), TimezoneOffsetFromUTC="")
    well(entity, found, 1)
    for each in found.identifiers:
        good = "TimezoneOffsetFromUTC" not in each or each.TimezoneOffsetFromUTC
        entity.expect("absent, or with a value", good, each.get("TimezoneOffsetFromUTC"))


@rule("J08", "PS3.4 C.4.1.1.3.2", "Instance Availability is one of its four terms", Level.CONDITIONAL)
def availability(run: Context) -> None:
    entity, data = start(run)
    found = find(entity, "STUDY", StudyInstanceUID=data.study("one"), InstanceAvailability="")
    well(entity, found, 1)
    given = [each.InstanceAvailability for each in found.identifiers if "InstanceAvailability" in each]
    if not given:
        raise NotSupported("Instance Availability is not returned")
    terms = ("ONLINE", "NEARLINE", "OFFLINE", "UNAVAILABLE")
    entity.expect("ONLINE, NEARLINE, OFFLINE or UNAVAILABLE", all(each in terms for each in given), given)


@rule("J09", "PS3.4 C.6.1.1", "Patient Root answers at PATIENT and at the levels below", Level.CONDITIONAL)
def patient_root(run: Context) -> None:
    entity, data = start(run)
    patient = str(data.of("one")[0].dataset.PatientID)
    found = find(entity, "PATIENT", model=PATIENT_FIND, PatientID=data.everybody, PatientName="")
    well(entity, found, 3)
    entity.expect("each patient once", len(set(found.values("PatientID"))) == 3, found.values("PatientID"))
    study = {"StudyInstanceUID": data.study("one")}
    lower: tuple[tuple[str, dict[str, Any], int], ...] = (
        ("STUDY", {"StudyInstanceUID": ""}, 2),
        ("SERIES", {**study, "SeriesInstanceUID": ""}, 2),
        ("IMAGE", {**study, "SeriesInstanceUID": data.series("one", "ct"), "SOPInstanceUID": ""}, 3),
    )
    for name, keys, count in lower:
        well(entity, find(entity, name, model=PATIENT_FIND, PatientID=patient, **keys), count)


@rule(
    "J10",
    "PS3.4 C.6.2.1",
    "Study Root: required and unique keys at STUDY, SERIES and IMAGE come back with their values",
)
def study_root(run: Context) -> None:
    entity, data = start(run)
    counts = {"STUDY": 1, "SERIES": 2, "IMAGE": 3}
    for name, keys in _keys(data).items():
        found = find(entity, name, **keys)
        well(entity, found, counts[name])
        for each in found.identifiers:
            twin = _twin(data, each, name)
            for key in REQUIRED[name]:
                if not entity.expect(f"{key} at {name}", key in each, f"{len(each)} elements") or twin is None:
                    continue
                entity.expect(
                    f"{key} as stored: {twin[key].value}", str(each[key].value) == str(twin[key].value), each[key].value
                )


def _twin(data: Held, found: Dataset, name: str) -> Dataset | None:
    """The stored object that an identifier speaks of."""
    key = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}[name]
    return next((each.dataset for each in data.samples if each.dataset[key].value == found.get(key)), None)


@rule("J11", "PS3.4 C.4.1.2.1", "SERIES without a Study Instance UID is refused, unless queries are relational",
      Level.ROBUSTNESS)  # fmt: skip
def missing_unique_key(run: Context) -> None:
    entity, data = start(run)
    found = find(entity, "SERIES", SeriesInstanceUID=data.series("one", "ct"))
    assert found.final is not None
    entity.status(found.final, *FAILURES)


@rule("J12", "PS3.4 C.4.1.2.2.1", "SERIES without a Study Instance UID is answered where relational queries are agreed",
      Level.CONDITIONAL)  # fmt: skip
def relational(run: Context) -> None:
    entity, data = start(run)
    with entity.open(STUDY_FIND, extended={STUDY_FIND: b"\1"}) as assoc:
        if assoc.accepted.extended.get(STUDY_FIND, b"\0")[:1] != b"\1":
            raise NotSupported("relational queries are not agreed")
        found = find_on(assoc, "SERIES", SeriesInstanceUID=data.series("one", "ct"))
    well(entity, found, 1)


@rule(
    "J13", "PS3.4 C.4.1.1.3.1, C.4.1.1.4", "A level that the model does not have is refused, and the association stays"
)
def wrong_level(run: Context) -> None:
    entity, data = start(run)
    for name in (None, "IMAGES", "PATIENT"):
        with entity.open(STUDY_FIND, VERIFICATION) as assoc:
            found = find_on(assoc, name, PatientID=data.everybody, StudyInstanceUID="")
            assert found.final is not None
            entity.expect(f"no matches at level {name}", not found.pending, len(found.pending))
            entity.status(found.final, *FAILURES)
            entity.expect("C-ECHO on the same association: 0000H", assoc.ask("C-ECHO", VERIFICATION).status == 0)


@rule("J29", "PS3.4 C.3.4", "Modalities in Study and the counts are right where they are returned", Level.CONDITIONAL)
def computed(run: Context) -> None:
    entity, data = start(run)
    found = find(entity, "STUDY", StudyInstanceUID=data.study("one"), ModalitiesInStudy="",
                 NumberOfStudyRelatedSeries="", NumberOfStudyRelatedInstances="")  # fmt: skip
    if not well(entity, found, 1):
        return
    got, judged = found.identifiers[0], False
    if "ModalitiesInStudy" in got:
        value = got.ModalitiesInStudy
        names = {value} if isinstance(value, str) else set(value or ())
        judged = entity.expect("Modalities in Study: CT and MR", names == {"CT", "MR"}, names) or True
    for keyword, count in (("NumberOfStudyRelatedSeries", 2), ("NumberOfStudyRelatedInstances", 5)):
        if keyword in got:
            judged = entity.expect(f"{keyword}: {count}", got[keyword].value == count, got[keyword].value) or True
    if not judged:
        raise NotSupported("none of these keys is returned")


@rule("J30", "PS3.4 C.4.1.3, PS3.7 9.1.2", "C-CANCEL ends a query, and the association goes on")
def cancel(run: Context) -> None:
    entity, data = start(run)
    with entity.open(STUDY_FIND) as assoc:
        responses = assoc.request("C-FIND", STUDY_FIND, identifier("STUDY", {"PatientID": "", "StudyInstanceUID": ""}))
        assoc.cancel(STUDY_FIND)
        final = list(responses)[-1]
        # PS3.7 9.3.2.3: a query may have ended before the cancel request arrives
        entity.status(final, 0xFE00, 0x0000)
        entity.expect("the final response carries no identifier", final.raw is None)
        again = find_on(assoc, "STUDY", PatientID=data.everybody, StudyInstanceUID="")
        well(entity, again, 4)
        answered = {each.number("MessageIDBeingRespondedTo") for each in again.pending}
        entity.expect("the next query's responses answer its Message ID", answered == {assoc.last_id}, answered)


@rule("J31", "PS3.7 9.3.2.2", "Every field of every response")
def fields(run: Context) -> None:
    entity, data = start(run)
    with entity.open(STUDY_FIND) as assoc:
        found = find_on(assoc, "STUDY", PatientID=data.everybody, StudyInstanceUID="")
        well(entity, found, 4)
        for each in (*found.pending, found.final):
            assert each is not None
            entity.expect("Command Field 8020H", each.fields.get("CommandField") == 0x8020, each.name)
            number = each.fields.get("MessageIDBeingRespondedTo")
            entity.expect("Message ID Being Responded To", number == assoc.last_id, number)
            about = each.fields.get("AffectedSOPClassUID", STUDY_FIND)
            entity.expect("Affected SOP Class UID, where given", about == STUDY_FIND, about)
            kind = each.fields.get("CommandDataSetType")
            with_data = each.status in PENDING
            entity.expect("Command Data Set Type true", (kind != pdu.NO_DATA_SET) == with_data, kind)
            entity.expect("a well-formed command set (PS3.7 6.3)", not each.faults, each.faults)


@rule("J32", "PS3.8 annex E, PS3.7 6.3", "Responses come on the context of the request, in its transfer syntax")
def context(run: Context) -> None:
    entity, data = start(run)
    with entity.open(*[Proposed(STUDY_FIND, (syntax,)) for syntax in BOTH]) as assoc:
        for syntax in BOTH:
            if (0, syntax) not in assoc.accepted.results.values():
                continue
            number, _ = assoc.context(STUDY_FIND, syntax)
            sent = identifier("STUDY", {"PatientID": data.everybody, "StudyInstanceUID": ""})
            got = list(assoc.request("C-FIND", STUDY_FIND, sent, transfer_syntax=syntax))
            entity.expect(f"on context {number}", {each.context_id for each in got} == {number}, got[0].context_id)
            uids = sorted(str(each.dataset().get("StudyInstanceUID", "")) for each in got[:-1])
            entity.expect("identifiers in its transfer syntax", uids == sorted({s.study for s in data.samples}), uids)


@rule("J33", "PS3.4 C.2.2.1.3", "Private keys and group lengths in an identifier do no harm", Level.ROBUSTNESS)
def private_keys(run: Context) -> None:
    entity, data = start(run)

    def raw(syntax: str) -> bytes:
        ds = identifier("STUDY", {"StudyInstanceUID": data.study("one")})
        ds.private_block(0x0009, "ZZ CONFORMANCE", create=True).add_new(1, "LO", "")
        encoded = encode(ds, syntax)
        length = struct.pack("<I", 20)
        head = struct.pack("<HHI", 8, 0, 4) if syntax == pdu.IMPLICIT else struct.pack("<HH2sH", 8, 0, b"UL", 4)
        return head + length + encoded

    well(entity, find(entity, "STUDY", raw=raw), 1)


@rule("J35", "PS3.7 9.1.2.1.6", "A SOP class that is not the context's is refused with 0122H", Level.ROBUSTNESS)
def other_class(run: Context) -> None:
    entity, data = start(run)
    with entity.open(STUDY_FIND) as assoc:
        sent = identifier("STUDY", {"StudyInstanceUID": data.study("one")})
        entity.status(assoc.ask("C-FIND", STUDY_FIND, sent, sop_class="1.2.840.10008.5.1.4.1.1.2"), 0x0122)


@rule(
    "J36",
    "PS3.4 C.4.1, PS3.18 10.6",
    "C-FIND and QIDO-RS find the same studies",
    Level.PRACTICE,
    needs="dimse,dicomweb",
)
def both_doors(run: Context) -> None:
    entity, data = start(run)
    found = find(entity, "STUDY", PatientID=data.everybody, StudyInstanceUID="")
    answer = run.web.get("/studies", f"PatientID={data.everybody}")
    uids = sorted(text(each, "0020000D") for each in run.objects(answer))
    run.expect("the same Study Instance UIDs", uids == found.values("StudyInstanceUID"), uids, about=answer)


@rule(
    "J37",
    "PS3.4 C.4.1.1.3.2",
    "A response holds what was asked for and nothing else",
    Level.ROBUSTNESS,
)
def nothing_more(run: Context) -> None:
    entity, data = start(run)
    found = find(entity, "STUDY", StudyInstanceUID=data.study("one"))
    well(entity, found, 1)
    allowed = {
        "StudyInstanceUID", "QueryRetrieveLevel", "RetrieveAETitle", "SpecificCharacterSet", "InstanceAvailability",
        "TimezoneOffsetFromUTC", "StorageMediaFileSetID", "StorageMediaFileSetUID",
    }  # fmt: skip
    more = {element.keyword or str(element.tag) for each in found.identifiers for element in each} - allowed
    entity.expect("no other attributes", not more, more)


@rule(
    "J38",
    "PS3.4 K.4.1",
    "A worklist response holds one Scheduled Procedure Step",
    Level.CONDITIONAL,
)
def worklist(run: Context) -> None:
    entity = Entity(run)
    step = Dataset()
    step.Modality = step.ScheduledProcedureStepStartDate = step.ScheduledProcedureStepID = ""
    sent = Dataset()
    sent.PatientName = sent.PatientID = sent.AccessionNumber = ""
    sent.ScheduledProcedureStepSequence = [step]
    with entity.open(MODALITY_WORKLIST) as assoc:
        *pending, final = assoc.request("C-FIND", MODALITY_WORKLIST, sent)
    entity.status(final, 0)
    counts = [len(each.dataset().get("ScheduledProcedureStepSequence", [])) for each in pending]
    if not counts:
        raise NotApplicable("the worklist is empty")
    entity.expect("one item each", set(counts) == {1}, counts)
