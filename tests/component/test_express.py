"""Instances that the library takes by itself: rows, bytes and answers of the usual way, whatever comes between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dicom_data
import pytest
from dimse_client import CT, DEFLATED, EXPLICIT, IMPLICIT, command
from sqlalchemy import update
from stores_alike import Place, message, of, opened, pieces, records, send, slices, table_rows

from pacs import express
from pacs.auth import SYSTEM
from pacs.index import schema


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with opened(tmp_path, monkeypatch) as made:
        yield made


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_rows_and_bytes_are_those_of_the_usual_way(place: Place, syntax: str) -> None:
    with place.associate(((CT, (syntax,)),)) as assoc:
        assert [send(assoc, ds, syntax) for ds in slices(40)] == [0] * 40
        assert [send(assoc, ds, syntax) for ds in slices(12, number=1)] == [0] * 12
    assert place.held == 52
    assert place.usual < 30, "the library has taken what it could"
    place.equals_rebuild()


def test_those_that_follow_without_a_pause_are_told_of_together(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(express, "SPELL_MS", 60_000)
    monkeypatch.setattr(express, "PAUSE_MS", 60_000)
    told = list[int]()
    monkeypatch.setattr(place.archive.index, "joined", told.append)
    before = place.archive.events.version
    with place.associate() as assoc:
        assert [send(assoc, ds) for ds in slices(60)] == [0] * 60
    place.acceptor.close(0)  # and with it the thread of the association
    assert sum(told) == 60 - place.usual > 30
    assert max(told) > 1
    assert place.archive.events.version - before == place.usual + len(told)
    assert place.held == 60


def test_a_series_that_others_have_begun_goes_by_the_library_at_once(place: Place) -> None:
    shared = slices(20, number=2)
    with place.associate() as one, place.associate() as another:
        assert [send(one, ds) for ds in slices(20)] == [0] * 20
        assert [send(another, ds) for ds in slices(23, number=1)] == [0] * 23
        before = place.usual
        assert send(one, shared[0]) == 0
        assert place.usual == before + 1, "who begins it stores it the usual way"
        assert [send(another, ds) for ds in shared[7:10]] == [0] * 3
        assert [send(one, ds) for ds in shared[1:3]] == [0] * 2
        assert place.usual == before + 1
        assert send(another, shared[0]) == 0, "the same once more"
        assert place.usual == before + 2
    assert place.held == 49
    place.equals_rebuild()


def test_bytes_that_are_not_deflated_are_no_deflated_data_set(place: Place) -> None:
    several = slices(24)
    with place.associate(((CT, (DEFLATED,)),)) as assoc:
        assert [send(assoc, ds, DEFLATED) for ds in several[:20]] == [0] * 20
        for ds in several[20:]:
            assert send(assoc, ds, EXPLICIT) != 0, "as it would be inflated"
    assert place.held == 20


def test_a_series_that_was_removed_meanwhile_is_taken_again(place: Place) -> None:
    several = slices(60)
    with place.associate() as assoc:
        assert [send(assoc, ds) for ds in several[:20]] == [0] * 20
        with place.associate() as another:  # whose series has the next key
            assert send(another, slices(1, number=1)[0]) == 0
        place.archive.removal.delete(SYSTEM, str(several[0].StudyInstanceUID), str(several[0].SeriesInstanceUID))
        before = place.usual
        assert [send(assoc, ds) for ds in several[20:]] == [0] * 40
        assert place.usual - before < 20, "it was learned where the series is now"
    assert place.held == 41
    assert [row["number_of_instances"] for row in table_rows(place)["series"]] == [1, 40]


def talk(place: Place) -> list[Any]:
    """The answers to instances that are alike, with a surprise among every few."""
    several = slices(90)
    given = iter(several)
    other = dicom_data.dataset_bytes(slices(1, ImageComments="of the same UID, and another")[0])
    known = str(several[0].SOPInstanceUID)
    answers: list[Any] = []

    def next_one() -> tuple[str, bytes]:
        ds = next(given)
        return str(ds.SOPInstanceUID), dicom_data.dataset_bytes(ds)

    def stable() -> None:
        place.archive.index.transact(lambda conn: conn.execute(update(schema.study).values(stable_at=1.0)))

    with place.associate() as assoc:
        assoc.message_id = 0xFFFF - 30  # what follows the last one is 0

        def ask(*messages: bytes) -> None:
            assoc.message_id %= 0xFFFF
            assoc.send(b"".join(messages))
            answers.extend(assoc.response()[0] for _ in messages)

        uid, data = next_one()
        surprises: tuple[Callable[[], None], ...] = (
            lambda: ask(message(assoc, known, dicom_data.dataset_bytes(several[0]))),
            lambda: ask(message(assoc, known, other)),
            lambda: ask(message(assoc, uid + "9", data)),
            lambda: ask(message(assoc, uid, data[:-3])),
            lambda: ask(message(assoc, uid, data + bytes(2))),
            lambda: ask(message(assoc, uid, data, priority=2)),
            lambda: ask(message(assoc, *of(slices(1, number=1, PatientID="ANOTHER")[0]))),
            lambda: ask(message(assoc, *of(slices(1, number=2, study=1)[0]))),
            lambda: ask(message(assoc, *of(slices(1, number=3, PixelData=bytes(1 << 20))[0]))),
            lambda: answers.append(assoc.echo()),
            lambda: ask(*(message(assoc, *next_one()) for _ in range(4))),
            lambda: ask(pieces(assoc, *next_one(), 1 << 9, 20)),
            lambda: ask(pieces(assoc, *next_one(), 7)),
            lambda: assoc.send(assoc.message(1, command({0x0100: 0x0FFF, 0x0120: 1, 0x0800: 0x0101}))),
            stable,
        )
        for surprise in surprises:
            for _ in range(4):
                ask(message(assoc, *next_one()))
            surprise()
    return answers


def test_whatever_comes_between_all_is_as_the_usual_way_has_it(
    place: Place, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Place(tmp_path_factory.mktemp("usual"), monkeypatch)
    try:
        monkeypatch.setattr(usual.archive.ingest, "express", lambda: None)
        answers = talk(place)
        taken = len(answers) - place.usual
        assert taken > 20, "the library has taken what it could"
        assert talk(usual) == answers
        assert table_rows(usual) == table_rows(place)
    finally:
        usual.close()
    held = place.held
    place.close()
    assert records(place) == records(usual) == held
