"""The bell on both implementations, alone and under a worklist: losing every message costs time and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from redis_server import Redis, redis_server
from sqlalchemy import select

from analysis.queue import ArqQueue, Dispatcher, LocalQueue, Queue, open_queue, queue_name
from pacs import uids
from pacs.auth import SYSTEM
from pacs.dicom import ups, ups_task
from pacs.errors import StateConflict, Unavailable
from pacs.events import Events
from pacs.index import schema
from pacs.index.changes import Changes
from pacs.index.engine import Index
from pacs.leases import Claim, Offer
from pacs.worklist import Worklist

__all__ = ["redis_server"]


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture(params=["local", "arq"])
def port(request: pytest.FixtureRequest, events: Events) -> Iterator[Queue]:
    """Each kind of queue."""
    setting = "local" if request.param == "local" else request.getfixturevalue("redis_server").url
    made = open_queue(setting, events)
    assert isinstance(made, LocalQueue if request.param == "local" else ArqQueue)
    yield made
    made.close()


def offer(number: int, plugin: str = "count", attempt: int = 0) -> Offer:
    return Offer(uids.derived("offer", number), plugin, attempt, epoch=1)


def timed(wait: Callable[[], Any]) -> float:
    began = time.monotonic()
    wait()
    return time.monotonic() - began


def test_an_offer_wakes_a_waiting_worker(port: Queue) -> None:
    bell = port.bell(["count"], 1)
    bell.wait(0.2)()  # whatever came before
    timer = threading.Timer(0.3, port.offer, [offer(1)])
    timer.start()
    assert timed(lambda: bell.wait(20)()) < 10
    timer.join()
    assert timed(lambda: bell.wait(0.3)()) >= 0.25
    assert port.health() == ""
    bell.close()


def test_closing_ends_the_waiting(port: Queue) -> None:
    bell = port.bell(["count"], 2)
    waiting = [threading.Thread(target=lambda: bell.wait(60)()) for _ in range(2)]
    for thread in waiting:
        thread.start()
    bell.wait(0.2)()
    bell.close()
    for thread in waiting:
        thread.join(20)
        assert not thread.is_alive()


def test_offering_twice_and_taking_back_is_harmless(port: Queue) -> None:
    port.offer(offer(1))
    port.offer(offer(1))
    port.cancel("count", offer(1).uid)
    port.cancel("count", uids.derived("offer", 99))


# What only Redis has -------------------------------------------------------------------------------------------------


def inside(server: Redis, ask: Callable[[Any], Any]) -> Any:
    """What Redis itself holds."""
    from redis.asyncio import Redis as Client

    async def run() -> Any:
        client = Client(unix_socket_path=str(server.socket))
        try:
            return await ask(client)
        finally:
            await client.aclose()

    return asyncio.run(run())


def test_messages_carry_the_uid_alone_as_json_and_expire(redis_server: Redis) -> None:
    port = ArqQueue(redis_server.url)
    port.offer(offer(1))
    keys = inside(redis_server, lambda r: r.keys("*"))
    job = next(key for key in keys if key.startswith(b"arq:job:"))
    assert offer(1).uid.encode() in job
    body = inside(redis_server, lambda r: r.get(job))
    assert body.startswith(b"{")
    assert f'"a": ["{offer(1).uid}"]'.encode() in body
    assert 0 < inside(redis_server, lambda r: r.pttl(job)) <= 61_000
    port.offer(offer(2))
    port.cancel("count", offer(1).uid)
    left = inside(redis_server, lambda r: r.zrange(queue_name("count"), 0, -1))
    assert [key.decode().partition(":")[0] for key in left] == [offer(2).uid]
    port.close()


def test_a_message_that_expired_is_dropped_in_silence(redis_server: Redis, caplog: pytest.LogCaptureFixture) -> None:
    port = ArqQueue(redis_server.url)
    port.offer(offer(1))
    jobs = inside(redis_server, lambda r: r.keys("arq:job:*"))
    inside(redis_server, lambda r: r.delete(*jobs))  # as its time to live does
    bell = port.bell(["count"], 1)
    until = time.monotonic() + 60
    while inside(redis_server, lambda r: r.zcard(queue_name("count"))) and time.monotonic() < until:
        time.sleep(0.05)
    port.offer(offer(2))
    assert timed(lambda: bell.wait(60)()) < 60
    bell.close()
    port.close()
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


def test_each_plugin_has_a_queue_of_its_own(redis_server: Redis) -> None:
    port = ArqQueue(redis_server.url)
    bell = port.bell(["count"], 1)
    port.offer(offer(1, plugin="other"))
    assert timed(lambda: bell.wait(1.0)()) >= 0.95
    port.offer(offer(2))
    assert timed(lambda: bell.wait(20)()) < 10
    bell.close()
    port.close()


def test_busy_workers_leave_messages_to_others(redis_server: Redis) -> None:
    first, second = ArqQueue(redis_server.url), ArqQueue(redis_server.url)
    busy = first.bell(["count"], 1)
    first.offer(offer(1))
    dealt_with = busy.wait(20)
    idle = second.bell(["count"], 1)
    first.offer(offer(2))
    assert timed(lambda: idle.wait(20)()) < 10
    dealt_with()
    for bell, port in ((busy, first), (idle, second)):
        bell.close()
        port.close()


def test_a_lost_redis_is_said_and_survived(redis_server: Redis) -> None:
    port = ArqQueue(redis_server.url)
    bell = port.bell(["count"], 1)
    port.offer(offer(1))
    bell.wait(20)()
    redis_server.kill()
    with pytest.raises(Unavailable, match="Redis cannot be reached"):
        port.offer(offer(2))
    assert "Redis" in port.health()
    redis_server.start()
    until = time.monotonic() + 30
    while port.health() and time.monotonic() < until:
        time.sleep(0.1)
    bell.wait(0.1)()
    time.sleep(1.5)  # the listener comes back by itself
    port.offer(offer(3))
    assert timed(lambda: bell.wait(20)()) < 15
    bell.close()
    port.close()


def test_a_redis_that_is_not_there_at_the_start(tmp_path: Any) -> None:
    port = open_queue(f"unix://{tmp_path}/nothing.sock", Events())
    bell = port.bell(["count"], 1)
    assert "Redis" in port.health()
    bell.wait(0.2)()
    bell.close()
    port.close()


# Under a worklist: chaos, short form ---------------------------------------------------------------------------------


class Mill:
    """Workers that do nothing but complete what they claim, and now and then vanish in the middle of it."""

    def __init__(self, worklist: Worklist, index: Index, port: Queue, seed: int) -> None:
        self.worklist, self.index, self.port = worklist, index, port
        self.random = random.Random(seed)
        self.stop = threading.Event()
        self.vanished = 0
        self.errors: list[BaseException] = []
        self._bell = port.bell(["count"], 4)
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(4)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        try:
            while not self.stop.is_set():
                dealt_with = self._bell.wait(0.5)
                while (claim := self.worklist.claim(["count"], f"w{number}", time.time(), 1.0)) is not None:
                    if self.random.random() < 0.15 and claim.attempt < 3:
                        self.vanished += 1  # killed: the lease is never heard of again
                        continue
                    self._complete(claim)
                dealt_with()
        except BaseException as error:
            self.errors.append(error)

    def _complete(self, claim: Claim) -> None:
        def file(also: Callable[[Any], None]) -> None:
            def work(conn: Any) -> None:
                conn.execute(schema.cursor.insert().values(name=f"result {claim.uid}", seq=claim.attempt))
                also(conn)

            self.index.transact(work)

        try:
            self.worklist.complete(claim, [ups_task.References("1.2.3")], time.time(), file)
        except StateConflict:
            return  # too late: somebody else has it

    def close(self) -> None:
        self.stop.set()
        self._bell.close()
        for thread in self._threads:
            thread.join(30)
        assert self.errors == []


@pytest.mark.timeout(120)
def test_every_task_is_done_exactly_once(
    index: Index, port: Queue, events: Events, request: pytest.FixtureRequest
) -> None:
    worklist = Worklist(index, events, max_attempts=10)
    archive: Any = SimpleNamespace(worklist=worklist, changes=Changes(index))
    dispatcher = Dispatcher(archive, port, again_after_s=0.5)
    mill = Mill(worklist, index, port, seed=7)
    made = []
    for n in range(60):
        attributes = ups_task.build(
            plugin="count", title="Count", label="Count", parameters=[], patient={}, now=time.time(),
            inputs=[ups_task.References(f"1.2.{n}")],
        )  # fmt: skip
        made += [worklist.create(attributes, None, SYSTEM, task=f"task {n}") for _ in range(2)]
    until = time.monotonic() + 90
    rounds = 0
    while worklist.search({ups.PROCEDURE_STEP_STATE: "COMPLETED"}, 0, 0, SYSTEM)[1] < 60:
        assert time.monotonic() < until, "not all tasks were done in time"
        rounds += 1
        if isinstance(port, ArqQueue) and rounds in (2, 8):
            server: Redis = request.getfixturevalue("redis_server")
            server.kill()
            server.start()
        with contextlib.suppress(Unavailable):
            dispatcher.step(time.time())
        time.sleep(0.2)
    mill.close()
    with index.read() as conn:
        filed = list(conn.execute(select(schema.cursor.c.name).where(schema.cursor.c.name.like("result %"))).scalars())
    assert Counter(filed) == Counter(f"result {uid}" for uid in set(made))
    assert len(filed) == 60
    assert mill.vanished > 0
    assert worklist.search({ups.PROCEDURE_STEP_STATE: "CANCELED"}, 0, 0, SYSTEM)[1] == 0
