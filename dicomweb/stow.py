"""STOW-RS (PS3.18 10.5): instances out of a request body into the archive, and what became of each (Annex I).

The body is read, spooled and made durable part by part; the instances become visible in one transaction once the body
has ended as it should, so a body that breaks off leaves nothing behind that anybody can see. Only beyond GROUP
instances in one body do complete ones become visible before its end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from dicomweb import stow_metadata, xml_model
from dicomweb.answers import Answer
from dicomweb.calls import Call
from dicomweb.media_types import (
    DICOM,
    DICOM_JSON,
    DICOM_XML,
    JSON,
    MULTIPART,
    Offer,
    UnsupportedMediaType,
    parse,
)  # fmt: skip
from dicomweb.multipart import ROOM_BYTES, Event, Parser, PartBegin, PartEnd
from dicomweb.store_results import SAME_HEADER, Failure, failure, file, location, response_module, same_of, status_of
from pacs import uids
from pacs.auth import Principal, Right
from pacs.dicom.json_model import dumps
from pacs.errors import ArchiveError, InvalidInput, MalformedDataset, TooLarge
from pacs.inflow import Taken
from pacs.ingest import Prepared, Stored
from pacs.native import structures

if TYPE_CHECKING:
    from dicomweb.bodies import Lent
    from pacs.archive import Archive
    from pacs.budget import Budget
    from pacs.inflow import Inflow
    from pacs.ingest import Receiving
    from pacs.likeness import Seen
    from pacs.storage.base import Placed

log = logging.getLogger("m3dicom.dicomweb")

STORED = (DICOM, *stow_metadata.METADATA)
RESPONSES = (Offer(DICOM_JSON, aliases=(JSON,)), Offer(DICOM_XML))
PREPARING_AT_ONCE = 4
WRITING_AT_ONCE = 2  # of one body, where nobody else prepares
PATIENCE_S = 0.05  # how long the library waits for more of a body before others may have the thread
BURST_BYTES, BURST_S = 32 << 20, 1.0  # after either of which others have their turn
GROUP = 256  # instances that become visible in one transaction; bounds what a long body keeps in memory


async def store(call: Call) -> Answer:
    """POST /studies and /studies/{study}: what became of each instance; 200 only where all is well."""
    principal = call.principal(Right.STORE)
    study = call.uid("study") if "study" in call.params else None
    offer = call.choose(RESPONSES)
    root = call.service_root  # before anything is stored: it refuses Host headers that are none
    call.refuse_encoding()
    media_type, parameters = _content_type(call)
    single = media_type != MULTIPART
    root_type = media_type if single else parameters.get("type", DICOM).lower()
    if single:
        declared = call.headers.get("content-length", "")
        limit = call.archive.settings.max_object_bytes
        if declared.isdecimal() and int(declared) > limit:
            raise TooLarge(f"more than {limit} bytes")
    reader: Reader = Single() if single else Parser(parameters.get("boundary", ""))
    if root_type in stow_metadata.METADATA:
        prepared = await stow_metadata.read(call, reader, root_type, principal, study)
        results = await call.io(file, call.archive, prepared)
    else:
        results = await _objects(call, Intake(call.archive, principal, study), reader)
    if not results:
        raise InvalidInput("the body holds no instance")
    for each in results:
        if isinstance(each, Failure):
            uid = each.sop_instance_uid if uids.is_valid(each.sop_instance_uid) else "an instance without a valid UID"
            log.warning("STOW-RS of %s by %r refused: %s", uid, principal.name, each.error.reason)
    body = response_module(results, root)
    told = [(SAME_HEADER, str(same_of(results)))]
    if place := location(results, root):
        told.append(("Location", place))
    if offer.media_type == DICOM_XML:
        return Answer(status_of(results), DICOM_XML, [xml_model.dumps(body)], told)
    return Answer(status_of(results), DICOM_JSON, [dumps(body)], told)


def _content_type(call: Call) -> tuple[str, dict[str, str]]:
    """Media type and parameters of the body. Raises UnsupportedMediaType for what is not stored."""
    try:
        media_type, parameters = parse(call.headers.get("content-type", ""))
    except InvalidInput:
        raise UnsupportedMediaType("a Content-Type is needed") from None
    if media_type not in (*STORED, MULTIPART):
        raise UnsupportedMediaType(f"multipart/related or one of {', '.join(STORED)} is needed")
    if media_type == MULTIPART and parameters.get("type", DICOM).lower() not in STORED:
        raise UnsupportedMediaType(f"parts of one of the types {', '.join(STORED)} are needed")
    return media_type, parameters


async def _objects(call: Call, intake: Intake, reader: Reader) -> list[Stored | Failure]:
    """What became of each instance in a body of Part 10 files."""
    taking = Taking(call.archive, intake, reader, call.web.preparing, call.web.writing)
    try:
        lent = call.lend()
        if lent is None:
            async for batch in call.batches():
                await call.io(taking.feed, batch)
        else:
            try:
                taking.begin_flow()
                await _from_the_connection(call, taking, lent)
            finally:
                lent.give_back()
        return await call.io(taking.finish)
    finally:
        if not taking.closed:
            with anyio.CancelScope(shield=True):
                await call.io(taking.close)


async def _from_the_connection(call: Call, taking: Taking, lent: Lent) -> None:
    """Take in the rest of a body; a thread is held while bytes come, and let go while none do."""
    receiving = call.web.receiving

    def wanted() -> bool:
        return receiving.statistics().tasks_waiting > 0

    while lent.left or taking.flowing:
        if lent.left:
            await lent.ready()
        await anyio.to_thread.run_sync(taking.burst, lent, wanted, limiter=receiving)


class Taking:
    """One body becoming instances. Blocking; used by one thread at a time.

    What is like the instance before it the library takes, where it can (`pacs.inflow`). While another one is written,
    the next is received: by `preparing`, which also checks it, or by the disk alone.
    """

    def __init__(
        self, archive: Archive, intake: Intake, reader: Reader, preparing: Executor | None, writing: Budget
    ) -> None:
        """Without `preparing` no thread has to hand anything to another: right where writes need not be waited for.

        `writing` is how many instances of all bodies may be on their way to the disk: each holds a buffer.
        """
        self._archive = archive
        self._intake = intake
        self._reader = reader
        self._preparing = preparing
        self._places = threading.BoundedSemaphore(PREPARING_AT_ONCE)
        self._arrived: list[Prepared | Failure | Taken | Future[Prepared | Failure]] = []
        self._budget = writing
        self._writing: deque[Placed] = deque()
        self._results: list[Stored | Failure] = []
        self._flow: Inflow | None = None
        self._begun: PartBegin | None = None
        self._passed = 0
        self.flowing = False
        """Whether the library has what came last, and may go on with it."""
        self.closed = False

    def begin_flow(self) -> None:
        """Have the library take what is alike, where it can: the body comes from its connection."""
        if self._preparing is None and isinstance(self._reader, Parser):
            self._flow = self._archive.ingest.inflow()
            if self._flow is not None:
                self._intake.seen = self._flow.seen

    def feed(self, batch: Sequence[bytes]) -> None:
        """Take these pieces of the body. Raises TooLarge, MalformedBody, OutOfResources or Unavailable."""
        for chunk in batch:
            self._take(self._reader.feed(chunk), None)

    def burst(self, lent: Lent, wanted: Callable[[], bool] = lambda: False) -> None:
        """Receive and take for as long as more comes, up to BURST_BYTES and for BURST_S.

        Where the thread is `wanted` by others, it does not wait for the next bytes.
        Raises as `feed`, and InvalidInput for a client that left.
        """
        if lent.first:
            first, lent.first = lent.first, b""
            self._take(self._reader.feed(first), lent)
        taken, until = 0, time.monotonic() + BURST_S
        while (lent.left or self.flowing) and taken < BURST_BYTES and time.monotonic() < until:
            if self.flowing:
                count = self._flowed(lent, 0.0 if wanted() else PATIENCE_S, until, BURST_BYTES - taken)
                if count is None:
                    return
                taken += count
                continue
            with self._reader.room() as room:
                count = lent.receive(room[: lent.left], wanted)
            if not count:
                return
            taken += count
            self._take(self._reader.filled(count), lent)

    def finish(self) -> list[Stored | Failure]:
        """What became of all, durable and visible; closed then.

        Raises MalformedBody for a body without its end, and as `feed`.
        """
        self._take(iter(self._reader.finish() or ()), None)
        self._file()
        self.close()
        return self._results

    def close(self) -> None:
        """Let go of what was not filed. May be called again."""
        self.closed = True
        try:
            self._intake.abort()
            for each in self._arrived:  # nobody was told of them
                prepared = each.result() if isinstance(each, Future) else each
                if isinstance(prepared, Prepared) and prepared.placed is not None:
                    prepared.placed.withdraw()
            self._arrived = []
            while self._writing:
                self._land()
        finally:
            if self._flow is not None:
                flow, self._flow = self._flow, None
                self._archive.ingest.done(flow)

    def _take(self, events: Iterator[Event], lent: Lent | None) -> None:
        for event in events:
            if isinstance(event, PartBegin):
                self._begun = event
                if lent is not None and self._hand_over(event, lent):
                    return
            done = self._intake.take(event)
            if done is not None:
                self._arrived.append(done if isinstance(done, Failure) else self._begin(done))
                self._file_many()

    def _hand_over(self, event: PartBegin, lent: Lent) -> bool:
        """Whether the library takes what follows."""
        flow, reader, intake = self._flow, self._reader, self._intake
        if flow is None or not isinstance(reader, Parser) or not flow.may_take(intake.principal, intake.study):
            return False
        with suppress(InvalidInput):  # of a type that is none
            if is_dicom(event):
                self.flowing = flow.begin(lent.fd, lent.left, reader.behind, (reader.delimiter, reader.head))
        return self.flowing

    def _flowed(self, lent: Lent, wait_s: float, until: float, most: int) -> int | None:
        """How many bytes the library has received; None where none came for that time. Raises InvalidInput."""
        flow, reader, begun = self._flow, self._reader, self._begun
        assert flow is not None
        assert begun is not None
        assert isinstance(reader, Parser)
        why, taken = flow.run(wait_s, until, most)
        lent.took(flow.came, flow.waited_s)
        self._arrived += taken
        self._passed += len(taken)
        self._file_many()
        if why == structures.LEFT:
            raise lent.lost()
        if why in (structures.QUIET, structures.TURN):
            return None if why == structures.QUIET else flow.came
        self.flowing = False
        within = why != structures.NEXT
        rest, passed, self._passed = flow.handed_back(why), self._passed, 0
        if within:
            self._intake.take(begun)
        self._take(reader.take_back(rest, passed, within=within), lent)
        return flow.came

    def _begin(self, receiving: Receiving) -> Prepared | Failure | Future[Prepared | Failure]:
        if self._preparing is not None:
            self._places.acquire()
            return self._preparing.submit(self._prepare, receiving)
        placed, later = None, self._budget.take(1)
        try:
            made = self._intake.prepare(receiving, later=later)
            if self._flow is not None and not isinstance(made, Failure) and receiving.header is not None:
                self._flow.learn(made, receiving.header)
            placed = None if isinstance(made, Failure) else made.placed
        finally:
            if later and placed is None:
                self._budget.give(1)
        if later and placed is not None:
            self._writing.append(placed)
            if len(self._writing) > WRITING_AT_ONCE:
                self._land()
        return made

    def _land(self) -> None:
        try:
            with suppress(ArchiveError):  # whoever files it is told
                self._writing.popleft().land()
        finally:
            self._budget.give(1)

    def _prepare(self, receiving: Receiving) -> Prepared | Failure:
        try:
            return self._intake.prepare(receiving)
        finally:
            self._places.release()

    def _file_many(self) -> None:
        if len(self._arrived) >= GROUP:
            self._file()

    def _file(self) -> None:
        arrived, self._arrived = self._arrived, []
        usual = [each.result() if isinstance(each, Future) else each for each in arrived if not isinstance(each, Taken)]
        if self._flow is not None and _order_decides(arrived):
            self._flow.leave()  # each waits for those before it
            filed: Iterator[Stored | Failure] = (file(self._archive, [each])[0] for each in usual)
        else:
            filed = iter(file(self._archive, usual))  # first: it begins the series that others join
            if self._flow is not None:
                self._flow.join()
        self._results += [self._became(each) if isinstance(each, Taken) else next(filed) for each in arrived]

    def _became(self, taken: Taken) -> Stored | Failure:
        """What became of one that the library has taken; what could not join goes the usual way."""
        like, uid = taken.likeness.stored, taken.sop_instance_uid
        if taken.error is not None:
            return Failure(like.sop_class_uid, uid, taken.error)
        if taken.joined:
            return Stored(like.sop_class_uid, uid, like.study_instance_uid, like.series_instance_uid, "stored")
        try:
            with self._archive.ingest.again(taken) as receiving:
                return file(self._archive, [self._intake.prepare(receiving)])[0]
        except ArchiveError as error:
            return Failure(like.sop_class_uid, uid, error)


def _order_decides(arrived: Sequence[object]) -> bool:
    """Whether what came the usual way behind one that was taken has its UID, or may reject it."""
    taken = set[str]()
    for each in arrived:
        if isinstance(each, Taken):
            taken.add(each.sop_instance_uid)
        elif taken and isinstance(each, Prepared) and (each.sop_instance_uid in taken or each.rejects is not None):
            return True
    return False


def is_dicom(part: PartBegin) -> bool:
    """Whether a part is a Part 10 file; one that does not say is. Raises InvalidInput for no media type."""
    return parse(part.headers.get("content-type", DICOM))[0] == DICOM


class Single:
    """A body that is one instance, seen as the events of a multipart body with one part."""

    def __init__(self) -> None:
        self._begun = False
        self._room: bytearray | None = None

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that `chunk` completes."""
        if not self._begun:
            self._begun = True
            yield PartBegin({})
        yield memoryview(chunk)

    def room(self) -> memoryview:
        """Memory for the next bytes of the body, to be announced by `filled`."""
        if self._room is None:
            self._room = bytearray(ROOM_BYTES)
        return memoryview(self._room)

    def filled(self, count: int) -> Iterator[Event]:
        """The events that the next `count` bytes complete, which are where `room` said; to be read to their end."""
        if not self._begun:
            self._begun = True
            yield PartBegin({})
        assert self._room is not None
        yield memoryview(self._room)[:count]

    def finish(self) -> Iterator[Event]:
        """The end of the part. Raises InvalidInput for an empty body."""
        if not self._begun:
            raise InvalidInput("the body is empty")
        yield PartEnd()


