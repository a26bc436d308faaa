"""The bell that tells workers to look: the task table polled in process, or arq on Redis, one queue per plug-in.

The database is the truth: a message carries nothing but a Workitem UID and means "look", so losing all of them costs
a few seconds. Workers look from time to time anyway, and the dispatcher offers what waits again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import queue
import signal
import threading
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pacs.auth import SYSTEM
from pacs.dicom import ups
from pacs.errors import Unavailable

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.events import Events
    from pacs.leases import Offer

log = logging.getLogger("m3dicom.queue")

T = TypeVar("T")
PREFIX = "m3dicom:"
OFFER_EXPIRES_S = 60
LONGEST_TASK_S = 6 * 3600
ANSWER_S = 5.0


class Bell(Protocol):
    """What a worker waits on."""

    def wait(self, timeout_s: float) -> Callable[[], None]:
        """Return when there may be work, at the latest after the time; call the result once it is dealt with."""

    def close(self) -> None:
        """Wait for nothing any more."""


class Queue(Protocol):
    """Announces Workitems to workers."""

    poll_s: float

    def offer(self, offer: Offer) -> None:
        """Announce a Workitem that waits. Raises Unavailable; offering again later is harmless."""

    def cancel(self, plugin: str, uid: str) -> None:
        """Take back what was announced of a Workitem, where that is possible."""

    def health(self) -> str:
        """What is wrong, in words; "" when all is well."""

    def bell(self, plugins: Sequence[str], slots: int) -> Bell:
        """A bell for a worker of these plug-ins that does `slots` tasks at one time."""

    def close(self) -> None:
        """Let go of connections."""


def open_queue(setting: str, events: Events) -> Queue:
    """The queue for the setting: "local", or the URL of a Redis."""
    return LocalQueue(events) if setting == "local" else ArqQueue(setting)


# In process ----------------------------------------------------------------------------------------------------------


class LocalQueue:
    """No queue at all: workers of this process look at the task table when something happens, and every second."""

    poll_s = 1.0

    def __init__(self, events: Events) -> None:
        self._events = events

    def offer(self, offer: Offer) -> None:
        self._events.publish()

    def cancel(self, plugin: str, uid: str) -> None:
        self._events.publish()

    def health(self) -> str:
        return ""

    def bell(self, plugins: Sequence[str], slots: int) -> Bell:
        return _LocalBell(self._events)

    def close(self) -> None:
        """Nothing is held."""


class _LocalBell:
    def __init__(self, events: Events) -> None:
        self._events = events
        self._seen = threading.local()

    def wait(self, timeout_s: float) -> Callable[[], None]:
        self._seen.version = self._events.wait(getattr(self._seen, "version", 0), timeout_s)
        return _nothing

    def close(self) -> None:
        self._events.publish()


def _nothing() -> None:
    pass


# arq -----------------------------------------------------------------------------------------------------------------


def _dumps(job: dict[str, Any]) -> bytes:
    # Never pickle: a writable Redis would be a way to run code. Of an error, as of a message that expired, the name.
    return json.dumps(job, default=lambda value: type(value).__name__).encode()


def queue_name(plugin: str) -> str:
    """The arq queue of a plug-in."""
    return f"{PREFIX}{plugin}"


class ArqQueue:
    """arq on Redis. All of it runs in one event loop on a thread of its own; a lost Redis is waited for."""

    poll_s = 10.0

    def __init__(self, url: str) -> None:
        from arq.connections import RedisSettings

        self._settings = RedisSettings.from_dsn(url)
        self._settings.conn_retries, self._settings.conn_timeout = 0, 3
        self._redis: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="arq", daemon=True)
        self._thread.start()

    def offer(self, offer: Offer) -> None:
        async def enqueue() -> None:
            redis = await self._connected()
            await redis.enqueue_job(
                "look",
                offer.uid,
                _job_id=f"{offer.uid}:{offer.attempt}:{offer.epoch}",
                _queue_name=queue_name(offer.plugin),
                _expires=OFFER_EXPIRES_S,
            )

        self._ask(enqueue())

    def cancel(self, plugin: str, uid: str) -> None:
        async def withdraw() -> None:
            redis = await self._connected()
            async for job_id, _ in redis.zscan_iter(queue_name(plugin), match=f"{uid}:*"):
                await redis.zrem(queue_name(plugin), job_id)
                await redis.delete(f"arq:job:{job_id.decode()}")

        self._ask(withdraw())

    def health(self) -> str:
        async def ping() -> None:
            await (await self._connected()).ping()

        try:
            self._ask(ping())
        except Unavailable as error:
            return error.reason
        return ""

    def bell(self, plugins: Sequence[str], slots: int) -> Bell:
        return _ArqBell(self, plugins, slots)

    def close(self) -> None:
        async def disconnect() -> None:
            if self._redis is not None:
                await self._redis.aclose(close_connection_pool=True)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        with contextlib.suppress(Unavailable):
            self._ask(disconnect())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _connected(self) -> Any:
        if self._redis is None:
            self._redis = await self._pool()
        return self._redis

    async def _pool(self) -> Any:
        from arq.connections import create_pool

        return await create_pool(self._settings, job_serializer=_dumps, job_deserializer=json.loads)

    def _ask(self, question: Coroutine[Any, Any, T]) -> T:
        from redis.exceptions import RedisError

        future = asyncio.run_coroutine_threadsafe(question, self._loop)
        try:
            return future.result(ANSWER_S)
        except (RedisError, OSError, TimeoutError) as error:
            future.cancel()
            raise Unavailable(f"Redis cannot be reached: {type(error).__name__}") from error


def _is_ending(task: asyncio.Task[Any]) -> bool:
    return getattr(task.get_coro(), "__qualname__", "").startswith("Worker.finish_")


class _ArqBell:
    """arq workers, one for each plug-in's queue, that pass each message on to a waiting thread.

    A job ends when the thread has dealt with it, so that arq takes no more messages than there are free threads.
    """

    def __init__(self, parent: ArqQueue, plugins: Sequence[str], slots: int) -> None:
        self._parent = parent
        self._slots = slots
        self._rung: queue.SimpleQueue[asyncio.Future[None] | None] = queue.SimpleQueue()
        self._open: set[asyncio.Future[None]] = set()
        self._closing = False
        self._listening: list[asyncio.Task[None]] = []
        parent._ask(self._start(plugins))

    async def _start(self, plugins: Sequence[str]) -> None:
        self._listening = [asyncio.create_task(self._listen(plugin)) for plugin in plugins]

    def wait(self, timeout_s: float) -> Callable[[], None]:
        try:
            dealt_with = self._rung.get(timeout=timeout_s)
        except queue.Empty:
            return _nothing
        return _nothing if dealt_with is None else lambda: self._finish(dealt_with)

    def _finish(self, dealt_with: asyncio.Future[None]) -> None:
        def finish() -> None:
            if not dealt_with.done():
                dealt_with.set_result(None)

        self._parent._loop.call_soon_threadsafe(finish)

    async def _listen(self, plugin: str) -> None:
        from arq.worker import func
        from redis.exceptions import RedisError

        async def look(_context: dict[Any, Any], uid: str) -> None:
            dealt_with: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._open.add(dealt_with)
            self._rung.put(dealt_with)
            try:
                await dealt_with
            finally:
                self._open.discard(dealt_with)

        pause_s = 0.5
        while not self._closing:
            try:
                await self._serve(plugin, func(look, name="look", keep_result=0, max_tries=1))
            except (RedisError, OSError) as error:
                log.warning("queue of %s: Redis lost (%s); the task table is polled", plugin, type(error).__name__)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 10.0)

    async def _serve(self, plugin: str, look: Any) -> None:
        """Pass messages on until Redis is lost (RedisError, OSError) or the task is cancelled."""
        from arq.worker import Worker
        from redis.exceptions import RedisError

        pool = await self._parent._pool()
        worker = Worker(
            functions=[look],
            queue_name=queue_name(plugin),
            redis_pool=pool,
            handle_signals=False,
            max_jobs=self._slots,
            job_timeout=LONGEST_TASK_S,
            keep_result=0,
            max_tries=1,
            poll_delay=0.2,
            health_check_interval=5,
            job_serializer=_dumps,
            job_deserializer=json.loads,
        )
        try:
            await worker.async_run()
        finally:
            worker.handle_sig(signal.SIGUSR1)  # what its close() does, but that calls what redis-py deprecates
            await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
            # arq shields the end of a job from being cancelled: it goes on by itself, and needs the connection still.
            ending = [task for task in asyncio.all_tasks() if _is_ending(task)]
            await asyncio.gather(*ending, return_exceptions=True)
            with contextlib.suppress(RedisError, OSError):
                await pool.aclose(close_connection_pool=True)

    def close(self) -> None:
        with contextlib.suppress(Unavailable):
            self._parent._ask(self._end())
        for _ in range(self._slots):
            self._rung.put(None)

    async def _end(self) -> None:
        self._closing = True
        for dealt_with in self._open:
            if not dealt_with.done():
                dealt_with.set_result(None)
        for listener in self._listening:
            listener.cancel()
        await asyncio.gather(*self._listening, return_exceptions=True)


# The dispatcher ------------------------------------------------------------------------------------------------------


class Dispatcher:
    """Announces what waits, reaps leases that ran out, takes back what was cancelled. Idempotent: any process may."""

    def __init__(
        self,
        archive: Archive,
        port: Queue,
        *,
        again_after_s: float = 10.0,
        known: Collection[str] | None = None,
    ) -> None:
        """`known` names every plug-in there is: a Workitem for another one is cancelled with that reason. None = other
        processes may know more than this one."""
        self._archive = archive
        self._queue = port
        self._known = known
        self._again_after_s = again_after_s
        self._seq = archive.changes.last()

    def step(self, now: float) -> None:
        """One round. Raises Unavailable when the queue cannot be reached; what was not announced waits."""
        worklist = self._archive.worklist
        worklist.reap(now)
        worklist.expire(now)
        for offer in worklist.due_offers(now, self._again_after_s):
            if self._known is not None and offer.plugin not in self._known:
                why = f"no plug-in named {offer.plugin} is installed here"
                worklist.request_cancel(offer.uid, why, SYSTEM, ended="failed")
            else:
                self._queue.offer(offer)
        news = self._archive.changes.after(self._seq, 500)
        if not news:
            return
        self._seq = news[-1].seq
        moved = ",".join({change.workitem_uid for change in news if change.workitem_uid and change.kind == "workitem"})
        if moved:
            keys = {ups.SOP_INSTANCE_UID: moved, ups.PROCEDURE_STEP_STATE: ups.State.CANCELED.value}
            for uid, plugin in worklist.plugins_of(keys, SYSTEM):
                self._queue.cancel(plugin, uid)
