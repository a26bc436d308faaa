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
from analysis.results import media
from analysis.trigger import Trigger
from analysis.verdict_reading import VerdictReader
from analysis.verdicts import Verdicts
from analysis.worker import Worker
from dicomweb import commitment, params
from pacs.care import Care
from pacs.committing import Committing, Fetched
from pacs.destinations import Courier, Destination
from pacs.dicom.attributes import Level
from pacs.errors import ArchiveError, InvalidInput, InvalidQuery
from pacs.forward import Forward
from pacs.server import api, api_corrections, api_deliveries, metrics, openapi
from pacs.stow_client import StowCourier
from pacs.workforce import Attendance, Workforce

if TYPE_CHECKING:
    import anyio

    from pacs.archive import Archive
    from pacs.dicom.matching import Query
    from pacs.dimse.ups_events import EventCourier
    from pacs.json_api import Row

DICOMWEB_ROOT = "/dicom-web"
Routes = list[BaseRoute]


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
        self._events.step(time.time())  # who watches is told of the start, and so of the stop, however soon that comes
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

    Raises InvalidQuery, also for a key that is not matched or has no value: a misspelt one, or a script's empty
    variable, would else mean everybody's studies.
    """
    try:
        pairs = parse_qsl(text.removeprefix("?"), keep_blank_values=True, max_num_fields=params.MAX_KEYS)
    except ValueError:
        raise InvalidQuery(f"more than {params.MAX_KEYS} matching keys") from None
    for name, value in pairs:
        if name in ("limit", "offset", "includefield"):
            raise InvalidQuery(f"{name} has no meaning here: every study that matches is taken", about=name)
        if not value.strip():
            raise InvalidQuery("a key without a value would mean all studies: write * where that is wanted")
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
