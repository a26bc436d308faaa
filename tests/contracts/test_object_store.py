"""What every object store promises."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest
from servers import FaultyProxy, S3Server, free_port

from pacs.errors import NotFound, Unavailable
from pacs.spool import Spool
from pacs.storage.base import Locator, ObjectStore, object_key
from pacs.storage.cache import CachedStore
from pacs.storage.files import FileStore
from pacs.storage.memory import MemoryStore
from pacs.storage.s3 import PART_BYTES, S3Store

KEY = object_key("1.2", "1.2.3", "1.2.3.4", "0" * 64)


def put(store: ObjectStore, key: str, data: bytes) -> Locator:
    """Where the bytes lie, once they are durable."""
    spool = store.spool(4, None)
    spool.write(data[4:])
    spool.fill_reserve(data[:4])
    placed = store.put(key, spool)
    assert store.read(placed.locator) == data
    placed.wait()
    store.settle(placed.locator)
    return placed.locator


def content(length: int) -> bytes:
    return (bytes(range(251)) * (length // 251 + 1))[:length]


@pytest.mark.parametrize("length", [4, 5000, (1 << 20) + 7, 3 << 20])
def test_bytes_come_back_whole_in_ranges_and_in_pieces(store: ObjectStore, length: int) -> None:
    data = content(length)
    here = put(store, KEY, data)
    assert here.length == length
    assert store.holds(here)
    assert store.read(here) == data
    assert store.read(here, 3) == data[3:]
    assert store.read(here, 2, 2) == data[2:4]
    assert store.read(here, length // 2, length) == data[length // 2 :]
    assert store.read(here, length, 10) == store.read(here, length + 5) == b""
    assert b"".join(store.chunks(here)) == data
    pieces = store.chunks(here, 1, length - 2, size=1000 if length < 10000 else 1 << 20)
    assert b"".join(pieces) == data[1 : length - 1]
    assert all(len(piece) <= 700 for piece in store.chunks(here, 0, min(length, 3000), size=700))
    assert list(store.chunks(here, length)) == []


def test_neighbours_do_not_see_each_other(store: ObjectStore) -> None:
    keys = [object_key("1", "2", str(number), f"{number}" * 64) for number in range(8)]
    lengths = [4, 100, 4000, 4096, 5000, 70_000, 1 << 20, (2 << 20) + 1]
    here = [put(store, key, content(length)) for key, length in zip(keys, lengths, strict=True)]
    assert sorted(map(str, store.walk())) == sorted(map(str, here))
    store.delete(here[1], here[4], here[7])
    for number, (locator, length) in enumerate(zip(here, lengths, strict=True)):
        if number in (1, 4, 7):
            with pytest.raises(NotFound):
                store.read(locator)
        else:
            assert store.read(locator) == content(length)
            assert store.read(locator, 0, length + 5000) == content(length)
    assert len(list(store.walk())) == 5


def test_nothing_is_left_in_the_spool(store: ObjectStore) -> None:
    put(store, KEY, content(2 << 20))
    assert list(store.spool_dir.iterdir()) == []


def test_an_aborted_arrival_leaves_nothing(store: ObjectStore) -> None:
    for length in (10, 3 << 20):
        with store.spool(4, None) as spool:
            spool.write(content(length))
    assert list(store.spool_dir.iterdir()) == []
    assert list(store.walk()) == []
    assert store.read(put(store, KEY, content(100))) == content(100)


def test_an_object_that_is_not_there(store: ObjectStore) -> None:
    nowhere = Locator(KEY, 0, 100)
    for ask in (store.read, store.chunks):
        with pytest.raises(NotFound):
            ask(nowhere)
    with pytest.raises(NotFound):
        store.read(nowhere, 0, 0)
    assert not store.holds(nowhere)
    store.delete(nowhere)
    here = put(store, KEY, content(100))
    for wrong in (Locator(here.object_key, here.offset, 200), Locator(here.object_key, here.offset + 8192, 10)):
        assert not store.holds(wrong)


def test_the_same_may_be_put_again(store: ObjectStore) -> None:
    for _ in range(2):
        here = put(store, KEY, content(100))
        assert here in list(store.walk())


def test_what_is_withdrawn_is_gone_or_shared(store: ObjectStore) -> None:
    first = put(store, KEY, content(100))
    spool = store.spool(0, None)
    spool.write(content(100))
    again = store.put(KEY, spool)
    again.withdraw()
    assert store.read(first) == content(100)
    assert list(store.walk()) == [first]


def test_objects_are_listed_and_forgotten_when_deleted(store: ObjectStore) -> None:
    keys = [object_key(f"1.{study}", f"2.{series}", "3", "a" * 64) for study in range(3) for series in range(2)]
    here = [put(store, key, content(10)) for key in keys]
    assert sorted(map(str, store.walk())) == sorted(map(str, here))
    name = here[3].object_key
    assert set(map(str, store.walk(name))) == {str(each) for each in here if each.object_key.startswith(name)}
    assert list(store.walk("ffff-nothing")) == []
    store.read(here[0])
    store.delete(here[0])
    store.delete(here[0])
    with pytest.raises(NotFound):
        store.read(here[0])
    assert sorted(map(str, store.walk())) == sorted(map(str, here[1:]))
    store.delete(*here)
    assert list(store.walk()) == []


def test_what_is_announced_is_read_like_anything_else(store: ObjectStore) -> None:
    some = [
        put(store, object_key("1", "2", str(n), f"{n}" * 64), content(length))
        for n, length in enumerate((9, 5000, 300_000))
    ]
    gone = put(store, object_key("1", "2", "3", "3" * 64), content(40))
    store.delete(gone)
    store.soon([])
    store.soon([some[2], gone, some[0], some[1], Locator("1" * 40, 4096, 10)])
    assert [len(store.read(each)) for each in some] == [9, 5000, 300_000]


def test_small_ones_have_names_and_may_change(store: ObjectStore) -> None:
    names = ["journal/00000000000000000002-aa.json", "journal/00000000000000000001-bb.json", "state"]
    for name in names:
        store.put_small(name, name.encode())
    store.put_small("state", b"second")
    assert list(store.small()) == sorted(names)
    assert list(store.small("journal/")) == sorted(names[:2])
    assert list(store.small("nothing/")) == []
    assert list(store.small("journal/", names[1])) == [names[0]]
    assert list(store.small("journal/", "journal/00000000000000000001")) == sorted(names[:2])
    assert list(store.small("journal/", names[0])) == []
    assert store.read_small("state") == b"second"
    assert store.read_small(names[0]) == names[0].encode()
    assert list(store.walk()) == []
    assert list(store.spool_dir.iterdir()) == []
    for _ in range(2):
        store.delete_small(names[0])
    with pytest.raises(NotFound):
        store.read_small(names[0])
    assert list(store.small("journal/")) == [names[1]]
    for wrong in ("../etc/passwd", "/absolute", "a//b", "", "a/../b", "a/", "Upper"):
        with pytest.raises(ValueError, match="not the name"):
            store.put_small(wrong, b"")


def test_a_removed_neighbour_does_not_stop_an_arrival(store: ObjectStore) -> None:
    def churn(number: int) -> None:
        key = object_key("1", "2", str(number), "b" * 64)
        for _ in range(20 if isinstance(store, FileStore | MemoryStore) else 3):
            here = put(store, key, content(50))
            store.delete(here)
        put(store, key, content(60))

    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            churn(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [each.length for each in store.walk()] == [60] * 4


def test_a_working_store_is_found_working(store: ObjectStore) -> None:
    store.check()


def test_keys_say_nothing_and_never_nest() -> None:
    key = object_key("1.2.840.1", "1.2.840.2", "../../etc/passwd", "f" * 64)
    assert "840" not in key
    assert ".." not in key
    assert key.count("/") == 2
    assert key != object_key("1.2.840.1", "1.2.840.2", "../../etc/passwd", "e" * 64)


def test_old_spools_are_swept(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    half = Spool(store.spool_dir)
    half.write(content(2 << 20))
    assert len(list(store.spool_dir.iterdir())) == 1
    store.close()
    FileStore(tmp_path).close()
    assert list(store.spool_dir.iterdir()) == []
    half.discard()


def test_pieces_that_nobody_reads_close_their_file(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    here = put(store, KEY, content(5000))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        store.chunks(here)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    store.close()


def test_large_objects_go_in_parts(moto_server: S3Server, rclone_server: S3Server, tmp_path: Path) -> None:
    data = content(2 * PART_BYTES + 12345)
    for number, server in enumerate((moto_server, rclone_server)):
        store = S3Store(
            server.bucket, f"parts{number}", spool_dir=tmp_path, endpoint=server.endpoint,
            access_key=server.access_key, secret_key=server.secret_key,
        )  # fmt: skip
        here = put(store, KEY, data)
        assert store.holds(here)
        assert b"".join(store.chunks(here)) == data
        store.close()


def test_listing_goes_on_over_many_pages(moto_server: S3Server, tmp_path: Path) -> None:
    store = S3Store(
        moto_server.bucket, "pages", spool_dir=tmp_path, endpoint=moto_server.endpoint,
        access_key=moto_server.access_key, secret_key=moto_server.secret_key,
    )  # fmt: skip
    for number in range(1005):
        store._client.put_object(Bucket=moto_server.bucket, Key=f"pages/a/b/{number:05}", Body=b"")
    assert len(list(store.walk("a/"))) == 1005
    store.close()


def test_wrong_credentials_and_absent_servers_are_told_in_words(rclone_server: S3Server, tmp_path: Path) -> None:
    wrong = S3Store(
        rclone_server.bucket, spool_dir=tmp_path, endpoint=rclone_server.endpoint,
        access_key=rclone_server.access_key, secret_key="WRONGSECRET12345",
    )  # fmt: skip
    with pytest.raises(Unavailable, match="object store"):
        wrong.read(Locator(KEY, 0, 10))
    absent = S3Store(
        "images", spool_dir=tmp_path, endpoint=f"http://127.0.0.1:{free_port()}",
        access_key="a" * 10, secret_key="b" * 10, deadline_s=0.5,
    )  # fmt: skip
    with pytest.raises(Unavailable):
        put(absent, KEY, content(10))
    with pytest.raises(Unavailable):
        absent.check()
    for store in (wrong, absent):
        store.close()


@pytest.mark.parametrize("fault", ["503", "lost", "cut"])
def test_what_is_acknowledged_by_a_failing_server_is_there(rclone_server: S3Server, tmp_path: Path, fault: str) -> None:
    dice = random.Random(fault)
    proxy = FaultyProxy(rclone_server.endpoint, lambda number: fault if dice.random() < 0.25 else None)
    store = S3Store(
        rclone_server.bucket, f"faults-{fault}", spool_dir=tmp_path, endpoint=proxy.endpoint,
        access_key=rclone_server.access_key, secret_key=rclone_server.secret_key,
    )  # fmt: skip
    keys = [object_key("1", "2", str(number), "c" * 64) for number in range(12)]
    here = [put(store, key, content(1000 + number)) for number, key in enumerate(keys)]
    for number, locator in enumerate(here):
        assert store.read(locator) == content(1000 + number)
    assert sorted(each.object_key for each in store.walk()) == sorted(keys)
    store.close()
    proxy.close()


def test_a_server_that_always_fails_is_given_up_within_the_deadline(rclone_server: S3Server, tmp_path: Path) -> None:
    proxy = FaultyProxy(rclone_server.endpoint, lambda number: "503")
    store = S3Store(
        rclone_server.bucket, spool_dir=tmp_path, endpoint=proxy.endpoint,
        access_key=rclone_server.access_key, secret_key=rclone_server.secret_key, deadline_s=1,
    )  # fmt: skip
    started = time.monotonic()
    with pytest.raises(Unavailable, match="503"):
        put(store, KEY, content(100))
    assert time.monotonic() - started < 5
    store.close()
    proxy.close()


def test_a_missing_bucket_fails_the_check(moto_server: S3Server, tmp_path: Path) -> None:
    store = S3Store(
        "no-such-bucket", spool_dir=tmp_path, endpoint=moto_server.endpoint,
        access_key=moto_server.access_key, secret_key=moto_server.secret_key,
    )  # fmt: skip
    with pytest.raises(Unavailable, match="no bucket"):
        store.check()
    store.close()


def test_the_cache_serves_what_the_store_lost_and_stays_within_its_bound(tmp_path: Path) -> None:
    remote = MemoryStore()
    cached = CachedStore(remote, tmp_path / "cache", 5000, block=1000)
    spool = cached.spool(0, None)
    spool.write(content(3500))
    here = cached.put(KEY, spool).locator
    assert cached.read(here, 500, 2000) == content(3500)[500:2500]
    assert cached.cached_bytes == 3000
    remote.delete(here)
    assert cached.read(here, 0, 3000) == content(3500)[:3000]
    other = put(cached, object_key("9", "9", "9", "9" * 64), content(4000))
    assert b"".join(cached.chunks(other)) == content(4000)
    assert cached.cached_bytes <= 5000
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) == cached.cached_bytes
    cached.delete(other)
    with pytest.raises(NotFound):
        cached.read(other, 0, 10)
    cached.close()


def test_the_cache_keeps_its_bound_while_many_read_and_notices_what_its_disk_spoilt(tmp_path: Path) -> None:
    remote = MemoryStore()
    cached = CachedStore(remote, tmp_path / "cache", 5000, block=1000)
    data = content(3500)
    places = [put(cached, object_key("1", "2", str(number), f"{number:064}"), data) for number in range(6)]
    over: list[int] = []

    def read(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(150):
            offset = dice.randrange(3000)
            assert cached.read(dice.choice(places), offset, 500) == data[offset : offset + 500]
            over.append(cached.cached_bytes)  # what is on its way to the disk counts

    failures: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            read(seed)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert over
    assert max(over) <= 5000
    assert cached.cached_bytes == sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
    cached.read(places[0])
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    assert cached.read(places[0]) == data
    cached.close()


def test_what_is_deleted_while_it_is_read_does_not_stay_in_the_cache(tmp_path: Path) -> None:
    class Slow(MemoryStore):
        def read(self, locator: Locator, offset: int = 0, length: int | None = None) -> bytes:
            found = super().read(locator, offset, length)
            if deleting:
                cached.delete(locator)
            return found

    deleting = False
    remote = Slow()
    cached = CachedStore(remote, tmp_path / "cache", 5000, block=1000)
    place = put(remote, KEY, content(2000))
    deleting = True
    assert cached.read(place) == content(2000)
    assert cached.cached_bytes == 0
    assert list((tmp_path / "cache").iterdir()) == []
    cached.close()
