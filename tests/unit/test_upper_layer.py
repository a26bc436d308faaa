"""PDUs as values and back (PS3.8 9.3), the acceptor's states (9.2), negotiation (annex B, PS3.7 D.3.3), and mutants."""

from __future__ import annotations

import random
import struct
import time

import pytest
from dimse_client import CT, EXPLICIT, IMPLICIT, STUDY_FIND, VERIFICATION, associate_request, item, pdu
from pynetdicom import build_context
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, MaximumLengthNotification

from pacs.dicom.sop_classes import STORAGE_SOP_CLASSES
from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from pacs.dimse import upper_layer as ul
from pacs.dimse.negotiation import Policy, extended_query, is_verification_only, negotiate, refusal
from pacs.dimse.services import SERVICES
from pacs.dimse.states import Action, State, on_pdu
from pacs.uids import IMPLEMENTATION_CLASS_UID

POLICY = Policy("M3DICOM", STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES, services=SERVICES)
PRIVATE = "1.2.840.113619.4.30"


def counted(*names: str) -> bytes:
    return b"".join(struct.pack(">H", len(name)) + name.encode() for name in names)


ROLE = item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\1\0")
RICH = associate_request(
    contexts=[(CT, (EXPLICIT, IMPLICIT)), (VERIFICATION, (IMPLICIT,)), (STUDY_FIND, (IMPLICIT,))],
    user_items=ROLE
    + item(0x53, struct.pack(">HH", 5, 5))
    + item(0x55, b"TEST_1")
    + item(0x56, struct.pack(">H", len(STUDY_FIND)) + STUDY_FIND.encode() + b"\1\1\1")
    + item(0x57, counted("1.2") + counted("1.3") + b"\0\x05" + counted("1.4"))
    + item(0x58, b"\2\1\0\4user\0\4pass")
    + item(0x7E, b"from the future"),
)


def request(data: bytes) -> ul.AssociateRequest:
    return ul.decode_request(data[6:])


def proposing(*contexts: tuple[str, tuple[str, ...]], user_items: bytes = b"") -> ul.AssociateRequest:
    return request(associate_request(contexts=contexts, user_items=user_items))


def results(proposed: ul.AssociateRequest, policy: Policy = POLICY) -> list[int]:
    return [int(answer.result) for answer in negotiate(proposed, policy).accept.contexts]


def test_request_is_read_whole() -> None:
    read = request(RICH)
    assert (read.called_ae_title, read.calling_ae_title) == ("M3DICOM", "TESTER")
    assert read.contexts[0] == ul.ProposedContext(1, CT, (EXPLICIT, IMPLICIT))
    assert read.user.max_length == 131072
    assert read.user.asynchronous_operations == (5, 5)
    assert read.user.roles == (ul.Role(CT, True, False),)
    assert read.user.extended == ((STUDY_FIND, b"\1\1\1"),)
    assert read.user.common_extended == (ul.CommonExtended("1.2", "1.3", ("1.4",)),)
    assert read.user.identity == ul.UserIdentity(2, True, b"user", b"pass")


def test_request_survives_its_own_encoding() -> None:
    read = request(RICH)
    assert request(ul.encode_request(read)) == read


def test_request_of_another_implementation() -> None:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = "PEER", "M3DICOM"
    length = MaximumLengthNotification()
    length.maximum_length_received = 4096
    primitive.user_information = [length]
    context = build_context(CT, [EXPLICIT, IMPLICIT])
    context.context_id = 7
    primitive.presentation_context_definition_list = [context]
    encoded = A_ASSOCIATE_RQ()
    encoded.from_primitive(primitive)
    read = request(encoded.encode())
    assert read.contexts == (ul.ProposedContext(7, CT, (EXPLICIT, IMPLICIT)),)
    assert read.user.max_length == 4096


