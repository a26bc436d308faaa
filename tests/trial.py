"""The main job on real files: `make trial DATA=FOLDER`.

Sends every folder with DICOM files to a real server as a modality would (DCMTK's dcmsend), waits for the analyses, and
tells what came out: seconds from the last instance to the result, marks per image, triangles and bytes per model
against the DICOM's bytes, what the independent validators say, peak memory. With `--scaled` the same goes through
STOW-RS into a second server on S3, PostgreSQL and Redis with a worker process of its own. Results stay under trial/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from conftest import RunningServer, start_server  # noqa: E402

MG_CLASSES = ("1.2.840.10008.5.1.4.1.1.1.2", "1.2.840.10008.5.1.4.1.1.1.2.1")
RESULT_MODALITIES = ("SEG", "M3D", "SR")
FILM_SPACING_MM = 0.05  # digitised films carry none; the WG-04 samples were scanned at 50 micrometres


@dataclass
class Study:
    """What was sent of one study."""

    folders: set[str] = field(default_factory=set)
    files: list[Path] = field(default_factory=list)
    bytes: int = 0
    films: list[tuple[str, str, str]] = field(default_factory=list)  # series, class, instance


def find_studies(data: Path) -> dict[str, Study]:
    """Every study under a folder, by Study Instance UID; files that are no DICOM are left out."""
    studies: dict[str, Study] = defaultdict(Study)
    for path in sorted(p for p in data.rglob("*") if p.is_file()):
        try:
            ds = dcmread(path, stop_before_pixels=True)
            study = studies[str(ds.StudyInstanceUID)]
        except (InvalidDicomError, AttributeError, OSError, ValueError):
            continue
        study.folders.add(str(path.parent.relative_to(data)))
        study.files.append(path)
        study.bytes += path.stat().st_size
        if str(ds.SOPClassUID) not in MG_CLASSES and ds.get("Rows", 0) >= 2000:
            study.films.append((str(ds.SeriesInstanceUID), str(ds.SOPClassUID), str(ds.SOPInstanceUID)))
    return dict(studies)


class PeakMemory(threading.Thread):
    """Watches the resident memory of a process and all below it; `.peak_mb` is the highest sum seen."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak_mb, self.stopped = pid, 0.0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.stopped.wait(0.2):
            self.peak_mb = max(self.peak_mb, sum(map(self._rss_mb, self._tree())))

    def _tree(self) -> list[int]:
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except (OSError, IndexError, ValueError):
                    continue
        tree = [self.pid]
        for pid in tree:
            tree += [child for child, parent in parents.items() if parent == pid]
        return tree

    @staticmethod
    def _rss_mb(pid: int) -> float:
        try:
            # PSS shares what forked children have in common; RSS would count it once for each.
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    return int(line.split()[1]) / 1024
        except OSError:
            pass
        return 0.0


def stow(client: httpx.Client, path: Path) -> None:
    """Store one file by STOW-RS, streamed."""
    boundary = "m3dicomtrial"

    def body() -> Any:
        yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                yield chunk
        yield f"\r\n--{boundary}--\r\n".encode()

    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    answer = client.post("/studies", content=body(), headers={"Content-Type": kind})
    if answer.status_code != 200:
        print(f"  {path.name}: {answer.status_code} {answer.text[:300]}")


def value(item: dict[str, Any], *tags: str) -> Any:
    """The first value down a path of tags in DICOM JSON, or None."""
    for tag in tags[:-1]:
        found = item.get(tag, {}).get("Value") or [{}]
        item = found[0]
    return (item.get(tags[-1], {}).get("Value") or [None])[0]


