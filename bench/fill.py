#!/usr/bin/env python3
"""Register many tiny CT instances through C-STORE, to grow the index.

    python fill.py --instances 100000 --associations 2 \\
        --target name=a,dimse=127.0.0.1:4242:A --target name=b,dimse=127.0.0.1:11112:B

Studies of 2 series x 50 instances, 16 x 16 pixels, spread over the days of
2024.  Messages are made by patching one encoded template, so the client is
cheap.  Prints the rate per target and the rate of every tenth on the way,
which shows whether ingest slows down as the index grows.
"""

import multiprocessing
import sys
import time

import dimse
import gen_corpus as g
import numpy as np
from common import Clock, Table, Target, parser

PER_SERIES, SERIES = 50, 2


def template():
    """Encoded dataset with fixed width placeholders."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    study = f"{g.ROOT}.9.1000000"
    ds = g.common(g.CT, "CT", 0, 0, 0, study, study + ".10", study + ".10.10000", "fill")
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20241212"
    ds.PatientID, ds.AccessionNumber, ds.StudyID = "PFI0000000", "ACCFI0000000", "0000000"
    ds.PatientName = "Fill^P0000000"
    ds.InstanceNumber, ds.SeriesNumber = "777777", "11"
    g.ct_tags(ds, 0, 512)
    g.pixels(ds, 16, 16)
    rng = np.random.default_rng(g.SEED)
    ds.PixelData = rng.integers(0, 4095, 256, dtype="<u2").tobytes()
    fp = DicomBytesIO()
    fp.is_little_endian, fp.is_implicit_VR = True, False
    write_dataset(fp, ds)
    return fp.getvalue()


def patched(base, n):
    st, rest = divmod(n, PER_SERIES * SERIES)
    se, inst = divmod(rest, PER_SERIES)
    raw = base
    uid = f"{g.ROOT}.9.{1000000 + st}"
    for old, new in (
        ("777777", f"{100001 + inst}"),
        (f"{g.ROOT}.9.1000000.10.10000", f"{uid}.{10 + se}.{10000 + inst}"),
        (f"{g.ROOT}.9.1000000.10", f"{uid}.{10 + se}"),
        (f"{g.ROOT}.9.1000000", uid),
        ("20241212", f"2024{1 + st % 12:02d}{1 + st // 12 % 28:02d}"),
        ("PFI0000000", f"PFI{st:07d}"),
        ("ACCFI0000000", f"ACCFI{st:07d}"),
        ("Fill^P0000000", f"Fill^P{st:07d}"),
    ):
        raw = raw.replace(old.encode(), new.encode())
    assert len(raw) == len(base)
    return raw, f"{uid}.{10 + se}.{10000 + inst}"


def worker(target, first, last, done):
    base = template()
    host, port, aet = target.dimse
    a = dimse.Association(host, port, aet, contexts=((dimse.CT, (dimse.EXPLICIT,)),))
    bad, marks, t0 = 0, [], time.perf_counter()
    for n in range(first, last):
        raw, uid = patched(base, n)
        bad += a.store_encoded(a.encode_store(dimse.CT, uid, raw)) != 0
        if (n - first + 1) % max(1, (last - first) // 10) == 0:
            marks.append(time.perf_counter() - t0)
    a.release()
    done.put((bad, marks))


def send(target, start, instances, ways):
    """(failures, moments of the tenths) for each of `ways` associations that send `instances` from `start` on."""
    ctx = multiprocessing.get_context("fork")
    done = ctx.Queue()
    step = -(-instances // ways)
    last = start + instances
    procs = [
        ctx.Process(target=worker, args=(target, start + i * step, min(start + (i + 1) * step, last), done))
        for i in range(ways)
    ]
    for p in procs:
        p.start()
    got = [done.get() for _ in procs]
    for p in procs:
        p.join()
    return got


def main():
    ap = parser(__doc__)
    ap.add_argument("--instances", type=int, default=100000)
    ap.add_argument("--start", type=int, default=0, help="number of the first instance")
    ap.add_argument("--associations", type=int, default=2)
    args = ap.parse_args()
    targets = [Target(t) for t in args.target]
    table = Table(targets)
    for t in targets:
        clock = Clock(t)
        with clock:
            got = send(t, args.start, args.instances, args.associations)
        step = -(-args.instances // args.associations)
        marks = got[0][1]
        tenth = step // 10 * args.associations
        steps = [round(tenth / (b - a)) for a, b in zip([0, *marks], marks, strict=False)]
        print(f"# {t.name}: failures {sum(b for b, _ in got)}; inst/s per tenth {steps}", file=sys.stderr, flush=True)
        table.add(
            f"fill {args.instances} x{args.associations}",
            "inst/s",
            t,
            args.instances / clock.wall,
            clock.cpu,
            clock.rss,
        )
    table.show()


if __name__ == "__main__":
    main()