Reader = Parser | Single


class Intake:
    """The instances of one request on their way in. Blocking; used by one thread at a time, but for `prepare`."""

    def __init__(self, archive: Archive, principal: Principal, study: str | None) -> None:
        """`study` is what the instances are addressed to."""
        self._archive = archive
        self.principal: Final = principal
        self.study: Final = study
        self.seen: Seen | None = None
        """What was stored before, where that is not the thread's business."""
        self._receiving: Receiving | None = None
        self._failure: Failure | None = None

    def take(self, event: Event) -> Receiving | Failure | None:
        """The part that this event completes, if it does.

        Raises TooLarge for an instance beyond the limit, after which nothing may be stored.
        """
        match event:
            case PartBegin():
                self._begin(event)
            case PartEnd():
                return self._end()
            case _:
                self._write(event)
        return None

    def _begin(self, event: PartBegin) -> None:
        self._failure = None
        try:
            if not is_dicom(event):
                raise MalformedDataset("a part that is no application/dicom")
            self._receiving = self._archive.ingest.receive_part10()
        except ArchiveError as error:
            self._fail(error)

    def _write(self, data: memoryview) -> None:
        if self._receiving is None:
            return
        try:
            self._receiving.write(data)
        except TooLarge:
            raise
        except ArchiveError as error:
            self._fail(error)

    def _end(self) -> Receiving | Failure:
        receiving, self._receiving = self._receiving, None
        if receiving is not None:
            return receiving
        assert self._failure is not None
        return self._failure

    def _fail(self, error: ArchiveError) -> None:
        receiving, self._receiving = self._receiving, None
        self._failure = failure(receiving, error)
        if receiving is not None:
            receiving.abort()

    def prepare(self, receiving: Receiving, *, later: bool = False) -> Prepared | Failure:
        """The instance, checked and stored but visible to nobody; or why not. `later` is that of `Ingest.prepare`."""
        try:
            if receiving.header is not None:  # PS3.10 7.1: what File Meta says of the data set has to be true of it
                receiving.header.finish()
                receiving.sop_class_uid = receiving.header.sop_class_uid or None
                receiving.sop_instance_uid = receiving.header.sop_instance_uid or None
            return self._archive.ingest.prepare(
                receiving, principal=self.principal, study_instance_uid=self.study, later=later, seen=self.seen
            )
        except ArchiveError as error:
            receiving.abort()
            return failure(receiving, error)

    def abort(self) -> None:
        """Let go of a part that is not complete."""
        if self._receiving is not None:
            self._receiving.abort()
            self._receiving = None