def request_films(client: httpx.Client, study_uid: str, study: Study) -> int:
    """Ask for the microcalcification analysis of digitised films, with their spacing; how many Workitems."""
    for series, sop_class, sop_instance in study.films:
        code = {"00080100": "microcalcification", "00080102": "99M3DICOM", "00080104": "Microcalcifications"}
        name = {"00080100": "pixel_spacing_mm", "00080102": "99M3DICOM", "00080104": "Pixel spacing"}
        unit = {"00080100": "mm", "00080102": "UCUM", "00080104": "millimeter"}

        def sq(*items: dict[str, Any]) -> dict[str, Any]:
            return {"vr": "SQ", "Value": list(items)}

        def coded(fields: dict[str, str]) -> dict[str, Any]:
            return {tag: {"vr": "LO" if tag == "00080104" else "SH", "Value": [text]} for tag, text in fields.items()}

        workitem = {
            "00404005": {"vr": "DT", "Value": [time.strftime("%Y%m%d%H%M%S")]},
            "00404018": sq(coded(code)),
            "00404021": sq(
                {
                    "0020000D": {"vr": "UI", "Value": [study_uid]},
                    "0020000E": {"vr": "UI", "Value": [series]},
                    "00081199": sq(
                        {
                            "00081150": {"vr": "UI", "Value": [sop_class]},
                            "00081155": {"vr": "UI", "Value": [sop_instance]},
                        }
                    ),
                    "0040E020": {"vr": "CS", "Value": ["DICOM"]},
                }
            ),
            "00404041": {"vr": "CS", "Value": ["READY"]},
            "0020000D": {"vr": "UI", "Value": [study_uid]},
            "00741000": {"vr": "CS", "Value": ["SCHEDULED"]},
            "00741200": {"vr": "CS", "Value": ["MEDIUM"]},
            "00741202": {"vr": "LO", "Value": ["M3DICOM"]},
            "00741204": {"vr": "LO", "Value": ["Microcalcifications on a digitised film"]},
            "00741210": sq(
                {
                    "0040A040": {"vr": "CS", "Value": ["NUMERIC"]},
                    "0040A043": sq(coded(name)),
                    "0040A30A": {"vr": "DS", "Value": [FILM_SPACING_MM]},
                    "004008EA": sq(coded(unit)),
                }
            ),
            "00100010": {"vr": "PN"},
            "00100020": {"vr": "LO"},
            "00100030": {"vr": "DA"},
            "00100040": {"vr": "CS"},
            "00380010": {"vr": "LO"},
        }
        answer = client.post("/workitems", json=[workitem], headers={"Content-Type": "application/dicom+json"})
        if answer.status_code != 201:
            print(f"  film not analysed: {answer.status_code} {answer.text[:300]}")
    return len(study.films)


def wait_idle(client: httpx.Client, study_uid: str, quiet_s: float, limit_s: float = 900) -> tuple[list[dict], float]:
    """The study's Workitems once none is under way and none came for `quiet_s`, and when the last one ended."""
    begun = last = time.monotonic()
    known: set[tuple[str, str]] = set()
    while True:
        answer = client.get("/workitems", params={"StudyInstanceUID": study_uid, "includefield": "all"})
        items = answer.json() if answer.status_code == 200 else []
        states = {(value(item, "00080018"), value(item, "00741000")) for item in items}
        if states != known:
            known, last = states, time.monotonic()
        busy = any(state in ("SCHEDULED", "IN PROGRESS") for _, state in states)
        if not busy and time.monotonic() - last > quiet_s:
            return items, last
        if time.monotonic() - begun > limit_s:
            print(f"  gave up after {limit_s} s: {known}")
            return items, last
        time.sleep(0.3)


def outputs(items: list[dict[str, Any]]) -> set[str]:
    """SOP Instance UIDs in the Output Information Sequences of Workitems."""
    found = set()
    for item in items:
        performed = (item.get("00741216", {}).get("Value") or [{}])[0]
        for series in performed.get("00404033", {}).get("Value") or []:
            found |= {value(sop, "00081155") for sop in series.get("00081199", {}).get("Value") or []}
    return found


