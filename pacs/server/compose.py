"""From settings to parts that know each other: the only place where one implementation is chosen over another."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.routing import BaseRoute

import analysis.routes
import dicomweb.app
import viewer
from analysis import batch_routes, provenance_view, task_routes, verdict_routes, workforce_routes
from analysis.batch import Batches
from analysis.batch_loop import BatchLoop
from analysis.metrics import exposition
from analysis.queue import Dispatcher, open_queue
from analysis.registry import Registry
from analysis.requests import Requests
from analysis.results import media
from analysis.trigger import Trigger
from analysis.verdict_reading import VerdictReader
from analysis.verdicts import Verdicts
from analysis.worker import Worker
from dicomweb import commitment, cors, links, params
from pacs import aside
from pacs.archive import Archive, open_archive
from pacs.auth import Auth
from pacs.care import Care
from pacs.committing import Committing, Fetched
from pacs.decoding import DecodingPool
from pacs.destinations import Courier, Destination, destinations
from pacs.dicom.attributes import Level
from pacs.dimse import identity, tls
from pacs.errors import ArchiveError, InvalidInput, InvalidQuery
from pacs.forward import Forward
from pacs.known_aes import KnownAEs
from pacs.server import api, api_corrections, api_deliveries, doors, metrics, openapi
from pacs.stow_client import StowCourier
from pacs.workforce import Attendance, Workforce
from pacs.worklist import Worklist

if TYPE_CHECKING:
    import anyio

    from pacs.dicom.matching import Query
    from pacs.dimse.ups_events import EventCourier
    from pacs.events import Events
    from pacs.json_api import Row
    from pacs.settings import Settings

DICOMWEB_ROOT = "/dicom-web"
Routes = list[BaseRoute]


def refuse_impossible(settings: Settings, *, doors_open: bool = True) -> None:
    """Nothing, or InvalidInput in words for settings that cannot work together or would be unsafe."""
    if settings.objects != "files" and not settings.objects.startswith("s3://"):
        raise InvalidInput(f'setting objects: {settings.objects!r} is neither "files" nor s3://BUCKET/PREFIX')
    if settings.index != "sqlite" and not settings.index.startswith("postgresql"):
        raise InvalidInput('setting index: it must be "sqlite" or a postgresql+psycopg:// URL')
    if settings.queue != "local" and not settings.queue.startswith(("redis://", "rediss://", "unix://")):
        raise InvalidInput('setting queue: it must be "local" or a redis:// or unix:// URL')
    if settings.dimse_processes < 0:
        raise InvalidInput("setting dimse_processes: somebody has to serve; at least 1, or 0 for as many as help")
    if settings.index == "sqlite" and settings.queue != "local":
        raise InvalidInput("a Redis queue serves several processes, SQLite only one: use PostgreSQL as index")
    if settings.other_content not in aside.POLICIES:
        raise InvalidInput(f"setting other_content: it must be one of {', '.join(aside.POLICIES)}")
    if settings.device not in ("auto", "cpu", "gpu"):
        raise InvalidInput('setting device: it must be "auto", "cpu" or "gpu"')
    destinations(settings)
    links.networks(settings.trusted_proxies)
    cors.checked(settings.cors_origins)
    if not links.is_url(settings.public_url):
        raise InvalidInput(f"setting public_url: {settings.public_url!r} is no http or https URL of a host and a path")
    if not doors_open:
        if settings.index == "sqlite" or settings.objects == "files":
            raise InvalidInput("workers of their own need what all can reach: PostgreSQL as index and S3 for objects")
        if settings.worker_metrics and not settings.behind_tls_proxy:
            door = doors.parse(settings.worker_metrics, "worker_metrics")
            if not door.is_loopback:
                raise InvalidInput(
                    f"setting worker_metrics: {door} is open to the network without TLS; keep to a loopback address, "
                    "or put a TLS proxy in front and set behind_tls_proxy"
                )
        return
    if not doors.parse(settings.http, "http").is_loopback and not settings.behind_tls_proxy:
        raise InvalidInput(
            f"setting http: {settings.http} is open to the network without TLS; put a TLS proxy in front and set "
            "behind_tls_proxy, or keep to a loopback address"
        )
    if settings.dimse_identity not in identity.MODES:
        raise InvalidInput(f"setting dimse_identity: it must be one of {', '.join(identity.MODES)}")
    KnownAEs(settings.aes)
    if settings.dimse_tls:
        door = doors.parse(settings.dimse_tls, "dimse_tls")
        tls.server_context(settings)
        if not door.is_loopback and settings.tls_clients != "required" and not settings.aes:
            raise InvalidInput(
                f"setting dimse_tls: {door} is open to the network and asks for no certificates; set tls_clients to "
                '"required", or configure the AEs that may call'
            )
    for ae in settings.aes:
        if ae.port and (ae.tls or ae.certificate):
            tls.client_context(settings, ae)
    if settings.dimse and not doors.parse(settings.dimse, "dimse").is_loopback and not settings.aes:
        raise InvalidInput(f"setting dimse: {settings.dimse} is open to the network; configure the AEs that may call")


def build(settings: Settings, *, events: Events | None = None, alone: bool = True) -> Archive:
    """The archive that `settings` describe, with everything that belongs to it; without `alone` beside a server's."""
    archive = open_archive(settings, events, alone=alone)
    if alone:
        archive.removal.sweep()  # what a crash cut short
    worklist = Worklist(
        archive.index, archive.events, max_attempts=settings.max_attempts, retry_hours=settings.retry_hours
    )
    worklist.judge = Requests(partial(Registry.load, commands=settings.commands)).judge
    return archive.with_services(
        auth=Auth(archive.index, settings.aes),
        worklist=worklist,
        decoding=DecodingPool(settings.decoders),
    )


