"""Faults of a DIMSE server, a row each: associations, C-ECHO, C-FIND, C-STORE, C-GET, C-MOVE, commitment, UPS."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from faults.breaking_proxy import Break, Message
from faults.planted import Fault
from pydicom import Dataset

from conformance import pdu

PENDING = (0xFF00, 0xFF01)
UPS_PUSH = "1.2.840.10008.5.1.4.34.6.1"


def answering(change: Callable[[Message], Any], *names: str) -> Break:
    """The server's messages of these kinds are changed."""

    def answer(message: Message) -> Any:
        return change(message) if not names or message.name in names else None

    return Break(answer=answer)


def asking(change: Callable[[Message], Any], *names: str) -> Break:
    """The client's messages of these kinds are changed before the server has them."""

    def ask(message: Message) -> Any:
        return change(message) if not names or message.name in names else None

    return Break(ask=ask)


def becomes(before: int | range, after: int, *names: str) -> Break:
    """Another status."""
    wanted = before if isinstance(before, range) else range(before, before + 1)

    def change(message: Message) -> None:
        if message.status in wanted:
            message.fields["Status"] = after

    return answering(change, *names)


def field(keyword: str, change: Callable[[Any], Any], *names: str) -> Break:
    """Another value of a command field, where it is there."""

    def work(message: Message) -> None:
        if keyword in message.fields:
            message.fields[keyword] = change(message.fields[keyword])

    return answering(work, *names)


def matches(change: Callable[[Dataset], Any]) -> Break:
    """Other identifiers in pending responses."""
    return answering(lambda m: m.edit(change) if m.status in PENDING else None, "C-FIND-RSP")


def keys(change: Callable[[Dataset], Any], *names: str) -> Break:
    """Other keys than were asked for."""
    return asking(lambda m: m.edit(change), *(names or ("C-FIND-RQ",)))


def without(*keywords: str) -> Callable[[Dataset], None]:
    """Forget attributes."""

    def change(ds: Dataset) -> None:
        for keyword in keywords:
            if keyword in ds:
                delattr(ds, keyword)

    return change


def sets(**values: Any) -> Callable[[Dataset], None]:
    """Set attributes."""

    def change(ds: Dataset) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return change


def where(keyword: str, change: Callable[[Any], Any]) -> Callable[[Dataset], None]:
    """Change an attribute that has a value."""

    def work(ds: Dataset) -> None:
        if ds.get(keyword):
            setattr(ds, keyword, change(ds[keyword].value))

    return work


# --- PDUs


def _results(change: Callable[[int, bytes], bytes | None]) -> Callable[[bytes], bytes]:
    """Other presentation context items in an A-ASSOCIATE-AC; None takes one out."""

    def accept(body: bytes) -> bytes:
        out = body[:68]
        for kind, value in pdu.items(body, 68):
            made: bytes | None = change(kind, value)
            if made is not None:
                out += pdu.item(kind, made)
        return out

    return accept


def _user(change: Callable[[list[tuple[int, bytes]]], list[tuple[int, bytes]]]) -> Callable[[bytes], bytes]:
    def work(kind: int, value: bytes) -> bytes:
        return b"".join(pdu.item(*each) for each in change(pdu.items(value))) if kind == 0x50 else value

    return _results(work)


def _every_context(kind: int, value: bytes) -> bytes:
    return value[:2] + b"\0" + value[3:4] + pdu.item(0x40, b"1.2.840.10008.1.2") if kind == 0x21 else value


def _first_alone(kind: int, value: bytes) -> bytes | None:
    return None if kind == 0x21 and value[0] == 255 else value


def _wrong_length(command: bytes) -> bytes:
    return command[:8] + struct.pack("<I", len(command)) + command[12:]


# --- messages


def _first_lost(message: Message) -> bool | None:
    """The first match of every query is not told."""
    number = message.fields.get("MessageIDBeingRespondedTo")
    if message.status in PENDING and message.memory.get("lost") != number:
        message.memory["lost"] = number
        return False
    return None