def judge(client: httpx.Client, study_uid: str, study: Study, made: set[str], folder: Path) -> dict[str, Any]:
    """What the study's results hold; each result object is also written to `folder`."""
    out: dict[str, Any] = {"marks": {}, "models": [], "objects": 0}
    folder.mkdir(parents=True, exist_ok=True)
    answer = client.get(f"/studies/{study_uid}/metadata")
    for instance in answer.json() if answer.status_code == 200 else []:
        sop_class, series = value(instance, "00080016"), value(instance, "0020000E")
        sop_instance = value(instance, "00080018")
        if sop_instance not in made:
            continue
        out["objects"] += 1
        address = f"/studies/{study_uid}/series/{series}/instances/{sop_instance}"
        headers = {"Accept": "application/dicom; transfer-syntax=*"}
        part10 = client.get(address, headers=headers)
        (folder / f"{value(instance, '00080060')}-{sop_instance[-12:]}.dcm").write_bytes(part10.content)
        if sop_class == "1.2.840.10008.5.1.4.1.1.104.3":
            headers = {"Accept": "model/x3d+xml", "Accept-Encoding": "gzip"}
            with client.stream("GET", f"{address}/rendered", headers=headers) as x3d:
                wire = b"".join(x3d.iter_raw())
                status = x3d.status_code
            plain = client.get(f"{address}/rendered", headers={"Accept": "model/x3d+xml"}).content
            (folder / f"{sop_instance[-12:]}.x3d").write_bytes(plain)
            stl_bytes = len(part10.content)
            out["models"].append(
                {
                    "label": value(instance, "00420010"),
                    "status": status,
                    "triangles": max(0, stl_bytes // 50),
                    "x3d_bytes": len(plain),
                    "x3d_gzip_bytes": len(wire),
                    "dicom_to_gzip": round(study.bytes / max(1, len(wire)), 1),
                }
            )
    for path in folder.glob("SR-*.dcm"):
        text = subprocess.run(["dsrdump", path], capture_output=True, text=True, check=False).stdout
        for line in text.splitlines():
            if "Tracking Identifier" in line and '="' in line:
                mark = line.split('="')[1].split('"')[0]
                kind = "clusters" if mark.startswith("CL") else "calcifications" if mark.startswith("MC") else "other"
                counts = out["marks"].setdefault(path.name, {})
                counts[kind] = counts.get(kind, 0) + 1
    return out


def run(server: RunningServer, pid: int, studies: dict[str, Study], data: Path, out: Path, how: str) -> list[dict]:
    """Send everything by `how` ("dcmsend" or "stow") and report; one row a study."""
    memory = PeakMemory(pid)
    rows = []
    quiet_s = float(server.environment["M3DICOM_STABLE_AFTER_S"]) + 4
    for number, (study_uid, study) in enumerate(studies.items(), 1):
        name = ", ".join(sorted(study.folders))
        print(
            f"[{how}] {number}/{len(studies)} {name}: {len(study.files)} files, {study.bytes / 1e6:.1f} MB", flush=True
        )
        with server.client() as client:
            client.timeout = httpx.Timeout(300)
            begun = time.monotonic()
            if how == "dcmsend":
                server.dcmsend(*study.files)
            else:
                for path in study.files:
                    stow(client, path)
            sent = time.monotonic()
            items, last = wait_idle(client, study_uid, quiet_s)
            if study.films and not items:  # no rule takes them: ask, and count from the asking
                sent = time.monotonic()
                request_films(client, study_uid, study)
                items, last = wait_idle(client, study_uid, quiet_s)
            result = judge(client, study_uid, study, outputs(items), out / how / f"study-{number}")
        states = [(value(i, "00741204"), value(i, "00741000"), value(i, "00741002", "00741238")) for i in items]
        row = {
            "study": name,
            "sent_s": round(sent - begun, 2),
            "last_instance_to_result_s": round(last - sent, 1) if items else None,
            "tasks": states,
            **result,
        }
        rows.append(row)
        print(json.dumps(row, indent=2), flush=True)
    memory.stopped.set()
    memory.join()
    print(f"[{how}] peak memory of the server and its children: {memory.peak_mb:.0f} MB (PSS)")
    rows.append({"peak_memory_mb": round(memory.peak_mb)})
    return rows


def validators(folder: Path) -> str:
    """The last line of tests/validate_results.sh, and its errors."""
    run = subprocess.run(
        ["bash", ROOT / "tests" / "validate_results.sh", "--skip-set", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = run.stdout.splitlines()
    return "\n".join([*(line for line in lines if "ERROR" in line), *lines[-1:]])


def main() -> int:
    """Run the trial; the exit status is 1 when a validator found an error or a task did not complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default="", help="only folders whose path contains this")
    parser.add_argument("--scaled", choices=("yes", "no", "only"), default="yes", help="also S3 + PostgreSQL + Redis")
    parser.add_argument("--out", type=Path, default=ROOT / "trial")
    chosen = parser.parse_args()
    found = find_studies(chosen.data)
    studies = {uid: s for uid, s in found.items() if any(chosen.only in folder for folder in s.folders)}
    if not studies:
        print(f"no DICOM files under {chosen.data}", file=sys.stderr)
        return 2
    shutil.rmtree(chosen.out, ignore_errors=True)
    chosen.out.mkdir(parents=True)
    report: dict[str, Any] = {}
    settings = {"M3DICOM_STABLE_AFTER_S": "2"}
    if chosen.scaled != "only":
        server = start_server(chosen.out / "embedded", settings=settings)
        try:
            report["dcmsend"] = run(server, server.process.pid, studies, chosen.data, chosen.out, "dcmsend")
        finally:
            server.stop()
            (chosen.out / "embedded.log").write_text("".join(server.output))
    if chosen.scaled != "no":
        from scaled import scaled_settings, worker

        with ExitStack() as stack:
            scaled = stack.enter_context(scaled_settings()) | settings
            server = start_server(chosen.out / "scaled", settings=scaled | {"M3DICOM_WORKERS": "0"})
            stack.callback(server.stop)
            stack.enter_context(worker(chosen.out / "worker", scaled))
            report["stow"] = run(server, os.getpid(), studies, chosen.data, chosen.out, "stow")
        (chosen.out / "scaled.log").write_text("".join(server.output))
    bad = 0
    for how in report:
        said = validators(chosen.out / how)
        print(f"[{how}] validators: {said}")
        report[how].append({"validators": said})
        bad += not said.rstrip().endswith("errors 0")
    (chosen.out / "report.json").write_text(json.dumps(report, indent=2))
    print(f"Everything is under {chosen.out}: report.json, logs, and every result object.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
