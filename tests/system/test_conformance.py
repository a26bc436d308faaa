"""The conformance suite against the real server: no mandatory check fails, and what is not supported is known."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import ROOT, RunningServer, start_server
from servers import free_port

pytestmark = pytest.mark.system

NOT_SUPPORTED = {
    "E06": "WADO-URI does not de-identify",
    "I08": "the modality worklist is the RIS's",
    "I11": "performed procedure steps are the RIS's",
    "J38": "the modality worklist is the RIS's",
    "L15": "performed procedure steps are the RIS's",
}
"""What the server does not claim, by check; anything else that is not supported is a step back."""
NOT_HERE = {
    "O03": "the server under test is on plain HTTP",
    "K26": "and without TLS for DIMSE",
    "N": "this server has no result objects",
    "B14": "no request was answered by 503",
    "D08": "what is stored is kept as it came",
    "F13": "what is stored is kept as it came",
}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    port = free_port()
    server = start_server(
        tmp_path_factory.mktemp("conformance") / "data",
        settings={
            "M3DICOM_WORKERS": "0",
            "M3DICOM_CORS_ORIGINS": "https://viewer.example",
            "M3DICOM_AES": f'[{{title = "CONFORMANCE", host = "127.0.0.1", port = {port}}}]',
        },
    )
    server.ready["listen"] = f"CONFORMANCE@127.0.0.1:{port}"
    yield server
    server.stop()
    assert "Traceback" not in "".join(server.output)


def suite(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "conformance", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280, check=False)


def addresses(server: RunningServer) -> list[str]:
    host, port = server.dimse
    reading = server.command("token", "create", "--name", "reading", "--rights", "query,read").strip().splitlines()[-1]
    return [
        "--dicomweb", server.dicomweb, "--dimse", f"{server.ready['aet']}@{host}:{port}", "--token", server.token,
        "--listen", server.ready["listen"], "--read-only-token", reading,
    ]  # fmt: skip


def test_no_mandatory_check_fails(judged: RunningServer, tmp_path: Path) -> None:
    forms = {name: tmp_path / f"report.{name}" for name in ("json", "junit", "html")}
    run = suite(*addresses(judged), *(f"--{name}={path}" for name, path in forms.items()))
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    report: dict[str, Any] = json.loads(forms["json"].read_text())
    checks = {each["id"]: each for each in report["checks"]}
    assert len(checks) >= 425
    assert report["mandatory_failures"] == []
    assert report["left_at_the_server"] == []
    failed = [f"{each['id']}: {each['title']}" for each in checks.values() if each["outcome"] in ("failed", "error")]
    assert failed == [], run.stdout[-8000:]
    absent = {name: each["reason"] for name, each in checks.items() if each["outcome"] == "not supported"}
    assert set(absent) <= set(NOT_SUPPORTED), absent
    skipped = {name for name, each in checks.items() if each["outcome"] == "not applicable"}
    assert all(name in NOT_HERE or name[0] in NOT_HERE for name in skipped), skipped
    assert all(each["findings"] for each in checks.values() if each["outcome"] == "passed")
    assert judged.token not in forms["json"].read_text() + forms["html"].read_text() + forms["junit"].read_text()
    assert ElementTree.parse(forms["junit"]).getroot().tag == "testsuites"


def test_a_server_that_fails_is_told_by_the_exit_code(judged: RunningServer) -> None:
    """The archive's own pages are no DICOMweb service, so every mandatory check of searches fails there."""
    run = suite("--dicomweb", judged.http, "--token", judged.token, "--only", "A04")
    assert run.returncode == 1, run.stdout


def test_who_is_not_let_in_is_told_so_and_judges_nobody(judged: RunningServer) -> None:
    host, port = judged.dimse
    http_port = judged.http.rsplit(":", 1)[1]
    for words, arguments in (
        ("401", ("--dicomweb", judged.dicomweb, "--token", "wrong")),
        ("no TLS", ("--dicomweb", judged.dicomweb.replace("http:", "https:"))),
        ("it is not NOBODY", ("--dimse", f"NOBODY@{host}:{port}")),
        ("not answer as an application entity", ("--dimse", f"{judged.ready['aet']}@{host}:{http_port}")),
    ):
        run = suite(*arguments, "--only", "C01,K13")
        assert (run.returncode, run.stdout) == (2, "")
        assert words in run.stderr
        assert "Traceback" not in run.stderr


def test_wrong_usage_and_nobody_there() -> None:
    assert suite().returncode == 2
    assert suite("--dicomweb", "http://127.0.0.1:1", "--only", "nonsense").returncode == 2
    gone = suite("--dicomweb", f"http://127.0.0.1:{free_port()}/dicom-web", "--only", "C01")
    assert gone.returncode == 2
    assert "not reachable" in gone.stderr
    listed = suite("--list", "--only", "C04")
    assert listed.returncode == 0
    assert listed.stdout.startswith("C04 ")
