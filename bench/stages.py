#!/usr/bin/env python3
"""Where the time of one store goes, without a network: CPU in microseconds by stage, each without those inside it.

    python stages.py --corpus corpus --kind ct --limit 400

Stores the files of a kind in an archive of its own (the defaults: files, SQLite, everything synced), half of them as
they are, then half with a clock around each stage; the clocks cost some 0.3 us a stage.
"""

import argparse
import functools
import gc
import glob
import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import dimse

from pacs import filing, ingest, spool
from pacs.archive import open_archive
from pacs.auth import Principal
from pacs.dicom import scanner
from pacs.index import joining, statement, writer
from pacs.settings import Settings
from pacs.storage import files, segments

STAGES = (
    (spool.Spool, "write", "hash and copy of the bytes"),
    (scanner, "scan", "header walk"),
    (filing.Entry, "__post_init__", "rows, JSON, packing"),
    (ingest, "head", "File Meta and arrival facts"),
    (files.FileStore, "put", "append to the segment: bookkeeping"),
    (segments.Segment, "_write", "append to the segment: the write, durable"),
    (os, "fdatasync", "other syncs"),
    (writer.GroupCommit, "submit", "group commit: bookkeeping"),
    (writer.GroupCommit, "_alone", "group commit: BEGIN and COMMIT"),
    (filing, "join", "filing: Python between statements"),
    (statement.Statement, "first_on_driver", "filing: look-up"),
    (joining, "join", "filing: all its rows"),
    (ingest.Ingest, "_filed", "filing of what begins a series"),
    (ingest.Ingest, "store", "everything else"),
)


def clocked(owner: object, name: str, spent: Counter, open_stages: list[float]) -> None:
    function = getattr(owner, name)

    @functools.wraps(function)
    def stage(*args, **kwargs):
        open_stages.append(0.0)
        begun = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            took = time.thread_time() - begun
            spent[(owner, name)] += took - open_stages.pop()
            if open_stages:
                open_stages[-1] += took

    setattr(owner, name, stage)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--kind", default="ct")
    parser.add_argument("--limit", type=int, default=400)
    given = parser.parse_args()
    found = sorted(glob.glob(os.path.join(given.corpus, given.kind, "*.dcm")))[: given.limit]
    instances = [dimse.read_part10(path) for path in found]
    folder = Path(tempfile.mkdtemp(prefix="stages", dir=given.corpus))
    archive = open_archive(Settings(data=folder))
    principal = Principal("BENCH", "ae")

    def store(sop_class: str, uid: str, syntax: str, data: bytes) -> None:
        receiving = archive.ingest.receive(syntax, sop_class, uid, "BENCH")
        receiving.write(data)
        archive.ingest.store(receiving, principal=principal)

    try:
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)
        half = len(instances) // 2
        begun, wall = time.process_time(), time.perf_counter()
        for each in instances[:half]:
            store(*each)
        took, wall = time.process_time() - begun, time.perf_counter() - wall
        print(f"{given.kind}: {took / half * 1e6:.0f} us CPU, {wall / half * 1e6:.0f} us from call to answer")
        spent: Counter = Counter()
        stages: list[float] = []
        for owner, name, _ in STAGES:
            clocked(owner, name, spent, stages)
        for each in instances[half:]:
            store(*each)
        for owner, name, label in STAGES:
            print(f"{spent[owner, name] / (len(instances) - half) * 1e6:7.1f}  {label}")
    finally:
        archive.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
