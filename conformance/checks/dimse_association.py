"""Associations and Verification (PS3.8 chapters 7 and 9, PS3.7 annex D, PS3.4 annex A): K01 to K13."""

from __future__ import annotations

import ssl
import struct
from dataclasses import replace
from functools import partial
from typing import Any

from conformance import pdu
from conformance.ae import BOTH, STUDY_FIND, Entity, find_on, held
from conformance.check import Level, NotApplicable, NotSupported, check
from conformance.context import Context
from conformance.dimse import VERIFICATION, Association
from conformance.pdu import IMPLICIT
from conformance.pdu import Context as Proposed
from conformance.wire import Aborted, Closed, Connection, DimseFailure, Rejected, Silent

rule = partial(check, service="Association", needs="dimse")
CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.3"
NO_SOP_CLASS = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage: on media, never on the network
NO_SYNTAX = "2.25.302718237862837462374623746237462"
UNDEFINED_PDU = pdu.pdu(0x4F, bytes(8))


def echo(assoc: Association) -> int:
    """The status of a C-ECHO."""
    return assoc.ask("C-ECHO", VERIFICATION).status


def alive(entity: Entity) -> None:
    """Judge that the server still serves others."""
    with entity.open(VERIFICATION) as assoc:
        entity.expect("afterwards the server answers C-ECHO on another association", echo(assoc) == 0)


def _refusal(run: Context, wanted: tuple[int, int, int], **titles: str) -> None:
    entity = Entity(run)
    try:
        entity.open(VERIFICATION, **titles).release()
    except Rejected as rejected:
        result, source, reason = rejected.codes
        entity.expect("A-ASSOCIATE-RJ " + "/".join(map(str, wanted)), (result, source, reason) == wanted, rejected)
        return
    raise NotSupported("the server takes any title here")


@rule("K01", "PS3.8 9.3.4", "A wrong called AE title is refused as such", Level.ROBUSTNESS)
def wrong_called_title(run: Context) -> None:
    _refusal(run, (1, 1, 7), called="ZZNOBODY")


@rule("K02", "PS3.8 9.3.4", "An unknown calling AE is refused as such", Level.ROBUSTNESS)
def unknown_calling_title(run: Context) -> None:
    _refusal(run, (1, 1, 3), calling="ZZNOBODY")


@rule("K04", "PS3.8 9.3.3.2", "Of two contexts the one that cannot be is refused and the other accepted")
def unknown_abstract_syntax(run: Context) -> None:
    entity = Entity(run)
    with entity.open(NO_SOP_CLASS, VERIFICATION) as assoc:
        results = assoc.accepted.results
        entity.expect("one result for each context, under its identifier", sorted(results) == [1, 3], sorted(results))
        entity.expect("Verification is accepted (0)", results.get(3, (-1, ""))[0] == 0, results.get(3))
        refused = results.get(1, (-1, ""))[0]
        if refused == 0:
            raise NotSupported("the server accepts any abstract syntax")
        entity.expect("a refusal is 1 to 4", refused in (1, 2, 3, 4), refused)
        entity.expect("C-ECHO on the accepted context: 0000H", echo(assoc) == 0)


@rule("K04a", "PS3.8 table 9-18", "An unsupported abstract syntax is result 3", Level.ROBUSTNESS)
def result_of_unknown_abstract_syntax(run: Context) -> None:
    entity = Entity(run)
    with entity.open(NO_SOP_CLASS, VERIFICATION) as assoc:
        result = assoc.accepted.results.get(1, (-1, ""))[0]
        if result == 0:
            raise NotSupported("the server accepts any abstract syntax")
        entity.expect("abstract-syntax-not-supported (3)", result == 3, result)


