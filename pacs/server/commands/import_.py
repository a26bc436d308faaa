"""`m3dicom import`: whole folders of files into the archive, through the running server or, without one, directly."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pacs import settings as settings_module
from pacs.errors import ArchiveError, InvalidInput, OutOfResources, PeerUnreachable, Unavailable
from pacs.server.commands import common

if TYPE_CHECKING:
    from pacs.importing import Counts, Taker, Told
    from pacs.server.commands import Verbs
    from pacs.settings import Settings

THREADS = 4
_TRIES = 4
_TOKEN_S = 30 * 86_400.0  # a migration takes as long as it takes; the token is revoked at its end
_REASONS = {
    0x0110: "the server failed; its log says why",
    0x0111: "other content is stored under this SOP Instance UID; the first stays",
    0xA700: "no space is left, or the archive is busy",
    0xA900: "the data set contradicts what it was sent as",
    0xC000: "the data set cannot be understood",
    0xC122: "the transfer syntax is not supported",
}


def add(verbs: Verbs) -> None:
    """The verb `import`."""
    parser = verbs.add_parser("import", help="store whole folders of DICOM files; run again, it goes on")
    common(parser)
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=Path, help="walked with all that is below")
    parser.add_argument("--report", metavar="FILE", type=Path, help="what was not stored and why, a line each; "
                        "default: m3dicom-import-TIME.tsv in the working folder")  # fmt: skip
    parser.add_argument("--threads", metavar="N", type=int, default=THREADS, help=f"files at one time ({THREADS})")
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    from pacs.server import beside

    settings = settings_module.load(chosen.config, os.environ, {"data": chosen.data})
    for folder in chosen.folders:
        if not folder.exists():
            raise InvalidInput(f"no such folder: {folder}")
    if chosen.threads < 1:
        raise InvalidInput("--threads: at least 1")
    report = chosen.report or Path(f"m3dicom-import-{time.strftime('%Y%m%dT%H%M%S')}.tsv")
    running = beside.running(settings)
    if running:
        name = f"import {os.getpid()}"
        with beside.credentials(settings) as auth:
            token = auth.create_token(name, lifetime_s=_TOKEN_S)
        taker = OverTheWire(str(running["http"]), token)
        try:
            return _import(taker, chosen, report)
        finally:
            taker.close()
            with beside.credentials(settings) as auth:
                auth.revoke_named(name)
    return _directly(settings, chosen, report)


def _directly(settings: Settings, chosen: argparse.Namespace, report: Path) -> int:
    from pacs.archive import open_archive
    from pacs.importing import Direct
    from pacs.server import ground

    with ground.sole_owner(settings):
        archive = open_archive(settings)
        try:
            return _import(Direct(archive.ingest), chosen, report)
        finally:
            archive.close()


def _import(taker: Taker, chosen: argparse.Namespace, report: Path) -> int:
    from pacs.importing import Import
    from pacs.server.progress import Bar

    bar = Bar("files")
    told = 0
    with report.open("w", encoding="utf-8", errors="surrogateescape") as lines:

        def tell(each: Told) -> None:
            nonlocal told
            told += 1
            path = str(each.path).replace("\t", "\\t").replace("\n", "\\n")
            lines.write(f"{each.became}\t{path}\t{each.reason}\n")
            lines.flush()

        running = Import(taker, threads=chosen.threads, tell=tell)
        counts = running.run(chosen.folders, lambda p: bar.show(p.done, p.total, p.bytes, p.refused))
    bar.end()
    if not told:
        report.unlink()
    return _say(counts, report if told else None)


def _say(counts: Counts, report: Path | None) -> int:
    of = counts.of
    print(f"{counts.files} files, {counts.bytes / 1e6:,.1f} MB: {of['stored']} stored, {of['same']} were here already, "
          f"{of['no DICOM']} are no DICOM, {counts.failed} failed.")  # fmt: skip
    if report is not None:
        print(f"What was not stored, and why: {report}")
    if counts.failed:
        print("m3dicom: not everything is stored; mend it and run the same again", file=sys.stderr)
    return 1 if counts.failed else 0


class OverTheWire:
    """Stores by STOW-RS (PS3.18 10.5), one file a request, so that every answer is about one file."""

    def __init__(self, address: str, token: str) -> None:
        self._address = address
        self._token = token
        self._mine = threading.local()
        self._opened: list[http.client.HTTPConnection] = []

    def close(self) -> None:
        """Close every connection."""
        for connection in self._opened:
            connection.close()

    def take(self, pieces: Iterator[bytes], size: int) -> Literal["stored", "same"]:
        """Store one file. "same" is what the server says so of in a header of ours."""
        body = b"".join(pieces) if size <= 64 << 20 else pieces
        for attempt in range(1, _TRIES + 1):
            try:
                status, told, same = self._post(body, size)
                break
            except (OSError, http.client.HTTPException) as error:
                self._mine.connection.close()
                self._mine.connection = None
                if attempt == _TRIES or not isinstance(body, bytes):
                    raise PeerUnreachable(f"the server does not answer: {type(error).__name__}") from error
                time.sleep(0.25 * 2**attempt)
        if status == 200:
            return "same" if same else "stored"
        raise _refusal(status, told)

    def _post(self, body: bytes | Iterator[bytes], size: int) -> tuple[int, bytes, bool]:
        from dicomweb.store_results import SAME_HEADER

        connection = getattr(self._mine, "connection", None)
        if connection is None:
            connection = self._mine.connection = http.client.HTTPConnection(self._address, timeout=300)
            self._opened.append(connection)
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/dicom",
            "Accept": "application/dicom+json",
            "Content-Length": str(size),
        }
        connection.request("POST", "/dicom-web/studies", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader(SAME_HEADER, "0") != "0"


def _refusal(status: int, told: bytes) -> ArchiveError:
    """The reason in words, of a Store Instances Response Module (PS3.18 Annex I.2) or of a problem document."""
    try:
        said: Any = json.loads(told)
    except ValueError:
        said = {}
    codes = [item["00081197"]["Value"][0] for tag in ("00081198", "0008119A")
             for item in said.get(tag, {}).get("Value", ()) if "00081197" in item]  # fmt: skip
    reason = (
        _REASONS.get(codes[0], f"failure reason {codes[0]:04X}H") if codes else said.get("detail") or f"HTTP {status}"
    )
    if status == 507 or 0xA700 in codes:
        return OutOfResources(reason)
    return Unavailable(reason) if status in (429, 500, 502, 503, 504) else InvalidInput(reason)