def test_answers_are_read_by_another_implementation() -> None:
    encoded = ul.encode_accept(negotiate(request(RICH), POLICY).accept)
    accept = A_ASSOCIATE_AC()
    accept.decode(encoded)
    assert accept.user_information.maximum_length == POLICY.max_length
    assert accept.user_information.implementation_class_uid == IMPLEMENTATION_CLASS_UID
    assert [each.result for each in accept.presentation_context] == [0, 0, 0]
    assert accept.presentation_context[0].transfer_syntax == EXPLICIT
    reject = A_ASSOCIATE_RJ()
    reject.decode(ul.encode_reject(ul.Rejection.LOCAL_LIMIT_EXCEEDED))
    assert (reject.result, reject.source, reject.reason_diagnostic) == (2, 3, 2)
    abort = A_ABORT_RQ()
    abort.decode(ul.encode_abort(ul.AbortSource.PROVIDER, ul.AbortReason.UNEXPECTED_PDU))
    assert (abort.source, abort.reason_diagnostic) == (2, 2)
    assert ul.decode_accept(encoded[6:]) == negotiate(request(RICH), POLICY).accept


@pytest.mark.parametrize(
    ("kind", "length", "reason"),
    [
        (1, 0xFFFFFFFF, 6), (1, 67, 6), (4, 0xFFFFFFFF, 6), (4, 1001, 6), (4, 5, 6), (5, 5, 6), (5, 0, 6),
        (7, 1 << 20, 6), (0, 4, 1), (8, 4, 1), (71, 0x54202F20, 1),
    ],
)  # fmt: skip
def test_lengths_nobody_believes(kind: int, length: int, reason: int) -> None:
    with pytest.raises(ul.ProtocolError) as caught:
        ul.check_length(kind, length, 1000)
    assert caught.value.reason == reason


def test_lengths_that_are_right() -> None:
    for kind, length in ((1, 68), (1, 200_000), (4, 6), (4, 1000), (5, 4), (7, 4)):
        ul.check_length(kind, length, 1000)


CONTEXT = item(0x20, bytes((1, 0, 0, 0)) + item(0x30, CT.encode()) + item(0x40, IMPLICIT.encode()))
USER = item(0x50, item(0x51, struct.pack(">I", 16384)))
FIXED = struct.pack(">HH", 1, 0) + b"M3DICOM".ljust(16) + b"TESTER".ljust(16) + bytes(32)


@pytest.mark.parametrize(
    "items",
    [
        b"",
        CONTEXT,
        USER,
        CONTEXT + CONTEXT + USER,
        CONTEXT + USER + USER,
        CONTEXT + USER[:-1],
        CONTEXT + USER + b"\x10\0\0",
        CONTEXT + USER + b"\x7e\0\xff\xff",
        CONTEXT.replace(b"\1\0\0\0", b"\2\0\0\0", 1) + USER,
        item(0x20, b"\1\0\0") + USER,
        item(0x20, bytes((1, 0, 0, 0)) + item(0x30, CT.encode())) + USER,
        item(0x20, bytes((1, 0, 0, 0)) + item(0x40, IMPLICIT.encode())) + USER,
        item(0x20, bytes((1, 0, 0, 0)) + item(0x30, b"1" * 65) + item(0x40, IMPLICIT.encode())) + USER,
        item(0x20, bytes((1, 0, 0, 0)) + item(0x30, b"\xff.1") + item(0x40, IMPLICIT.encode())) + USER,
        CONTEXT + item(0x50, item(0x51, b"\0\0\0")),
        CONTEXT + item(0x50, item(0x54, b"\0\7" + b"1.2")),
        CONTEXT + item(0x50, item(0x56, b"\xff\xff1.2")),
        CONTEXT + item(0x50, item(0x58, b"\1")),
        CONTEXT + item(0x50, item(0x58, b"\1\0\0\4user\0\4pas")),
    ],
)
def test_requests_that_are_none(items: bytes) -> None:
    with pytest.raises(ul.ProtocolError):
        ul.decode_request(FIXED + items)


