"""A command as a plug-in: a folder with `plugin.toml` and an executable or the command line of a container.

Files go in and files come out (docs/plug-ins.md); the host does the rest as for any plug-in: rules, limits, cancelling,
DICOM encoding, provenance, UIDs. The command runs under `analysis.command_guard`, which ends all that it started.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import select
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.format import open_memmap
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from analysis.api import (
    Cancelled,
    Code,
    Context,
    ImageFindings,
    LabelMap,
    Manifest,
    Mark,
    Measurement,
    NotAnalysable,
    OperatingPoint,
    Params,
    Segment,
    SegmentMeasurements,
    Volume,
    VolumeReport,
)
from pacs.errors import InvalidInput

FILE = "plugin.toml"
REFUSED = 65
"""Exit status (EX_DATAERR of sysexits.h) of a command that refuses its input; its last words say why."""

TAIL_BYTES = 600
LOOK_S = 0.1

_POINTS: Mapping[str, tuple[int, float]] = {"point": (1, 1), "circle": (2, 2), "polygon": (3, math.inf)}
_NOT_AS_TOLD = (
    LookupError, TypeError, ValueError, ArithmeticError, AttributeError, EOFError, OSError, RecursionError,
)  # fmt: skip
_TYPES: Mapping[str, Any] = {"number": float, "integer": int, "boolean": bool, "string": str}


class CommandFailed(Exception):
    """The command ended without a result; `words` are its last ones, for a person to read."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


class _Parameter(BaseModel):
    """A parameter in `plugin.toml`."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["number", "integer", "boolean", "string"] = "number"
    default: float | int | bool | str
    minimum: float | None = None
    maximum: float | None = None
    choices: list[str] | None = None
    title: str = ""
    description: str = ""
    unit: str = ""


class _Segment(BaseModel):
    """A segment in `plugin.toml`; codes are [value, scheme, meaning]."""

    model_config = ConfigDict(extra="forbid")

    number: int = Field(ge=1, le=255)
    label: str
    category: tuple[str, str, str] = ("91723000", "SCT", "Anatomical Structure")
    type: tuple[str, str, str]
    colour: tuple[int, int, int] = (222, 205, 176)

    def made(self) -> Segment:
        """As the host knows it."""
        return Segment(self.number, self.label, Code(*self.category), Code(*self.type), self.colour)


class _Written(Manifest):
    """All of `plugin.toml`: the manifest, and how the command is called."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: tuple[str, ...] = Field(min_length=1)
    stop: tuple[str, ...] = ()
    segments: tuple[_Segment, ...] = ()
    parameters: dict[str, _Parameter] = Field(default_factory=dict)


