"""What is decoded and encoded by the pattern of the one before is what the long way gives, whatever comes."""

from __future__ import annotations

import random

import pytest

from pacs.dimse.messages import Command, Response, Tag, decode_command, encode_command, response_command, to_pdus
from pacs.dimse.repeated import Reader, Replies
from pacs.dimse.upper_layer import ProtocolError

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


def store(number: int, uid: str, **more: int | str) -> bytes:
    fields: dict[int, int | str | bytes] = {0x0002: CT, 0x0100: 1, 0x0110: number, 0x0700: 0, 0x0800: 1, 0x1000: uid}
    return encode_command(fields | {int(Tag[name]): value for name, value in more.items()})


STREAM = [
    store(1, "1.2.3.10"),
    store(2, "1.2.3.11"),
    store(65535, "1.2.3.12"),
    store(4, "1.2.3"),  # padded, of another length
    store(5, "1.2.4"),
    store(6, ""),
    store(7, "", REQUESTED_SOP_INSTANCE_UID="1.2.9"),
    store(8, "1.2.3.10", PRIORITY=2),
    store(9, "1.2.3.11", PRIORITY=2),
    store(10, "1.2.3.11", MOVE_ORIGINATOR_AE_TITLE="AE", MOVE_ORIGINATOR_MESSAGE_ID=3),
    store(11, "1.2.3.19", MOVE_ORIGINATOR_AE_TITLE="AE", MOVE_ORIGINATOR_MESSAGE_ID=4),
    store(12, "9" * 64),
    store(13, "8" * 64),
    store(14, "7" * 70),
    store(15, "6" * 70),
    store(1, "1.2.3.10").replace(CT.encode(), MR.encode()),
    encode_command({0x0002: "1.2.840.10008.1.1", 0x0100: 0x30, 0x0110: 3, 0x0800: 0x0101}),
    store(16, "1.2.3.10"),
    store(17, "1.2.3.10").replace(b"1.2.3.10", b"1.2.\xff.10"),
    store(18, "1.2.3.10").replace(b"1.2.3.10", b"1.2.3.1\0"),
    store(19, "1.2.3.10").replace(b"1.2.3.10", b" \0 \0 \0 \0"),
]


def test_a_stream_is_decoded_as_each_by_itself() -> None:
    dice = random.Random(4)
    reader = Reader()
    for raw in [*STREAM, *dice.choices(STREAM, k=2000)]:
        assert reader.decode(bytearray(raw)) == decode_command(raw)


def test_damage_anywhere_is_found_as_it_is_without_a_pattern() -> None:
    dice = random.Random(5)
    raw = store(1, "1.2.3.10")
    for at in range(len(raw)):
        for value in (0, 255, raw[at] ^ 1, dice.randrange(256)):
            damaged = bytearray(raw)
            damaged[at] = value
            reader = Reader()
            reader.decode(raw)
            assert outcome(reader.decode, damaged) == outcome(decode_command, damaged)
            assert reader.decode(raw) == decode_command(raw)


def outcome(decode: object, raw: bytearray) -> Command | str:
    assert callable(decode)
    try:
        made = decode(raw)
    except ProtocolError as error:
        return str(error)
    assert isinstance(made, Command)
    return made


@pytest.mark.parametrize("peer_max_length", [0, 16, 64, 16384])
def test_replies_are_what_the_long_way_makes(peer_max_length: int) -> None:
    replies = Replies(peer_max_length)
    responses = [Response(0), Response(0), Response(0xA700, "out of resources"), Response(0, fields={0x1021: 3})]
    dice = random.Random(6)
    for raw in dice.choices(STREAM, k=1000):
        request, response = decode_command(raw), dice.choice(responses)
        context = dice.choice((1, 3, 255))
        whole = to_pdus(context, response_command(request, response), response.dataset, peer_max_length)
        assert replies.encode(context, request, response) == whole