def test_mutants_of_a_request_are_read_or_refused_fast() -> None:
    dice = random.Random(20260102)
    began, refused = time.perf_counter(), 0
    for _ in range(20_000):
        mutant = bytearray(RICH[6:])
        for _ in range(dice.randint(1, 4)):
            match dice.randrange(4):
                case 0:
                    mutant[dice.randrange(len(mutant))] = dice.randrange(256)
                case 1:
                    del mutant[dice.randrange(len(mutant)) :]
                    mutant = mutant or bytearray(1)
                case 2:
                    at = dice.randrange(len(mutant))
                    mutant[at:at] = dice.randbytes(dice.randint(1, 8))
                case _:
                    at = dice.randrange(len(mutant))
                    mutant[at : at + 2] = b"\xff\xff"
        try:
            read = ul.decode_request(mutant)
        except ul.ProtocolError:
            refused += 1
        else:
            if refusal(read, "M3DICOM") is None:
                ul.encode_accept(negotiate(read, POLICY).accept)
    assert 5_000 < refused < 20_000
    assert time.perf_counter() - began < 30


def test_states() -> None:
    assert on_pdu(State.AWAIT_REQUEST, 1) == (Action.DECIDE, State.AWAIT_DECISION)
    assert on_pdu(State.AWAIT_REQUEST, 4) == (Action.ABORT_AS_USER, State.AWAIT_CLOSE)
    assert on_pdu(State.AWAIT_REQUEST, 99) == (Action.ABORT_AS_USER, State.AWAIT_CLOSE)
    assert on_pdu(State.AWAIT_REQUEST, 7) == (Action.CLOSE, State.IDLE)
    assert on_pdu(State.ESTABLISHED, 4) == (Action.DATA, State.ESTABLISHED)
    assert on_pdu(State.ESTABLISHED, 5) == (Action.RELEASE, State.AWAIT_RELEASE)
    assert on_pdu(State.ESTABLISHED, 7) == (Action.ABORTED, State.IDLE)
    for kind in (0, 1, 2, 3, 6, 8, 255):
        assert on_pdu(State.ESTABLISHED, kind) == (Action.ABORT_AS_PROVIDER, State.AWAIT_CLOSE)
    assert on_pdu(State.AWAIT_CLOSE, 4) == (Action.DISCARD, State.AWAIT_CLOSE)
    assert on_pdu(State.AWAIT_CLOSE, 1) == (Action.ABORT_AGAIN, State.AWAIT_CLOSE)
    assert on_pdu(State.AWAIT_CLOSE, 8) == (Action.ABORT_AGAIN, State.AWAIT_CLOSE)


def test_refusals() -> None:
    def why(**changes: str | int) -> ul.Rejection | None:
        return refusal(request(associate_request(**changes)), "M3DICOM")  # type: ignore[arg-type]

    assert why() is None
    assert why(called="OTHER") is ul.Rejection.CALLED_AE_TITLE
    assert why(called="m3dicom") is ul.Rejection.CALLED_AE_TITLE
    assert why(calling="") is ul.Rejection.CALLING_AE_TITLE
    assert why(calling="A\\B") is ul.Rejection.CALLING_AE_TITLE
    assert why(calling="A\nB") is ul.Rejection.CALLING_AE_TITLE
    assert why(version=2) is ul.Rejection.PROTOCOL_VERSION
    assert why(version=3) is None
    assert why(application="1.2.3") is ul.Rejection.APPLICATION_CONTEXT
    assert why(max_length=7) is ul.Rejection.NO_REASON
    assert why(max_length=0) is None


def test_every_storage_class_in_every_transfer_syntax() -> None:
    for uid in STORAGE_SOP_CLASSES:
        assert results(proposing(*((uid, (syntax,)) for syntax in TRANSFER_SYNTAXES))) == [0] * len(TRANSFER_SYNTAXES)


def test_what_is_not_accepted() -> None:
    proposed = proposing(
        (PRIVATE, (IMPLICIT,)),
        ("1.2.840.10008.3.1.2.3.3", (IMPLICIT,)),
        (CT, ("1.2.3",)),
        (VERIFICATION, ("1.2.840.10008.1.2.4.50",)),
        (STUDY_FIND, ("1.2.840.10008.1.2.4.90",)),
        (CT, (EXPLICIT,)),
    )
    assert results(proposed) == [3, 3, 4, 4, 4, 0]


