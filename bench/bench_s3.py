#!/usr/bin/env python3
"""A study that lies on S3, behind a proxy that adds 20 ms to each request.

    python bench_s3.py --instances 500 --rounds 3

Starts rclone's S3 server, the proxy, and m3DICOM with its read cache off, stores CT slices of 512 x 512 in it, and
compares the download of their study over WADO-RS with the same reads perfectly overlapped: sixteen threads that read
the same objects through the same store and do nothing else. Also counts what searches, metadata and a frame ask of S3.
"""

import argparse
import os
import socket
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent)]

import dicom_data  # noqa: E402
import numpy as np  # noqa: E402
from conftest import start_server  # noqa: E402
from faults.proxy import Proxy  # noqa: E402
from servers import ACCESS_KEY, SECRET_KEY, rclone  # noqa: E402

OBJECTS = 'multipart/related; type="application/dicom"; transfer-syntax=*'


def proxy_in_between(upstream, delay_s, pipe):
    """Runs the proxy in a process of its own; tells its endpoint, then the number of requests whenever asked."""
    proxy = Proxy(upstream)
    proxy.before = lambda _: time.sleep(delay_s)
    pipe.send(proxy.endpoint)
    while pipe.recv() == "count":
        pipe.send(proxy._number)


def slices(count):
    rng = np.random.default_rng(5)
    for z, ds in enumerate(dicom_data.series(count, study=71, rows=512, columns=512)):
        ds.PixelData = rng.integers(0, 4096, (512, 512), "<u2").tobytes()
        ds.InstanceNumber = z + 1
        yield ds


def overlapped(settings, study):
    """Seconds that sixteen threads take to read every object of the study through the store."""
    from pacs.archive import open_store
    from pacs.auth import SYSTEM
    from pacs.index.engine import open_index
    from pacs.retrieve import Retrieve

    index, store = open_index(settings.index_url), open_store(settings, alone=False)
    locations = Retrieve(store, index).locate(SYSTEM, study)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda each: store.read(each.locator, each.dataset_offset, each.size), locations[:16]))
        began = time.perf_counter()
        sizes = pool.map(lambda each: len(store.read(each.locator, each.dataset_offset, each.size)), locations)
        total = sum(sizes)
        seconds = time.perf_counter() - began
    store.close()
    index.close()
    return seconds, total


def download(server, path, authorization):
    """Bytes of an answer, read by a client that costs next to nothing."""
    host, port = server.ready["http"].split(":")
    head = f"GET /dicom-web{path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: {authorization}\r\n"
    total, room = 0, bytearray(1 << 20)
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(f"{head}Accept: {OBJECTS}\r\nConnection: close\r\n\r\n".encode())
        while count := sock.recv_into(room):
            total += count
    return total


def main():
    import multiprocessing

    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--instances", type=int, default=500)
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--delay-ms", type=float, default=20)
    args = ap.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    spawn = multiprocessing.get_context("spawn")
    with rclone() as s3, tempfile.TemporaryDirectory() as folder:
        ours, theirs = spawn.Pipe()
        port = int(s3.endpoint.rpartition(":")[2])
        between = spawn.Process(target=proxy_in_between, args=(port, args.delay_ms / 1e3, theirs))
        between.start()
        endpoint = ours.recv()

        def count():
            ours.send("count")
            return ours.recv()

        settings = {
            "M3DICOM_OBJECTS": f"s3://{s3.bucket}/bench", "M3DICOM_S3_ENDPOINT": endpoint,
            "M3DICOM_S3_CACHE_BYTES": "0", "M3DICOM_WORKERS": "0", "M3DICOM_STABLE_AFTER_S": "3600",
        }  # fmt: skip
        server = start_server(Path(folder) / "data", settings=settings)
        try:
            files = Path(folder) / "files"
            files.mkdir()
            for z, ds in enumerate(slices(args.instances)):
                (files / f"{z}.dcm").write_bytes(dicom_data.part10(ds))
            server.dcmsend(files)
            study = str(ds.StudyInstanceUID)
            where = f"/studies/{study}/series/{ds.SeriesInstanceUID}"
            with server.client() as http:
                before = count()
                for path in ("/studies", f"{where}/instances", f"{where}/metadata"):
                    assert http.get(path).status_code == 200
                middle = count()
                assert http.get(f"{where}/instances/{ds.SOPInstanceUID}/frames/1").status_code == 200
                print(f"requests to S3: searches and metadata {middle - before}, a frame {count() - middle}")
                rates, best = [], []
                from pacs.settings import load

                ideal = load(environment=settings | {"M3DICOM_DATA": str(Path(folder) / "data")})
                for _ in range(args.rounds):
                    began = time.perf_counter()
                    total = download(server, f"/studies/{study}", http.headers["Authorization"])
                    rates.append(total / 1e6 / (time.perf_counter() - began))
                    seconds, read = overlapped(ideal, study)
                    best.append(read / 1e6 / seconds)
        finally:
            server.stop()
            ours.send("end")
            between.join()
    ratio = statistics.median(rates) / statistics.median(best)
    print(f"study of {args.instances} instances, {args.delay_ms:g} ms: {statistics.median(rates):.0f} MB/s "
          f"({min(rates):.0f}-{max(rates):.0f}); reads alone, overlapped: {statistics.median(best):.0f} MB/s "
          f"({min(best):.0f}-{max(best):.0f}); {ratio:.2f} of it")  # fmt: skip


if __name__ == "__main__":
    main()
