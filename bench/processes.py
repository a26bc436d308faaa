#!/usr/bin/env python3
"""C-STORE through four associations to m3DICOM on PostgreSQL, served by one process and by two.

    python processes.py --corpus corpus --kind small --limit 1000 --rounds 5

A PostgreSQL server of its own is started (Debian's binaries), a new database for each sample.
"""

import argparse
import glob
import os
import subprocess
import sys
import time
from pathlib import Path

import bench_store
from common import Clock, Table, Target

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))


def main():
    from servers import postgresql

    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--corpus", required=True)
    ap.add_argument("--kind", default="small")
    ap.add_argument("--limit", type=int, default=1000)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--folder", default="run")
    ap.add_argument("--http", type=int, default=18080)
    ap.add_argument("--port", type=int, default=11112)
    args = ap.parse_args()
    files = sorted(glob.glob(os.path.join(args.corpus, args.kind, "*.dcm")))[: args.limit]
    ours = [str(HERE / "ours.sh"), args.folder]
    where = f"dimse=127.0.0.1:{args.port}:OURS,pidfile={args.folder}/ours.pid"
    targets = {count: Target(f"name={count} process{'es' * (count > 1)},{where}") for count in (1, 2)}
    table = Table(list(targets.values()))
    with postgresql() as cluster:
        for _ in range(args.rounds):
            for count, target in targets.items():
                environment = dict(
                    os.environ,
                    M3DICOM_INDEX=cluster.new_database(), M3DICOM_DIMSE_PROCESSES=str(count), NO_TOKEN="1",
                )  # fmt: skip
                subprocess.run(
                    [*ours, str(args.http), str(args.port)], check=True, env=environment, stdout=subprocess.DEVNULL
                )
                until = time.monotonic() + 30  # both serve once they hold database connections of their own
                while count > 1 and len(target.pids()) <= count and time.monotonic() < until:
                    time.sleep(0.1)
                time.sleep(4)
                clock = Clock(target)
                bad = bench_store.raw(target, files, args.kind, 4, clock)
                assert not bad
                label = f"C-STORE {args.kind} raw4, PostgreSQL"
                table.add(label, "inst/s", target, len(files) / clock.wall, clock.cpu, clock.rss)
        subprocess.run([*ours, "stop"], check=True)
    table.show()


if __name__ == "__main__":
    main()
