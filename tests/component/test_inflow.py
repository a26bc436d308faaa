"""Bodies whose instances the library takes by itself: answers, rows and bytes of the usual way, whatever comes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import dicom_data
import pytest
from dicomweb_server import multipart
from lending_door import Door, answers, opened
from pydicom import Dataset
from servers import missing
from sqlalchemy import func, select, update
from stores_alike import dead, equals_rebuild, no_file_beyond, past_the_cache, records, slices, table_rows

from dicomweb.multipart import Parser
from pacs import inflow, native
from pacs.auth import CLINICAL_RIGHTS, SYSTEM
from pacs.index import schema
from pacs.ingest import Ingest

END = b"\r\n--b--\r\n"


class Counted:
    """How many instances of an archive went the usual way."""

    def __init__(self, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        prepare = Ingest.prepare

        def counted(ingest: Ingest, *args: Any, **kwargs: Any) -> Any:
            self.count += ingest is door.archive.ingest
            return prepare(ingest, *args, **kwargs)

        monkeypatch.setattr(Ingest, "prepare", counted)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    if native.load() is None:
        missing("the compiled part (python -m pacs.native.make)")
    with opened(tmp_path) as made:
        yield made


@pytest.fixture
def usual(door: Door, monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(door, monkeypatch)


def ct(count: int, number: int = 0, **attributes: Any) -> list[Dataset]:
    """Instances alike, with UIDs of many lengths, of 24 kB each: what is short comes as messages."""
    size = {"Rows": 128, "Columns": 96, "PixelData": bytes(range(256)) * 96}
    made = slices(count, number, **(size | attributes))
    for at, ds in enumerate(made):
        ds.SOPInstanceUID = f"1.2.3.{number + 1}.{7 ** (at % 9)}.{at}"
    return made


def files(several: Sequence[Dataset]) -> list[bytes]:
    return [dicom_data.part10(ds) for ds in several]


def post(door: Door, body: bytes, piece: int = 1 << 20, path: str = "/studies", pause_s: float = 0.0) -> Any:
    """Status and answer of a request with this body, sent in pieces."""
    head = door.head(len(body)).replace(b"/studies", path.encode(), 1)
    with door.connection() as sock:
        sock.sendall(head)
        for at in range(0, len(body), piece):
            sock.sendall(body[at : at + piece])
            time.sleep(pause_s)
        sock.sendall(door.search)
        told = answers(sock)
    status, said = told[0]
    return status, json.loads(said.replace(str(door.port).encode(), b"PORT"))


def whole(several: Sequence[Dataset] | Sequence[bytes]) -> bytes:
    return multipart([each if isinstance(each, bytes) else dicom_data.part10(each) for each in several], "b")


def outcome(answer: Any) -> tuple[int, ...]:
    """How many instances an answer says are stored, and how many failed."""
    return tuple(len(answer[1].get(tag, {}).get("Value", ())) for tag in ("00081199", "00081198"))


def held(door: Door) -> int:
    with door.archive.index.read() as conn:
        return int(conn.execute(select(func.count()).select_from(schema.instance)).scalar_one())


def as_a_set(door: Door) -> dict[str, list[str]]:
    """The rows without keys and order, in which those of one body need not agree."""
    keys = {"id", "seq", "study_key", "series_key", "instance_key"}
    return {
        table: sorted(repr({name: value for name, value in row.items() if name not in keys}) for row in rows)
        for table, rows in table_rows(door).items()
    }


# --- what is alike ---


def test_what_is_alike_is_taken_and_an_index_made_again_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native.load() is None:
        missing("the compiled part (python -m pacs.native.make)")
    with opened(tmp_path) as door:
        usual = Counted(door, monkeypatch)
        several = ct(60)
        for at, piece in ((0, 1 << 20), (20, 100_000), (40, 30_011)):
            status, told = post(door, whole(several[at : at + 20]), piece)
            assert status == 200
            named = [item["00081155"]["Value"][0] for item in told["00081199"]["Value"]]
            assert named == [str(ds.SOPInstanceUID) for ds in several[at : at + 20]]
        assert usual.count < 15
        assert held(door) == 60
        for ds in several:
            [found] = door.archive.retrieve.locate(SYSTEM, *(str(ds[k].value) for k in
                   ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")))  # fmt: skip
            assert b"".join(door.archive.retrieve.pieces(found)).endswith(dicom_data.dataset_bytes(ds))
        settings = door.archive.settings
    equals_rebuild(settings)


def test_all_of_it_sent_again_is_the_same_and_takes_no_room(door: Door, usual: Counted) -> None:
    body = whole(ct(40))
    assert post(door, body)[0] == 200
    for _ in range(2):
        assert post(door, body)[0] == 200
    assert held(door) == sum(1 for _ in door.archive.store.walk()) == 40


def test_what_comes_slowly_is_taken_as_well(door: Door, usual: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomweb.stow.PATIENCE_S", 0.0)
    assert post(door, whole(ct(20)), 40_000, pause_s=0.002)[0] == 200
    assert usual.count < 10


def test_many_in_one_body_fill_strips_and_rooms(door: Door, usual: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflow, "STRIP_RECORDS", 7)
    monkeypatch.setattr(inflow, "_TAKEN_BYTES", 100_000)
    assert post(door, whole(ct(100)))[0] == 200
    assert usual.count < 25
    assert held(door) == 100


# --- what is not ---


@cache
def some() -> list[bytes]:
    return files(ct(400))


def talk(door: Door) -> list[Any]:
    """The answers to bodies of instances alike, with a surprise in the middle of each."""
    given = iter(some())
    first = ct(1)[0]
    found = list[Any]()

    def next_ones(count: int) -> list[bytes]:
        return [next(given) for _ in range(count)]

    def ask(*between: bytes, path: str = "/studies", before: int = 6) -> None:
        found.append(post(door, whole([*next_ones(before), *between, *next_ones(6)]), path=path))

    def spoilt(change: Callable[[bytes], bytes]) -> bytes:
        return change(next_ones(1)[0])

    def in_a_part(old: bytes, new: bytes) -> None:
        raw = whole(next_ones(12)).split(b"--b\r\n")
        raw[9] = raw[9].replace(old, new, 1)
        found.append(post(door, b"--b\r\n".join(raw)))

    def stable() -> None:
        door.archive.index.transact(lambda conn: conn.execute(update(schema.study).values(stable_at=1.0)))

    ask()
    ask(dicom_data.part10(first))  # here already
    other = dicom_data.part10(ct(1, ImageComments="of the same UID, and another")[0])
    ask(other)
    once = next_ones(1)[0]
    ask(once, once)
    ask(*files(ct(3, number=1, PatientID="ANOTHER")))
    ask(*files(ct(3, number=2, study=1)))
    ask(*files(ct(2, number=3, Rows=1024, Columns=512, PixelData=bytes(1 << 20))))
    ask(spoilt(lambda raw: raw[:-3]))
    ask(spoilt(lambda raw: raw + bytes(2)))
    ask(spoilt(lambda raw: bytes(range(128)) + raw[128:]))  # a preamble of somebody's own
    ask(spoilt(lambda raw: raw.replace(b"DICM", b"DICN", 1)))
    ask(spoilt(lambda raw: raw[:140] + b"\xff" + raw[141:]))
    ask(spoilt(lambda raw: raw.replace(b"1.2.3.1.", b"1.2.3.9.", 1)))  # the File Meta's
    ask(spoilt(lambda raw: raw[:-200] + b"\r\n--b\r\n" + raw[-193:]))  # the delimiter among the pixels
    ask(b"", b"no file at all")
    in_a_part(b"Content-Type: application/dicom", b"content-type: application/dicom; more=1")
    in_a_part(b"Content-Type: application/dicom", b"Content-Type: text/plain")
    in_a_part(b"Content-Type: application/dicom\r\n", b"")
    in_a_part(b"Content-Type: application/dicom", b"Content-Type: ,")
    in_a_part(b"\r\nContent-Type", b" \r\nContent-Type")
    ask(path=f"/studies/{first.StudyInstanceUID}")
    ask(path="/studies/1.2.3")
    stable()
    ask()
    found.append(post(door, whole(next_ones(12)).removesuffix(END)))
    found.append(post(door, whole(next_ones(12)) + b"an epilogue"))
    ask(before=0)
    return found


def test_whatever_comes_between_all_is_as_the_usual_way_has_it(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native.load() is None:
        missing("the compiled part (python -m pacs.native.make)")
    with opened(tmp_path_factory.mktemp("one")) as one, opened(tmp_path_factory.mktemp("other")) as other:
        counted = Counted(one, monkeypatch)
        monkeypatch.setattr(other.archive.ingest, "inflow", lambda: None)
        told, by_the_usual_way = talk(one), talk(other)
        for at, (mine, usual) in enumerate(zip(told, by_the_usual_way, strict=True)):
            assert mine == usual, f"body {at}"
        assert counted.count < held(one) // 2, "the library has taken what it could"
        assert as_a_set(one) == as_a_set(other)
        rows = held(one)
    assert records(one) == records(other) == rows


def test_a_body_that_breaks_off_leaves_nothing(door: Door, usual: Counted) -> None:
    body = whole(ct(60))
    within = body.index(b"\r\n--b\r\n", len(body) // 2) - 5_000
    status, told = post(door, body[:within] + END)
    assert (status, outcome((status, told))) == (202, (30, 1))
    before = held(door)
    rest = whole(ct(60)[40:])
    with door.connection() as sock:
        sock.sendall(door.head(len(rest)) + rest[:-30_000])
    until = time.monotonic() + 60
    while len(door.archive.ingest._inflows._free) < 1:
        assert time.monotonic() < until, "somebody still waits for the rest"
        time.sleep(0.01)
    assert held(door) == before == sum(1 for _ in door.archive.store.walk())
    assert post(door, body)[0] == 200
    assert held(door) == 60


def test_each_sender_has_its_own(door: Door, usual: Counted) -> None:
    """What one client's instances have in common tells who sent them."""
    several = ct(60)
    assert post(door, whole(several[:30]))[0] == 200
    door.token = door.archive.auth.create_token("others", CLINICAL_RIGHTS)
    assert post(door, whole(several[30:]))[0] == 200
    with door.archive.index.read() as conn:
        by = conn.execute(select(schema.instance.c.principal, func.count()).group_by(schema.instance.c.principal)).all()
    assert dict(map(tuple, by)) == {"tests": 30, "others": 30}


