"""Where earlier studies come from: a PACS by C-FIND and C-MOVE to ourselves, or a DICOMweb root by QIDO and WADO."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode, urlsplit

from pacs.auth import ALL_RIGHTS, Principal
from pacs.destinations import Destination
from pacs.dicom import json_model
from pacs.dicom.attributes import Level
from pacs.errors import DuplicateInstance, InvalidInput, PeerFailed, PeerRefused, PeerUnreachable

if TYPE_CHECKING:
    from pacs.archive import Archive

TIMEOUT_S = 120.0
MOST_ANSWERS = 500
MAX_ANSWER_BYTES = 16 << 20
_CHUNK = 1 << 16
_STUDY, _DATE, _TIME, _MODALITIES, _ISSUER = "0020000D", "00080020", "00080030", "00080061", "00100021"


@dataclass(frozen=True)
class Earlier:
    """A study that a source offers: date and time as DA and TM say them."""

    study_instance_uid: str
    date: str
    time: str
    modalities: frozenset[str]


class Source(Protocol):
    """Somebody who may have earlier studies."""

    def earlier(self, patient_id: str, issuer: str, since: str, until: str) -> list[Earlier]:
        """The patient's studies with a Study Date from `since` to `until`. Raises ArchiveError."""

    def fetch(self, study_instance_uid: str, scope: str) -> int:
        """How many instances of the study came, or are here already. Raises ArchiveError."""


def source(archive: Archive, destination: Destination) -> Source:
    """The source at a configured destination."""
    return WebSource(archive, destination) if destination.is_web else DimseSource(archive, destination.to)


def _offered(found: dict[str, Any], issuer: str) -> Earlier | None:
    """What an answer says; None where it names no study, or says that another institution gave the Patient ID."""
    uid = json_model.text(found, _STUDY)
    said = json_model.text(found, _ISSUER) or ""
    if not uid or (said and issuer and said != issuer):
        return None
    modalities = frozenset(json_model.texts(found, _MODALITIES))
    return Earlier(uid, json_model.text(found, _DATE) or "", json_model.text(found, _TIME) or "", modalities)


def _exact(patient_id: str) -> str:
    """A Patient ID as a key that matches it alone. Raises InvalidInput where wildcards make that impossible."""
    if any(char in patient_id for char in "*?\\"):
        raise InvalidInput("the Patient ID has characters that are wildcards in a query")
    return patient_id


class DimseSource:
    """A configured AE (PS3.4 C.4.1, C.4.2). It has to know our AE title and where we listen."""

    def __init__(self, archive: Archive, title: str) -> None:
        self._archive = archive
        self._title = title

    def earlier(self, patient_id: str, issuer: str, since: str, until: str) -> list[Earlier]:
        """The patient's studies, by one C-FIND."""
        from pacs.dimse import queries
        from pacs.dimse.negotiation import EXPLICIT_LE, IMPLICIT_LE

        keys = {
            "PatientID": _exact(patient_id), "StudyDate": f"{since}-{until}", "StudyTime": "", "ModalitiesInStudy": "",
            "IssuerOfPatientID": "", "StudyInstanceUID": "",
        }  # fmt: skip
        model = queries.model(Level.STUDY, queries.FIND)
        made = []
        with self._open(model, [EXPLICIT_LE, IMPLICIT_LE]) as assoc:
            context = assoc.context(model)
            wanted = queries.identifier(Level.STUDY, keys, context.transfer_syntax)
            with closing(assoc.find(context, wanted)) as replies:
                for reply in replies:
                    if not reply.pending:
                        if reply.status != 0:
                            raise PeerFailed(f"{assoc.remote} ends the query with {reply.words}")
                        break
                    found = _offered(queries.decoded(reply.dataset, context.transfer_syntax), issuer)
                    if found is not None:
                        made.append(found)
                    if len(made) == MOST_ANSWERS:
                        break
        return made

    def fetch(self, study_instance_uid: str, scope: str) -> int:
        """Let the AE send the study to us by C-MOVE; it comes through our own acceptor."""
        from pacs.dimse import queries
        from pacs.dimse.messages import Tag
        from pacs.dimse.negotiation import EXPLICIT_LE, IMPLICIT_LE

        model = queries.model(Level.STUDY, queries.MOVE)
        with self._open(model, [EXPLICIT_LE, IMPLICIT_LE]) as assoc:
            context = assoc.context(model)
            keys = {"StudyInstanceUID": study_instance_uid}
            wanted = queries.identifier(Level.STUDY, keys, context.transfer_syntax)
            final = None
            for reply in assoc.move(context, wanted, self._archive.settings.aet.strip()):
                final = reply
            if final is None or final.pending:
                raise PeerFailed(f"{assoc.remote} does not say how the retrieval ended")
            came: int = final.count(Tag.COMPLETED_SUB_OPERATIONS) + final.count(Tag.WARNING_SUB_OPERATIONS)
            if not came and final.status != 0:
                raise PeerFailed(f"{assoc.remote} ends the retrieval with {final.words}")
            return came

    def _open(self, model: str, syntaxes: list[str]) -> Any:
        from pacs.dimse import remotes
        from pacs.dimse.requestor import Requestor, Timeouts

        settings = self._archive.settings
        remote = remotes.known(settings, self._title)
        return Requestor.open(
            remote, settings.aet.strip(), [(model, syntaxes)], timeouts=Timeouts(response_s=TIMEOUT_S)
        )