class Parts:
    """What runs beside the doors: the rules that make tasks, the queue that announces them, the workers."""

    def __init__(self, archive: Archive, *, plugins: tuple[str, ...] = (), slots: int | None = None) -> None:
        """Start it. `plugins` are the ids a worker takes (none given = all), `slots` its tasks at one time."""
        settings = archive.settings
        self.registry = Registry.load(commands=settings.commands)
        unknown = set(plugins) - set(self.registry.ids)
        if unknown:
            raise InvalidInput(
                f"no plug-in named {', '.join(sorted(unknown))}; installed: {', '.join(self.registry.ids)}"
            )
        self.also_counted: list[Callable[[], str]] = []
        shared = settings.index != "sqlite"
        self.workforce = Workforce(archive.index, shared=shared)
        self._trigger = Trigger(archive, self.registry, workforce=self.workforce)
        self.rules = self._trigger.rules
        self._queue = open_queue(settings.queue, archive.events)
        known = None if shared else self.registry.ids  # processes elsewhere may have plug-ins that this one has not
        self._dispatcher = Dispatcher(archive, self._queue, known=known)
        self._worker = Worker(archive, self.registry, self._queue, plugins=plugins, slots=slots)
        self.plugin_ids = self._worker.plugins
        self._worker.start()
        self._attendance = Attendance(self.workforce, lambda: self._worker.post)
        self._committing = committing(archive)
        self._events = event_courier(archive)
        self.forward = Forward(archive, partial(courier, archive))
        self._care = Care(archive)
        self._retention = archive.retention
        self.batches = Batches(archive, self.registry, study_query)
        self._batch_loop = BatchLoop(archive, self.registry, study_query)
        self.verdicts = Verdicts(archive)
        self._verdict_reader = VerdictReader(archive)

    def schedule(self, now: float) -> None:
        """One round of the scheduler: news become Workitems, waiting ones are announced."""
        self._trigger.step(now)
        self._dispatcher.step(now)
        self._committing.step(now)
        self._events.step(now)
        self.forward.step(now)
        self._care.step(now)
        self._retention.step(now)
        self._batch_loop.step(now)
        self._verdict_reader.step(now)

    def problems(self) -> dict[str, str]:
        """What has stopped working, by name."""
        return {} if self._worker.alive else {"worker": "has stopped"}

    def warnings(self) -> dict[str, str]:
        """What does not work now but stops nobody: without the queue, workers look by themselves."""
        wrong = self._queue.health()
        return {"queue": wrong} if wrong else {}

    def metrics(self) -> str:
        """What Prometheus reads. Raises Unavailable."""
        told = exposition(self.workforce, self._worker, time.time())
        return told + "".join(each() for each in self.also_counted)

    def close(self) -> None:
        """Give leases back and let go of the queue."""
        self._batch_loop.close()
        self._trigger.close()
        self._attendance.close()
        self._care.close()
        self.forward.close()
        self._events.close()
        self._committing.close()
        self._worker.stop()
        self._queue.close()


