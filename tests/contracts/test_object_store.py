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
from pacs.storage.base import ObjectStore, object_key
from pacs.storage.cache import CachedStore
from pacs.storage.files import FileStore
from pacs.storage.memory import MemoryStore
from pacs.storage.s3 import PART_BYTES, S3Store

KEY = object_key("1.2", "1.2.3", "1.2.3.4", "0" * 64)


def put(store: ObjectStore, key: str, data: bytes) -> None:
    spool = Spool(store.spool_dir, reserve=4)
    spool.write(data[4:])
    spool.fill_reserve(data[:4])
    store.put(key, spool)


def content(length: int) -> bytes:
    return (bytes(range(251)) * (length // 251 + 1))[:length]


@pytest.mark.parametrize("length", [4, 5000, (1 << 20) + 7, 3 << 20])
def test_bytes_come_back_whole_in_ranges_and_in_pieces(store: ObjectStore, length: int) -> None:
    data = content(length)
    put(store, KEY, data)
    assert store.size(KEY) == length
    assert store.read(KEY) == data
    assert store.read(KEY, 3) == data[3:]
    assert store.read(KEY, 2, 2) == data[2:4]
    assert store.read(KEY, length // 2, length) == data[length // 2 :]
    assert store.read(KEY, length, 10) == b""
    assert b"".join(store.chunks(KEY)) == data
    assert b"".join(store.chunks(KEY, 1, length - 2, size=1000 if length < 10000 else 1 << 20)) == data[1 : length - 1]
    assert all(len(piece) <= 700 for piece in store.chunks(KEY, 0, min(length, 3000), size=700))


def test_nothing_is_left_in_the_spool(store: ObjectStore) -> None:
    put(store, KEY, content(2 << 20))
    assert list(store.spool_dir.iterdir()) == []


def test_an_object_that_is_not_there(store: ObjectStore) -> None:
    for ask in (store.read, store.size, store.chunks):
        with pytest.raises(NotFound):
            ask(KEY)
    with pytest.raises(NotFound):
        store.read(KEY, 0, 0)
    store.delete(KEY)


def test_the_same_may_be_put_again(store: ObjectStore) -> None:
    for _ in range(2):
        put(store, KEY, content(100))
    assert store.read(KEY) == content(100)
    assert list(store.keys()) == [KEY]


def test_keys_are_listed_by_prefix_and_forgotten_when_deleted(store: ObjectStore) -> None:
    keys = [object_key(f"1.{study}", f"2.{series}", "3", "a" * 64) for study in range(3) for series in range(2)]
    for key in keys:
        put(store, key, content(10))
    assert sorted(store.keys()) == sorted(keys)
    study = keys[0].split("/")[0]
    assert sorted(store.keys(study)) == sorted(keys[:2])
    assert list(store.keys(keys[3])) == [keys[3]]
    assert list(store.keys("ffff-nothing")) == []
    store.read(keys[0])
    store.delete(keys[0])
    with pytest.raises(NotFound):
        store.read(keys[0])
    assert sorted(store.keys()) == sorted(keys[1:])


def test_a_removed_folder_does_not_stop_an_arrival(store: ObjectStore) -> None:
    def churn(number: int) -> None:
        key = object_key("1", "2", str(number), "b" * 64)
        for _ in range(20 if isinstance(store, FileStore | MemoryStore) else 3):
            put(store, key, content(50))
            assert store.read(key) == content(50)
            store.delete(key)
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
    assert len(list(store.keys())) == 4


def test_a_working_store_is_found_working(store: ObjectStore) -> None:
    store.check()


def test_keys_say_nothing_and_never_nest() -> None:
    key = object_key("1.2.840.1", "1.2.840.2", "../../etc/passwd", "f" * 64)
    assert "840" not in key
    assert ".." not in key
    assert key.count("/") == 2
    assert key != object_key("1.2.840.1", "1.2.840.2", "../../etc/passwd", "e" * 64)


def test_files_lie_under_their_key_and_old_spools_are_swept(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    put(store, KEY, content(2 << 20))
    assert (tmp_path / "objects" / KEY).read_bytes() == content(2 << 20)
    half = Spool(store.spool_dir)
    half.write(content(2 << 20))
    assert len(list(store.spool_dir.iterdir())) == 1
    FileStore(tmp_path)
    assert list(store.spool_dir.iterdir()) == []
    half.discard()


def test_pieces_that_nobody_reads_close_their_file(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    put(store, KEY, content(5000))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        store.chunks(KEY)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_large_objects_go_in_parts(moto_server: S3Server, rclone_server: S3Server, tmp_path: Path) -> None:
    data = content(2 * PART_BYTES + 12345)
    for number, server in enumerate((moto_server, rclone_server)):
        store = S3Store(
            server.bucket, f"parts{number}", spool_dir=tmp_path, endpoint=server.endpoint,
            access_key=server.access_key, secret_key=server.secret_key,
        )  # fmt: skip
        put(store, KEY, data)
        assert store.size(KEY) == len(data)
        assert b"".join(store.chunks(KEY)) == data
        store.close()


def test_listing_goes_on_over_many_pages(moto_server: S3Server, tmp_path: Path) -> None:
    store = S3Store(
        moto_server.bucket, "pages", spool_dir=tmp_path, endpoint=moto_server.endpoint,
        access_key=moto_server.access_key, secret_key=moto_server.secret_key,
    )  # fmt: skip
    for number in range(1005):
        store._client.put_object(Bucket=moto_server.bucket, Key=f"pages/a/b/{number:05}", Body=b"")
    assert len(list(store.keys("a/"))) == 1005
    store.close()


def test_wrong_credentials_and_absent_servers_are_told_in_words(rclone_server: S3Server, tmp_path: Path) -> None:
    wrong = S3Store(
        rclone_server.bucket, spool_dir=tmp_path, endpoint=rclone_server.endpoint,
        access_key=rclone_server.access_key, secret_key="WRONGSECRET12345",
    )  # fmt: skip
    with pytest.raises(Unavailable, match="object store"):
        wrong.read(KEY)
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
    for number, key in enumerate(keys):
        put(store, key, content(1000 + number))
    for number, key in enumerate(keys):
        assert store.read(key) == content(1000 + number)
    assert sorted(store.keys()) == sorted(keys)
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
    put(cached, KEY, content(3500))
    assert cached.read(KEY, 500, 2000) == content(3500)[500:2500]
    assert cached.cached_bytes == 3000
    remote.delete(KEY)
    assert cached.read(KEY, 0, 3000) == content(3500)[:3000]
    other = object_key("9", "9", "9", "9" * 64)
    put(cached, other, content(4000))
    assert b"".join(cached.chunks(other)) == content(4000)
    assert cached.cached_bytes <= 5000
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) == cached.cached_bytes
    cached.delete(other)
    with pytest.raises(NotFound):
        cached.read(other, 0, 10)
    cached.close()
