"""A running server: doors open in order, signals close them in order, and nothing that was promised is dropped.

Start: archive and DIMSE doors (`pacs.server.opening`), scheduler, worker, HTTP; then the ready file. Stop: not ready,
no new associations, requests drained, leases given back, stores and engines closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import uvicorn
import uvloop

from dicomweb import websocket
from dicomweb.dispatch import Service
from pacs.auth import ALL_RIGHTS
from pacs.errors import ArchiveError, InvalidInput, Unavailable
from pacs.server import api_mount, collector, compose, doors, http, wire
from pacs.server.awake import Awake
from pacs.server.metrics import MetricsDoor, of_dimse
from pacs.server.opening import Opened, build
from pacs.server.possible import refuse_impossible
from pacs.server.prompt import Prompt
from pacs.server.shelf import Shelf, Shelving

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.json_api import Row
    from pacs.settings import Settings

log = logging.getLogger("m3dicom.server")

SCHEDULER_PERIOD_S = 0.5
IDLE_PERIOD_S = 5.0
"""How often what only time brings is looked for, where nobody has changed anything for a while."""
LONGEST_PERIOD_S = 2.0
SHARE = 60
"""So many times longer than a step took is the pause behind it, within these bounds."""

PATIENCE_S, AGAIN_S = 120.0, 1.0


@dataclass(frozen=True)
class Running:
    """What a started server says of itself: written to the ready file and into `data`, and printed."""

    http: str
    dimse: str
    aet: str
    dicomweb: str
    login: str
    pid: int
    dimse_tls: str = ""

    def public(self) -> dict[str, object]:
        """Everything but the login code, in the order of the ready file."""
        tls = {"dimse_tls": self.dimse_tls} if self.dimse_tls else {}
        said = {"http": self.http, "dimse": self.dimse, **tls, "aet": self.aet, "dicomweb": self.dicomweb}
        return {**said, "pid": self.pid}


class _Http(uvicorn.Server):
    """uvicorn without its own signal handlers: it would raise SIGTERM again after its stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Scheduler:
    """A thread that marks quiet studies as stable, turns changes into Workitems, and offers due ones again."""

    def __init__(self, archive: Archive, step: Callable[[float], None]) -> None:
        self._archive = archive
        self._step = step
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop after the step in hand."""
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        seen: int | None = None
        lively_until = stepped = -IDLE_PERIOD_S
        pause = SCHEDULER_PERIOD_S
        while not self._stop.wait(pause):
            begun = time.thread_time()
            try:
                now, version = time.monotonic(), self._archive.index.version()
                if version is None or version != seen:
                    seen, lively_until = version, now + self._archive.settings.stable_after_s + IDLE_PERIOD_S
                elif now > lively_until and now < stepped + IDLE_PERIOD_S:
                    continue
                stepped = now
                self._archive.settle.claim_stable(time.time())
                self._step(time.time())
            except ArchiveError as error:
                log.warning("scheduler: %s; trying again", error)
            except Exception:
                log.exception("scheduler step failed; trying again")
            # Where much arrives a step has much to read: those who store have the processor first.
            pause = min(max(SCHEDULER_PERIOD_S, (time.thread_time() - begun) * SHARE), LONGEST_PERIOD_S)


def serve(opened: Opened, stack: ExitStack, *, ready_file: Path | None = None, say: Callable[[Running], None]) -> int:
    """Run the rest of a server until SIGINT or SIGTERM; the exit status.

    What is opened here is closed with `stack`. `say` prints what a person needs once all doors answer. Raises
    InvalidInput for settings that cannot work together.
    """
    archive, acceptors, settings = opened.archive, opened.acceptors, opened.archive.settings
    parts = compose.Parts(archive)
    stack.callback(parts.close)
    parts.also_counted.append(partial(of_dimse, opened.places, opened.crew, opened.attendants))
    scheduler = Scheduler(archive, parts.schedule)
    stack.callback(scheduler.close)

    http_door = doors.address(opened.http)
    reached = settings.public_url.rstrip("/") or f"http://{http_door}"
    running = Running(
        http=str(http_door),
        dimse=str(doors.Door(*acceptors["dimse"].address)) if "dimse" in acceptors else "",
        dimse_tls=str(doors.Door(*acceptors["dimse_tls"].address)) if "dimse_tls" in acceptors else "",
        aet=settings.aet,
        dicomweb=reached + compose.DICOMWEB_ROOT,
        login=archive.auth.create_login_link("operator", ALL_RIGHTS, settings.login_link_minutes * 60),
        pid=os.getpid(),
    )

    def health() -> http.Health:
        found = compose.problems(archive)
        found |= {name: "does not accept associations" for name, each in acceptors.items() if not each.alive}
        if not scheduler.alive:
            found["scheduler"] = "has stopped"
        return http.Health(found | parts.problems(), parts.warnings())

    def announce() -> None:
        for path in (settings.data / "server.json", ready_file):
            if path is not None:
                _write_whole(path, json.dumps(running.public()) + "\n")
        stack.callback(lambda: (settings.data / "server.json").unlink(missing_ok=True))
        say(running)

    def close_doors() -> None:
        log.info("stopping: no new associations, finishing what runs")
        for each in acceptors.values():
            each.stop()
        deadline = time.monotonic() + settings.drain_s
        for each in acceptors.values():
            each.close(max(0.0, deadline - time.monotonic()))

    app_routes = compose.routes(archive, parts)
    json_api = partial(compose.json_api, archive, parts)
    collector.settle()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve_http(archive, app_routes, json_api, opened.http, health, announce, close_doors))
    return 0


async def _serve_http(
    archive: Archive,
    app_routes: compose.Routes,
    json_api: Callable[[anyio.Event], list[Row]],
    listener: object,
    health: Callable[[], http.Health],
    announce: Callable[[], None],
    close_doors: Callable[[], None],
) -> None:
    stopping = anyio.Event()
    quitting = False

    def health_now() -> http.Health:
        return http.Health({"server": "is stopping"}) if quitting else health()

    routes = [*http.health_routes(health_now), *api_mount.mount(json_api(stopping)), *app_routes]
    shelf = Shelf(archive.index, archive.auth)
    services = [route for route in routes if isinstance(route, Service)]
    prompt = Prompt(services, archive.auth, shelf, archive.settings.cors_origins)
    awake = Awake() if archive.settings.keep_awake else None
    server = _Http(
        uvicorn.Config(
            Shelving(http.application(archive.auth, routes, archive.settings.cors_origins), shelf),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            proxy_headers=False,
            http=wire.protocol(shelf, prompt, awake),
            ws="websockets-sansio",
            ws_ping_interval=websocket.PING_S,
            ws_ping_timeout=websocket.PONG_S,
            ws_max_size=websocket.MAX_MESSAGE_BYTES,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, round(archive.settings.drain_s)),
        )
    )
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    serving = asyncio.create_task(server.serve(sockets=[listener]))  # type: ignore[list-item]
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if not serving.done():
        announce()
        waiting = asyncio.create_task(asked.wait())
        await asyncio.wait({waiting, serving}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
    quitting = True
    stopping.set()
    archive.events.close()
    server.should_exit = True
    await asyncio.to_thread(close_doors)
    await serving
    if awake is not None:
        awake.close()


def _write_whole(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)


def work(settings: Settings, plugins: tuple[str, ...]) -> int:
    """Run a worker without doors until SIGINT or SIGTERM; the exit status."""
    refuse_impossible(settings, doors_open=False)
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    built = _built_patiently(settings, asked)
    if built is None:
        return 0
    with contextlib.closing(built) as archive:
        parts = compose.Parts(archive, plugins=plugins, slots=max(1, settings.workers))
        door = _metrics_door(archive, parts)
        try:
            if not parts.plugin_ids:
                raise InvalidInput(
                    f"no plug-in that is installed here can run with device {settings.device} on this machine"
                )
            log.info("worker: plug-ins %s", ", ".join(parts.plugin_ids))
            while not asked.wait(SCHEDULER_PERIOD_S):
                if parts.problems():
                    log.error("worker: a thread has stopped")
                    return 1
        finally:
            if door is not None:
                door.close()
            parts.close()
    return 0


def _built_patiently(settings: Settings, asked: threading.Event) -> Archive | None:
    """The archive of a worker, which may start before the database or the store does; None when told to stop.

    Raises Unavailable when they are still away after `PATIENCE_S`.
    """
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return build(settings)
        except Unavailable as error:
            if time.monotonic() > until:
                raise
            log.warning("worker: %s; trying again", error)
        if asked.wait(AGAIN_S):
            return None


def _metrics_door(archive: Archive, parts: compose.Parts) -> MetricsDoor | None:
    settings = archive.settings
    if not settings.worker_metrics:
        return None
    door = doors.parse(settings.worker_metrics, "worker_metrics")
    try:
        opened = MetricsDoor(door, archive.auth, parts.metrics)
    except OSError as error:
        raise InvalidInput(f"setting worker_metrics: cannot listen on {door}: {error.strerror}") from error
    log.info("worker: metrics at http://%s/metrics", opened.address)
    return opened
