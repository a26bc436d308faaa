"""Clients that send as much as they can by C-STORE and STOW-RS while things go wrong, and know what they were promised.

Every instance sent is other bytes; its digest is remembered when it is sent, and the promise when success was answered.
`check` then asks the server, through WADO-RS, for everything of some studies: nothing promised may be missing, and
whatever is there has to be, byte for byte, what was sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import dicom_data
import httpx
from dicomweb_server import multipart, parts
from dimse_client import CT, EXPLICIT, VERIFICATION, Aborted, Association, Rejected

ROOT = "1.2.826.0.1.3680043.8.498.99"
STUDY, SERIES, INSTANCE = (f"{ROOT}.{level}.1000000000" for level in (1, 2, 3))
STOW_PARTS = 4
PAUSE_S = 0.1
"""How long a client waits after it was refused."""

A_STUDY = 24
"""Instances in a study."""
SIZES = (64, 64, 200, 512, 900)
"""Rows and columns of the images sent: 8 kB to 1.6 MB, the last of them spooled to a file on their way in."""


def uid(level: str, number: int) -> str:
    """The UID numbered so; all of a level are equally long."""
    return level[:-10] + str(1_000_000_000 + number)


class Template:
    """One image whose UIDs and first pixels can be exchanged without encoding it again."""

    def __init__(self, size: int) -> None:
        ds = dicom_data.image(
            0, size, size, StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES, SOPInstanceUID=INSTANCE,
        )  # fmt: skip
        self._file = dicom_data.part10(ds)

    def file(self, study: int, number: int) -> bytes:
        """A Part 10 file with these numbers in its UIDs, and pixels of its own."""
        names = ((STUDY, study), (SERIES, study), (INSTANCE, number))
        raw = self._file
        for level, value in names:
            raw = raw.replace(level.encode(), uid(level, value).encode())
        return raw[:-8] + number.to_bytes(8, "little")


def dataset_of(file: bytes) -> bytes:
    """The data set in a Part 10 file."""
    return file[144 + int.from_bytes(file[140:144], "little") :]


class BrokenPromise(AssertionError):
    """The archive does not have what it said it had, or has what nobody sent."""


def promise(kept: bool, words: str) -> None:
    """Nothing, or BrokenPromise."""
    if not kept:
        raise BrokenPromise(words)


@dataclass
class Book:
    """What was sent and what was promised, by SOP Instance UID; safe from any thread."""

    sent: dict[str, str] = field(default_factory=dict)
    studies: dict[str, str] = field(default_factory=dict)
    promised: set[str] = field(default_factory=set)
    answers: dict[str, int] = field(default_factory=dict)
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The study and number of each instance, from which its bytes can be made again."""

    def answered(self, what: str) -> None:
        """Count an answer that was no success."""
        self.answers[what] = self.answers.get(what, 0) + 1