# --- a disk that fails ---

LARGE: dict[str, Any] = {"Rows": 512, "Columns": 512, "PixelData": bytes(512 * 512 * 2)}
"""So that the object files are longer than the log of the index."""


@pytest.mark.parametrize("room", [0, 200_000], ids=["nothing", "a part of it"])
def test_what_the_disk_does_not_take_whole_is_not_stored(door: Door, usual: Counted, room: int) -> None:
    several = ct(24, **LARGE)
    assert post(door, whole(several[:12]))[0] == 200
    t = schema.instance.c
    with door.archive.index.read() as conn:
        end = conn.execute(select(func.max(t.object_offset + t.object_length))).scalar_one()
    with no_file_beyond(-(-int(end) // 4096) * 4096 + room):
        answer = post(door, whole(several[12:]))
    stored, failed = outcome(answer)
    assert stored + failed == 12
    assert answer[0] == (200 if stored == 12 else 202 if stored else 507)
    assert held(door) == 12 + stored == sum(1 for _ in door.archive.store.walk())
    assert post(door, whole(several))[0] == 200
    assert held(door) == 24


def test_a_segment_on_which_the_disk_fails_is_left(door: Door, usual: Counted) -> None:
    several = ct(40)
    assert post(door, whole(several[:20]))[0] == 200
    with dead() as fd:
        for each in past_the_cache(door.archive.settings.data):
            os.dup2(fd, each, inheritable=False)
        first = post(door, whole(several[20:30]))
    assert post(door, whole(several))[0] == 200, "in another segment"
    assert held(door) == 40 == sum(1 for _ in door.archive.store.walk())
    assert first[0] in (200, 202, 503)


def test_what_failed_in_one_segment_takes_nothing_with_it_in_the_next(
    door: Door, usual: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records lie at the same places in all segments."""
    monkeypatch.setattr(inflow, "STRIP_RECORDS", 5)
    several = ct(40)
    assert post(door, whole(several[:8]))[0] == 200
    with dead() as fd:
        for each in past_the_cache(door.archive.settings.data):
            os.dup2(fd, each, inheritable=False)
        answer = post(door, whole(several[8:]))
    stored, failed = outcome(answer)
    assert (answer[0], stored + failed) == (202, 32)
    assert held(door) == 8 + stored == sum(1 for _ in door.archive.store.walk()), "what was acknowledged is there"


def told_alike(
    folders: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    asks: Sequence[Callable[[Door], Any]],
    least: int,
    hidden: int = 0,
) -> None:
    """What is asked of an archive is answered as one without an inflow does, which ends with the same rows.

    The library has to take at least so many; so many are rejected by others.
    """
    if native.load() is None:
        missing("the compiled part (python -m pacs.native.make)")
    with opened(folders.mktemp("one")) as one, opened(folders.mktemp("other")) as other:
        counted = Counted(one, monkeypatch)
        monkeypatch.setattr(other.archive.ingest, "inflow", lambda: None)
        for at, ask in enumerate(asks):
            assert ask(one) == ask(other), f"body {at}"
        assert held(one) - counted.count >= least, "the library has taken what it could"
        assert as_a_set(one) == as_a_set(other)
        rows = held(one)
    assert records(one) == records(other) == rows + hidden


def rejecting(ds: Dataset) -> Dataset:
    """A rejection note of an instance."""
    title, study, series, instance = Dataset(), Dataset(), Dataset(), Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "113001", "DCM", "Rejected"
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedSOPSequence = ds.SeriesInstanceUID, [instance]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = ds.StudyInstanceUID, [series]
    made = dicom_data.image(
        90, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.59", Modality="KO", SeriesInstanceUID="1.2.99", PixelData=None
    )
    made.ConceptNameCodeSequence, made.CurrentRequestedProcedureEvidenceSequence = [title], [study]
    return made


def test_order_and_frame_of_a_body_decide(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    several, other = ct(80), ct(80)[15]
    other.PatientWeight = 70  # nothing that the library would take
    monkeypatch.setattr(Parser.__init__, "__defaults__", (12,))

    def framed(between: bytes, *, at: int = 20) -> bytes:
        """A body in which something stands in a part's place."""
        raw = files(several[at : at + 10])
        return whole(raw[:5]).removesuffix(END) + b"\r\n" + between + b"\r\n" + whole(raw[5:])

    def each_of_its_own(count: int) -> bytes:
        head = b"--b\r\nContent-Type: application/dicom\r\nContent-Location: %d\r\n\r\n"
        return b"\r\n".join(head % at + raw for at, raw in enumerate(files(several[50 : 50 + count]))) + END

    head = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
    divided = bytearray(files(several[40:41])[0])
    divided[60:67] = b"\r\n--b\r\n"  # a boundary in a preamble
    bodies = (
        whole(several[:10]),
        whole([*several[10:19], other, *several[19:20]]),
        framed(head + bytes(divided)),
        framed(head.removesuffix(b"\r\n"), at=30),  # a part that is a header alone
        whole([*several[41:46], rejecting(several[43]), *several[46:50]]),
        each_of_its_own(12),
        each_of_its_own(13),
        whole(several[65:79]),
    )
    asks = [lambda door, body=body: post(door, body) for body in bodies]
    told_alike(tmp_path_factory, monkeypatch, asks, 10, hidden=1)