def _identifier_at_the_end(message: Message) -> None:
    if message.status in PENDING:
        message.memory["identifier"] = message.raw
    elif message.status == 0:
        message.raw = message.memory.get("identifier")


def _any_level(ds: Dataset) -> None:
    if ds.get("QueryRetrieveLevel") not in ("STUDY", "SERIES", "IMAGE"):
        ds.QueryRetrieveLevel = "STUDY"


def _accepted(message: Message) -> Message:
    """Success for what the server never saw."""
    given = message.fields
    fields = {
        "AffectedSOPClassUID": given["AffectedSOPClassUID"], "CommandField": 0x8001, "CommandDataSetType": 0x0101,
        "MessageIDBeingRespondedTo": given["MessageID"], "Status": 0,
        "AffectedSOPInstanceUID": given["AffectedSOPInstanceUID"],
    }  # fmt: skip
    return Message(message.context_id, fields, None, message.transfer_syntax, "", message.memory)


def _half_of_it(message: Message) -> Message | None:
    """Every second instance is not stored, though it is acknowledged."""
    count = message.memory["stores"] = message.memory.get("stores", 0) + 1
    return _accepted(message) if count % 2 == 0 else None


def _first_swallowed(message: Message) -> Message | None:
    """The first sub-operation never reaches the requester."""
    if message.memory.get("swallowed"):
        return None
    message.memory["swallowed"] = True
    return _accepted(message)


def _remember_long_key(message: Message) -> None:
    if message.name == "C-FIND-RQ":
        message.edit(lambda ds: message.memory.update(long=len(str(ds.get("AccessionNumber", ""))) > 16))


def _refuse_long_key(message: Message) -> None:
    if message.memory.get("long") and message.status == 0:
        message.fields["Status"] = 0xA900


def _cancel_response(message: Message) -> Message:
    number = message.fields["MessageIDBeingRespondedTo"]
    fields = {"CommandField": 0x8FFF, "CommandDataSetType": 0x0101, "MessageIDBeingRespondedTo": number, "Status": 0}
    return Message(message.context_id, fields, None, message.transfer_syntax, "", message.memory)


def _anonymous(message: Message) -> None:
    for keyword in ("MoveOriginatorMessageID", "MoveOriginatorApplicationEntityTitle"):
        message.fields.pop(keyword, None)


def _plain(ds: Dataset) -> None:
    ds.remove_private_tags()


def _first_failed_forgotten(ds: Dataset) -> None:
    ds.FailedSOPSequence = list(ds.get("FailedSOPSequence") or [])[:0]


def _no_reasons(ds: Dataset) -> None:
    for each in ds.get("FailedSOPSequence") or []:
        each.FailureReason = 0x0110


def _of_another_context(message: Message) -> None:
    if message.context_id > 1:
        message.context_id = 1


def _without_offset(ds: Dataset) -> None:
    ds.TimezoneOffsetFromUTC = ""


def _cut_end(value: str) -> str:
    first, dash, last = str(value).partition("-")
    return f"{first}-{int(last) - 1}" if dash and len(last) == 8 and last.isdigit() else str(value)


GET, MOVE, STORE, FIND = "C-GET-RSP", "C-MOVE-RSP", "C-STORE-RSP", "C-FIND-RSP"
FAILED = range(0xA700, 0xD000)

ASSOCIATION = (
    Fault("every context is accepted", "K05", Break(accept=_results(_every_context))),
    Fault("a context has no result", "K06", Break(accept=_results(_first_alone))),
    Fault("AE titles are not given back", "K08", Break(accept=lambda body: body[:4] + b" " * 32 + body[36:])),
    Fault("no implementation class", "K08", Break(accept=_user(lambda u: [each for each in u if each[0] != 0x52]))),
    Fault("no maximum length", "K08", Break(accept=_user(lambda u: [each for each in u if each[0] != 0x51]))),
    Fault("a wider window", "K08a", Break(accept=_user(lambda u: [*u, (0x53, b"\0\x09\0\x09")]))),
    Fault("roles are not answered", "K09", Break(accept=_user(lambda u: [each for each in u if each[0] != 0x54]))),
    Fault("PDUs are longer than agreed", "K07", Break(one_pdu=True)),
    Fault("closed without A-ABORT", "K11a,K11b,K11c", Break(abort=False)),
    Fault("C-ECHO fails", "K13", becomes(0, 0x0110, "C-ECHO-RSP")),
    Fault("another message is answered", "K13,J31", field("MessageIDBeingRespondedTo", lambda n: n ^ 1)),
    Fault("a wrong group length", "K13,J31", Break(command=_wrong_length)),
)

