"""Debian's Orthanc as a peer of the server under test: a process of its own on free ports, with an empty store."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from servers import free_port, missing, stop, wait_for_port


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc: its REST client and its DIMSE port; its AE title is ORTHANC."""

    rest: httpx.Client
    dimse_port: int
    title: str = "ORTHANC"

    def upload(self, file: bytes) -> str:
        """The identifier that Orthanc gives an instance."""
        answer = self.rest.post("/instances", content=file, headers={"Content-Type": "application/dicom"})
        answer.raise_for_status()
        return str(answer.json()["ID"])

    def post(self, path: str, body: Any) -> Any:
        """The JSON answer to a request that has to succeed."""
        answer = self.rest.post(path, json=body)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else None

    def clear(self) -> None:
        """Forget everything."""
        for patient in self.rest.get("/patients").json():
            self.rest.delete(f"/patients/{patient}").raise_for_status()

    def files(self) -> dict[str, bytes]:
        """What it holds: Part 10 files by SOP Instance UID."""
        held = {}
        for each in self.rest.get("/instances").json():
            about = self.rest.get(f"/instances/{each}").json()
            held[about["MainDicomTags"]["SOPInstanceUID"]] = self.rest.get(f"/instances/{each}/file").content
        return held


@contextmanager
def orthanc(
    dimse_port: int, modalities: Mapping[str, tuple[str, str, int]], web_servers: Mapping[str, Any] | None = None
) -> Iterator[Orthanc]:
    """A running Orthanc that knows these AEs (name: title, host, port) and DICOMweb servers."""
    program = shutil.which("Orthanc")
    if program is None:
        missing("Orthanc (apt-get install orthanc orthanc-dicomweb)")
    with tempfile.TemporaryDirectory(prefix="m3orthanc") as folder, tempfile.TemporaryFile() as log:
        http_port = free_port()
        configuration = {
            "Name": "peer", "StorageDirectory": folder, "IndexDirectory": folder, "HttpPort": http_port,
            "DicomPort": dimse_port, "DicomAet": "ORTHANC", "DicomCheckCalledAet": False, "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "OverwriteInstances": True, "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True, "DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True,
            "DicomModalities": {name: list(where) for name, where in modalities.items()},
            "Plugins": glob.glob("/usr/share/orthanc/plugins/*OrthancDicomWeb*"),
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Servers": dict(web_servers or {})},
        }  # fmt: skip
        path = Path(folder) / "orthanc.json"
        path.write_text(json.dumps(configuration))
        # Without TCP_NODELAY every C-STORE of its waits 42 ms for an acknowledgement.
        environment = {**os.environ, "TCP_NODELAY": "1"}
        process = subprocess.Popen([str(program), str(path)], stdout=log, stderr=log, env=environment)
        try:
            wait_for_port(http_port, process)
            wait_for_port(dimse_port, process)
            with httpx.Client(base_url=f"http://127.0.0.1:{http_port}", timeout=120) as rest:
                yield Orthanc(rest, dimse_port)
        finally:
            stop(process)
