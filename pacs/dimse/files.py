"""Part 10 files on their way to a peer, and instances of a peer on their way into files."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pacs import uids
from pacs.decoding import DecodingPool
from pacs.dicom import part10
from pacs.dicom.transcode import transcode_dataset
from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from pacs.dimse.messages import Command
from pacs.dimse.negotiation import Context
from pacs.dimse.sub_operations import TRANSCODED_BYTES, WHOLE_BYTES, Prepared, choose
from pacs.errors import ArchiveError, MalformedDataset, TooLarge, Unavailable

_CHUNK = 4 << 20
_HEADER_BYTES = part10.PREAMBLE_LENGTH + part10.MAX_META_LENGTH + 12


@dataclass(frozen=True, slots=True)
class File:
    """A Part 10 file: what its File Meta says, and where its data set lies."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    offset: int
    size: int


def walk(paths: Iterable[Path]) -> Iterator[Path]:
    """Every file that is named or lies in a named folder, by name; hidden ones and DICOMDIRs are left out."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(each for each in folders if not each.startswith("."))
            yield from (
                Path(folder) / name for name in sorted(names) if not name.startswith(".") and name != "DICOMDIR"
            )


def read(path: Path) -> File:
    """The file at `path`. Raises MalformedDataset where it is none that can be sent, Unavailable if unreadable."""
    try:
        with path.open("rb") as file:
            head = part10.HeaderReader()
            if head.feed(file.read(_HEADER_BYTES)) is None:
                head.finish()
            size = os.fstat(file.fileno()).st_size - head.header_length
    except OSError as error:
        raise Unavailable(f"cannot read {path}: {error.strerror}") from None
    if not uids.is_valid(head.sop_class_uid) or not head.sop_instance_uid:
        raise MalformedDataset("its File Meta names no SOP Class and SOP Instance")
    return File(path, head.sop_class_uid, head.sop_instance_uid, head.transfer_syntax_uid, head.header_length, size)


def prepare(pool: DecodingPool, file: File, accepted: Mapping[str, int]) -> Prepared:
    """The file's data set as the peer takes it: as it is where that can be, else in a native syntax. Never raises."""
    try:
        target = choose(file.transfer_syntax_uid, accepted)
        if target == file.transfer_syntax_uid:
            if file.size > WHOLE_BYTES:
                return Prepared(file, accepted[target], _pieces(file), file.size)
            data = _whole(file)
        elif file.size > TRANSCODED_BYTES:
            raise TooLarge(f"too long to be made over into {TRANSFER_SYNTAXES[target].name}")
        elif TRANSFER_SYNTAXES[file.transfer_syntax_uid].encapsulated:
            data = pool.transcode(_whole(file), file.transfer_syntax_uid, target)
        else:
            data = transcode_dataset(_whole(file), file.transfer_syntax_uid, target)
        return Prepared(file, accepted[target], (data,), len(data))
    except ArchiveError as error:
        return Prepared(file, error=error)
    except OSError as error:
        return Prepared(file, error=Unavailable(f"cannot read the file: {error.strerror}"))


def _whole(file: File) -> bytes:
    return b"".join(_pieces(file))


def _pieces(file: File) -> Iterator[bytes]:
    with file.path.open("rb") as source:
        source.seek(file.offset)
        while piece := source.read(_CHUNK):
            yield piece


class FolderSink:
    """One instance of a C-GET, written as FOLDER/SOP-INSTANCE-UID.dcm; there is no such file until it is whole."""

    OUT_OF_RESOURCES, INVALID_INSTANCE = 0xA700, 0x0117

    def __init__(self, folder: Path, command: Command, context: Context, source_ae: str) -> None:
        self.written = 0
        self._status = 0 if uids.is_valid(command.sop_instance_uid) else self.INVALID_INSTANCE
        self._path = folder / f"{command.sop_instance_uid}.dcm"
        self._part = folder / f".{uuid.uuid4().hex}.part"
        self._file: BinaryIO | None = None
        if self._status == 0:
            head = part10.header(command.sop_class_uid, command.sop_instance_uid, context.transfer_syntax, source_ae)
            self._attempt(lambda: self._open(head))

    def _open(self, head: bytes) -> None:
        self._file = self._part.open("xb")
        self._file.write(head)

    def write(self, piece: memoryview) -> object:
        """Take the next bytes."""
        self.written += len(piece)
        if self._file is not None and self._status == 0:
            file = self._file
            self._attempt(lambda: file.write(piece))
        return None

    def finish(self) -> int:
        """0000H once the file is there under its name."""
        if self._file is not None and self._status == 0:
            self._attempt(self._close)
        if self._status:
            self.abort()
        return self._status

    def _close(self) -> None:
        assert self._file is not None
        self._file.close()
        self._part.replace(self._path)

    def abort(self) -> None:
        """Leave nothing of it."""
        if self._file is not None:
            self._file.close()
            with suppress(OSError):
                self._part.unlink(missing_ok=True)

    def _attempt(self, doing: Callable[[], object]) -> None:
        try:
            doing()
        except OSError:
            self._status = self.OUT_OF_RESOURCES