def study_query(text: str) -> Query:
    """A search of studies as QIDO-RS writes it (PS3.18 8.3.4).

    Raises InvalidQuery, also for a key that is not matched: a misspelt one would else mean everybody's studies.
    """
    try:
        pairs = parse_qsl(text.removeprefix("?"), keep_blank_values=True, max_num_fields=params.MAX_KEYS)
    except ValueError:
        raise InvalidQuery(f"more than {params.MAX_KEYS} matching keys") from None
    query, warnings = params.query(pairs, Level.STUDY)
    if warnings or (query.keys == () and text.strip("?& ")):
        raise InvalidQuery(
            warnings[0].replace(" and has been ignored", "") if warnings else "the query asks for nothing"
        )
    return query


def committing(archive: Archive) -> Committing:
    """What verifies and reports storage commitments, with a reporter for every door they come through."""
    from pacs.dimse.commit_scu import EventReporter

    hours = archive.settings.commitment_hours
    made = Committing(archive.commitments, archive.index, archive.uncached_store, hours=hours)
    made.add_reporter("dimse", EventReporter(archive))
    made.add_reporter(commitment.DOOR, Fetched())
    return made


def event_courier(archive: Archive) -> EventCourier:
    """What tells AEs of Workitems that they watch."""
    from pacs.dimse.ups_events import EventCourier

    return EventCourier(archive)


def courier(archive: Archive, destination: Destination) -> Courier:
    """What sends to a destination. Raises NotFound or InvalidInput where it cannot be reached as configured."""
    if destination.is_web:
        return StowCourier(archive, destination)
    from pacs.dimse.courier import StoreCourier

    return StoreCourier(archive, destination.to)


def json_api(archive: Archive, parts: Parts, stopping: anyio.Event | None = None) -> list[Row]:
    """The whole table of the JSON API, and the document that is made from it."""
    return openapi.rows(
        [
            *api.rows(archive, stopping),
            *analysis.routes.rows(archive, parts.registry),
            *batch_routes.rows(parts.batches),
            *verdict_routes.rows(parts.verdicts),
            *task_routes.rows(archive, parts.rules, parts.workforce),
            *workforce_routes.rows(parts.workforce),
            *provenance_view.rows(archive),
            *api_deliveries.rows(parts.forward),
            *api_corrections.rows(archive),
        ]
    )


def routes(archive: Archive, parts: Parts) -> Routes:
    """Everything that is mounted besides health and the JSON API."""
    return [
        *dicomweb.app.create(archive, root=DICOMWEB_ROOT, renditions=media.RENDITIONS),
        metrics.route(parts.metrics),
        *provenance_view.routes(),
        *viewer.routes(),
    ]


def problems(archive: Archive) -> dict[str, str]:
    """What the archive needs and cannot reach, by name; empty when all is well."""
    found = {}
    for name, check in (("objects", archive.store.check), ("index", archive.changes.last)):
        try:
            check()
        except ArchiveError as error:
            found[name] = error.reason
    return found
