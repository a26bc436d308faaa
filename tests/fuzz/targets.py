"""What is fuzzed: every place where bytes of a stranger are first understood, with the errors it is allowed to raise.

A target runs one input and raises only where the product is wrong. `Slow` is raised for an input that costs more than
a second of processor time. Seeds are our own data, one file of hexadecimal lines for each target, those that once
crashed among them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson

from dicomweb import media_types
from dicomweb.multipart import Parser
from dicomweb.params import query as qido_query
from dicomweb.stow_instances import write
from pacs.dicom import json_input, scanner
from pacs.dicom.attributes import Level
from pacs.dicom.json_model import to_dataset
from pacs.dicom.part10 import HeaderReader
from pacs.dicom.sop_classes import STORAGE_SOP_CLASSES
from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from pacs.dimse import identifiers, messages
from pacs.dimse import upper_layer as ul
from pacs.dimse.negotiation import PATIENT_ROOT_FIND, STUDY_ROOT_FIND, Policy, negotiate, refusal
from pacs.errors import InvalidInput, TooLarge

SEEDS = Path(__file__).parent / "seeds"
MAX_INPUT_S = 1.0
SYNTAXES = (
    "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.100",
)  # fmt: skip
_POLICY = Policy("M3DICOM", STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES)
_LIMITS = scanner.Limits(inflated_bytes=1 << 24)


class Slow(Exception):
    """One input that took longer than any may."""


def pdu(data: bytes) -> None:
    """A PDU off the wire: its header is judged, and its body read as whatever it says it is."""
    if len(data) < ul.HEADER_LENGTH:
        return
    try:
        kind, length = ul.decode_header(data)
        body = memoryview(data)[ul.HEADER_LENGTH :]
        if kind == ul.PDUType.ASSOCIATE_AC:
            ul.decode_accept(body)
        elif kind == ul.PDUType.ASSOCIATE_RQ:
            request = ul.decode_request(body)
            if refusal(request, "M3DICOM") is None:
                answer = negotiate(request, _POLICY).accept
                again = ul.decode_accept(memoryview(ul.encode_accept(answer))[ul.HEADER_LENGTH :])
                assert again.contexts == answer.contexts
        else:
            ul.check_length(kind, length, 1 << 18)
    except ul.ProtocolError:
        return


def command(data: bytes) -> None:
    """A command set, and the response to it."""
    try:
        read = messages.decode_command(data)
    except ul.ProtocolError:
        return
    answer = messages.response_command(read, messages.Response(0xC000, "why", read.mistyped))
    assert messages.to_pdus(1, answer, None, 16384)


def dataset(data: bytes) -> None:
    """A data set, in the transfer syntax that the first byte chooses."""
    if not data:
        return
    try:
        found = scanner.scan(memoryview(data)[1:], SYNTAXES[data[0] % len(SYNTAXES)], _LIMITS)
    except (InvalidInput, TooLarge):
        return
    orjson.loads(found.metadata_json().replace(b"\xff", b""))
    assert all(each.offset >= 0 and each.length >= 0 for each in found.bulk)


def identifier(data: bytes) -> None:
    """The identifier of a C-FIND request; the first byte chooses transfer syntax, root and relational queries."""
    if not data:
        return
    root = (PATIENT_ROOT_FIND, STUDY_ROOT_FIND)[data[0] >> 6 & 1]
    try:
        read = identifiers.decode(memoryview(data)[1:], SYNTAXES[data[0] % 4])
        identifiers.understand(read, root, relational=bool(data[0] & 128))
    except (InvalidInput, TooLarge):
        return


def json(data: bytes) -> None:
    """DICOM JSON as STOW-RS and UPS-RS take it: read, written as a data set."""
    try:
        found = json_input.loads_many(data)
    except InvalidInput:
        return
    for each in found:
        try:
            to_dataset(each)
            write(each, {}, lambda _: _Nowhere(), _no_decoder)  # type: ignore[arg-type, return-value]
        except (InvalidInput, TooLarge):
            continue


class _Nowhere:
    """An arriving object whose bytes are forgotten."""

    def write(self, data: bytes) -> None:
        """Take bytes."""

    def abort(self) -> None:
        """Forget them."""


def _no_decoder(*_: object) -> bytes:
    raise InvalidInput("nothing is decoded here")


def multipart(data: bytes) -> None:
    """A multipart body, in pieces whose length the first byte gives: the same events as in one piece."""
    if not data:
        return
    body = data[1:]
    whole = _events([body])
    size = data[0] or 1
    assert _events([body[at : at + size] for at in range(0, len(body), size)]) == whole


def _events(pieces: list[bytes]) -> list[object]:
    parser, out = Parser("b0"), list[object]()
    try:
        for piece in pieces:
            _extend(out, parser.feed(piece))
        _extend(out, parser.finish() or ())
    except (InvalidInput, TooLarge):
        return [*out[:0], "refused"]
    return out


def _extend(out: list[object], events: object) -> None:
    for event in events:  # type: ignore[attr-defined]
        if not isinstance(event, memoryview):
            out.append(repr(event))
        elif out and isinstance(out[-1], bytes):
            out[-1] += bytes(event)
        elif len(event):
            out.append(bytes(event))


def part10(data: bytes) -> None:
    """Preamble and File Meta in pieces whose length the first byte gives, with the data set behind them scanned."""
    if not data:
        return
    reader, size, rest = HeaderReader(), data[0] or 1, bytearray()
    try:
        for at in range(1, len(data), size):
            piece = reader.feed(data[at : at + size])
            rest += piece if piece is not None else b""
        reader.finish()
        scanner.scan(bytes(rest), reader.transfer_syntax_uid, _LIMITS)
    except (InvalidInput, TooLarge):
        return


def web(data: bytes) -> None:
    """Media types, Accept headers and QIDO-RS parameters, which are text."""
    text = data.decode("latin-1")
    for read in (media_types.parse, media_types.ranges):
        try:
            read(text)
        except InvalidInput:
            continue
    pairs = [(name, value) for name, _, value in (pair.partition("=") for pair in text.split("&"))]
    try:
        qido_query(pairs, Level.STUDY)
    except InvalidInput:
        return


@dataclass(frozen=True)
class Target:
    """One thing to fuzz, and what of the product it is."""

    name: str
    run: Callable[[bytes], None]
    modules: tuple[str, ...]
    max_length: int = 4096

    def seeds(self) -> list[bytes]:
        """Inputs to begin with."""
        path = SEEDS / f"{self.name}.hex"
        lines = path.read_text().splitlines() if path.exists() else []
        return [bytes.fromhex(line) for line in lines if not line.startswith("#")]

    def timed(self, data: bytes) -> None:
        """Run one input. Raises Slow where it takes more processor time than any may."""
        began = time.process_time()
        self.run(data)
        if (took := time.process_time() - began) > MAX_INPUT_S:
            raise Slow(f"{took:.1f} s for {len(data)} bytes")


TARGETS = {
    each.name: each
    for each in (
        Target("pdu", pdu, ("pacs.dimse.upper_layer", "pacs.dimse.negotiation")),
        Target("command", command, ("pacs.dimse.messages",), 1024),
        Target("dataset", dataset, ("pacs.dicom",)),
        Target("identifier", identifier, ("pacs.dicom", "pacs.dimse.identifiers"), 2048),
        Target("json", json, ("pacs.dicom.json_input", "pacs.dicom.json_dataset", "dicomweb.stow_instances")),
        Target("multipart", multipart, ("dicomweb.multipart",), 2048),
        Target("part10", part10, ("pacs.dicom.part10",), 2048),
        Target("web", web, ("dicomweb.media_types", "dicomweb.params", "pacs.dicom.matching"), 512),
    )
}