def test_first_supported_syntax_of_the_proposer() -> None:
    proposed = proposing((CT, ("1.2.3", "1.2.840.10008.1.2.4.90", EXPLICIT)), (CT, (IMPLICIT, EXPLICIT)))
    assert [each.transfer_syntax for each in negotiate(proposed, POLICY).accept.contexts] == [
        "1.2.840.10008.1.2.4.90",
        IMPLICIT,
    ]


def test_unknown_storage_by_policy_or_by_what_it_specialises() -> None:
    generous = Policy("M3DICOM", STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES, unknown_storage=True, services=SERVICES)
    unknown = ((PRIVATE, (IMPLICIT,)), ("1.2.840.10008.5.1.4.1.1.999", (IMPLICIT,)))
    retrieval = ("1.2.840.10008.3.1.2.3.3", (IMPLICIT,))
    assert results(proposing(*unknown, retrieval)) == [3, 3, 3]
    assert results(proposing(*unknown, retrieval), generous) == [0, 0, 3]

    related = counted(CT)
    common = counted(PRIVATE, "1.2.840.10008.4.2") + struct.pack(">H", len(related)) + related
    assert results(proposing(unknown[0], user_items=item(0x57, common))) == [0]


def test_128_contexts() -> None:
    syntaxes = tuple(TRANSFER_SYNTAXES)
    uids = [*STORAGE_SOP_CLASSES][:127]
    proposed = proposing((VERIFICATION, (IMPLICIT,)), *((uid, syntaxes) for uid in (uids * 2)[:127]))
    assert results(proposed) == [0] * 128


def test_negotiated_items() -> None:
    user = negotiate(request(RICH), POLICY).accept.user
    assert user.asynchronous_operations == (1, 1)
    assert user.roles == (ul.Role(CT, True, False),)
    # PS3.4 C.5.1.1: relational queries, date and time as one, fuzzy names; no more bytes than were asked
    assert user.extended == ((STUDY_FIND, bytes((1, 1, POLICY.fuzzy))),)
    assert extended_query(bytes((1,) * 7), POLICY) == bytes((1, 1, POLICY.fuzzy, 0, 0, 1, 1))
    assert extended_query(bytes((1, 0)), POLICY) == bytes((1, 0))
    assert user.identity is None
    assert user.common_extended == ()
    assert negotiate(request(RICH), POLICY).relational == {STUDY_FIND}
    plain = negotiate(request(associate_request()), POLICY).accept.user
    assert plain.asynchronous_operations is None
    assert plain.roles == plain.extended == ()


def test_requestor_that_wants_to_be_the_scp_only() -> None:
    only_scp = item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\0\1")
    proposed = proposing((CT, (EXPLICIT,)), (VERIFICATION, (IMPLICIT,)), user_items=only_scp)
    assert results(proposed) == [0, 0]  # as C-GET has it: the sub-operations are C-STOREs to the requestor
    assert negotiate(proposed, POLICY).accept.user.roles == (ul.Role(CT, False, True),)
    not_an_scp = item(0x54, struct.pack(">H", len(STUDY_FIND)) + STUDY_FIND.encode() + b"\0\1")
    assert results(proposing((STUDY_FIND, (IMPLICIT,)), user_items=not_an_scp)) == [1]


def test_verification_only() -> None:
    assert is_verification_only(request(associate_request()))
    assert not is_verification_only(request(RICH))


def test_peer_that_states_no_maximum_gets_small_pdus() -> None:
    assert ul.decode_request(FIXED + CONTEXT + item(0x50, b"")).user.max_length == 16384


def test_reject_and_release_bytes() -> None:
    assert ul.encode_reject(ul.Rejection.CALLED_AE_TITLE) == pdu(3, bytes((0, 1, 1, 7)))
    assert pdu(5, bytes(4)) == ul.RELEASE_REQUEST
    assert pdu(6, bytes(4)) == ul.RELEASE_RESPONSE
    assert ul.encode_abort(ul.AbortSource.USER, ul.AbortReason.UNEXPECTED_PDU) == pdu(7, bytes(4))