class CommandPlugin:
    """The plug-in in a folder."""

    def __init__(self, folder: Path) -> None:
        """Read it. Raises InvalidInput in words."""
        self.folder = folder.resolve()
        try:
            written = _Written.model_validate(tomllib.loads((self.folder / FILE).read_text()))
            self.params = _params(written)
        except OSError as error:
            raise InvalidInput(f"{folder / FILE}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, ValidationError, TypeError, ValueError) as error:
            raise InvalidInput(f"{folder / FILE}: {error}") from error
        self._written = written
        self.manifest = Manifest.model_validate(written.model_dump(include=set(Manifest.model_fields)))
        self._segments = {each.number: each.made() for each in written.segments}

    def package_digest(self) -> str:
        """SHA-256 over the files of the folder: what a result says that it was made by."""
        digest = hashlib.sha256()
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            digest.update(
                f"{path.relative_to(self.folder)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
            )
        return digest.hexdigest()

    def run(self, ctx: Context, params: Params) -> None:
        """Write the files, run the command, emit what it wrote.

        Raises NotAnalysable where the command refuses, CommandFailed where it fails or its files are not as declared.
        """
        # In the folder of the task: there is room, inputs can be linked, and it goes even if this process is killed.
        home = getattr(ctx, "scratch", None)
        with tempfile.TemporaryDirectory(prefix="command-", dir=home, ignore_cleanup_errors=True) as scratch:
            # The command runs in another folder, from where a data folder given as a relative path is not found.
            given, made = Path(scratch).resolve() / "in", Path(scratch).resolve() / "out"
            given.mkdir()
            made.mkdir()
            _write_inputs(ctx, params, given)
            self._call(ctx, given, made)
            read = [
                (output.name, value)
                for output in self.manifest.outputs
                for value in self._read(output.name, output.kind, output.optional, ctx, made)
            ]
            # A Segmentation counts its segments from 1 without a gap; what was not found has none.
            found = [segment for _, value in read if isinstance(value, LabelMap) for segment in value.segments]
            numbers = {segment.number: number for number, segment in enumerate(found, 1)}
            for name, value in read:
                ctx.emit(name, _renumbered(value, numbers) if numbers else value)

    # The call

    def _call(self, ctx: Context, given: Path, made: Path) -> None:
        name = f"m3dicom-{os.getpid()}-{made.parent.name}"
        resources = self.manifest.resources
        known = {
            "{in}": str(given), "{out}": str(made), "{folder}": str(self.folder), "{name}": name,
            "{memory_mb}": str(resources.memory_mb), "{gpu}": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        }  # fmt: skip
        order = {
            "command": [_filled(part, known) for part in self._written.command],
            "stop": [_filled(part, known) for part in self._written.stop],
            "cwd": str(self.folder), "memory_mb": resources.memory_mb, "stderr": str(made.parent / "stderr"),
            "output_bytes": resources.output_mb << 20, "output_files": resources.output_files,
        }  # fmt: skip
        with _guard(order) as told:
            end = _followed(told, ctx)
        words = _tail(made.parent / "stderr")
        if end.get("killed") == "memory":
            raise CommandFailed(f"The command needed more than {resources.memory_mb} MB of memory and was stopped.")
        if end.get("killed") == "size":
            raise CommandFailed(f"The command wrote more than the {resources.output_mb} MB that it may: stopped.")
        if end.get("killed") == "files":
            raise CommandFailed(f"The command wrote more than the {resources.output_files} files that it may: stopped.")
        if end.get("status") == REFUSED:
            raise NotAnalysable(words.rstrip().rpartition("\n")[2] or "the command refuses the input")
        if "error" in end:
            raise CommandFailed(f"The command cannot be run: {end['error']}")
        if end.get("status") != 0:
            raise CommandFailed(f"The command ended with status {end.get('status')}: {words or 'it said nothing'}")

    # What came out

    def _read(self, name: str, kind: str, optional: bool, ctx: Context, made: Path) -> Iterator[Any]:
        path = made / f"{name}.{'npy' if kind == 'SEG' else 'json'}"
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise CommandFailed(f"{path.name} is a link, a folder or a device, not a file.")
        if not path.is_file():
            if optional:
                return
            raise CommandFailed(f"The command did not write {path.name}.")
        try:
            if kind == "SEG":
                yield self._labels(path, ctx)
            else:
                written = json.loads(path.read_text())
                if isinstance(written, list):
                    yield from (_findings(each, ctx) for each in written)
                else:
                    yield self._report(written, ctx)
        except _NOT_AS_TOLD as error:
            raise CommandFailed(f"{path.name} is not as docs/plug-ins.md has it: {type(error).__name__}") from error

    def _labels(self, path: Path, ctx: Context) -> LabelMap:
        volume = _the(ctx, Volume)
        # Its size is known before it is read; np.load would take an archive, too, and leave it open.
        stored = open_memmap(path, mode="r")
        if stored.shape != volume.data.shape or stored.dtype != np.uint8:
            raise CommandFailed(f"{path.name} is not uint8 with the shape of the input, {volume.data.shape}.")
        labels = np.array(stored, order="C")
        unknown = set(np.unique(labels).tolist()) - {0} - set(self._segments)
        if unknown:
            raise CommandFailed(f"{path.name} has labels that {FILE} does not declare: {sorted(unknown)[:5]}")
        there = tuple(segment for number, segment in sorted(self._segments.items()) if (labels == number).any())
        return LabelMap(volume, labels, there)

    def _report(self, written: Mapping[str, Any], ctx: Context) -> VolumeReport:
        groups: dict[int, list[Measurement]] = {}
        for each in written["measurements"]:
            value = float(each["value"])
            if not np.isfinite(value):
                raise ValueError("a measurement is no number")
            measured = Measurement(Code(*each["name"]), value, Code(*each["unit"]))
            groups.setdefault(int(each["segment"]), []).append(measured)
        made = tuple(SegmentMeasurements(self._segments[number], tuple(of)) for number, of in sorted(groups.items()))
        return VolumeReport(_the(ctx, Volume), made, str(written.get("conclusion", "")))


def _renumbered(value: Any, numbers: Mapping[int, int]) -> Any:
    """A label map, or a report on one, with its segments under their new numbers. Raises CommandFailed."""
    if isinstance(value, LabelMap):
        table = np.zeros(256, np.uint8)
        table[list(numbers)] = list(numbers.values())
        segments = tuple(replace(segment, number=numbers[segment.number]) for segment in value.segments)
        return replace(value, labels=table[value.labels], segments=segments)
    if isinstance(value, VolumeReport):
        lacking = [group.segment.number for group in value.groups if group.segment.number not in numbers]
        if lacking:
            raise CommandFailed(f"The report measures segment {lacking[0]}, of which the labels have no voxel.")
        groups = (
            replace(group, segment=replace(group.segment, number=numbers[group.segment.number]))
            for group in value.groups
        )
        return replace(value, groups=tuple(groups))
    return value


def _params(written: _Written) -> type[Params]:
    fields: dict[str, Any] = {}
    for name, each in written.parameters.items():
        if not name.isidentifier() or name.startswith("_"):
            raise ValueError(f"parameter {name!r}: a name has letters, digits and underscores")
        kind = Literal[tuple(each.choices)] if each.choices else _TYPES[each.type]
        field = Field(
            each.default, ge=each.minimum, le=each.maximum, title=each.title or name,
            description=each.description or None,
            json_schema_extra={"unit": each.unit} if each.unit else None, validate_default=True,
        )  # fmt: skip
        fields[name] = (kind, field)
    made: type[Params] = create_model(f"{written.id} parameters", __base__=Params, **fields)
    made()  # the defaults have to hold
    return made


def _filled(part: str, known: Mapping[str, str]) -> str:
    for name, value in known.items():
        part = part.replace(name, value)
    return part


def _the(ctx: Context, kind: type[Any]) -> Any:
    return next(value for value in ctx.inputs.values() if isinstance(value, kind))


def _write_inputs(ctx: Context, params: Params, folder: Path) -> None:
    (folder / "parameters.json").write_text(params.model_dump_json())
    files: Mapping[str, tuple[Path, ...]] = getattr(ctx, "files", {})
    for name, value in ctx.inputs.items():
        dicom = folder / name
        dicom.mkdir()
        for number, path in enumerate(files.get(name, ()), 1):
            target = dicom / f"{number:06d}.dcm"
            try:
                os.link(path, target)
            except OSError:  # on another file system, or on one without links
                shutil.copyfile(path, target)
        if isinstance(value, Volume):
            np.save(folder / f"{name}.npy", value.data)
            geometry = {
                "positions": value.positions.tolist(), "row": value.row.tolist(), "column": value.column.tolist(),
                "spacing": list(value.spacing), "sop_instance_uids": list(value.sop_instance_uids),
            }  # fmt: skip
            (folder / f"{name}.json").write_text(json.dumps(geometry))
        elif isinstance(value, tuple):
            told = []
            for number, image in enumerate(value, 1):
                np.save(folder / f"{name}-{number:06d}.npy", image.data)
                told.append(
                    {"spacing": image.spacing, "inverted": image.inverted, "sop_instance_uid": image.sop_instance_uid}
                )
            (folder / f"{name}.json").write_text(json.dumps(told))


def _findings(written: Mapping[str, Any], ctx: Context) -> ImageFindings:
    images = next(value for value in ctx.inputs.values() if isinstance(value, tuple))
    number = int(written["image"])
    if not 1 <= number <= len(images):
        raise ValueError("there is no such image")
    image = images[number - 1]
    marks = tuple(_mark(each) for each in written["marks"])
    known = [mark.identifier for mark in marks]
    if len(set(known)) < len(known) or any(mark.parent not in (None, *known) for mark in marks):
        raise ValueError("each mark has an identifier of its own, and its parent is a mark of the image")
    analysed = written.get("analysed", True) is True
    if marks and not analysed:
        raise ValueError("an image that was not analysed has no marks")
    point = _operating_point(written.get("operating_point"))
    return ImageFindings(image, marks, str(written["summary"]), image.spacing or (1.0, 1.0), point, analysed)


def _operating_point(written: Mapping[str, Any] | None) -> OperatingPoint | None:
    """As docs/plug-ins.md has it. Raises ValueError, KeyError, TypeError."""
    if written is None:
        return None
    threshold, false = float(written["threshold"]), written.get("false_per_image")
    if not math.isfinite(threshold) or (false is not None and not 0 <= float(false) < math.inf):
        raise ValueError("an operating point has a threshold, and 0 or more false marks an image")
    return OperatingPoint(threshold, None if false is None else float(false), str(written.get("basis", ""))[:64])


def _mark(written: Mapping[str, Any]) -> Mark:
    """One mark as docs/plug-ins.md has it. Raises ValueError, KeyError, TypeError."""
    points = np.asarray(written["points"], np.float64).reshape(-1, 2)
    score = float(written.get("score", 1.0))
    fewest, most = _POINTS[written["shape"]]
    if not fewest <= len(points) <= most or not np.isfinite(points).all() or not 0 <= score <= 1:
        raise ValueError("a mark has points as its shape asks for, and a score from 0 to 1")
    code = Code(*map(str, written["finding"]))
    return Mark(str(written["identifier"]), code, written["shape"], points, score, written.get("parent"))


@contextlib.contextmanager
def _guard(order: Mapping[str, Any]) -> Iterator[int]:
    """The guard at work; yields where it can be heard. When this is left, for whatever reason, all of it is ended."""
    code = [sys.executable, "-m", "analysis.command_guard"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        code,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # it outlives us by the moment that it takes to end the command
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        try:
            yield process.stdout.fileno()
        finally:
            process.stdin.close()


def _followed(told: int, ctx: Context) -> Mapping[str, Any]:
    """What the guard says in the end; progress goes to the host meanwhile. Raises Cancelled."""
    fraction, words, rest = 0.0, "running the command", b""
    while True:
        ctx.progress(fraction, words)
        readable, _, _ = select.select([told], [], [], LOOK_S)
        if not readable:
            continue
        chunk = os.read(told, 1 << 16)
        if not chunk:
            raise CommandFailed("The command was stopped from outside.")
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):
                said = json.loads(line)
                if "progress" in said:
                    fraction, words = float(said["progress"]), str(said.get("message", words))
                elif "end" in said:
                    end: Mapping[str, Any] = said["end"]
                    return end


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""


__all__ = ["REFUSED", "Cancelled", "CommandFailed", "CommandPlugin"]
