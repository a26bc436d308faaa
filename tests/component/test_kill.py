"""kill -9 in the middle of ingest: nothing acknowledged is lost, nothing is half there, and it goes on."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from sqlalchemy import func, select

from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM
from pacs.dicom.attributes import Level
from pacs.dicom.matching import Query
from pacs.index import schema
from pacs.settings import Settings

CHILD = """
import itertools, sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import dicom_data
from pacs import uids
from pacs.archive import open_archive
from pacs.auth import SYSTEM
from pacs.settings import Settings

archive = open_archive(Settings(data=Path(sys.argv[1])))
start = int(sys.argv[3])
numbers = itertools.count(start)
print("ready", flush=True)

def send():
    while True:
        number = next(numbers)
        ds = dicom_data.image(number % 50, 64 if number % 3 else 1024, 512, StudyInstanceUID=f"1.2.{number // 40 + 1}",
                              SeriesInstanceUID=f"1.3.{number // 10 + 1}", SOPInstanceUID=f"1.4.{number + 1}")
        receiving = archive.ingest.receive("1.2.840.10008.1.2.1")
        receiving.write(dicom_data.dataset_bytes(ds))
        stored = archive.ingest.store(receiving, principal=SYSTEM)
        sys.stdout.write(stored.sop_instance_uid + "\\n")
        sys.stdout.flush()

for _ in range(3):
    threading.Thread(target=send).start()
"""


def run_and_kill(data: Path, start: int, seconds: float) -> list[str]:
    """The SOP Instance UIDs that a child acknowledged before it was killed, `seconds` after it began."""
    tests = str(Path(__file__).resolve().parents[1])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(data), tests, str(start)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "ready\n"
        time.sleep(seconds)
        child.kill()
        lines = child.stdout.read().split("\n")
    child.wait()
    return lines[:-1]  # what comes after the last newline was not said in full


def assert_whole(archive: Archive, acknowledged: set[str]) -> int:
    """How many instances there are; each is readable to its last byte, counted, and has its rows."""
    studies = archive.query.search(Query(Level.STUDY), SYSTEM).rows
    seen: set[str] = set()
    for study in studies:
        locations = archive.retrieve.locate(SYSTEM, str(study.study_instance_uid))
        assert study.attributes["00201208"]["Value"] == [len(locations)]
        for location in locations:
            archive.retrieve.dataset(location)
        assert all(archive.retrieve.metadata(locations))
        seen |= {location.sop_instance_uid for location in locations}
    assert acknowledged <= seen
    with archive.index.read() as conn:
        for table in (schema.instance_metadata, schema.change, schema.audit):
            assert conn.execute(select(func.count()).select_from(table)).scalar_one() == len(seen)
    return len(seen)


def test_nothing_acknowledged_is_lost_to_kill_9(tmp_path: Path) -> None:
    dice = random.Random(5)
    acknowledged: set[str] = set()
    for turn in range(5):
        acknowledged |= set(run_and_kill(tmp_path, turn * 100_000, dice.uniform(0.3, 1.0)))
        archive = open_archive(Settings(data=tmp_path))
        assert_whole(archive, acknowledged)
        assert list(archive.store.spool_dir.iterdir()) == []
        archive.store.check()
        archive.close()
    assert len(acknowledged) > 20
