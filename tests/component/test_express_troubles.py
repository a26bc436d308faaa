"""Instances that the library takes by itself, while the disk fails, the index is locked, and others change things."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from dimse_client import Association
from sqlalchemy import Connection, select, update
from stores_alike import (
    Place,
    dead,
    message,
    no_file_beyond,
    of,
    opened,
    past_the_cache,
    records,
    send,
    slices,
    table_rows,
)  # fmt: skip

from pacs import catchup, journal, rescan
from pacs.archive import open_archive
from pacs.auth import SYSTEM
from pacs.correction_request import Request
from pacs.dimse.association import Association as Serving
from pacs.errors import ArchiveError
from pacs.events import Events
from pacs.index import corrections, engine, schema
from pacs.index.engine import Index, open_index
from pacs.removal import Removal
from pacs.scrub import Scrub
from pacs.settings import Retention
from pacs.storage.base import Locator
from pacs.storage.files import FileStore

GENEROUS_S = 60


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with opened(tmp_path, monkeypatch, retention=(Retention("old", days=1),)) as made:
        yield made


def until(condition: Callable[[], Any]) -> Any:
    """What `condition` says, once it says something."""
    deadline = time.monotonic() + GENEROUS_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


def warm(assoc: Association, place: Place, **attributes: Any) -> None:
    """Store eight of a series; the library takes the next four."""
    before = place.usual
    assert [send(assoc, ds) for ds in slices(8, **attributes)] == [0] * 8
    assert place.usual - before < 8, "the library takes what it can"


def whole(place: Place) -> None:
    """Close. All that is listed is there, nothing else is, and a start finds nothing to mend."""
    rows = table_rows(place)["instance"]
    place.close()
    assert records(place) == len(rows)
    again = open_archive(place.archive.settings)
    try:
        care = Scrub(again.store, again.index)
        assert care.verify(care.count()).damaged == []
        assert table_rows(place, again.index)["instance"] == rows
    finally:
        again.close()


# --- others change what is joined ---

ON_THE_WAY: dict[str, Callable[[Place, str], object]] = {
    "study deleted": lambda place, study: place.archive.removal.delete(SYSTEM, study),
    "study corrected": lambda place, study: _correct(place, "study", study_instance_uid=study, changes=DAY),
    "patient corrected": lambda place, _: _correct(place, "patient", patient_id="P2", changes={"PatientSex": "F"}),
    "patients merged": lambda place, _: _correct(place, "merge", patient_id="P3", into_patient_id="P2"),
    "study relinked": lambda place, study: _correct(place, "relink", study_instance_uid=study, into_patient_id="P2"),
    "corrected, and undone": lambda place, study: _there_and_back(place, study),
    "study kept": lambda place, study: place.archive.retention.keep(SYSTEM, study, "teaching"),
    "gone by rule": lambda place, study: _expire(place, study),
}
DAY: dict[str, str | None] = {"StudyDescription": "of another day"}


def _correct(place: Place, kind: str, **request: Any) -> int:
    return int(place.archive.corrections.make(SYSTEM, Request(kind, "found at the desk", **request))["id"])


def _there_and_back(place: Place, study: str) -> None:
    number = _correct(place, "relink", study_instance_uid=study, into_patient_id="P2")
    place.archive.corrections.undo(SYSTEM, number)


def _expire(place: Place, study: str) -> None:
    at_rest = update(schema.study).where(schema.study.c.study_instance_uid == study).values(stable_at=1.0)
    place.archive.index.transact(lambda conn: conn.execute(at_rest))
    assert place.archive.retention.step(time.time() + 400 * 86_400) == 1


def changing(place: Place) -> list[int]:
    """The answers to studies of which each is changed when half of it has come, all in one association."""
    answers = []
    with place.associate() as assoc:
        for number, change in enumerate(ON_THE_WAY.values()):
            several = slices(8, number=number, study=number, PatientID=f"P{number}")
            answers += [send(assoc, ds) for ds in several[:4]]
            change(place, str(several[0].StudyInstanceUID))
            answers += [send(assoc, ds) for ds in several[4:]]
            answers.append(send(assoc, several[2]))  # what is there still, or has gone
    return answers


def test_what_is_corrected_and_removed_meanwhile_is_as_the_usual_way_has_it(
    place: Place, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = place.archive.settings.retention
    with opened(tmp_path_factory.mktemp("usual"), monkeypatch, retention=rule) as usual:
        monkeypatch.setattr(usual.archive.ingest, "express", lambda: None)
        answers = changing(place)
        assert answers == changing(usual) == [0] * len(answers)
        assert usual.usual == len(answers)
        assert place.usual < len(answers), "the library takes what it can"
        assert decided(usual) == decided(place)
        assert table_rows(usual) == table_rows(place)
    whole(place)


def decided(place: Place) -> dict[str, list[Any]]:
    """What people and rules have decided: studies under corrections, what was removed, and what the journal says."""
    c, t = corrections.correction_study.c, schema.tombstone.c
    records = journal.read(place.archive.uncached_store)
    with place.archive.index.read() as conn:
        return {
            "corrected": list(conn.execute(select(c.correction_id, c.study_instance_uid, c.before).order_by(c.id))),
            "removed": list(conn.execute(select(t.sop_instance_uid, t.digest, t.state).order_by(t.id))),
            "said": [(each.kind, [one["sop_instance_uid"] for one in each.facts.get("instances", ())])
                     for each in records],
        }  # fmt: skip


# --- others are at it while an instance is on its way ---


@dataclass
class Neighbour:
    """Another process, as far as files and locks go: a store and an index of its own on the same folder."""

    store: FileStore
    index: Index

    def sees(self, before: set[Locator]) -> Locator | None:
        """The whole object that was not there before, or None while there is none."""
        for locator in set(self.store.walk()) - before:
            with suppress(ArchiveError):
                rescan.entry(self.store, locator)
                return locator
        return None


@pytest.fixture
def neighbour(place: Place) -> Iterator[Neighbour]:
    settings = place.archive.settings
    made = Neighbour(FileStore(settings.data, alone=False), open_index(settings.index_url))
    yield made
    made.index.close()
    made.store.close()


def meet(place: Place, neighbour: Neighbour, assoc: Association, first: Callable[[Connection, Locator], Any]) -> int:
    """The answer to an instance that the library has on the disk, not yet seen, while `first` is done in the index."""
    for number in count(place.held):
        begun, met, usual = threading.Event(), threading.Event(), place.usual
        before = set(neighbour.store.walk())

        def work(conn: Connection) -> None:
            begun.set()  # noqa: B023
            locator = until(partial(neighbour.sees, before))  # noqa: B023
            if place.usual == usual:  # noqa: B023
                met.set()  # noqa: B023
                first(conn, locator)

        thread = threading.Thread(target=neighbour.index.transact, args=(work,))
        thread.start()
        assert begun.wait(GENEROUS_S)
        status = send(assoc, slices(number + 1)[number])
        thread.join(GENEROUS_S)
        if met.is_set():
            return status
        assert status == 0  # it went the usual way: one that differs too much, or came after a pause
    raise AssertionError


def test_a_study_is_deleted_while_its_next_instance_is_on_the_disk(place: Place, neighbour: Neighbour) -> None:
    removal = Removal(neighbour.store, neighbour.index, Events())
    study = str(slices(1)[0].StudyInstanceUID)
    with place.associate() as assoc:
        warm(assoc, place)
        begun, before = threading.Event(), set(neighbour.store.walk())

        def kept_waiting(_: Connection) -> bool:
            begun.set()
            return until(partial(neighbour.sees, before)) is None

        thread = threading.Thread(target=removal.delete, args=(SYSTEM, study), kwargs={"unless": kept_waiting})
        thread.start()
        assert begun.wait(GENEROUS_S)
        assert send(assoc, slices(9)[8]) == 0
        thread.join(GENEROUS_S)
        assert send(assoc, slices(10)[9]) == 0
    found = [row["sop_instance_uid"] for row in table_rows(place)["instance"]]
    assert found == [str(ds.SOPInstanceUID) for ds in slices(10)[8:]]
    whole(place)


def test_a_sweep_leaves_what_is_on_its_way(place: Place, neighbour: Neighbour) -> None:
    looked_at = threading.Event()

    def clock() -> float:
        looked_at.set()
        return time.time()

    care = Scrub(neighbour.store, neighbour.index, clock=clock)
    swept: list[Any] = []
    sweep = threading.Thread(target=lambda: swept.append(care.orphans()))

    def swept_meanwhile(*_: object) -> None:
        sweep.start()
        assert looked_at.wait(GENEROUS_S), "the sweep has seen an object that nobody owns"

    with place.associate() as assoc:
        warm(assoc, place)
        assert meet(place, neighbour, assoc, swept_meanwhile) == 0
        sweep.join(GENEROUS_S)
    (found,) = swept
    assert (found.young, found.adopted, found.removed, found.unusable) == (1, 0, 0, 0)
    whole(place)


def test_what_a_hasty_sweep_adopts_on_its_way_keeps_its_bytes(place: Place, neighbour: Neighbour) -> None:
    """As `m3dicom scrub --orphans --hours 0` does."""

    def adopt(conn: Connection, locator: Locator) -> None:
        assert catchup.adopt(conn, rescan.entry(neighbour.store, locator))

    with place.associate() as assoc:
        warm(assoc, place)
        assert meet(place, neighbour, assoc, adopt) == 0
    whole(place)


# --- the index is locked ---


@contextmanager
def locked(place: Place) -> Iterator[None]:
    """Somebody writes to the index who does not know that others take turns."""
    with closing(sqlite3.connect(place.archive.settings.data / "index.db", isolation_level=None)) as held:
        held.execute("BEGIN IMMEDIATE")
        yield
        held.execute("COMMIT")


def patience(monkeypatch: pytest.MonkeyPatch, milliseconds: int) -> None:
    """How long SQLite waits for a lock, in what is opened from now on."""
    monkeypatch.setattr(engine, "_PRAGMAS", (f"busy_timeout={milliseconds}", *engine._PRAGMAS[1:]))


def test_a_locked_index_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch, 2_000 * GENEROUS_S)
    with opened(tmp_path, monkeypatch) as place:
        with place.associate() as assoc, place.associate() as other:
            warm(assoc, place)
            neighbour = FileStore(tmp_path, alone=False)
            before = len(list(neighbour.walk()))
            with locked(place):
                assoc.send(message(assoc, *of(slices(9)[8])))
                until(lambda: len(list(neighbour.walk())) > before)
                assert other.echo() == 0
                assert place.held == 8
            assert assoc.response()[0][0x0900] == 0
            neighbour.close()
        assert place.held == 9
        whole(place)


def test_an_index_that_stays_locked_is_told_and_a_sweep_finds_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience(monkeypatch, 50)
    with opened(tmp_path, monkeypatch) as place:
        with place.associate() as assoc:
            warm(assoc, place)
            with locked(place):
                assert [send(assoc, ds) for ds in slices(10)[8:]] == [0xA700] * 2
            assert place.held == 8
            assert [send(assoc, ds) for ds in slices(11)[8:]] == [0] * 3
        assert place.held == 11
        found = Scrub(place.archive.store, place.archive.index).orphans(older_than_s=0)
        assert (found.removed, found.adopted, found.unusable) == (2, 0, 0), "one of each that was refused, not two"
        whole(place)


# --- the disk fails ---


def segments_of(place: Place) -> list[str]:
    """The segment of each instance, in the order of arrival."""
    t = schema.instance.c
    with place.archive.index.read() as conn:
        return list(conn.execute(select(t.object_key).order_by(t.id)).scalars())


def end_of_objects(place: Place) -> int:
    """Where in its segment the next record begins."""
    t = schema.instance.c
    with place.archive.index.read() as conn:
        end = conn.execute(select(t.object_offset + t.object_length).order_by(t.id.desc()).limit(1)).scalar_one()
    return -(-int(end) // 4096) * 4096


LARGE: dict[str, Any] = {"Rows": 512, "Columns": 512, "PixelData": bytes(512 * 512 * 2)}
"""So that the object files are longer than the log of the index."""


@pytest.mark.parametrize("room", [0, 50_000], ids=["nothing", "half of it"])
def test_what_the_disk_does_not_take_whole_is_not_seen(place: Place, room: int) -> None:
    """Where not even a mark can be set that it is void, the segment is left: in another one there may be room."""
    with place.associate() as assoc:
        warm(assoc, place, **LARGE)
        usual = place.usual
        with no_file_beyond(end_of_objects(place) + room):
            answer = send(assoc, slices(9, **LARGE)[8])
        assert answer == 0xA700 or (answer == 0 and not room)
        assert place.held == 8 + (answer == 0)
        assert place.usual == usual + 1
        assert [send(assoc, ds) for ds in slices(12, **LARGE)[8:]] == [0] * 4
    assert place.held == 12
    whole(place)


def test_a_disk_that_takes_nothing_is_told(place: Place) -> None:
    with place.associate() as assoc:
        warm(assoc, place)
        with no_file_beyond(4096):
            assert [send(assoc, ds) for ds in slices(10)[8:]] == [0xA700] * 2
        assert place.held == 8
        assert [send(assoc, ds) for ds in slices(12)[8:]] == [0] * 4
    assert place.held == 12
    whole(place)


@pytest.fixture
def broken() -> Iterator[int]:
    with dead() as fd:
        yield fd


def test_a_segment_on_which_the_disk_fails_is_left(place: Place, broken: int) -> None:
    with place.associate() as assoc:
        for number in range(20):
            warm(assoc, place, number=number)
            before = set(segments_of(place))
            for fd in past_the_cache(place.archive.settings.data):
                os.dup2(broken, fd, inheritable=False)
            if send(assoc, slices(9, number=number)[8]) == 0:
                break  # else it went the usual way, as what comes after a pause does, and was refused
        assert place.held == 8 * (number + 1) + 1, "what the library could not write there was written elsewhere"
        assert segments_of(place)[-1] not in before
        assert [send(assoc, ds) for ds in slices(12, number=number)[9:]] == [0] * 3
    whole(place)


# --- the end ---


def test_what_has_begun_to_come_is_taken_before_the_door_closes(place: Place) -> None:
    with place.associate() as assoc:
        warm(assoc, place)
        (served,) = [each for each in threading.enumerate() if isinstance(each, Serving)]
        raw = message(assoc, *of(slices(9)[8]))
        assoc.send(raw[:-200])
        until(lambda: served.busy or (served._passing is not None and served._passing.busy))
        closing = threading.Thread(target=place.acceptor.close, args=(GENEROUS_S,))
        closing.start()
        until(lambda: served._draining)
        assoc.send(raw[-200:])
        assert assoc.response()[0][0x0900] == 0
        assert assoc.ended() == (2, 0), "by an abort of the provider"
        closing.join(GENEROUS_S)
    assert place.held == 9
    whole(place)
