"""The `m3dicom` command as shells use it: interrupted by Ctrl-C, and read by nobody."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from pacs.server import cli


def test_interrupted_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_demo", interrupted)
    assert cli.main(["demo"]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "m3dicom: interrupted\n"


def test_nobody_reads() -> None:
    program = (
        "import sys\nfrom pacs.server import cli\nsys.stdin.readline()\n"
        "cli._demo = lambda _: print('x' * 100_000) or 0\nsys.exit(cli.main(['demo']))"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdin is not None
    assert run.stdout is not None
    run.stdout.close()
    run.stdin.write("go\n")
    run.stdin.close()
    assert run.stderr is not None
    with run.stderr as told:
        assert told.read() == ""
    assert run.wait(60) == 128 + signal.SIGPIPE