FIND_FAULTS = (
    Fault("a match is lost", "J01,J09", answering(_first_lost, FIND)),
    Fault("an identifier with success", "J01", answering(_identifier_at_the_end, FIND)),
    Fault("unsupported keys are not told", "J02", Break(
        answer=lambda m: m.edit(without("ContentDate")) if m.status in PENDING else None)),
    Fault("a wrong value", "J03", matches(where("ContentDate", lambda _: "20000101"))),
    Fault("another level", "J04", matches(sets(QueryRetrieveLevel="PATIENT"))),
    Fault("no way to retrieve", "J05", matches(without("RetrieveAETitle"))),
    Fault("no character set", "J06", matches(without("SpecificCharacterSet"))),
    Fault("always a character set", "J06a", matches(sets(SpecificCharacterSet="ISO_IR 100"))),
    Fault("an empty time zone", "J07", matches(_without_offset)),
    Fault("availability in own words", "J08", matches(sets(InstanceAvailability="SOMEWHERE"))),
    Fault("a required key is missing", "J10", matches(without("StudyID", "SeriesNumber", "InstanceNumber"))),
    Fault("any level is taken", "J13", keys(_any_level)),
    Fault("a key of zero length gets no value", "J14", matches(sets(AccessionNumber=""))),
    Fault("case does not matter", "J15", keys(where("PatientID", lambda v: str(v).upper()))),
    Fault("a name matches by its beginning", "J16", keys(where("PatientName", lambda v: str(v)[:14] + "*"))),
    Fault("wild cards are letters", "J17", keys(where("PatientName", lambda v: str(v).replace("*", "~")))),
    Fault("? is any text", "J17", keys(where("AccessionNumber", lambda v: str(v).replace("?", "*")))),
    Fault("* leaves out what is empty", "J17a", keys(where("AccessionNumber", lambda v: "?*" if v == "*" else v))),
    Fault("only the first UID", "J19", keys(where("StudyInstanceUID", lambda v: v if isinstance(v, str) else v[0]))),
    Fault("ranges leave out their end", "J20", keys(where("StudyDate", _cut_end))),
    Fault("times are not matched", "J20", keys(where("StudyTime", lambda _: ""))),
    Fault("sequences are not matched", "J22", keys(sets(RequestAttributesSequence=[Dataset()]))),
    Fault("the request's character set is not read", "J26",
          keys(where("SpecificCharacterSet", lambda _: "ISO_IR 144"))),
    Fault("a long key is refused", "J28", Break(ask=_remember_long_key, answer=_refuse_long_key)),
    Fault("a wrong count", "J29", matches(where("NumberOfStudyRelatedInstances", lambda n: n + 1))),
    Fault("C-CANCEL is answered by itself", "J30", asking(_cancel_response, "C-CANCEL-RQ")),
    Fault("on another context", "J32", answering(_of_another_context, FIND)),
    Fault("more than was asked for", "J37", matches(sets(PatientName="ZZ^More"))),
)  # fmt: skip

STORE_FAULTS = (
    Fault("whatever it is, it is stored", "K16", becomes(FAILED, 0, STORE)),
    Fault("what breaks off is stored", "K16a", becomes(FAILED, 0, STORE)),
    Fault("half of it is not kept", "K14,K25", asking(_half_of_it, "C-STORE-RQ")),
    Fault("another instance is answered", "K14", field("AffectedSOPInstanceUID", lambda _: "2.25.1", STORE)),
    Fault("private elements are lost", "K23", keys(_plain, "C-STORE-RQ")),
    Fault("another class is stored in silence", "K15", becomes(range(0x0100, 0xD000), 0, STORE)),
    Fault("twice is refused as garbage", "K27", Break(
        ask=lambda m: m.memory.update(n=m.memory.get("n", 0) + 1) if m.name == "C-STORE-RQ" else None,
        answer=lambda m: m.fields.update(Status=0xC000) if m.memory.get("n", 0) > 1 and m.name == STORE else None)),
)  # fmt: skip

