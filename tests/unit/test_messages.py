"""Command sets, fragments and status codes (PS3.7 section 6.3, 9.3, annex C and E; PS3.8 annex E)."""

from __future__ import annotations

import contextlib
import io
import random
import struct

import pytest
from dimse_client import CT, STUDY_FIND, VERIFICATION
from dimse_client import command as encode
from pynetdicom.dsutils import decode as decode_dataset
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from pacs import errors
from pacs.dimse import status
from pacs.dimse.messages import Response, decode_command, encode_command, response_command, to_pdus
from pacs.dimse.upper_layer import AbortSource, ProtocolError

STORE = {0x0002: CT, 0x0100: 1, 0x0110: 7, 0x0700: 0, 0x0800: 1, 0x1000: "1.2.3"}
FIND = {0x0002: STUDY_FIND, 0x0100: 0x20, 0x0110: 7, 0x0700: 0, 0x0800: 1}


def test_store_request() -> None:
    command = decode_command(encode(STORE))
    assert (command.field, command.message_id, command.has_dataset) == (1, 7, True)
    assert (command.sop_class_uid, command.sop_instance_uid, command.mistyped) == (CT, "1.2.3", ())


def test_no_dataset_is_0101_and_nothing_else() -> None:
    for value, expected in ((0x0101, False), (0x0000, True), (0x0102, True), (0xFEFE, True)):
        assert decode_command(encode({**STORE, 0x0800: value})).has_dataset is expected


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0" * 7,
        encode(STORE)[:-1],
        encode(STORE) + b"\0",
        encode(STORE) + struct.pack("<HHI", 0, 0x1031, 0xFFFFFFFF),
        encode(STORE) + struct.pack("<HHIH", 0, 0x0110, 2, 8),
        encode(STORE) + struct.pack("<HHI", 8, 0x0018, 0),
        encode({element: value for element, value in STORE.items() if element != 0x0100}),
        encode({element: value for element, value in STORE.items() if element != 0x0110}),
        encode({**STORE, 0x0110: b"\0\0\0\0"}),
        encode({0x0100: 0x8001, 0x0800: 0x0101}),
        encode({0x0100: 0x0FFF, 0x0800: 0x0101}),
    ],
)
def test_commands_nobody_can_answer_end_the_association(raw: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_command(raw)
    assert caught.value.source is AbortSource.USER


def test_commands_that_can_be_answered_name_what_is_wrong() -> None:
    assert decode_command(encode({**STORE, 0x0700: b"\0\0\0\0"})).mistyped == (0x0700,)
    assert decode_command(encode({**STORE, 0x1000: b"\xff.1 "})).mistyped == (0x1000,)
    assert decode_command(encode({**STORE, 0x1000: "1" * 70})).mistyped == (0x1000,)
    assert decode_command(encode({**STORE, 0x0002: b""})).sop_class_uid == ""


def test_mutants_of_a_command() -> None:
    dice = random.Random(1)
    whole = encode(STORE)
    for _ in range(20_000):
        mutant = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            mutant[dice.randrange(len(mutant))] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        del mutant[dice.randint(1, len(mutant) * 4) :]
        with contextlib.suppress(ProtocolError):
            decode_command(mutant)


def test_responses_are_read_by_another_implementation() -> None:
    request = decode_command(encode(STORE))
    raw = response_command(request, Response(status.DATASET_MISMATCH, "no match", (0x00080018, 0x0020000D)))
    ds = decode_dataset(io.BytesIO(raw), True, True)
    assert ds.CommandGroupLength == len(raw) - 12
    assert (ds.CommandField, ds.MessageIDBeingRespondedTo, ds.CommandDataSetType) == (0x8001, 7, 0x0101)
    assert (ds.AffectedSOPClassUID, ds.AffectedSOPInstanceUID) == (CT, "1.2.3")
    assert (ds.Status, ds.ErrorComment, list(ds.OffendingElement)) == (0xA900, "no match", [0x00080018, 0x0020000D])


def test_find_response_with_identifier() -> None:
    raw = response_command(decode_command(encode(FIND)), Response(status.PENDING, dataset=b"xx"))
    command = decode_command(raw)
    assert (command.field, command.responded_to, command.status, command.has_dataset) == (0x8020, 7, 0xFF00, True)
    final = decode_command(response_command(decode_command(encode(FIND)), Response(status.SUCCESS)))
    assert (final.status, final.has_dataset) == (0, False)


@pytest.mark.parametrize("peer_max", [0, 16, 17, 128, 16384, 1 << 20])
@pytest.mark.parametrize("size", [0, 2, 100, 70_000])
def test_fragments_fit_the_peer_and_give_the_message_back(peer_max: int, size: int) -> None:
    command, dataset = encode_command(STORE), random.Random(size).randbytes(size)
    pdus, at, parts, ends = to_pdus(5, command, dataset, peer_max), 0, [bytearray(), bytearray()], []
    while at < len(pdus):
        kind, length, inner, context, control = struct.unpack_from(">BxIIBB", pdus, at)
        assert (kind, context, inner) == (4, 5, length - 4)
        assert length <= (peer_max or length)
        parts[control & 1] += pdus[at + 12 : at + 6 + length]
        assert control & 2 or not length % 2  # PS3.8 E.1
        ends += [control] if control & 2 else []
        at += 6 + length
    assert (bytes(parts[1]), bytes(parts[0])) == (command, dataset)
    assert ends == [3, 2]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.DatasetMismatch("x"), 0xA900),
        (errors.MalformedDataset("x"), 0xC000),
        (errors.InvalidUID("x"), 0xC000),
        (errors.InvalidQuery("x"), 0xC000),
        (errors.UnsupportedTransferSyntax("x"), 0xC000),
        (errors.DuplicateInstance("x"), 0x0111),
        (errors.OutOfResources("x"), 0xA700),
        (errors.TooLarge("x"), 0xA700),
        (errors.Unavailable("x"), 0xA700),
        (errors.Forbidden("x"), 0x0124),
        (errors.Corrupt("x"), 0x0110),
    ],
)
def test_status_of_errors(error: errors.ArchiveError, code: int) -> None:
    assert status.failure(error).status == code
    assert code in STORAGE_SERVICE_CLASS_STATUS or code in (0x0110, 0x0111, 0x0124, 0xC000)


def test_status_of_what_nobody_foresaw(caplog: pytest.LogCaptureFixture) -> None:
    answer = status.failure(RuntimeError("SECRET^NAME"))
    assert answer.status == 0x0110
    assert "RuntimeError" in caplog.text
    assert "SECRET" not in answer.comment + caplog.text


def test_comments_and_offending_elements() -> None:
    answer = status.failure(errors.MalformedDataset("bad \\ length\n " + "x" * 100, about="(0028,0010)"))
    assert len(answer.comment) <= 64
    assert "\\" not in answer.comment
    assert answer.offending == (0x00280010,)
    assert status.failure(errors.MalformedDataset("x", about="7FE00010")).offending == (0x7FE00010,)
    assert status.failure(errors.DuplicateInstance("x", about="1.2.3")).offending == ()
    assert status.failure(errors.Quarantined("1.2.3")).comment == errors.Quarantined("1.2.3").reason  # not cut


def test_echo_request_needs_no_instance() -> None:
    command = decode_command(encode({0x0002: VERIFICATION, 0x0100: 0x30, 0x0110: 1, 0x0800: 0x0101}))
    assert (command.sop_class_uid, command.has_dataset) == (VERIFICATION, False)
