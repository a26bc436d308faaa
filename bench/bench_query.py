#!/usr/bin/env python3
"""C-ECHO and C-FIND latency, C-GET and C-MOVE throughput.

    python bench_query.py --corpus corpus \\
        --target name=a,dimse=127.0.0.1:4242:A --target name=b,dimse=127.0.0.1:11112:B

The corpus must be stored already.  For `move` every server has to know the
AE title --sink (default SINK) at 127.0.0.1:--sink-port; the driver runs
`storescp --ignore` there.  `getscu` writes to a scratch folder, `get` counts
the bytes and drops them.
"""

import glob
import os
import subprocess
import sys
import tempfile
import time

import dimse
from common import Clock, Table, Target, dcmtk_tool, parser, pick, quantile

MEASURES = ["connect", "echo", "find_patient", "find_date", "find_all", "get", "getscu", "move"]
ENV = dict(os.environ, TCP_NODELAY="1")


def study_keys(extra):
    keys = {
        0x00080020: b"",
        0x00080030: b"",
        0x00080050: b"",
        0x00080052: b"STUDY",
        0x00080061: b"",
        0x00081030: b"",
        0x00100010: b"",
        0x00100020: b"",
        0x0020000D: b"",
        0x00201208: b"",
    }
    keys.update(extra)
    return dimse.implicit(keys.items())


def connect(target, get_classes=()):
    host, port, aet = target.dimse
    contexts = [
        (dimse.VERIFICATION, (dimse.IMPLICIT,)),
        (dimse.STUDY_FIND, (dimse.IMPLICIT,)),
        (dimse.STUDY_GET, (dimse.IMPLICIT,)),
        (dimse.STUDY_MOVE, (dimse.IMPLICIT,)),
    ]
    contexts += [(c, (dimse.EXPLICIT,)) for c in get_classes]
    return dimse.Association(host, port, aet, contexts=contexts, scp_roles=get_classes)


def latencies(call, args, n):
    out, rows = [], 0
    for i in range(n):
        t0 = time.perf_counter()
        got = call(args[i % len(args)])
        out.append((time.perf_counter() - t0) * 1e3)
        rows = len(got) if isinstance(got, list) else 0
    return out, rows


def main():
    from pydicom import dcmread

    ap = parser(__doc__)
    ap.add_argument("--corpus", required=True)
    ap.add_argument("--kind", default="ct", help="which studies get and move fetch")
    ap.add_argument("--count", type=int, default=300, help="queries per round")
    ap.add_argument("--sink", default="SINK")
    ap.add_argument("--sink-port", type=int, default=14300)
    args = ap.parse_args()
    targets = [Target(t) for t in args.target]
    table = Table(targets)
    studies, size, sop = {}, {}, set()
    for path in sorted(glob.glob(os.path.join(args.corpus, args.kind, "*.dcm"))):
        ds = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "PatientID", "SOPClassUID"])
        studies.setdefault(ds.StudyInstanceUID, ds.PatientID)
        size[ds.StudyInstanceUID] = size.get(ds.StudyInstanceUID, 0) + os.path.getsize(path)
        sop.add(str(ds.SOPClassUID))
    uids = sorted(studies)
    retrieve = [dimse.implicit([(0x00080052, b"STUDY"), (0x0020000D, u.encode())]) for u in uids]
    finds = {
        "find_patient": [study_keys({0x00100020: studies[u].encode()}) for u in uids],
        "find_date": [study_keys({0x00080020: f"2024{m:02d}01-2024{m:02d}05".encode()}) for m in range(1, 13)],
        "find_all": [study_keys({})],
    }
    chosen = pick(args, MEASURES)
    sink = None
    if "move" in chosen:
        sink = subprocess.Popen(
            [dcmtk_tool("storescp"), "--ignore", "-aet", args.sink, "+xa", str(args.sink_port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENV,
        )
        time.sleep(0.3)
    try:
        for _ in range(args.rounds):
            for measure in chosen:
                for t in targets:
                    clock = Clock(t)
                    if measure == "connect":

                        def cycle(_, t=t):
                            connect(t).release()

                        with clock:
                            ms, rows = latencies(cycle, [0], 50)
                    elif measure == "echo":
                        a = connect(t)
                        with clock:
                            ms, rows = latencies(lambda _, a=a: a.echo(), [0], args.count)
                        a.release()
                    elif measure.startswith("find"):
                        a = connect(t)
                        a.find(finds[measure][0])
                        with clock:
                            ms, rows = latencies(a.find, finds[measure], args.count)
                        a.release()
                    else:
                        u = uids[0]
                        if measure == "get":
                            a = connect(t, sorted(sop))
                            with clock:
                                n, _ = a.get(retrieve[0])
                            a.release()
                        elif measure == "move":
                            a = connect(t)
                            with clock:
                                n = a.move(retrieve[0], args.sink)
                            a.release()
                        else:
                            host, port, aet = t.dimse
                            with tempfile.TemporaryDirectory() as d, clock:
                                subprocess.run(
                                    [
                                        dcmtk_tool("getscu"),
                                        "-S",
                                        "-aec",
                                        aet,
                                        "-od",
                                        d,
                                        "-k",
                                        "0008,0052=STUDY",
                                        "-k",
                                        f"0020,000D={u}",
                                        host,
                                        str(port),
                                    ],
                                    check=True,
                                    stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL,
                                    env=ENV,
                                )
                                n = len(os.listdir(d))
                        print(f"# {measure} {t.name}: {n} instances, {clock.wall:.2f} s", file=sys.stderr, flush=True)
                        table.add(f"{measure} {args.kind} study", "inst/s", t, n / clock.wall, clock.cpu, clock.rss)
                        table.add(f"{measure} {args.kind} study", "MB/s", t, size[u] / 1e6 / clock.wall)
                        continue
                    label = f"{measure}" + (f" ({rows} rows)" if measure.startswith("find") else "")
                    table.add(label, "p50 ms", t, quantile(ms, 0.5), clock.cpu, clock.rss, better="less")
                    table.add(label, "p99 ms", t, quantile(ms, 0.99), better="less")
    finally:
        if sink:
            sink.terminate()
    table.show()


if __name__ == "__main__":
    main()
