"""`m3dicom get`: fetch something from another AE, into a folder or into our own archive."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacs.server import peers
from pacs.server.commands.move import PRIORITIES, outcome, selection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pacs.dicom.attributes import Level
    from pacs.dimse.messages import Command
    from pacs.dimse.negotiation import Context
    from pacs.dimse.requestor import Remote, Requestor, Sink
    from pacs.server.commands import Verbs
    from pacs.settings import Settings

    Receive = Callable[[Command, Context], Sink]

COMMON = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")


def add(verbs: Verbs) -> None:
    """Add the verb."""
    get = verbs.add_parser("get", help="fetch instances from another AE (C-GET) into a folder or our archive")
    peers.options(get)
    get.add_argument("--out", type=Path, metavar="DIR", help="folder for Part 10 files; default: the archive on --data")
    get.add_argument("--sop-class", action="append", default=[], metavar="UID", help="expect this SOP class; often")
    selection(get)
    get.set_defaults(run=_get)


def _get(chosen: argparse.Namespace) -> int:
    from pacs.dimse import queries
    from pacs.dimse.requestor import Requestor
    from pacs.dimse.upper_layer import Role
    from pacs.errors import InvalidInput

    level, keys = queries.unique_keys(chosen.patient, chosen.study, chosen.series, chosen.instance)
    if chosen.out is None and chosen.data is None and chosen.config is None:
        raise InvalidInput("say where to: --out FOLDER, or --data or --config of the archive")
    settings = peers.settings(chosen)
    remote = peers.remote(chosen, settings)
    waits = peers.timeouts(chosen)
    model = queries.model(level, queries.GET, patient_root=chosen.patient_root)
    classes = chosen.sop_class or _classes(chosen, settings, remote, level, keys)
    contexts = [(model, list(COMMON)), *proposals(classes)]
    roles = [Role(uid, scu=False, scp=True) for uid in dict.fromkeys(each[0] for each in contexts[1:])]
    with (
        Requestor.open(remote, settings.aet, contexts, roles=roles, timeouts=waits) as assoc,
        _Receiver(chosen.out, settings, remote) as receive,
    ):
        return _follow(assoc, chosen, model, level, keys, receive)


def _follow(
    assoc: Requestor, chosen: argparse.Namespace, model: str, level: Level, keys: dict[str, str], receive: Receive
) -> int:
    from pacs.dimse import queries

    context = assoc.context(model)
    identifier = queries.identifier(level, keys, context.transfer_syntax)
    replies = assoc.get(context, identifier, receive, PRIORITIES[chosen.priority])
    return outcome(replies, assoc.remote, context.transfer_syntax)


def _classes(
    chosen: argparse.Namespace, settings: Settings, remote: Remote, level: Level, keys: dict[str, str]
) -> list[str]:
    """The SOP classes that the peer says are there; none where it does not say."""
    from contextlib import closing

    from pacs.dicom import json_model
    from pacs.dicom.attributes import Level
    from pacs.dimse import queries
    from pacs.dimse.identifiers import UNIQUE_KEYS
    from pacs.dimse.requestor import Requestor
    from pacs.errors import ArchiveError

    ask = Level.STUDY if level is Level.PATIENT else level
    name = {Level.STUDY: "SOPClassesInStudy", Level.SERIES: "SOPClassesInStudy"}.get(ask, "SOPClassUID")
    ask = Level.STUDY if ask is Level.SERIES else ask
    above = {UNIQUE_KEYS[each] for each in (Level.PATIENT, Level.STUDY)}
    wanted = {tag: value for tag, value in keys.items() if ask is Level.IMAGE or tag in above} | {name: ""}
    model = queries.model(level, queries.FIND, patient_root=chosen.patient_root)
    found = dict[str, None]()
    try:
        with Requestor.open(remote, settings.aet, [(model, list(COMMON))], timeouts=peers.timeouts(chosen)) as assoc:
            context = assoc.context(model)
            identifier = queries.identifier(ask, wanted, context.transfer_syntax)
            with closing(assoc.find(context, identifier)) as replies:
                for reply in replies:
                    row = queries.decoded(reply.dataset, context.transfer_syntax)
                    found.update(dict.fromkeys(uid for uid in json_model.texts(row, queries.tag(name)) if uid))
    except ArchiveError as error:
        print(f"m3dicom: {error}; every SOP class is proposed", file=sys.stderr)
        return []
    return list(found)


def proposals(classes: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The storage contexts to propose: for few classes each transfer syntax apart, so that all comes as stored."""
    from pacs.dicom.sop_classes import STORAGE_SOP_CLASSES
    from pacs.dicom.transfer_syntaxes import TABLE
    from pacs.dimse.upper_layer import MAX_CONTEXTS

    room = MAX_CONTEXTS - 1
    wanted = list(classes) or list(STORAGE_SOP_CLASSES)
    if len(wanted) > room:
        print(f"m3dicom: {room} of {len(wanted)} SOP classes are proposed; --sop-class says which", file=sys.stderr)
        wanted = wanted[:room]
    syntaxes = [*COMMON, *(row.uid for row in TABLE if row.encapsulated and not row.video and row.codec)]
    syntaxes += [row.uid for row in TABLE if row.uid not in syntaxes]
    each = room // len(wanted)
    if each == 1:
        return [(uid, list(COMMON)) for uid in wanted]
    return [(uid, [syntax]) for syntax in syntaxes[:each] for uid in wanted]


class _Receiver:
    """Gives a sink for each instance: a file in a folder, or an arrival in our archive."""

    def __init__(self, folder: Path | None, settings: Settings, remote: Remote) -> None:
        self._folder = folder
        self._settings = settings
        self._remote = remote
        self._archive: Any = None

    def __enter__(self) -> _Receiver:
        from pacs.archive import open_archive
        from pacs.errors import InvalidInput, Unavailable
        from pacs.server import beside

        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise Unavailable(f"cannot use {self._folder}: {error.strerror}") from None
            return self
        if beside.running(self._settings):
            instead = f"`m3dicom move --destination {self._settings.aet}`"
            raise InvalidInput(f"a server runs on {self._settings.data}; use {instead}, or --out")
        self._archive = open_archive(self._settings)
        return self

    def __exit__(self, *of: object) -> None:
        if self._archive is not None:
            self._archive.close()

    def __call__(self, command: Command, context: Context) -> Sink:
        from pacs.dimse.files import FolderSink

        if self._folder is not None:
            return FolderSink(self._folder, command, context, self._remote.title)
        return _ArchiveSink(self._archive, command, context, self._remote.title)


class _ArchiveSink:
    """One instance on its way into our archive, as if the peer had sent it to our door."""

    def __init__(self, archive: Any, command: Command, context: Context, source_ae: str) -> None:
        from pacs.auth import Principal, Right
        from pacs.dimse.operation import Peer
        from pacs.dimse.store_scp import StoreOperation

        principal = Principal(source_ae, "ae", frozenset({Right.STORE}))
        peer = Peer(archive, principal, archive.settings.aet, source_ae)
        self._operation = StoreOperation(peer, context, command)

    def write(self, piece: memoryview) -> object:
        """Take the next bytes."""
        self._operation.write(piece)
        return None

    def finish(self) -> int:
        """0000H once the instance is durable."""
        (response,) = self._operation.finish(lambda: False)
        return response.status

    def abort(self) -> None:
        """Leave nothing of it."""
        self._operation.abort()
