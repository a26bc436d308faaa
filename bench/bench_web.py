#!/usr/bin/env python3
"""DICOMweb: STOW-RS ingest, QIDO-RS latency, WADO-RS throughput.

    python bench_web.py --corpus corpus --rounds 3 --seconds 4 \\
        --target name=a,web=http://127.0.0.1:8042/dicom-web,pidfile=run/a.pid \\
        --target name=b,web=http://127.0.0.1:8000/dicom-web,token=SECRET

All but `stow` need the corpus to be stored already.  `stow` runs the reset
command of a target first, when it has one.
"""

import glob
import http.client
import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time

from common import Clock, Table, Target, parser, pick

HERE = os.path.dirname(os.path.abspath(__file__))
DICOM = 'multipart/related; type="application/dicom"'
OCTETS = 'multipart/related; type="application/octet-stream"'
JSON = "application/dicom+json"
UNIT = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
SIZE = {"B": 1e-6, "KB": 1024e-6, "MB": 1.048576, "GB": 1073.741824}


def get(target, path, accept):
    host, port, root = target.host_port()
    c = http.client.HTTPConnection(host, port, timeout=120)
    c.request("GET", root + path, headers={"Accept": accept, **target.headers()})
    r = c.getresponse()
    body = r.read()
    c.close()
    if r.status != 200:
        raise RuntimeError(f"{target.name}: GET {path}: {r.status} {body[:200]!r}")
    return r.getheader("Content-Type"), body


def wrk(target, paths, accept, connections, seconds):
    host, port, root = target.host_port()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as f:
        f.write("".join(root + p + "\n" for p in paths))
        f.flush()
        cmd = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--latency",
            "--timeout",
            "60s",
            "-s",
            os.path.join(HERE, "wrk_urls.lua"),
            "-H",
            f"Accept: {accept}",
        ]
        for k, v in target.headers().items():
            cmd += ["-H", f"{k}: {v}"]
        cmd += [f"http://{host}:{port}/", "--", f.name]
        out = subprocess.run(cmd, check=True, capture_output=True, text=True).stdout
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    if bad or "Latency Distribution" not in out or "\n  0 requests in" in out:
        print(
            f"# {target.name}: {bad.group(0) if bad else 'no request done'} on {paths[0]}, sample dropped",
            file=sys.stderr,
            flush=True,
        )
        return None
    lat = {}
    for q in ("50%", "99%"):
        m = re.search(rf"{q}\s+([\d.]+)(us|ms|s|m)\b", out)
        lat[q] = float(m.group(1)) * UNIT[m.group(2)]
    rps = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))
    m = re.search(r"Transfer/sec:\s+([\d.]+)(KB|MB|GB|B)", out)
    return rps, lat["50%"], lat["99%"], float(m.group(1)) * SIZE[m.group(2)]


def multipart(files):
    parts = []
    for path in files:
        with open(path, "rb") as f:
            parts += [b"\r\n--bench\r\nContent-Type: application/dicom\r\n\r\n", f.read()]
    return b"".join(parts)[2:] + b"\r\n--bench--\r\n"


def stow_worker(target, groups, ready, go, done):
    bodies = [multipart(g) for g in groups]
    host, port, root = target.host_port()
    headers = {
        "Content-Type": 'multipart/related; type="application/dicom"; boundary=bench',
        "Accept": JSON,
        **target.headers(),
    }
    c = http.client.HTTPConnection(host, port, timeout=300)
    ready.release()
    go.wait()
    bad = len(bodies)
    try:
        for body in bodies:
            c.request("POST", root + "/studies", body=body, headers=headers)
            r = c.getresponse()
            r.read()
            bad -= r.status == 200
    finally:
        done.put(bad)


def stow(target, files, clients, per_post, clock):
    ctx = multiprocessing.get_context("fork")
    ready, go, done = ctx.Semaphore(0), ctx.Event(), ctx.Queue()
    groups = [files[i : i + per_post] for i in range(0, len(files), per_post)]
    procs = [
        ctx.Process(target=stow_worker, args=(target, groups[i::clients], ready, go, done)) for i in range(clients)
    ]
    for p in procs:
        p.start()
    for _ in procs:
        ready.acquire()
    with clock:
        go.set()
        bad = sum(done.get(timeout=180) for _ in procs)
    for p in procs:
        p.join()
    return bad


