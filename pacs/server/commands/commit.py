"""`m3dicom commit`: ask another AE whether it has instances safe (Storage Commitment), and wait for its answer."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pacs.server import peers

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.commitment import Commitment, Commitments
    from pacs.index.engine import Index
    from pacs.server.commands import Verbs
    from pacs.settings import AE, Settings

POLL_S = 0.2


def add(verbs: Verbs) -> None:
    """Add the verb."""
    commit = verbs.add_parser("commit", help="ask another AE whether it has instances safe (Storage Commitment)")
    peers.options(commit)
    for name in ("study", "series", "instance"):
        commit.add_argument(f"--{name}", action="append", default=[], metavar="UID", help=f"{name} of our archive")
    commit.add_argument("--wait", type=float, default=60.0, metavar="S", help="seconds to wait for the report")
    commit.add_argument(
        "--listen", metavar="HOST:PORT", help="take the report here, where no server of ours runs to take it"
    )
    commit.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="Part 10 files, and folders of them")
    commit.set_defaults(run=_commit)


@dataclass(frozen=True)
class _Beside:
    """What a request needs of an archive whose server runs in another process: the report may come to its door."""

    settings: Settings
    index: Index
    commitments: Commitments


def _commit(chosen: argparse.Namespace) -> int:
    from pacs.dimse import commit_scu
    from pacs.errors import InvalidInput

    settings = peers.settings(chosen)
    if bool(chosen.paths) == bool(chosen.study or chosen.series or chosen.instance):
        raise InvalidInput("say what is asked about: --study, --series or --instance of our archive, or files")
    ae = _asked(chosen, settings)
    with _archive(chosen, settings, ae) as archive:
        instances = _of_files(chosen.paths) if chosen.paths else _of_archive(chosen, archive)
        if not instances:
            print("m3dicom: there is nothing to ask about", file=sys.stderr)
            return peers.FAILED
        # A while on the association of the request; then the report comes on one that the peer opens, if it can
        begun = time.monotonic()
        here = min(chosen.wait, 5.0) if _door(chosen, archive) else chosen.wait
        number = commit_scu.request(archive, ae, instances, wait_s=here)
        found = archive.commitments.outcome(number, ae.title.strip())
        while found is not None and found.state == "asked" and time.monotonic() - begun < chosen.wait:
            time.sleep(POLL_S)
            found = archive.commitments.outcome(number, ae.title.strip())
    return _tell(found, ae.title.strip(), len(instances))


def _asked(chosen: argparse.Namespace, settings: Settings) -> AE:
    from pacs.errors import NotFound
    from pacs.settings import AE

    if "@" in chosen.to:
        remote = peers.remote(chosen, settings)
        return AE(remote.title, host=remote.host, port=remote.port, tls=chosen.tls)
    for ae in settings.aes:
        if ae.title.strip() == chosen.to.strip() and ae.host and ae.port:
            return ae
    raise NotFound("no AE of this title with host and port is configured")


def _door(chosen: argparse.Namespace, archive: Archive) -> bool:
    """Whether a report can reach us on an association that the peer opens."""
    return bool(chosen.listen) or isinstance(archive, _Beside)


@contextmanager
def _archive(chosen: argparse.Namespace, settings: Settings, ae: AE) -> Iterator[Archive]:
    """The archive that the request is noted in: ours, or a passing one where only files are asked about."""
    import tempfile

    from pacs.archive import open_archive
    from pacs.auth import Auth
    from pacs.commitment import Commitments
    from pacs.dimse.acceptor import serve
    from pacs.errors import InvalidInput
    from pacs.index.engine import open_index
    from pacs.server import beside, doors

    if beside.running(settings):
        if chosen.listen:
            raise InvalidInput("a server of ours runs and takes the report: --listen is not needed")
        index = open_index(settings.index_url)
        try:
            yield cast("Archive", _Beside(settings, index, Commitments(index)))
        finally:
            index.close()
        return
    with tempfile.TemporaryDirectory(prefix="m3dicom-") as passing:
        if chosen.paths:
            settings = replace(settings, data=Path(passing), objects="memory", index="sqlite")
        settings = replace(settings, aes=(ae,))  # nobody else has to call while we listen
        opened = open_archive(settings)
        archive = opened.with_services(auth=Auth(opened.index, settings.aes))
        acceptor = None
        try:
            if chosen.listen:
                door = doors.parse(chosen.listen, "listen")
                try:
                    acceptor = serve(archive, host=door.host, port=door.port, ae_title=settings.aet)
                except OSError as error:
                    raise InvalidInput(f"cannot listen on {door}: {error.strerror}") from error
            yield archive
        finally:
            if acceptor is not None:
                acceptor.close()
            archive.close()


def _of_files(paths: list[Path]) -> list[tuple[str, str]]:
    from pacs.dimse import files
    from pacs.errors import ArchiveError

    found = dict[tuple[str, str], None]()
    for path in files.walk(paths):
        try:
            file = files.read(path)
        except ArchiveError as error:
            print(f"m3dicom: {path} is left out: {error}", file=sys.stderr)
        else:
            found[file.sop_class_uid, file.sop_instance_uid] = None
    return list(found)


def _of_archive(chosen: argparse.Namespace, archive: Archive) -> list[tuple[str, str]]:
    from pacs.auth import SYSTEM
    from pacs.dicom.attributes import Level
    from pacs.selection import Selection, locate

    selection = Selection(Level.IMAGE, "", tuple(chosen.study), tuple(chosen.series), tuple(chosen.instance))
    return [(each.sop_class_uid, each.sop_instance_uid) for each in locate(archive.index, SYSTEM, selection)]


def _tell(found: Commitment | None, title: str, total: int) -> int:
    """Print the verdict; the exit status."""
    if found is None or found.state == "asked":
        print(f"m3dicom: {title} took the request and has not reported yet", file=sys.stderr)
        return peers.FAILED
    failed = [item for item in found.items if item.failure != ""]
    for item in failed:
        print(f"m3dicom: {item.sop_instance_uid}: {item.failure or 'not mentioned in the report'}", file=sys.stderr)
    print(f"{total - len(failed)} of {total} instances committed by {title}")
    if not failed:
        return peers.DONE
    return peers.SOME_FAILED if len(failed) < total else peers.FAILED