class WebSource:
    """A DICOMweb root (PS3.18 10.4, 10.6)."""

    def __init__(self, archive: Archive, destination: Destination) -> None:
        self._archive = archive
        self._destination = destination
        self._url = urlsplit(destination.to)

    def earlier(self, patient_id: str, issuer: str, since: str, until: str) -> list[Earlier]:
        """The patient's studies, by one QIDO-RS search."""
        query = urlencode({
            "PatientID": _exact(patient_id), "StudyDate": f"{since}-{until}", "limit": MOST_ANSWERS,
            "includefield": "00080061,00100021",
        })  # fmt: skip
        made = (_offered(each, issuer) for each in self._json(f"/studies?{query}"))
        return [each for each in made if each is not None]

    def fetch(self, study_instance_uid: str, scope: str) -> int:
        """Retrieve the study instance by instance, and store each."""
        principal = Principal("m3dicom", "system", ALL_RIGHTS, scope)
        came = 0
        for each in self._json(f"/studies/{study_instance_uid}/instances"):
            series, instance = json_model.text(each, "0020000E"), json_model.text(each, "00080018")
            if series and instance:
                path = f"/studies/{study_instance_uid}/series/{series}/instances/{instance}"
                came += self._store(path, principal)
        return came

    def _store(self, path: str, principal: Principal) -> bool:
        ingest = self._archive.ingest
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        with self._get(path, accept) as answer, ingest.receive_part10() as receiving:
            for chunk in first_part(answer, str(answer.headers.get("Content-Type"))):
                receiving.write(chunk)
            with contextlib.suppress(DuplicateInstance):  # here already: as good as fetched
                ingest.store(receiving, principal=principal)
        return True

    def _json(self, path: str) -> list[dict[str, Any]]:
        with self._get(path, "application/dicom+json") as answer:
            raw = answer.read(MAX_ANSWER_BYTES)
        try:
            found = json.loads(raw) if raw else []
        except ValueError:
            raise PeerFailed(f"{self._destination.to} answers with what is no JSON") from None
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []

    def _get(self, path: str, accept: str) -> _Answer:
        host = self._url.hostname or ""
        headers = {"Accept": accept}
        if self._destination.token_file:
            try:
                headers["Authorization"] = f"Bearer {Path(self._destination.token_file).read_text().strip()}"
            except OSError as error:
                raise InvalidInput(f"token file {self._destination.token_file}: {error.strerror}") from error
        connection: http.client.HTTPConnection
        if self._url.scheme == "https":
            context = ssl.create_default_context(cafile=self._archive.settings.tls_ca or None)
            connection = http.client.HTTPSConnection(host, self._url.port, timeout=TIMEOUT_S, context=context)
        else:
            connection = http.client.HTTPConnection(host, self._url.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", f"{self._url.path}{path}", headers=headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise PeerUnreachable(f"{self._destination.to}: {type(error).__name__}") from error
        if answer.status not in (200, 204):
            connection.close()
            refused = answer.status in (401, 403)
            raise (PeerRefused if refused else PeerFailed)(f"{self._destination.to} answers {answer.status}")
        return _Answer(connection, answer)


class _Answer:
    """The body of an answer; the connection ends with it."""

    def __init__(self, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._answer = answer
        self.headers = answer.headers

    def read(self, most: int) -> bytes:
        """At most so many bytes, b"" at the end. Raises PeerUnreachable."""
        try:
            return self._answer.read(most)
        except (OSError, http.client.HTTPException) as error:
            raise PeerUnreachable(f"the answer breaks off: {type(error).__name__}") from error

    def __enter__(self) -> _Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def first_part(answer: Any, content_type: str) -> Iterator[bytes]:
    """The body of the first part of a multipart answer, piece by piece. Raises PeerFailed for what is none."""
    boundary = http.client.HTTPMessage()
    boundary["Content-Type"] = content_type
    named = boundary.get_boundary()
    if not named:
        raise PeerFailed(f"an answer of {content_type.partition(';')[0]!r} where multipart/related was asked for")
    mark = b"--" + named.encode("latin-1")
    held = b""
    while b"\r\n\r\n" not in held:
        chunk = answer.read(_CHUNK)
        if not chunk or len(held) > _CHUNK:
            raise PeerFailed("an answer without a part")
        held += chunk
    if mark not in held.partition(b"\r\n\r\n")[0]:
        raise PeerFailed("a part that its boundary does not begin")
    held = held.partition(b"\r\n\r\n")[2]
    end = b"\r\n" + mark
    while True:
        at = held.find(end)
        if at >= 0:
            yield held[:at]
            return
        if len(held) > len(end):
            yield held[: -len(end)]
            held = held[-len(end) :]
        chunk = answer.read(_CHUNK)
        if not chunk:
            raise PeerFailed("an answer that breaks off within its part")
        held += chunk
