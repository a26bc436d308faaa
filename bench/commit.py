#!/usr/bin/env python3
"""CPU of a COMMIT of twelve pages, by SQLite alone and with its log written in one call (`pacs/index/wal.py`).

    python commit.py [--folder FOLDER]

The twelve pages are those of an instance that joins its series. Thread CPU in us: least, 10th percentile, median.
"""

import argparse
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pacs.index import wal

PAGES, COMMITS = 12, 2500


def measure(path, connect):
    connection = connect(str(path))
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "cache_size=-65536", "wal_autocheckpoint=0"):
        connection.execute(f"PRAGMA {pragma}")
    for number in range(PAGES):
        connection.execute(f"CREATE TABLE t{number} (id INTEGER PRIMARY KEY, held BLOB)")
    taken = []
    for turn in range(COMMITS):
        connection.execute("BEGIN IMMEDIATE")
        for number in range(PAGES):
            connection.execute(f"INSERT INTO t{number} (held) VALUES (?)", (b"x" * 50,))
        begun = time.thread_time_ns()
        connection.execute("COMMIT")
        taken.append((time.thread_time_ns() - begun) / 1000)
        if turn % 500 == 499:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    taken.sort()
    return taken[0], taken[len(taken) // 10], taken[len(taken) // 2]


def main():
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("--folder", help="where the databases go; default: the system's temporary one")
    given = asked.parse_args()
    print("| log | least | p10 | p50 |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for turn in range(2):
            for name, connect in (("a call for each header and page", sqlite3.connect), ("one call", wal.connect)):
                least, tenth, median = measure(Path(folder) / f"{name[0:3]}{turn}.db", connect)
                print(f"| {name} | {least:.1f} | {tenth:.1f} | {median:.1f} |")


if __name__ == "__main__":
    main()
