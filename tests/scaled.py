"""The scaled form on this machine: S3 by rclone, PostgreSQL, Redis, and workers in processes of their own."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from conftest import COMMAND
from redis_server import redis
from servers import postgresql, rclone


@contextmanager
def scaled_settings() -> Iterator[dict[str, str]]:
    """Environment variables that describe running services; they end with the context."""
    with ExitStack() as stack:
        s3 = stack.enter_context(rclone())
        cluster = stack.enter_context(postgresql())
        queue = stack.enter_context(redis())
        yield {
            "M3DICOM_INDEX": cluster.new_database(),
            "M3DICOM_OBJECTS": f"s3://{s3.bucket}/objects",
            "M3DICOM_S3_ENDPOINT": s3.endpoint,
            "M3DICOM_QUEUE": queue.url,
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        }


@contextmanager
def worker(data: Path, settings: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A worker process without doors; told to stop at the end, which it must do with exit status 0."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("M3DICOM_")} | settings
    process = subprocess.Popen(
        [COMMAND, "worker", "--data", str(data), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip
    output: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        with process.stdout:
            output.extend(process.stdout)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield process
    finally:
        process.terminate()
        status = process.wait(60)
        reader.join(5)
        text = "".join(output)
        assert "Traceback" not in text, text[-4000:]
        assert status == 0, text[-4000:]
