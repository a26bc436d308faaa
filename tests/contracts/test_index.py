"""What the index promises on every database: durable transactions, changes in order, studies told stable once."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, func, insert, select, text, update

from pacs.audit import Audit
from pacs.auth import SYSTEM
from pacs.errors import InvalidInput, OutOfResources, Unavailable
from pacs.index import changes, schema
from pacs.index.changes import Changes
from pacs.index.engine import Index, open_index

CURSOR = schema.cursor


def together(count: int, run: Callable[[int], None]) -> list[BaseException]:
    """What `count` threads running at once raised."""
    raised: list[BaseException] = []
    gate = threading.Barrier(count)

    def one(number: int) -> None:
        gate.wait()
        try:
            run(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def set_cursor(name: str, seq: int) -> Callable[[Connection], None]:
    return lambda conn: conn.execute(insert(CURSOR).values(name=name, seq=seq)) and None


def cursors(index: Index) -> dict[str, int]:
    with index.read() as conn:
        return dict(conn.execute(select(CURSOR.c.name, CURSOR.c.seq)).all())  # type: ignore[arg-type]


def test_a_transaction_returns_what_its_work_returns(index: Index) -> None:
    assert index.transact(lambda conn: conn.execute(text("SELECT 6 * 7")).scalar_one()) == 42
    assert index.dialect in ("sqlite", "postgresql")


def test_what_fails_changes_nothing_and_hurts_nobody_else(index: Index) -> None:
    def fail(conn: Connection) -> None:
        set_cursor("lost", 1)(conn)
        raise ValueError("no")

    def run(number: int) -> None:
        index.transact(fail if number % 3 == 0 else set_cursor(f"c{number}", number))

    raised = together(30, run)
    assert {type(error) for error in raised} == {ValueError}
    assert len(raised) == 10
    assert cursors(index) == {f"c{n}": n for n in range(30) if n % 3}


class Gathered:
    """Work that is done in one go with its neighbours, unless its number is odd; `broken` lets going together fail."""

    runs: list[int]

    def __init__(self, number: int, runs: list[int], *, broken: bool = False) -> None:
        self.number, self.runs, self.broken = number, runs, broken

    def __call__(self, conn: Connection) -> str:
        if self.number == 3:
            raise ValueError("never")
        set_cursor(f"alone {self.number}", self.number)(conn)
        return "alone"

    @staticmethod
    def together(conn: Connection, works: list[Gathered]) -> list[str | None]:
        works[0].runs.append(len(works))
        for work in works:
            if work.number % 2 == 0:
                set_cursor(f"together {work.number}", work.number)(conn)
        if works[0].broken:
            raise ValueError("broken")
        return [None if work.number % 2 else "together" for work in works]


@pytest.mark.parametrize("broken", [False, True])
def test_works_of_one_kind_that_wait_are_done_in_one_go(index: Index, broken: bool) -> None:
    runs, begun, go = list[int](), threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        begun.set()
        go.wait(60)

    blocker = threading.Thread(target=lambda: index.transact(hold))
    blocker.start()
    begun.wait(60)
    if index.dialect == "sqlite":
        pending = [index.submit(Gathered(number, runs, broken=broken)) for number in range(5)]
        go.set()
    else:  # every transaction is its own
        go.set()
        pending = [index.submit(Gathered(number, runs, broken=broken)) for number in range(5)]
    blocker.join()
    with pytest.raises(ValueError, match="never"):
        pending[3].result()
    said = [pending[number].result() for number in (0, 1, 2, 4)]
    gathered = index.dialect == "sqlite" and not broken
    how = ["together" if gathered and number % 2 == 0 else "alone" for number in (0, 1, 2, 4)]
    assert said == how
    assert cursors(index) == {f"{word} {number}": number for word, number in zip(how, (0, 1, 2, 4), strict=True)}
    assert runs == ([5] if index.dialect == "sqlite" else [])


def test_concurrent_additions_all_count(index: Index) -> None:
    index.transact(set_cursor("sum", 0))

    def add(conn: Connection) -> None:
        where = select(CURSOR.c.seq).where(CURSOR.c.name == "sum")
        if conn.dialect.name == "postgresql":
            where = where.with_for_update()
        seq = conn.execute(where).scalar_one()
        conn.execute(update(CURSOR).where(CURSOR.c.name == "sum").values(seq=seq + 1))

    assert together(8, lambda _: [index.transact(add) for _ in range(10)] and None) == []
    assert cursors(index)["sum"] == 80


def test_deadlocks_are_tried_again(index: Index) -> None:
    for name in "ab":
        index.transact(set_cursor(name, 0))

    def work(order: str) -> Callable[[Connection], None]:
        def both(conn: Connection) -> None:
            for name in order:
                conn.execute(update(CURSOR).where(CURSOR.c.name == name).values(seq=CURSOR.c.seq + 1))
                time.sleep(0.01)

        return both

    assert together(4, lambda n: [index.transact(work("ab" if n % 2 else "ba")) for _ in range(3)] and None) == []
    assert cursors(index) == {"a": 12, "b": 12}


def test_a_unique_race_is_tried_again_and_then_sees_the_winner(index: Index) -> None:
    def once(conn: Connection) -> bool:
        if conn.execute(select(CURSOR.c.seq).where(CURSOR.c.name == "one")).first():
            return False
        time.sleep(0.02)
        set_cursor("one", 1)(conn)
        return True

    made: list[bool] = []
    assert together(6, lambda _: made.append(index.transact(once))) == []
    assert sorted(made) == [False] * 5 + [True]


@pytest.mark.parametrize("index_url", ["postgresql"], indirect=True)  # the one writer of SQLite has nobody to race
def test_who_loses_unique_races_in_a_row_is_tried_again(index: Index) -> None:
    """The row that is in the way is gone when it is looked for, as one that others keep storing and removing."""
    index.transact(set_cursor("one", 1))
    losses = iter(range(6))

    def unlucky(conn: Connection) -> None:
        set_cursor("one" if next(losses, None) is not None else "two", 2)(conn)

    index.transact(unlucky)
    assert cursors(index) == {"one": 1, "two": 2}


def test_readers_see_nothing_before_the_commit(index: Index) -> None:
    inside, looked = threading.Event(), threading.Event()

    def slow(conn: Connection) -> None:
        set_cursor("slow", 1)(conn)
        inside.set()
        looked.wait(10)

    writer = threading.Thread(target=index.transact, args=(slow,))
    writer.start()
    inside.wait(10)
    assert cursors(index) == {}
    looked.set()
    writer.join()
    assert cursors(index) == {"slow": 1}


def test_what_was_committed_is_there_after_opening_again(index_url: str) -> None:
    first = open_index(index_url)
    first.transact(set_cursor("kept", 5))
    first.close()
    again = open_index(index_url)
    assert cursors(again) == {"kept": 5}
    again.close()
    if again.dialect == "sqlite":
        with pytest.raises(Unavailable):
            again.transact(set_cursor("late", 1))


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        ("ALTER TABLE delivery DROP COLUMN refusals", "column delivery.refusals"),
        ("DROP TABLE verdict", "table verdict"),
    ],
    ids=["column", "table"],
)
def test_an_index_of_an_older_version_is_refused_in_words(index_url: str, change: str, lacking: str) -> None:
    open_index(index_url).close()
    engine = create_engine(index_url)
    with engine.begin() as conn:
        conn.execute(text(change))
    engine.dispose()
    with pytest.raises(Unavailable, match=f"without {lacking}.*m3dicom rebuild"):
        open_index(index_url)


def test_a_newer_schema_is_refused(index_url: str) -> None:
    index = open_index(index_url)
    meta = schema.meta
    index.transact(lambda conn: conn.execute(update(meta).where(meta.c.name == "schema").values(value="999")) and None)
    index.close()
    with pytest.raises(Unavailable, match="999"):
        open_index(index_url)


def test_several_processes_may_open_an_empty_database_at_once(index_url: str) -> None:
    opened: list[Index] = []
    assert together(8, lambda _: opened.append(open_index(index_url))) == []
    for index in opened:
        index.close()


def test_a_database_that_another_process_holds_is_waited_for_when_opened(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)  # not yet in WAL mode
    holder.execute("BEGIN EXCLUSIVE")
    letting_go = threading.Timer(0.5, lambda: holder.execute("COMMIT"))
    letting_go.start()
    open_index(f"sqlite:///{path}").close()
    letting_go.join()
    holder.close()


def test_other_databases_are_refused_in_words(tmp_path: Path) -> None:
    for url in ("mysql://localhost/x", "no url", "sqlite://"):
        with pytest.raises(InvalidInput, match="setting index"):
            open_index(url)
    with pytest.raises(Unavailable, match="cannot be opened"):
        open_index("postgresql+psycopg://nobody@127.0.0.1:1/none")
    (tmp_path / "index.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(Unavailable, match="cannot be opened"):
        open_index(f"sqlite:///{tmp_path / 'index.db'}")


def test_sqlite_syncs_every_commit(tmp_path: Path) -> None:
    index = open_index(f"sqlite:///{tmp_path / 'index.db'}")
    assert index.transact(lambda conn: conn.execute(text("PRAGMA synchronous")).scalar_one()) == 2
    assert index.transact(lambda conn: conn.execute(text("PRAGMA journal_mode")).scalar_one()) == "wal"
    with index.read() as conn, pytest.raises(Exception, match="readonly"):
        conn.execute(insert(CURSOR).values(name="x", seq=1))
    index.close()


def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    index = open_index(f"sqlite:///{tmp_path / 'index.db'}")

    def limit(pages: int) -> None:
        index.transact(lambda conn: conn.execute(text(f"PRAGMA max_page_count={pages}")).scalar_one())

    def fill(conn: Connection) -> None:
        conn.execute(insert(schema.meta).values(name="big", value="x" * 10_000_000))

    limit(index.transact(lambda conn: conn.execute(text("PRAGMA page_count")).scalar_one()) + 5)
    with pytest.raises(OutOfResources):
        index.transact(fill)
    raised = together(6, lambda number: index.transact(fill if number % 2 else set_cursor(f"c{number}", 1)))
    assert {type(error) for error in raised} == {OutOfResources}
    limit(1_000_000)
    index.transact(fill)
    index.close()


def append(index: Index, count: int = 1) -> None:
    def work(conn: Connection) -> None:
        for _ in range(count):
            changes.append(conn, "instance", at=1.0, principal="p", study_instance_uid="1.2")

    index.transact(work)


def test_a_reader_of_changes_misses_none(index: Index) -> None:
    news = Changes(index)
    seen: list[int] = []
    done = threading.Event()

    def follow() -> None:
        at = 0
        while not (done.is_set() and not news.after(at)):
            for change in news.after(at, limit=7):
                seen.append(change.seq)
                at = change.seq

    follower = threading.Thread(target=follow)
    follower.start()
    assert together(6, lambda _: [append(index, 2) for _ in range(10)] and None) == []
    done.set()
    follower.join()
    assert len(seen) == 120
    assert seen == sorted(set(seen))
    with index.read() as conn:
        assert conn.execute(select(func.count()).select_from(schema.change)).scalar_one() == 120
    assert news.last() == seen[-1]


def test_cursors_are_durable_and_never_move_back(index: Index) -> None:
    news = Changes(index)
    assert news.cursor("trigger") == 0
    assert news.last() == 0
    for seq in (5, 3, 7):
        index.transact(lambda conn, seq=seq: news.advance(conn, "trigger", seq))
    assert news.cursor("trigger") == 7
    assert news.cursor("other") == 0


def test_changes_tell_everything(index: Index) -> None:
    index.transact(
        lambda conn: changes.append(
            conn, "stable", at=2.5, principal="p", scope="ward", study_instance_uid="1", series_instance_uid="2",
            sop_instance_uid="3", workitem_uid="4", fingerprint="f",
        )
    )  # fmt: skip
    (change,) = Changes(index).after(0)
    assert (change.kind, change.at, change.principal, change.scope) == ("stable", 2.5, "p", "ward")
    assert (change.study_instance_uid, change.series_instance_uid, change.sop_instance_uid) == ("1", "2", "3")
    assert (change.workitem_uid, change.fingerprint) == ("4", "f")


def test_audit_is_part_of_the_transaction(index: Index) -> None:
    audit = Audit(index)
    index.transact(lambda conn: audit.record(conn, "Query", SYSTEM, study_instance_uid="1.2", detail="3 matches"))

    def undone(conn: Connection) -> None:
        audit.record(conn, "Query", SYSTEM, "failure")
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        index.transact(undone)
    (event,) = audit.query("Query")
    assert (event.principal, event.principal_kind, event.outcome) == ("m3dicom", "system", "success")
    assert (event.study_instance_uid, event.workitem_uid, event.detail) == ("1.2", None, "3 matches")
    assert audit.query("Login") == []
