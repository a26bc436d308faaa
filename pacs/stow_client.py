"""Deliveries to a DICOMweb root: STOW-RS requests of ours (PS3.18 10.5), and what the answer says of each instance.

The bytes are sent as they are stored, with their length known beforehand, so that any server can take them.
"""

from __future__ import annotations

import http.client
import json
import ssl
import uuid
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pacs.destinations import Destination, Outcome
from pacs.dicom import part10
from pacs.errors import ArchiveError, InvalidInput, PeerFailed, PeerRefused, PeerUnreachable

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.retrieve import InstanceLocation

REQUEST_BYTES = 64 << 20
REQUEST_INSTANCES = 50
TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 16 << 20

REFERENCED, FAILED = "00081199", "00081198"
_SOP_INSTANCE, _FAILURE_REASON = "00081155", "00081197"


class StowCourier:
    """Sends to one DICOMweb root."""

    def __init__(self, archive: Archive, destination: Destination) -> None:
        """Raises InvalidInput where the URL or the token file cannot be used."""
        self._archive = archive
        self._destination = destination
        self._url = urlsplit(destination.to)
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise InvalidInput(f"{destination.to} is no URL of a DICOMweb root")

    def send(self, locations: Sequence[InstanceLocation]) -> Generator[Outcome, None, None]:
        """The outcome of each instance, request by request. Raises PeerUnreachable, PeerRefused and PeerFailed."""
        for batch in _batches(locations):
            yield from self._post(batch)

    def ask_commitment(self, instances: Sequence[tuple[str, str]]) -> str:
        """Never: a DICOMweb root is not asked for storage commitment. Raises PeerRefused."""
        raise PeerRefused("storage commitment is asked over DIMSE only")

    def _post(self, batch: Sequence[InstanceLocation]) -> Iterator[Outcome]:
        boundary = uuid.uuid4().hex
        body = _Body(self._archive, batch, boundary)
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(body.length),
            "Accept": "application/dicom+json",
        }
        if self._destination.token_file:
            headers["Authorization"] = f"Bearer {self._token()}"
        connection = self._connection()
        try:
            connection.request("POST", f"{self._url.path}/studies", body=iter(body), headers=headers)
            answer = connection.getresponse()
            status, raw = answer.status, answer.read(MAX_ANSWER_BYTES)
        except ArchiveError as error:  # an instance that cannot be read: its request is broken off, the others go again
            if body.current is not None:
                yield Outcome(body.current.sop_instance_uid, "refused", error.reason)
            return
        except (OSError, http.client.HTTPException) as error:
            raise PeerUnreachable(f"{self._destination.to}: {type(error).__name__}: {error}") from error
        finally:
            connection.close()
        yield from judged([each.sop_instance_uid for each in batch], status, raw, self._destination.to)

    def _connection(self) -> http.client.HTTPConnection:
        host = self._url.hostname or ""
        if self._url.scheme == "https":
            context = ssl.create_default_context(cafile=self._archive.settings.tls_ca or None)
            return http.client.HTTPSConnection(host, self._url.port, timeout=TIMEOUT_S, context=context)
        return http.client.HTTPConnection(host, self._url.port, timeout=TIMEOUT_S)

    def _token(self) -> str:
        try:
            return Path(self._destination.token_file).read_text().strip()
        except OSError as error:
            raise InvalidInput(f"token file {self._destination.token_file}: {error.strerror}") from error


class _Body:
    """A multipart body that is read from the store while it is sent."""

    def __init__(self, archive: Archive, batch: Sequence[InstanceLocation], boundary: str) -> None:
        self._archive = archive
        self._boundary = boundary.encode()
        self.current: InstanceLocation | None = None
        self._parts: list[tuple[InstanceLocation, bytes | None, int]] = []
        for location in batch:
            if location.overlay is None:
                header = part10.header(
                    location.sop_class_uid, location.sop_instance_uid, location.transfer_syntax_uid, location.source_ae
                )
                self._parts.append((location, None, len(header) + location.size))
            else:  # corrected on the way out: only the whole tells its length
                whole = b"".join(archive.retrieve.part10(location))
                self._parts.append((location, whole, len(whole)))
        self.length = sum(len(self._head(size)) + size + 2 for _, _, size in self._parts) + len(self._tail)

    def _head(self, size: int) -> bytes:
        return b"--%b\r\nContent-Type: application/dicom\r\nContent-Length: %d\r\n\r\n" % (self._boundary, size)

    @property
    def _tail(self) -> bytes:
        return b"--%b--\r\n" % self._boundary

    def __iter__(self) -> Iterator[bytes]:
        for location, whole, size in self._parts:
            self.current = location
            yield self._head(size)
            yield from self._archive.retrieve.part10(location) if whole is None else (whole,)
            yield b"\r\n"
        self.current = None
        yield self._tail


def _batches(locations: Sequence[InstanceLocation]) -> Iterator[list[InstanceLocation]]:
    """The instances in requests of bounded size, at least one in each."""
    batch: list[InstanceLocation] = []
    held = 0
    for location in locations:
        if batch and (held + location.size > REQUEST_BYTES or len(batch) >= REQUEST_INSTANCES):
            yield batch
            batch, held = [], 0
        batch.append(location)
        held += location.size
    if batch:
        yield batch


def judged(uids: Sequence[str], status: int, raw: bytes, where: str) -> Iterator[Outcome]:
    """What an answer says of each instance (PS3.18 Table 10.5.3-1 and Table 10.5.3-2, Annex I).

    Raises PeerRefused where the request as a whole was refused, and PeerFailed where the server failed: such a request
    says nothing about its instances.
    """
    if status in (401, 403):
        raise PeerRefused(f"{where} answers {status}: the token is missing, wrong or lacks the right to store")
    if status >= 500 or status in (408, 429):
        raise PeerFailed(f"{where} answers {status}")
    told = _told(raw)
    taken, failed = _listed(told, REFERENCED), _listed(told, FAILED)
    for uid in uids:
        if uid in failed:
            passing = failed[uid].startswith("A7")  # a lack of resources, as in PS3.4 B.2.3
            reason = f"{where} did not store it: failure reason {failed[uid]}"
            yield Outcome(uid, "later" if passing else "refused", reason)
        elif uid in taken or status == 200:
            yield Outcome(uid, "taken")
        elif status < 300:
            yield Outcome(uid, "later", f"{where} answers {status} and does not mention it")
        else:
            yield Outcome(uid, "refused", f"{where} answers {status}")


def _told(raw: bytes) -> dict[str, Any]:
    try:
        told = json.loads(raw)
    except ValueError:
        return {}
    if isinstance(told, list):
        told = told[0] if told else {}
    return told if isinstance(told, dict) else {}


def _listed(told: dict[str, Any], sequence: str) -> dict[str, str]:
    """SOP Instance UID and Failure Reason (hexadecimal, empty where there is none) of each item of a sequence."""
    found: dict[str, str] = {}
    held = told.get(sequence)
    items = held.get("Value") if isinstance(held, dict) else None
    for item in items if isinstance(items, list) else ():
        uid, reason = (_first(item, tag) for tag in (_SOP_INSTANCE, _FAILURE_REASON))
        if isinstance(uid, str):
            found[uid] = f"{reason:04X}H" if isinstance(reason, int) else "not given"
    return found


def _first(item: Any, tag: str) -> Any:
    held = item.get(tag) if isinstance(item, dict) else None
    values = held.get("Value") if isinstance(held, dict) else None
    return values[0] if isinstance(values, list) and values else None