class Paths:
    """Request paths for the corpus; read from the files, not from a server."""

    def __init__(self, corpus):
        from pydicom import dcmread

        self.tree = {}
        for kind in ("ct", "small", "mg", "mf"):
            for path in sorted(glob.glob(os.path.join(corpus, kind, "*.dcm"))):
                ds = dcmread(
                    path,
                    stop_before_pixels=True,
                    specific_tags=["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID"],
                )
                self.tree.setdefault(kind, []).append(
                    (ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
                )

    def series(self, kind):
        return sorted({f"/studies/{s}/series/{e}" for _, s, e, _ in self.tree[kind]})

    def instances(self, kind):
        return [f"/studies/{s}/series/{e}/instances/{i}" for _, s, e, i in self.tree[kind]]

    def studies(self, kind):
        return sorted({f"/studies/{s}" for _, s, _, _ in self.tree[kind]})

    def patients(self):
        return sorted({p for rows in self.tree.values() for p, *_ in rows})


def plans(paths):
    """measure: (paths, accept, connection counts, reported as)"""
    return {
        "qido_page": (["/studies?limit=20"], JSON, (1, 8), "rps"),
        "qido_patient": ([f"/studies?PatientID={p}" for p in paths.patients()], JSON, (1, 8), "rps"),
        # Each request another one: nothing that was answered before can be given again.
        "qido_patient_new": (
            [f"/studies?PatientID={paths.patients()[n % len(paths.patients())]}&limit={n + 1}" for n in range(20_000)],
            JSON,
            (1, 8),
            "rps",
        ),
        "qido_date": (
            [f"/studies?StudyDate=2024{m:02d}01-2024{m:02d}15&limit=20" for m in range(1, 13)],
            JSON,
            (1, 8),
            "rps",
        ),
        "qido_series": ([s + "/series" for s in paths.studies("ct")], JSON, (1, 8), "rps"),
        "qido_instances": ([s + "/instances" for s in paths.series("ct")], JSON, (1, 8), "rps"),
        "wado_instance_ct": (paths.instances("ct"), DICOM, (1, 4), "MB/s"),
        "wado_instance_mg": (paths.instances("mg"), DICOM, (1, 4), "MB/s"),
        "wado_frame_ct": ([p + "/frames/1" for p in paths.instances("ct")], OCTETS, (1, 8), "rps"),
        "wado_frame_mf": ([paths.instances("mf")[0] + f"/frames/{n}" for n in range(1, 201)], OCTETS, (1, 8), "rps"),
        "wado_metadata_series": ([s + "/metadata" for s in paths.series("ct")], JSON, (1, 4), "rps"),
        # The window is named, since not every server takes that of the instances, and a black picture is soon made.
        "wado_rendered_ct": (
            [p + "/rendered?window=-400,1300,linear" for p in paths.instances("ct")],
            "image/jpeg",
            (1, 4),
            "rps",
        ),
        "wado_study": (paths.studies("ct"), DICOM, (1, 2), "MB/s"),
    }


def main():
    ap = parser(__doc__)
    ap.add_argument("--corpus", required=True)
    ap.add_argument("--seconds", type=int, default=4, help="length of one wrk run")
    ap.add_argument("--stow-kind", default="ct")
    ap.add_argument("--stow-limit", type=int, default=0)
    ap.add_argument("--stow-clients", default="1,4", help="how many post at once, ten instances a post")
    ap.add_argument("--check", action="store_true", help="only print one answer's type and size per measure")
    args = ap.parse_args()
    targets = [Target(t) for t in args.target]
    table = Table(targets)
    todo = plans(Paths(args.corpus))
    for measure in pick(args, ["stow", *list(todo)]):
        if measure == "stow":
            files = sorted(glob.glob(os.path.join(args.corpus, args.stow_kind, "*.dcm")))
            files = files[: args.stow_limit] if args.stow_limit else files
            mb = sum(os.path.getsize(f) for f in files) / 1e6
            for c, _, t in itertools.product(map(int, args.stow_clients.split(",")), range(args.rounds), targets):
                t.reset()
                clock = Clock(t)
                bad = stow(t, files, c, 10, clock)
                if bad:
                    print(f"# stow {t.name}: {bad} failed posts, sample dropped", file=sys.stderr, flush=True)
                    continue
                rate = len(files) / clock.wall
                table.add(f"STOW {args.stow_kind} {c}x10", "inst/s", t, rate, clock.cpu, clock.rss)
                table.add(f"STOW {args.stow_kind} {c}x10", "MB/s", t, mb / clock.wall)
                print(f"# stow c{c} {t.name}: {rate:.0f} inst/s", file=sys.stderr, flush=True)
            continue
        paths, accept, counts, report = todo[measure]
        for t in targets:
            kind, body = get(t, paths[0], accept)
            rows = f", {len(json.loads(body))} rows" if "json" in kind else ""
            print(f"# {measure} {t.name}: {kind.split(';')[0]}, {len(body)} bytes{rows}", file=sys.stderr, flush=True)
        if args.check:
            continue
        for c in counts:
            for _ in range(args.rounds):
                for t in targets:
                    clock = Clock(t)
                    with clock:
                        got = wrk(t, paths, accept, c, args.seconds)
                    if not got:
                        continue
                    rps, p50, p99, mbs = got
                    if report == "MB/s":
                        table.add(f"{measure} c{c}", "MB/s", t, mbs, clock.cpu, clock.rss)
                    table.add(f"{measure} c{c}", "req/s", t, rps, clock.cpu, clock.rss)
                    table.add(f"{measure} c{c}", "p50 ms", t, p50, better="less")
                    table.add(f"{measure} c{c}", "p99 ms", t, p99, better="less")
                    time.sleep(0.2)
    if not args.check:
        table.show()


if __name__ == "__main__":
    main()