@rule("K05", "PS3.8 9.3.3.2", "A context without a usable transfer syntax is refused, its twin accepted")
def unknown_transfer_syntax(run: Context) -> None:
    entity = Entity(run)
    with entity.open(Proposed(VERIFICATION, (NO_SYNTAX,)), VERIFICATION) as assoc:
        results = assoc.accepted.results
        refused, accepted = (results.get(number, (-1, "")) for number in (1, 3))
        entity.expect("the first is refused (1 to 4)", refused[0] in (1, 2, 3, 4), refused[0])
        entity.expect("the second is accepted", accepted[0] == 0, accepted[0])


@rule("K05a", "PS3.8 table 9-18", "No usable transfer syntax is result 4", Level.ROBUSTNESS)
def result_of_unknown_transfer_syntax(run: Context) -> None:
    entity = Entity(run)
    with entity.open(Proposed(VERIFICATION, (NO_SYNTAX,)), VERIFICATION) as assoc:
        result = assoc.accepted.results.get(1, (-1, ""))[0]
        entity.expect("transfer-syntaxes-not-supported (4)", result == 4, result)


@rule("K06", "PS3.8 9.3.3.2", "128 contexts: a result for each, and a transfer syntax that was proposed")
def many_contexts(run: Context) -> None:
    entity = Entity(run)
    syntaxes = (NO_SYNTAX, pdu.EXPLICIT, IMPLICIT)
    with entity.open(*[Proposed(VERIFICATION, syntaxes if at % 2 else (IMPLICIT,)) for at in range(128)]) as assoc:
        results = assoc.accepted.results
        entity.expect("the 128 identifiers that were proposed", sorted(results) == list(range(1, 256, 2)), len(results))
        taken = {number: syntax for number, (result, syntax) in results.items() if result == 0}
        entity.expect("they are accepted", len(taken) == 128, f"{len(taken)} accepted")
        odd = {
            number: syntax
            for number, syntax in taken.items()
            if syntax not in assoc.contexts[number // 2].transfer_syntaxes
        }
        entity.expect("each accepted transfer syntax is one that was proposed", not odd, odd)
        assoc.contexts = (*[Proposed("") for _ in range(127)], Proposed(VERIFICATION, syntaxes))
        entity.expect("C-ECHO on context 255: 0000H", echo(assoc) == 0)


@rule("K07", "PS3.8 annex D.1", "No P-DATA-TF is longer than we said we take")
def maximum_length(run: Context) -> None:
    entity = Entity(run)
    for limit in (4096, 256):
        with entity.open(STUDY_FIND, VERIFICATION, max_length=limit) as assoc:
            keys = ("PatientName", "PatientID", "StudyDescription", "ReferringPhysicianName", "StudyInstanceUID",
                    "AccessionNumber", "StudyDate", "StudyTime", "StudyID", "ModalitiesInStudy")  # fmt: skip
            if assoc.accepts(STUDY_FIND):
                find_everything(run, assoc, keys)
            entity.expect("C-ECHO: 0000H", echo(assoc) == 0)
            entity.expect(f"P-DATA-TF of at most {limit} bytes", assoc.largest_pdu <= limit, assoc.largest_pdu)


def find_everything(run: Context, assoc: Association, keys: tuple[str, ...]) -> None:
    """Ask for the test studies with many attributes."""
    wanted: dict[str, Any] = {**dict.fromkeys(keys, ""), "PatientID": held(Entity(run)).everybody}
    find_on(assoc, "STUDY", **wanted)


@rule("K07a", "PS3.8 annex D.1", "A peer that takes PDUs of any length (0) is served")
def unlimited(run: Context) -> None:
    entity = Entity(run)
    with entity.open(VERIFICATION, max_length=0) as assoc:
        entity.expect("C-ECHO: 0000H", echo(assoc) == 0)


@rule("K07b", "PS3.8 annex E.2", "A command in fragments of any size is understood")
def fragments(run: Context) -> None:
    entity = Entity(run)
    with entity.open(VERIFICATION) as assoc:
        raw = pdu.encode_command({"AffectedSOPClassUID": VERIFICATION, "CommandField": 0x30, "MessageID": 77,
                                  "CommandDataSetType": pdu.NO_DATA_SET})  # fmt: skip
        pieces = [raw[at : at + 10] for at in range(0, len(raw), 10)]
        last = len(pieces) - 1
        items = [pdu.pdv(1, 3 if at == last else 1, piece) for at, piece in enumerate(pieces)]
        assoc.send(b"".join(pdu.pdu(pdu.P_DATA, item) for item in items))
        answer = assoc.receive()
        entity.expect("a C-ECHO in one PDV item a PDU: 0000H", answer.status == 0, answer)
        assoc.send(pdu.pdu(pdu.P_DATA, b"".join(items)))
        answer = assoc.receive()
        entity.expect("a C-ECHO in many PDV items of one PDU: 0000H", answer.status == 0, answer)


@rule("K08", "PS3.8 9.3.3, PS3.7 D.3.3", "What A-ASSOCIATE-AC has to hold")
def acceptance(run: Context) -> None:
    entity = Entity(run)
    with entity.open(VERIFICATION) as assoc:
        got = assoc.accepted
        entity.expect("bit 0 of Protocol-version", got.version & 1, got.version)
        entity.expect("the DICOM application context name", got.application_context == pdu.APPLICATION_CONTEXT,
                      got.application_context)  # fmt: skip
        entity.expect("Maximum-length (PS3.8 D.1)", got.max_length is not None)
        uid = got.implementation_class_uid
        good = 0 < len(uid) <= 64 and all(part.isdigit() for part in uid.split("."))
        entity.expect("Implementation Class UID (PS3.7 D.3.3.2)", good, uid)
        entity.expect("Implementation Version Name of at most 16 characters, where given",
                      len(got.implementation_version_name) <= 16, got.implementation_version_name)  # fmt: skip
        titles = got.called, got.calling
        entity.expect("both AE titles as they were sent (PS3.8 table 9-17)",
                      titles == (entity.target.aet, entity.target.calling), titles)  # fmt: skip


@rule("K08a", "PS3.7 D.3.3.3", "The asynchronous operations window is not wider than proposed")
def window(run: Context) -> None:
    entity = Entity(run)
    with entity.open(VERIFICATION, window=(3, 2)) as assoc:
        got = assoc.accepted.window
        good = got is None or (1 <= got[0] <= 3 and 1 <= got[1] <= 2)
        entity.expect("no window (1, 1 holds then), or at most 3 invoked and 2 performed", good, got)
        entity.expect("C-ECHO: 0000H", echo(assoc) == 0)


@rule("K08b", "PS3.8 9.3.1", "Unknown items of A-ASSOCIATE-RQ are skipped")
def unknown_items(run: Context) -> None:
    entity = Entity(run)
    user = pdu.user_items(()) + pdu.item(0x7E, b"whatever") + pdu.item(0x5F, b"")
    with Connection(entity.target) as connection:
        request = pdu.associate_request(entity.target.aet, entity.target.calling, [Proposed(VERIFICATION)], user)
        connection.send(request)
        entity.target.note("→ A-ASSOCIATE-RQ with user sub-items 5FH and 7EH")
        kind, body = connection.read_pdu()
        entity.expect("A-ASSOCIATE-AC", kind == pdu.ASSOCIATE_AC, pdu.PDU_NAMES.get(kind))
        entity.expect("Verification is accepted", pdu.read_accept(body).results.get(1, (-1, ""))[0] == 0)


def _asked(entity: Entity, version: int) -> DimseFailure | None:
    with Connection(entity.target) as connection:
        connection.send(pdu.associate_request(entity.target.aet, entity.target.calling, [Proposed(VERIFICATION)],
                                              pdu.user_items(()), version))  # fmt: skip
        entity.target.note(f"→ A-ASSOCIATE-RQ with Protocol-version {version}")
        try:
            connection.read_pdu()
        except DimseFailure as end:
            return end
        return None


@rule("K08c", "PS3.8 table 9-11", "Of Protocol-version bit 0 alone is tested")
def protocol_version(run: Context) -> None:
    entity = Entity(run)
    end = _asked(entity, 3)
    entity.expect("version bits 0 and 1: accepted", end is None, end)


@rule("K08d", "PS3.8 9.3.4", "Without bit 0 of Protocol-version: 1/2/2", Level.ROBUSTNESS)
def wrong_protocol_version(run: Context) -> None:
    entity = Entity(run)
    end = _asked(entity, 2)
    refused = isinstance(end, Rejected) and end.codes[1:] == (2, 2)
    entity.expect("A-ASSOCIATE-RJ, protocol-version-not-supported (2/2)", refused, end or "accepted")


@rule("K09", "PS3.7 D.3.3.4", "The role of Storage SCP is granted to who asks with C-GET", Level.CONDITIONAL)
def roles(run: Context) -> None:
    entity = Entity(run)
    with entity.open(STUDY_GET, Proposed(CT, BOTH, scu=False, scp=True)) as assoc:
        if not assoc.accepts(STUDY_GET):
            raise NotSupported("Study Root C-GET is not accepted")
        entity.expect("the CT context is accepted", assoc.accepts(CT), assoc.accepted.results)
        role = assoc.accepted.roles.get(CT)
        entity.expect("a role selection item for CT, with our SCP role", role is not None and role[1], role)
        entity.expect("no role that was not proposed (SCU)", role is None or not role[0], role)


@rule("K10", "PS3.7 D.3.3.7", "A user identity is honoured, refused or ignored", Level.CONDITIONAL)
def identity(run: Context) -> None:
    entity = Entity(run)
    try:
        with entity.open(VERIFICATION, identity=("zznobody", "wrong")) as assoc:
            entity.expect("accepted: C-ECHO 0000H", echo(assoc) == 0)
    except Rejected as rejected:
        entity.expect("rejected, permanently or not", rejected.codes[0] in (1, 2), rejected)
    alive(entity)


def _ends(run: Context, expected: str, raw: bytes, *, associated: bool, abort: bool) -> None:
    """Send `raw` and judge how the server ends the connection."""
    entity = Entity(run)
    connection: Connection = entity.open(VERIFICATION) if associated else Connection(entity.target)
    with connection:
        entity.target.note(f"→ {expected}: {raw[:16].hex()}…")
        try:
            connection.send(raw)
        except Closed as closed:
            end: DimseFailure = closed
        else:
            end = connection.ending()
        if abort:
            entity.expect("A-ABORT (PS3.8 table 9-10)", isinstance(end, Aborted), end)
        else:
            entity.expect("the connection ends", not isinstance(end, Silent), end)
        connection.over = True
    alive(entity)


def _item_too_long() -> bytes:
    return pdu.pdu(pdu.P_DATA, struct.pack(">IBB", 4000, 1, 3) + bytes(10))


@rule("K11", "PS3.8 table 9-10", "Bytes that are no PDU end the connection and harm nobody")
def garbage_first(run: Context) -> None:
    _ends(run, "an HTTP request", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(600), associated=False, abort=False)


@rule("K11a", "PS3.8 table 9-10 AA-8", "A PDU of no known type in an association is answered by A-ABORT")
def unknown_pdu(run: Context) -> None:
    _ends(run, "a PDU of type 4FH", UNDEFINED_PDU, associated=True, abort=True)


@rule("K11b", "PS3.8 table 9-10 AA-8", "A second A-ASSOCIATE-RQ is answered by A-ABORT")
def second_request(run: Context) -> None:
    target = Entity(run).target
    request = pdu.associate_request(target.aet, target.calling, [Proposed(VERIFICATION)], pdu.user_items(()))
    _ends(run, "A-ASSOCIATE-RQ again", request, associated=True, abort=True)


@rule("K11c", "PS3.8 table 9-10 AA-1", "P-DATA-TF before any association is answered by A-ABORT")
def data_first(run: Context) -> None:
    _ends(run, "P-DATA-TF first", pdu.pdu(pdu.P_DATA, pdu.pdv(1, 3, bytes(20))), associated=False, abort=True)


@rule("K11d", "PS3.8 9.3.5", "A PDV item longer than its PDU ends the association")
def long_item(run: Context) -> None:
    _ends(run, "a PDV item of 4000 bytes in a PDU of 16", _item_too_long(), associated=True, abort=False)


@rule("K11e", "PS3.8 9.2", "A length of 4 GiB ends the connection", Level.ROBUSTNESS)
def huge_length(run: Context) -> None:
    _ends(
        run,
        "P-DATA-TF that claims 4 GiB",
        struct.pack(">BBI", 4, 0, 0xFFFFFFFE) + bytes(64),
        associated=True,
        abort=False,
    )


@rule("K13", "PS3.4 A.4, PS3.7 9.3.5.2", "C-ECHO, and every field of its response")
def verification(run: Context) -> None:
    entity = Entity(run)
    with entity.open(Proposed(VERIFICATION, (IMPLICIT,)), Proposed(VERIFICATION, (pdu.EXPLICIT,))) as assoc:
        entity.expect("Verification in the default transfer syntax is accepted", assoc.accepts(VERIFICATION))
        for syntax in (IMPLICIT, pdu.EXPLICIT):
            if (0, syntax) not in assoc.accepted.results.values():
                continue
            context, _ = assoc.context(VERIFICATION, syntax)
            answer = assoc.ask("C-ECHO", VERIFICATION, transfer_syntax=syntax)
            entity.status(answer, 0)
            fields = answer.fields
            entity.expect("Command Field 8030H", fields.get("CommandField") == 0x8030, answer.name)
            number = fields.get("MessageIDBeingRespondedTo")
            entity.expect("Message ID Being Responded To", number == assoc.last_id, number)
            entity.expect("no data set (0101H)", fields.get("CommandDataSetType") == pdu.NO_DATA_SET)
            about = fields.get("AffectedSOPClassUID", VERIFICATION)
            entity.expect("Affected SOP Class UID, where given", about == VERIFICATION, about)
            entity.expect("the presentation context of the request", answer.context_id == context, answer.context_id)
            entity.expect("a well-formed command set (PS3.7 6.3)", not answer.faults, answer.faults)
        assoc.release()
        entity.expect("A-RELEASE-RP to A-RELEASE-RQ", True)


@rule(
    "K13a",
    "PS3.7 annex E, C.5.21",
    "An operation that is none of the context's is refused, not performed",
    Level.ROBUSTNESS,
)
def unrecognised_operation(run: Context) -> None:
    entity = Entity(run)
    with entity.open(VERIFICATION) as assoc:
        try:
            answer = assoc.ask("N-DELETE", VERIFICATION, RequestedSOPInstanceUID="2.25.1")
            entity.expect("a status of failure (0211H)", answer.status not in (0, -1), answer)
        except (Aborted, Closed) as end:
            entity.expect("or the end of the association", True, end)
    alive(entity)


@rule("K26", "PS3.15 B.12, B.13", "The TLS port speaks TLS 1.2 or 1.3, and no plain DICOM", Level.CONDITIONAL)
def secure_port(run: Context) -> None:
    entity = Entity(run)
    if entity.target.tls is None:
        raise NotApplicable("--dimse-tls was not given")
    with entity.open(VERIFICATION) as assoc:
        entity.expect("C-ECHO over TLS: 0000H", echo(assoc) == 0)
        version = assoc.sock.version() if isinstance(assoc.sock, ssl.SSLSocket) else None
        entity.expect("TLS 1.2 or 1.3", version in ("TLSv1.2", "TLSv1.3"), version)
    plain = replace(entity.target, tls=None)
    try:
        Association(plain, [Proposed(VERIFICATION)], timeout_s=10).abort()
        taken = True
    except (DimseFailure, pdu.Malformed):
        taken = False
    entity.expect("no association in plain", not taken)
    alive(entity)