RETRIEVE = (
    Fault("a wrong count of C-GET", "L10", field("NumberOfCompletedSuboperations", lambda n: n + 1, GET)),
    Fault("an instance is not sent", "L10", answering(_first_swallowed, "C-STORE-RQ")),
    Fault("an element changes on the way", "L10", answering(lambda m: m.edit(sets(StudyID="X")), "C-STORE-RQ")),
    Fault("only the first UID is sent", "L10a",
          keys(where("SOPInstanceUID", lambda v: v if isinstance(v, str) else v[0]), "C-GET-RQ")),
    Fault("what failed is not told", "L11", becomes(0xB000, 0, GET)),
    Fault("what failed is not listed", "L11,L11a",
          answering(lambda m: setattr(m, "raw", None) if m.status == 0xB000 else None, GET)),
    Fault("without keys all of a study", "L06", becomes(FAILED, 0, GET)),
    Fault("cancelled without counts", "L08",
          answering(lambda m: m.fields.update(NumberOfCompletedSuboperations=99), GET)),
    Fault("nobody is a destination", "L02", becomes(0xA801, 0, MOVE)),
    Fault("C-MOVE counts more than there are", "L01", field("NumberOfCompletedSuboperations", lambda n: n + 3, MOVE)),
    Fault("refused, and yet a success", "L03,L04", becomes(range(0xA700, 0xC000), 0, MOVE)),
    Fault("the originator is not told", "L09", back=asking(_anonymous, "C-STORE-RQ")),
    Fault("C-MOVE loses an instance", "L01", back=asking(_half_of_it, "C-STORE-RQ")),
)  # fmt: skip

EVENT = "N-EVENT-REPORT-RQ"
COMMITMENT = (
    Fault("all is committed", "L14", answering(lambda m: m.fields.update(EventTypeID=1), EVENT)),
    Fault("another transaction", "L13", answering(lambda m: m.edit(sets(TransactionUID="2.25.7")), EVENT)),
    Fault("failures are forgotten", "L14", answering(lambda m: m.edit(_first_failed_forgotten), EVENT)),
    Fault("one reason for everything", "L14", answering(lambda m: m.edit(_no_reasons), EVENT)),
    Fault(
        "committed instances are left out", "L13", answering(lambda m: m.edit(sets(ReferencedSOPSequence=[])), EVENT)
    ),
    Fault("any action is taken", "L14a,L14b", becomes(range(0x0100, 0x0300), 0, "N-ACTION-RSP")),
)

UPS = (
    Fault("a Workitem twice", "M01", becomes(0x0111, 0, "N-CREATE-RSP")),
    Fault("another first state", "M01a", becomes(0xC309, 0, "N-CREATE-RSP")),
    Fault("an incomplete Workitem", "M01b", becomes(range(0x0100, 0x0300), 0, "N-CREATE-RSP")),
    Fault("anybody may change", "M02", becomes(0xC301, 0, "N-SET-RSP")),
    Fault("the end may be changed", "M02", becomes(0xC300, 0, "N-SET-RSP")),
    Fault("SCHEDULED may be COMPLETED", "M03", becomes(0xC310, 0, "N-ACTION-RSP")),
    Fault("COMPLETED without results", "M03", becomes(0xC304, 0, "N-ACTION-RSP")),
    Fault("completed may be cancelled", "M04", becomes(0xC311, 0, "N-ACTION-RSP")),
    Fault("no Workitem, no error", "M03,M04", becomes(0xC307, 0, "N-ACTION-RSP")),
    Fault("any receiver", "M05a", becomes(0xC308, 0, "N-ACTION-RSP")),
    Fault("the Transaction UID is told", "M06",
          answering(lambda m: m.edit(sets(TransactionUID="2.25.42")), "N-GET-RSP")),
    Fault("N-GET gives everything", "M06", asking(lambda m: m.fields.pop("AttributeIdentifierList", None), "N-GET-RQ")),
    Fault("the Transaction UID is found", "M07", matches(sets(TransactionUID="2.25.42"))),
    Fault("states are not matched", "M07", keys(where("ProcedureStepState", lambda _: ""))),
    Fault("events without the state", "M08",  # over the client's association or over one of the server's
          answering(lambda m: m.edit(without("ProcedureStepState")), EVENT),
          back=asking(lambda m: m.edit(without("ProcedureStepState")), EVENT)),
)  # fmt: skip