class Load:
    """Clients of one server; `stop` and start again as often as wanted, the book goes on."""

    def __init__(self, *, dimse: int = 2, stow: int = 1, sizes: tuple[int, ...] = SIZES, first: int = 0) -> None:
        """`first` is the number of the first instance and study: loads on one server need numbers of their own."""
        self.book = Book()
        self._clients = (dimse, stow)
        self._templates = [Template(size) for size in sizes]
        self._numbers = itertools.count(first)
        self._studies = itertools.count(first)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._round: set[str] = set()
        self.failed: list[BaseException] = []
        self._stored: list[tuple[float, float]] = []

    def start(self, dimse: tuple[str, int], dicomweb: str, token: str) -> None:
        """Begin to send."""
        self._stop.clear()
        self._round = set()
        self._stored = []
        visits: list[Callable[[], None]] = [lambda: self._dimse(dimse)] * self._clients[0]
        visits += [lambda: self._stow(dicomweb, token)] * self._clients[1]
        self._threads = [threading.Thread(target=self._forever, args=(visit,), daemon=True) for visit in visits]
        for thread in self._threads:
            thread.start()

    def stop(self) -> set[str]:
        """Send nothing more; the UIDs of the studies that were sent to since `start`."""
        self._stop.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive(), "a client still waits for its answer"
        assert not self.failed, repr(self.failed[0])
        return self._round

    def wait(self, promised: int, within_s: float = 60) -> None:
        """Return once so many more instances were promised."""
        until, goal = time.monotonic() + within_s, len(self.book.promised) + promised
        while len(self.book.promised) < goal:
            assert time.monotonic() < until, f"{len(self.book.promised)} of {goal} stored; {self.book.answers}"
            time.sleep(0.02)

    def first_store(self, since: float) -> float | None:
        """When the first C-STORE was answered whose association began after `since`; None while none is."""
        return min((answered for began, answered in list(self._stored) if began > since), default=None)

    def _forever(self, visit: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                visit()
            except (OSError, Aborted, Rejected, httpx.HTTPError) as error:
                self.book.answered(type(error).__name__)
                self._stop.wait(PAUSE_S)
            except BaseException as error:
                self.failed.append(error)
                raise

    def new(self, study: int) -> tuple[str, bytes]:
        """The SOP Instance UID and the bytes of an instance that nobody has sent, in the book as sent."""
        number = next(self._numbers)
        file = self._template(study).file(study, number)
        name = uid(INSTANCE, number)
        self.book.files[name] = (study, number)
        self.book.studies[name] = uid(STUDY, study)
        self.book.sent[name] = hashlib.sha256(dataset_of(file)).hexdigest()
        self._round.add(uid(STUDY, study))
        return name, file

    def series(self, name: str) -> str:
        """The Series Instance UID of this instance."""
        return uid(SERIES, self.book.files[name][0])

    def file(self, name: str) -> bytes:
        """The file that was sent under this SOP Instance UID."""
        study, number = self.book.files[name]
        return self._template(study).file(study, number)

    def _template(self, study: int) -> Template:
        """What the images of a study are like: all of one size, as an archive gets them."""
        return self._templates[study % len(self._templates)]

    def _dimse(self, address: tuple[str, int]) -> None:
        contexts = ((CT, (EXPLICIT,)), (VERIFICATION, ("1.2.840.10008.1.2",)))
        began = time.monotonic()
        with Association(address, contexts=contexts, timeout=60) as assoc:
            study = next(self._studies)
            for _ in range(A_STUDY):
                if self._stop.is_set():
                    return
                name, file = self.new(study)
                answer = assoc.store(CT, name, dataset_of(file))
                if (status := answer[0x0900]) == 0:
                    self.book.promised.add(name)
                    self._stored.append((began, time.monotonic()))
                else:
                    self.book.answered(f"{status:04X}H" if answer.get(0x0902) else f"{status:04X}H without words")
                    self._stop.wait(PAUSE_S)

    def _stow(self, dicomweb: str, token: str) -> None:
        with httpx.Client(base_url=dicomweb, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
            study = next(self._studies)
            for _ in range(A_STUDY // STOW_PARTS):
                if self._stop.is_set():
                    return
                files = dict(self.new(study) for _ in range(STOW_PARTS))
                self.post(client, list(files.values()))

    def post(self, client: httpx.Client, files: list[bytes]) -> httpx.Response:
        """The answer to a STOW-RS request, written into the book."""
        answer = client.post(
            "/studies", content=multipart(files, "frontier"),
            headers={"Content-Type": 'multipart/related; type="application/dicom"; boundary=frontier'},
        )  # fmt: skip
        if answer.status_code in (200, 202):
            stored = answer.json()["00081199"]["Value"]
            self.book.promised |= {item["00081155"]["Value"][0] for item in stored}
        if answer.status_code != 200:
            self.book.answered(str(answer.status_code))
            self._stop.wait(PAUSE_S)
        return answer

    def resend(self, client: httpx.Client, names: Collection[str]) -> None:
        """Send these again, all of which has to succeed."""
        for batch in itertools.zip_longest(*[iter(sorted(names))] * STOW_PARTS):
            answer = self.post(client, [self.file(name) for name in batch if name])
            assert answer.status_code == 200, f"{answer.status_code} {answer.text[:300]}"


def visible(client: httpx.Client, study: str) -> dict[str, str]:
    """SOP Instance UID and digest of everything that WADO-RS gives of a study, in the syntax it is stored in."""
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    answer = client.get(f"/studies/{study}", headers={"Accept": accept})
    if answer.status_code == 404:
        return {}
    promise(answer.status_code == 200, f"{answer.status_code} {answer.text[:300]}")
    found = {}
    for _, content in parts(answer):
        dataset = dataset_of(content)
        at = dataset.index(b"\x08\0\x18\0UI") + 8
        length = int.from_bytes(dataset[at - 2 : at], "little")
        found[dataset[at : at + length].rstrip(b"\0").decode()] = hashlib.sha256(dataset).hexdigest()
    return found


@dataclass(frozen=True)
class _Seen:
    """What the doors say of one study, asked one after the other."""

    content: dict[str, str]
    listed: list[str]
    described: frozenset[str]
    counted: int

    @property
    def agrees(self) -> bool:
        """Whether all say the same."""
        names = sorted(self.content)
        return self.listed == names == sorted(self.described) and self.counted == len(names)


def _seen(client: httpx.Client, study: str) -> _Seen:
    """What every door says; where they disagree, what they go on to say while nothing changes any more.

    What was on its way when its process was killed may be filed while we look: it was promised to nobody.
    """
    before: _Seen | None = None
    while True:
        content, listed = visible(client, study), sorted(_listed(client, study))
        metadata = client.get(f"/studies/{study}/metadata")
        promise(metadata.status_code in (200, 404), f"metadata: {metadata.status_code} {metadata.text[:300]}")
        described = metadata.json() if metadata.status_code == 200 else []
        rows = client.get("/studies", params={"StudyInstanceUID": study})
        counted = rows.json()[0]["00201208"]["Value"][0] if rows.status_code == 200 else 0
        seen = _Seen(content, listed, frozenset(each["00080018"]["Value"][0] for each in described), counted)
        if seen.agrees or seen == before:
            return seen
        before = seen


def check(client: httpx.Client, book: Book, studies: Collection[str] | None = None) -> int:
    """How many instances there are in these studies (all of the book). Raises BrokenPromise.

    Everything promised is there, all that is there are the bytes that were sent, and its metadata can be read.
    """
    count = 0
    wanted = set(book.studies.values()) if studies is None else set(studies)
    promised = {name for name in book.promised if book.studies[name] in wanted}
    for study in sorted(wanted):
        seen = _seen(client, study)
        for name, digest in seen.content.items():
            promise(book.sent.get(name) == digest, f"{name} is there with other bytes than were sent")
        said = f"{len(seen.content)} can be read, {len(seen.described)} described; the study counts {seen.counted}"
        promise(seen.agrees, f"{study}: {len(seen.listed)} instances are listed, {said}")
        count += len(seen.content)
        promised -= seen.content.keys()
    promise(not promised, f"{len(promised)} instances were acknowledged and are gone: {sorted(promised)[:3]}")
    return count


def _listed(client: httpx.Client, study: str) -> list[str]:
    """The SOP Instance UIDs that a search finds in a study."""
    answer = client.get(f"/studies/{study}/instances", params={"includefield": "all"})
    return [each["00080018"]["Value"][0] for each in answer.json()] if answer.status_code == 200 else []


def wait_until(condition: Callable[[], bool], what: str, within_s: float = 60) -> None:
    """Return once `condition` holds."""
    until = time.monotonic() + within_s
    while True:
        with contextlib.suppress(OSError, httpx.HTTPError):
            if condition():
                return
        assert time.monotonic() < until, what
        time.sleep(0.05)
