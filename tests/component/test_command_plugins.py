"""Commands as plug-ins: the example as a user installs it, and every way in which a command can go wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dicom_data
import numpy as np
import pytest
from conftest import COMMAND, ROOT
from pydicom import dcmread

from analysis import inputs
from analysis.api import Cancelled, Image, NotAnalysable, OperatingPoint, Volume
from analysis.command import CommandFailed, CommandPlugin
from analysis.kit.context import LocalContext
from analysis.package import package_of
from analysis.process import Child, Limits, TaskLost
from analysis.registry import Registry
from pacs.errors import InvalidInput

EXAMPLE = ROOT / "examples" / "dense-volume-command"
SHELL = 'command = ["sh", "-c", """{script}""", "sh", "{{in}}", "{{out}}"]'
HEAD = """
id = "shell"
version = "1"
title = "Shell"
auto = false
{command}
{more}
resources = {{ memory_mb = 300, timeout_s = 60, output_mb = 2, output_files = 20 }}
inputs = [{{ name = "ct" }}]
outputs = [{{ name = "labels", kind = "SEG", optional = true }}]
[parameters.number]
default = 1.5
"""
ONES = "import numpy, sys; numpy.save(sys.argv[1], numpy.ones((3, 16, 12), numpy.uint8))"
ARCHIVE = "import sys, zipfile; zipfile.ZipFile(sys.argv[1], chr(119)).close()"
HUGE = (
    "import numpy, sys; f = open(sys.argv[1], chr(119) + chr(98)); numpy.lib.format.write_array_header_1_0("
    "f, dict(descr=chr(124) + chr(117) + chr(49), fortran_order=False, shape=(10**6, 10**6, 10)))"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("series")
    paths = [folder / f"{number}.dcm" for number in range(3)]
    for path, ds in zip(paths, dicom_data.series(3), strict=True):
        path.write_bytes(dicom_data.part10(ds))
    return paths


def task(folder: Path, files: list[Path], name: str = "ct", **params: Any) -> dict[str, Any]:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    return {
        "workitem_uid": "1.2", "task_key": "0" * 64, "params": params, "input_digests": [], "when": 1.8e9,
        "out": str(out), "inputs": [{"name": name, "files": [str(path) for path in files]}],
    }  # fmt: skip


def written(folder: Path, script: str, more: str = "") -> Path:
    folder.mkdir()
    command = SHELL.format(script=script.replace("\\", "\\\\"))
    (folder / "plugin.toml").write_text(HEAD.format(command=command, more=more))
    return folder


class Cancelling(LocalContext):
    """A context of a task that is cancelled once a file is there and whole."""

    def __init__(self, volume: Volume, files: list[Path], when: Path | None = None) -> None:
        super().__init__({"ct": volume})
        self.files = {"ct": tuple(files)}
        self._when = when

    def progress(self, fraction: float, message: str = "") -> None:
        """Note it, or raise Cancelled."""
        super().progress(fraction, message)
        if self._when is not None and whole(self._when):
            raise Cancelled


def run(folder: Path, files: list[Path], script: str, more: str = "", when: Path | None = None) -> Cancelling:
    """What the script did, in this process."""
    plugin = CommandPlugin(written(folder / "shell", script, more))
    volume, _ = inputs.volume([inputs.read(path) for path in files], lambda fraction: None)
    ctx = Cancelling(volume, files, when)
    plugin.run(ctx, plugin.params())
    return ctx


def whole(path: Path) -> bool:
    return path.exists() and path.read_text().endswith("\n")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pid: int) -> None:
    until = time.monotonic() + 60
    while alive(pid):
        assert time.monotonic() < until, "what the command started outlives it"
        time.sleep(0.02)


# The example ---------------------------------------------------------------------------------------------------------


def test_the_example_is_installed_listed_run_and_removed(tmp_path: Path, files: list[Path]) -> None:
    data = ["--data", str(tmp_path / "data")]

    def m3dicom(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False)

    added = m3dicom("plugin", "add-command", str(EXAMPLE), *data)
    assert added.returncode == 0, added.stderr
    folder = tmp_path / "data" / "plugins" / "dense-volume-command"
    listed = m3dicom("plugin", "list", *data)
    assert f"dense-volume-command  1.0  Dense volume (command)  (command:{folder})" in listed.stdout
    assert m3dicom("plugin", "add-command", str(EXAMPLE), *data).returncode == 0, "again, as a newer version would be"
    installed = Registry.load(commands=tmp_path / "data" / "plugins").get("dense-volume-command")
    assert installed is not None
    assert installed.schema()["properties"]["threshold"]["unit"] == "[hnsf'U]"
    child = Child(installed.target, "cpu", 1)
    made = child.run(task(tmp_path, files, threshold=300.0), Limits(120, 2000), lambda *_: "continue")
    with pytest.raises(NotAnalysable, match="nothing is denser than 3000 HU"):
        child.run(task(tmp_path, files, threshold=3000.0), Limits(120, 2000), lambda *_: "continue")
    child.close()
    seg, sr = (dcmread(each["path"]) for each in made)
    volume = (np.arange(192)[None] * 7 + np.arange(3)[:, None]) % 4096 - 1024
    count = int((volume > 300).sum())
    assert (seg.Modality, sr.Modality) == ("SEG", "SR")
    assert int(seg.pixel_array.sum()) == count
    assert f"{count * 0.5 * 0.5 / 1000:.4f}".rstrip("0") in str(sr)
    assert m3dicom("plugin", "remove-command", "dense-volume-command", *data).returncode == 0
    assert not folder.exists()
    assert m3dicom("plugin", "remove-command", "../dense-volume-command", *data).returncode == 1


def test_the_digest_of_a_command_is_that_of_its_folder(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "copy")
    one: Any = CommandPlugin(EXAMPLE)
    two: Any = CommandPlugin(tmp_path / "copy")
    assert package_of(one) == package_of(two)
    with (tmp_path / "copy" / "measure.py").open("a") as file:
        file.write("# changed\n")
    assert package_of(one) != package_of(two)
    assert package_of(one).name == "dense-volume-command"


# How commands end ----------------------------------------------------------------------------------------------------


def test_files_in_and_progress(tmp_path: Path, files: list[Path]) -> None:
    ctx = run(tmp_path, files, """
        cp "$1/parameters.json" "$1/ct.json" ./ && ls "$1/ct" > names
        head -c 6 "$1/ct.npy" > npy; env > environment
        printf '{"progress": 0.5, "message": "half of it"}\n'""")  # fmt: skip
    folder = tmp_path / "shell"
    assert json.loads((folder / "parameters.json").read_text()) == {"number": 1.5}
    assert json.loads((folder / "ct.json").read_text())["spacing"] == [0.5, 0.5]
    assert (folder / "names").read_text().split() == [f"{number:06d}.dcm" for number in (1, 2, 3)]
    assert (folder / "npy").read_bytes() == b"\x93NUMPY"
    assert "PYTHONPATH" not in (folder / "environment").read_text()
    assert ctx.said[0] == (0.0, "running the command")
    assert ctx.emitted == []


TWOS = "import numpy, sys; numpy.save(sys.argv[1], numpy.full((3, 16, 12), 2, numpy.uint8))"
SEGMENTS = "segments = [{}, {}]".format(
    *(f'{{ number = {n}, label = "{name}", type = ["272673000", "SCT", "Bone"] }}' for n, name in ((1, "A"), (2, "B")))
)


def test_segments_that_were_not_found_leave_no_gap_in_the_numbers(tmp_path: Path, files: list[Path]) -> None:
    folder = written(tmp_path / "shell", f"""{sys.executable} -c '{TWOS}' "$2/labels.npy"; cp *.json "$2" """, SEGMENTS)
    text = (folder / "plugin.toml").read_text()
    (folder / "plugin.toml").write_text(text.replace("outputs = [", 'outputs = [{ name = "volumes", kind = "SR" }, '))
    volume, _ = inputs.volume([inputs.read(path) for path in files], lambda fraction: None)

    def measured(segment: int) -> Cancelling:
        one = {"segment": segment, "name": ["118565006", "SCT", "Volume"], "value": 1.5, "unit": ["mL", "UCUM", "mL"]}
        (folder / "volumes.json").write_text(json.dumps({"measurements": [one]}))
        ctx = Cancelling(volume, files)
        plugin = CommandPlugin(folder)
        plugin.run(ctx, plugin.params())
        return ctx

    ctx = measured(2)
    assert [(each.number, each.label) for each in ctx["labels"].segments] == [(1, "B")]
    assert np.unique(ctx["labels"].labels).tolist() == [1]
    assert [group.segment for group in ctx["volumes"].groups] == list(ctx["labels"].segments)
    with pytest.raises(CommandFailed, match="segment 1, of which the labels have no voxel"):
        measured(1)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo no bone here >&2; exit 65", "no bone here"),
        ("echo first >&2; echo the model is missing >&2; exit 3", "status 3: first\nthe model is missing"),
        ("exit 1", "status 1: it said nothing"),
        ("kill -SEGV $$", "status -11"),
        ('echo nonsense > "$2/labels.npy"', "labels.npy is not as docs/plug-ins.md has it"),
        ('ln -s /etc/hostname "$2/labels.npy"', "labels.npy is a link"),
        ('mkfifo "$2/labels.npy"', "labels.npy is a link, a folder or a device"),
        ('touch "$2/labels.npy"', "labels.npy is not as docs/plug-ins.md has it: ValueError"),
        (f"""{sys.executable} -c '{ARCHIVE}' "$2/labels.npy" """, "labels.npy is not as docs/plug-ins.md has it"),
        (f"""{sys.executable} -c '{HUGE}' "$2/labels.npy" """, "labels.npy is not as docs/plug-ins.md has it"),
        ('head -c 9000000 /dev/zero > "$2/large"', "wrote more than the 2 MB that it may"),
        ('for n in 1 2 3; do head -c 1000000 /dev/zero > "$2/$n"; done', "wrote more than the 2 MB that it may"),
        ('mkdir "$2/more"; for n in $(seq 20); do : > "$2/more/$n"; done; sleep 600', "more than the 20 files"),
        ("a=x; while :; do a=$a$a; done", "needed more than 300 MB of memory"),
        (f"""{sys.executable} -c '{ONES}' "$2/labels.npy" """, "labels that plugin.toml does not declare: [1]"),
    ],
)
def test_what_goes_wrong_is_said_in_words(tmp_path: Path, files: list[Path], script: str, words: str) -> None:
    with pytest.raises((NotAnalysable, CommandFailed)) as caught:
        run(tmp_path, files, script)
    assert words in str(caught.value)
    assert isinstance(caught.value, NotAnalysable) == ("65" in script)
    opened = [os.readlink(each.path) for each in os.scandir("/proc/self/fd") if os.path.islink(each.path)]
    assert not [path for path in opened if path.endswith("labels.npy")], "what it wrote is left open"


def test_the_folder_of_the_task_may_be_a_relative_path(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task").mkdir()
    plugin = CommandPlugin(written(tmp_path / "shell", 'test -f "$1/parameters.json" && test -d "$2"'))
    volume, _ = inputs.volume([inputs.read(path) for path in files], lambda fraction: None)
    ctx = LocalContext({"ct": volume})
    ctx.scratch = Path("task")  # type: ignore[attr-defined]
    plugin.run(ctx, plugin.params())


def test_a_command_is_told_no_secrets_and_works_beside_the_task(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "M3DICOM_QUEUE", "REDIS_PASSWORD", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, "of no concern")
    monkeypatch.setenv("MODEL_FOLDER", "of concern")
    child = Child(
        f"command:{written(tmp_path / 'shell', 'env > environment; echo $1 > where; ulimit -f > most')}", "cpu", 1
    )
    child.run(task(tmp_path, files), Limits(60, 2000), lambda *_: "continue")
    child.close()
    said = (tmp_path / "shell" / "environment").read_text()
    assert "of no concern" not in said
    assert "MODEL_FOLDER=of concern" in said
    # What a killed process leaves behind is in the folder of the task, which the worker removes.
    assert Path((tmp_path / "shell" / "where").read_text().strip()).is_relative_to(tmp_path)
    assert (tmp_path / "shell" / "most").read_text().strip() != "unlimited"


def test_inputs_on_another_file_system_are_copied(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", elsewhere)
    run(tmp_path, files, 'cat "$1"/ct/*.dcm > all')
    assert (tmp_path / "shell" / "all").stat().st_size == sum(path.stat().st_size for path in files)


MARK = {"identifier": "A1", "finding": ["1", "99X", "one"], "shape": "point", "points": [[1.0, 2.0]]}


@pytest.mark.parametrize(
    "told",
    [
        {"image": 0}, {"image": -1}, {"image": 3}, {"image": float("inf")}, {"marks": [MARK, MARK]},
        {"marks": [MARK | {"parent": "A2"}]}, {"marks": [MARK | {"score": float("nan")}]},
        {"marks": [MARK | {"points": [[1.0, float("nan")]]}]}, {"marks": [MARK | {"points": []}]},
        {"marks": [MARK | {"shape": "circle"}]}, {"marks": [MARK | {"shape": "star"}]}, {"analysed": False},
        {"operating_point": {}}, {"operating_point": {"threshold": 0.3, "false_per_image": -1}},
    ],
)  # fmt: skip
def test_marks_that_cannot_be_are_refused(tmp_path: Path, told: dict[str, Any]) -> None:
    head = HEAD.format(command='command = ["true"]', more="").replace('"labels", kind = "SEG"', '"marks", kind = "SC"')
    (tmp_path / "plugin.toml").write_text(head)
    (tmp_path / "marks.json").write_text(json.dumps([{"image": 2, "summary": "one", "marks": [MARK]} | told]))
    images = tuple(Image(np.zeros((4, 4)), (0.5, 0.5), False, f"1.2.{number}") for number in (1, 2))
    with pytest.raises(CommandFailed, match=r"marks\.json is not as docs"):
        list(CommandPlugin(tmp_path)._read("marks", "SC", False, LocalContext({"ct": images}), tmp_path))
    (tmp_path / "marks.json").write_text("[" * 100_000)
    with pytest.raises(CommandFailed, match="RecursionError"):
        list(CommandPlugin(tmp_path)._read("marks", "SC", False, LocalContext({"ct": images}), tmp_path))
    right = {"image": 2, "summary": "one", "marks": [MARK], "operating_point": {"threshold": 0.3, "basis": "none"}}
    (tmp_path / "marks.json").write_text(json.dumps([right, right | {"marks": [], "analysed": False}]))
    found, failed = CommandPlugin(tmp_path)._read("marks", "SC", False, LocalContext({"ct": images}), tmp_path)
    assert found.image is images[1]
    assert found.operating_point == OperatingPoint(0.3, None, "none")
    assert (found.analysed, failed.analysed) == (True, False)


STUBBORN = """
(trap '' TERM INT HUP; setsid sh -c 'echo $$ > pid; while :; do sleep 1; done' & wait)
"""


@pytest.mark.parametrize("how", ["cancel", "kill"])
def test_all_that_a_command_started_ends_with_it(tmp_path: Path, files: list[Path], how: str) -> None:
    pid, stopped = tmp_path / "shell" / "pid", tmp_path / "stopped"
    more = f'stop = ["sh", "-c", "echo {{name}} > {stopped}.new && mv {stopped}.new {stopped}"]'
    if how == "cancel":
        with pytest.raises(Cancelled):
            run(tmp_path, files, STUBBORN, more, when=pid)
    else:
        child = Child(f"command:{written(tmp_path / 'shell', STUBBORN, more)}", "cpu", 1)

        def check(progress: float, words: str) -> Any:
            if whole(pid):
                os.kill(child.pid, signal.SIGKILL)  # as with a lost worker, nobody is left to tell anybody
            return "continue"

        with pytest.raises(TaskLost):
            child.run(task(tmp_path, files), Limits(60, 2000), check)
    gone(int(pid.read_text()))
    until = time.monotonic() + 60
    while not stopped.exists():
        assert time.monotonic() < until, "the container was not told to stop"
        time.sleep(0.02)
    assert stopped.read_text().startswith("m3dicom-")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "id"),
        ("id = 3", "id"),
        ("this is no TOML", "Expected"),
        (HEAD.format(command='command = ["true"]', more="unknown = 1"), "unknown"),
        (HEAD.format(command='command = ["true"]', more="") + "minimum = 2.0\n", "greater than or equal to 2"),
        (HEAD.format(command="", more=""), "command"),
        (HEAD.format(command='command = ["true"]', more="").replace('"labels"', '"../../labels"'), "outputs.0.name"),
    ],
)
def test_a_folder_that_is_no_plug_in_is_refused_in_words(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "plugin.toml").write_text(text)
    with pytest.raises(InvalidInput, match=words):
        CommandPlugin(tmp_path)
    (tmp_path / "plugins").mkdir()
    shutil.copytree(tmp_path, tmp_path / "plugins" / "bad", ignore=shutil.ignore_patterns("plugins"))
    broken = Registry.load(commands=tmp_path / "plugins").broken
    assert [each.name for each in broken] == ["zz bad"]
