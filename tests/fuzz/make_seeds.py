"""`python -m fuzz.make_seeds TARGET CORPUS`: keep the first inputs of a corpus as seeds, and make those to begin with.

`python -m fuzz.make_seeds begin` writes what a person thought of: honest inputs of every kind, and some hostile ones.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dicom_data
import raw_dicom as raw
from dimse_client import CT, EXPLICIT, IMPLICIT, STUDY_FIND, VERIFICATION, associate_request, command, implicit, item
from fuzz.targets import SEEDS, SYNTAXES, TARGETS

from pacs.dicom import part10
from pacs.dimse import upper_layer as ul

KEPT_BYTES = 8_000
"""Of a target's seeds: enough for every branch, little enough for a repository."""


def begin() -> dict[str, list[bytes]]:
    """The inputs to begin with, for each target."""
    rich = item(0x53, b"\0\1\0\1") + item(0x54, b"\0\x19" + CT.encode() + b"\1\0") + item(0x55, b"VERSION")
    rich += item(0x56, b"\0\x1b" + STUDY_FIND.encode() + b"\1\1\1\0\0") + item(0x58, b"\2\1\0\4user\0\4pass")
    rich += item(0x57, b"\0\x07" + b"1.2.3.4" + b"\0\x11" + b"1.2.840.10008.4.2" + b"\0\x1b\0\x19" + CT.encode())
    contexts = ((CT, (EXPLICIT, IMPLICIT)), (VERIFICATION, (IMPLICIT,)), ("1.2.3", ("1.2.4",)))
    accept = ul.AssociateAccept("A", "B", (ul.ContextAnswer(1, ul.ContextResult(0), IMPLICIT),), ul.UserInformation())
    small = dicom_data.image(rows=2, columns=2)
    nested = raw.element(0x00081115, "SQ", raw.item(raw.element(0x00080018, "UI", b"1.2\0"), length=raw.UNDEFINED))
    encapsulated = raw.element(
        0x7FE00010, "OB", raw.item(b"") + raw.item(b"abcd") + raw.SEQUENCE_END, length=0xFFFFFFFF
    )
    image = raw.element(0x00280010, "US", b"\2\0") + raw.element(0x00280011, "US", b"\2\0")
    datasets = [bytes((at,)) + dicom_data.dataset_bytes(small, ts) for at, ts in enumerate(SYNTAXES[:4])]
    datasets += [b"\0" + raw.dataset(after=nested), b"\4" + raw.dataset(after=image + encapsulated)]
    datasets += [
        b"\0" + raw.dataset(before=raw.element(0x00080005, "CS", terms), between=raw.element(0x00100010, "PN", name))
        for terms, name in (
            (rb"\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
            (b"GB18030 ", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab"),
            (b"ISO_IR 192", "Müller^Änne ".encode()),
        )
    ]
    return {
        "pdu": [
            associate_request(), associate_request(contexts=contexts, user_items=rich), ul.encode_accept(accept),
            ul.RELEASE_REQUEST, ul.encode_abort(ul.AbortSource.USER), bytes((4, 0, 0, 0, 0, 8)) + bytes(8),
        ],
        "command": [
            command({0x0002: CT, 0x0100: 1, 0x0110: 1, 0x0700: 0, 0x0800: 1, 0x1000: "1.2.3", 0x1030: "MOVER"}),
            command({0x0002: VERIFICATION, 0x0100: 0x8030, 0x0120: 1, 0x0800: 0x0101, 0x0900: 0, 0x0902: "words"}),
            command({0x0100: 0x0FFF, 0x0120: 7, 0x0800: 0x0101}),
            command({0x0003: "1.2.840.10008.1.20.1", 0x0100: 0x0130, 0x0110: 1, 0x0800: 1, 0x1001: "1.2", 0x1008: 1}),
        ],
        "dataset": datasets,
        "identifier": [
            bytes((1,)) + implicit({0x00080052: "STUDY", 0x00100010: "DOE*", 0x00080020: "20200101-", 0x0020000D: ""}),
            bytes((0xC1,)) + implicit({0x00080052: "IMAGE", 0x00080018: "1.2\\1.3", 0x00080060: "CT\\MR"}),
            bytes((0,)) + raw.element(0x00080052, "CS", b"SERIES") + nested,
        ],
        "json": [
            b'[{"00080018":{"vr":"UI","Value":["1.2"]},"00100010":{"vr":"PN","Value":[{"Alphabetic":"A^B"}]}}]',
            b'{"00400275":{"vr":"SQ","Value":[{"00401001":{"vr":"SH","Value":["x",null]}}]},"00281050":{"vr":"DS",'
            b'"Value":[1.5,"2"]},"7FE00010":{"vr":"OW","InlineBinary":"AAAA"},"00281052":{"vr":"FD","Value":["NaN"]}}',
            b'{"00720050":{"vr":"CS","BulkDataURI":"x"},"00200013":{"vr":"IS","Value":[3]},"00090010":{"vr":"UN"}}',
            b'{"00280106":{"vr":"US","Value":[65535]},"00189074":{"vr":"DT","Value":["2020"]},'
            b'"00081163":{"vr":"FD","Value":[1e308]},"00720071":{"vr":"UV","Value":["18446744073709551615"]}}',
        ],
        "multipart": [
            b"\3--b0\r\nContent-Type: application/dicom\r\n\r\nabc\r\n--b0\r\nA: b\r\n\r\n\r\n--x\r\n--b0--\r\nend",
            b"\1pre\r\n--b0  \r\n\r\n\r\n--b0--",
            b"\x7f--b0--\r\n",
        ],
        "part10": [b"\x40" + dicom_data.part10(small), b"\1" + part10.header(CT, "1.2", EXPLICIT, "AE")],
        "web": [
            b'multipart/related; type="application/dicom"; boundary=b0', b"image/jpeg;q=0.5, */*;q=0.1",
            b"PatientName=DOE*&StudyDate=20200101-20201231&limit=10&offset=5&includefield=all&00080060=CT",
            b"StudyTime=10-&fuzzymatching=true&StudyInstanceUID=1.2,1.3&ModalitiesInStudy=CT\\MR",
        ],
    }  # fmt: skip


def write(name: str, inputs: list[bytes]) -> None:
    """Put these into the seed file of a target, each once."""
    SEEDS.mkdir(exist_ok=True)
    text = "".join(f"{each.hex()}\n" for each in dict.fromkeys(inputs))
    (SEEDS / f"{name}.hex").write_text(text)


def main() -> None:
    """Begin, or take over a corpus: smallest first, as many as fit."""
    if sys.argv[1] == "begin":
        for name, inputs in begin().items():
            write(name, inputs)
        return
    kept, room = TARGETS[sys.argv[1]].seeds(), KEPT_BYTES
    for each in kept:
        room -= len(each)
    for path in sorted(Path(sys.argv[2]).iterdir(), key=lambda path: path.stat().st_size):
        if (room := room - path.stat().st_size) < 0:
            break
        kept.append(path.read_bytes())
    write(sys.argv[1], kept)


if __name__ == "__main__":
    main()