def _first_context(kind: int, value: bytes) -> bytes | None:
    return None if kind == 0x21 and value[0] == 1 else value


def _user_rejection(kind: int, value: bytes) -> bytes:
    return value[:2] + b"\1" + value[3:] if kind == 0x21 and value[2] else value


def _other_bit(message: Message) -> None:
    if message.raw:
        message.raw = message.raw[:-12] + bytes((message.raw[-12] ^ 1,)) + message.raw[-11:]


def _no_star(value: str) -> str:
    return "" if "*" in str(value) else value


MORE = (
    Fault("no reason for a rejection", "K01,K02,K08d", Break(reject=lambda _: bytes((0, 1, 3, 0)))),
    Fault("a context has no result at all", "K04", Break(accept=_results(_first_context))),
    Fault("no reason for a refused context", "K04a,K05a", Break(accept=_results(_user_rejection))),
    Fault("any operation is done", "K13a", becomes(range(0x0100, 0x0300), 0)),
    Fault("another UID is stored in silence", "K19,K20", becomes(range(0x0100, 0xD000), 0, STORE)),
    Fault("a bit of a codestream changes", "K28", answering(_other_bit, "C-STORE-RQ")),
    Fault("deflated is accepted and refused", "K28a", becomes(0, 0xC000, STORE)),
    Fault("relational queries are agreed and refused", "J12", becomes(0, 0xA900, FIND)),
    Fault("UIDs take wild cards", "J18", keys(where("StudyInstanceUID", _no_star))),
    Fault("times are not matched with dates", "J20a,J21", keys(where("StudyTime", lambda _: ""))),
    Fault("an empty value is universal", "J23", keys(where("AccessionNumber", lambda v: "" if v == '""' else v))),
    Fault("without the study's UID all series", "J11", becomes(FAILED, 0, FIND)),
    Fault("private keys are refused", "J33,J27", becomes(0, 0x0110, FIND)),
    Fault("any class on a context", "J35", becomes(0x0122, 0, FIND)),
    Fault("one door knows less", "J36", answering(_first_lost, FIND)),
    Fault("C-GET of nothing fails", "L05", becomes(0, 0xC000, GET)),
    Fault("C-MOVE of the first UID alone", "L07",
          keys(where("SOPInstanceUID", lambda v: v if isinstance(v, str) else v[0]), "C-MOVE-RQ")),
    Fault("elements change on the way to others", "L12a", back=keys(sets(StudyID="X"), "C-STORE-RQ")),
    Fault("elements change in another syntax", "L12", answering(lambda m: m.edit(sets(StudyID="X")), "C-STORE-RQ")),
    Fault("an echo fails", "K07a,K07b,K10,K11,K11d,K11e", becomes(0, 0x0110, "C-ECHO-RSP")),
    Fault("no context for what has unknown items", "K08b", Break(accept=_results(_first_context))),
    Fault("what was stored before an abort is not found", "K24",
          answering(lambda m: False if m.status in PENDING else None, FIND)),
    Fault("nobody may watch", "M05", becomes(0, 0xC308, "N-ACTION-RSP")),
)  # fmt: skip

DIMSE = (*MORE, *ASSOCIATION, *FIND_FAULTS, *STORE_FAULTS, *RETRIEVE, *COMMITMENT, *UPS)
