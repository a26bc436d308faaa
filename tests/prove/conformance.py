"""The conformance suite on this server and on Orthanc, side by side: writes docs/conformance-reports.md."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from conftest import ROOT, start_server
from orthanc import orthanc
from prove.registry import Result, Run, proof
from servers import free_port

REPORTS = ROOT / "docs" / "conformance-reports.md"
HEAD = """# Conformance reports

What `python -m conformance` ([how to run it](conformance-suite.md)) says of this server and, as a comparison, of
Debian's Orthanc with its DICOMweb plug-in, each in its default settings. Written by `make conformance`.

How to read it: *mandatory* checks bind every server that has the service at all, *conditional* ones only those that
claim the feature, *robustness* is what the standard does not demand in words, *practice* what clients in the field
send. *Not supported* is what the server says, or plainly shows, that it does not have.
"""


@proof("conformance", "The conformance suite, on this server and on Orthanc: none of our mandatory checks fails.")
def conformance(run: Run) -> Result:
    """Both reports, and how many checks of each level came out how."""
    rows: list[tuple[object, ...]] = [("server", "checks", "passed", "failed", "mandatory failed", "not supported")]
    sections: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="m3conformance") as name:
        folder = Path(name)
        for number in run.rounds(round(2 / run.scale)):
            title = "Orthanc" if number else "m3DICOM"
            report, text = (_orthanc if number else _ours)(folder)
            sections[title] = text
            outcomes = [each["outcome"] for each in report["checks"]]
            counts = (outcomes.count(each) for each in ("passed", "failed"))
            failures = report["mandatory_failures"]
            rows.append((title, len(outcomes), *counts, len(failures), outcomes.count("not supported")))
            assert number or not failures, failures
    REPORTS.write_text(HEAD + "".join(f"\n{text}" for text in sections.values()))
    return Result(rows, f"no mandatory check of ours fails; both reports are in {REPORTS.relative_to(ROOT)}")


def _ours(folder: Path) -> tuple[dict[str, Any], str]:
    port = free_port()
    known = f'[{{title = "CONFORMANCE", host = "127.0.0.1", port = {port}}}]'
    server = start_server(folder / "data", settings={"M3DICOM_WORKERS": "0", "M3DICOM_AES": known})
    try:
        host, dimse = server.dimse
        rights = ("token", "create", "--name", "reading", "--rights", "query,read")
        return _judge(
            folder, "m3DICOM", "--dicomweb", server.dicomweb, "--dimse", f"{server.ready['aet']}@{host}:{dimse}",
            "--listen", f"CONFORMANCE@127.0.0.1:{port}", "--token", server.token,
            "--read-only-token", server.command(*rights).strip().splitlines()[-1],
        )  # fmt: skip
    finally:
        server.stop()


def _orthanc(folder: Path) -> tuple[dict[str, Any], str]:
    port, dimse = free_port(), free_port()
    with orthanc(dimse, {"conformance": ("CONFORMANCE", "127.0.0.1", port)}) as peer:
        root = str(peer.rest.base_url).rstrip("/")
        version = peer.rest.get("/system").json()["Version"]
        return _judge(
            folder, f"Orthanc {version}", "--dicomweb", f"{root}/dicom-web", "--dimse",
            f"{peer.title}@127.0.0.1:{dimse}", "--listen", f"CONFORMANCE@127.0.0.1:{port}",
        )  # fmt: skip


def _judge(folder: Path, title: str, *arguments: str) -> tuple[dict[str, Any], str]:
    """The report as data, and as a section of a document."""
    data, section = folder / "report.json", folder / "report.md"
    for old in (data, section):
        old.unlink(missing_ok=True)
    command = [sys.executable, "-m", "conformance", *arguments, "--json", str(data), "--markdown", str(section)]
    done = subprocess.run(
        [*command, "--title", title], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return json.loads(data.read_text()), section.read_text()
