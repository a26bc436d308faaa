#!/usr/bin/env python3
"""C-STORE ingest: instances/s and MB/s, with 1 and 4 associations.

    python bench_store.py --corpus corpus --kinds ct,small \\
        --target name=a,dimse=127.0.0.1:4242:A,pidfile=run/a.pid,reset='run/a.sh fresh' \\
        --target name=b,dimse=127.0.0.1:11112:B

Clients: dcmsend and storescu (DCMTK, read each file while sending) and raw
(messages encoded before the clock starts, so nearly all CPU is left to the
server).  `reset` runs before every measure.
"""

import glob
import multiprocessing
import os
import subprocess
import sys

import dimse
from common import Clock, Table, Target, dcmtk_tool, parser, pick


def dcmtk(tool, target, files, ways, max_pdu, env):
    host, port, aet = target.dimse
    shares = [files[i::ways] for i in range(ways)]
    procs, bad = [], 0
    for share in shares:
        cmd = [dcmtk_tool(tool), "-aec", aet, "-aet", "BENCH"]
        if max_pdu:
            cmd += ["--max-send-pdu", str(max_pdu)]
        cmd += ["-R", "-xe"] if tool == "storescu" else []
        cmd += [host, str(port), *share]
        procs.append(subprocess.Popen(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env))
    for p in procs:
        err = p.communicate()[1]
        if p.returncode:
            bad += 1
            print(f"# {tool} against {target.name}: {err[-300:]!r}", file=sys.stderr)
    return bad


def raw_worker(target, files, kind, ready, go, done):
    host, port, aet = target.dimse
    cls = dimse.SOP_CLASSES[kind]
    bad = len(files)
    try:
        a = dimse.Association(host, port, aet, contexts=((cls, (dimse.EXPLICIT,)),))
        messages = []
        for path in files:
            sop_class, uid, _, data = dimse.read_part10(path)
            messages.append(a.encode_store(sop_class, uid, data))
    finally:
        ready.release()
    try:
        go.wait()
        for m in messages:
            bad -= a.store_encoded(m) == 0
        a.release()
    finally:
        done.put(bad)


def raw(target, files, kind, ways, clock):
    ctx = multiprocessing.get_context("fork")
    ready, go, done = ctx.Semaphore(0), ctx.Event(), ctx.Queue()
    procs = [ctx.Process(target=raw_worker, args=(target, files[i::ways], kind, ready, go, done)) for i in range(ways)]
    for p in procs:
        p.start()
    for _ in procs:
        ready.acquire()
    with clock:
        go.set()
        bad = sum(done.get(timeout=60) for _ in procs)
    for p in procs:
        p.join()
    return bad


MEASURES = ["dcmsend1", "dcmsend4", "storescu1", "raw1", "raw4"]


def main():
    ap = parser(__doc__)
    ap.add_argument("--corpus", required=True)
    ap.add_argument("--kinds", default="ct")
    ap.add_argument("--limit", type=int, default=0, help="use only the first N files of a kind")
    ap.add_argument("--max-send-pdu", type=int, default=0, help="dcmsend/storescu PDU size limit (0: their default)")
    ap.add_argument(
        "--nagle",
        action="store_true",
        help="leave Nagle's algorithm on in dcmsend/storescu, which is their default; "
        "it costs a 40 ms stall per instance against many servers",
    )
    args = ap.parse_args()
    env = dict(os.environ, TCP_NODELAY="0" if args.nagle else "1")
    targets = [Target(t) for t in args.target]
    table = Table(targets)
    for kind in args.kinds.split(","):
        files = sorted(glob.glob(os.path.join(args.corpus, kind, "*.dcm")))
        files = files[: args.limit] if args.limit else files
        mb = sum(os.path.getsize(f) for f in files) / 1e6
        for measure in pick(args, MEASURES):
            ways = int(measure[-1])
            if ways > len(files):
                continue
            for _ in range(args.rounds):
                for t in targets:
                    t.reset()
                    clock = Clock(t)
                    if measure.startswith("raw"):
                        bad = raw(t, files, kind, ways, clock)
                    else:
                        with clock:
                            bad = dcmtk(measure[:-1], t, files, ways, args.max_send_pdu, env)
                    if bad:
                        print(
                            f"# {kind} {measure} {t.name}: {bad} failures, sample dropped", file=sys.stderr, flush=True
                        )
                        continue
                    table.add(f"C-STORE {kind} {measure}", "inst/s", t, len(files) / clock.wall, clock.cpu, clock.rss)
                    if clock.cpu is not None:
                        ms = clock.cpu / len(files) * 1e3
                        table.add(f"C-STORE {kind} {measure}", "server CPU ms/inst", t, ms, better="less")
                    table.add(f"C-STORE {kind} {measure}", "MB/s", t, mb / clock.wall)
                    print(
                        f"# {kind} {measure} {t.name}: {len(files) / clock.wall:.0f} inst/s",
                        file=sys.stderr,
                        flush=True,
                    )
    table.show()


if __name__ == "__main__":
    main()
