"""Objects in an S3 bucket: acknowledged with a checksum, tried again within a deadline, a bounded number at a time.

Nothing here relies on conditional requests: keys hold the digest of their content, so writing one twice writes the
same, and uniqueness of instances is the index's business.
"""

from __future__ import annotations

import base64
import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from pacs import spool as spooling
from pacs.buffers import Buffers
from pacs.errors import ArchiveError, NotFound, OutOfResources, Unavailable
from pacs.spool import MEMORY_BYTES, Spool
from pacs.storage.base import CHUNK, SMALL_PREFIX, Locator, Placed, Unproven, small_name, span

T = TypeVar("T")

MAX_REQUESTS = 16
DEADLINE_S = 25.0
PART_BYTES = 16 << 20
_MISSING = frozenset(("404", "NoSuchKey", "NotFound"))
_FULL = frozenset(("507", "InsufficientStorage", "XMinioStorageFull", "QuotaExceeded"))
# Asking again would be answered the same.
_FINAL = frozenset(("400", "401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket"))


def warm() -> None:
    """Have in memory what every client is made of; processes forked after that share it."""
    nobody = {"aws_access_key_id": "none", "aws_secret_access_key": "none"}  # else they would be looked for
    boto3.client("s3", region_name="us-east-1", **nobody).close()


class S3Store:
    """Objects under `prefix` in a bucket. Credentials come from where boto3 looks for them unless given."""

    keyed = True

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        spool_dir: Path,
        endpoint: str = "",
        region: str = "us-east-1",
        sse: str = "",
        access_key: str | None = None,
        secret_key: str | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._deadline_s = deadline_s
        self._put_arguments = {"ServerSideEncryption": sse} if sse else {}
        self._slots = threading.BoundedSemaphore(MAX_REQUESTS)
        self._spool = spool_dir
        self._buffers = Buffers(MEMORY_BYTES)
        self._spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        spooling.sweep(self._spool)
        self._client = boto3.client(
            "s3",
            endpoint_url=endpoint or None,
            region_name=region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=Config(
                max_pool_connections=MAX_REQUESTS,
                connect_timeout=3,
                read_timeout=min(10.0, deadline_s),
                retries={"mode": "standard", "total_max_attempts": 1},  # `_call` tries again, within one deadline
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"} if endpoint else {},
            ),
        )

    @property
    def spool_dir(self) -> Path:
        """A local folder for arriving bytes."""
        return self._spool

    def _call(self, request: Callable[[], T]) -> T:
        """What the request returns; tried again after a failure that may pass, until the deadline."""
        deadline = time.monotonic() + self._deadline_s
        tries = 0
        while True:
            tries += 1
            if not self._slots.acquire(timeout=max(deadline - time.monotonic(), 0)):
                raise Unavailable("the object store is busy")
            try:
                return request()
            except (BotoCoreError, ClientError) as error:
                failure = _translated(error)
                if not isinstance(failure, Unavailable) or _code(error) in _FINAL:
                    raise failure from error
                pause = random.uniform(0.5, 1) * min(0.1 * 2**tries, 3)  # noqa: S311  jitter needs no secrecy
                if time.monotonic() + pause >= deadline:
                    raise failure from error
            finally:
                self._slots.release()
            time.sleep(pause)

    def spool(self, reserve: int, limit: int | None) -> Spool:
        """A spool in that folder."""
        return Spool(self._spool, reserve=reserve, limit=limit, buffers=self._buffers)

    def redoes(self, make_durable: Callable[[], None]) -> bool:
        """No."""
        return False

    def put(self, key: str, spool: Spool, *, redo: bool = False, later: bool = False) -> Placed:
        """Send the bytes; the store has acknowledged them, with their checksum, on return."""
        length = spool.size
        with spool.view() as view:
            if len(view) <= PART_BYTES:
                self._put_whole(key, bytes(view), "application/dicom")
            else:
                self._put_parts(key, view)
        spool.discard()
        return Placed(Locator(key, 0, length))

    def _put_whole(self, key: str, body: bytes, kind: str) -> None:
        send = partial(self._client.put_object, Bucket=self._bucket, Key=self._prefix + key)
        self._call(partial(send, ContentType=kind, **self._put_arguments, **_checked(body)))

    def settle(self, locator: Locator) -> None:
        """What is here was acknowledged."""

    def soon(self, locators: Sequence[Locator]) -> None:
        """Nothing is kept here that could be fetched ahead: whoever reads many reads them at the same time."""

    def _put_parts(self, key: str, view: memoryview) -> None:
        where = {"Bucket": self._bucket, "Key": self._prefix + key}
        begin = partial(self._client.create_multipart_upload, ContentType="application/dicom", **self._put_arguments)
        upload = self._call(partial(begin, ChecksumAlgorithm="SHA256", **where))["UploadId"]
        try:
            parts = []
            for number, at in enumerate(range(0, len(view), PART_BYTES), start=1):
                part = _checked(bytes(view[at : at + PART_BYTES]))
                send = partial(self._client.upload_part, UploadId=upload, PartNumber=number, **where, **part)
                tag = self._call(send)["ETag"]
                parts.append({"ETag": tag, "PartNumber": number, "ChecksumSHA256": part["ChecksumSHA256"]})
            end = partial(self._client.complete_multipart_upload, MultipartUpload={"Parts": parts})
            self._call(partial(end, UploadId=upload, **where))
        except BaseException:
            with suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**where, UploadId=upload)
            raise

    def read(self, locator: Locator, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` on, in one request."""
        offset, length = span(locator, offset, length)
        if length == 0:
            self._size(locator.object_key)
            return b""
        return self._read(locator.object_key, locator.offset + offset, length)

    def _read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        where: dict[str, str] = {"Bucket": self._bucket, "Key": self._prefix + key}
        if length is not None:
            where["Range"] = f"bytes={start}-{start + length - 1}"

        def request() -> bytes:
            try:
                with self._client.get_object(**where)["Body"] as body:
                    data: bytes = body.read()
                    return data
            except ClientError as error:
                if _code(error) in ("416", "InvalidRange"):
                    return b""
                raise

        return self._call(request)

    def chunks(
        self, locator: Locator, offset: int = 0, length: int | None = None, size: int = CHUNK
    ) -> Iterator[bytes]:
        """The same range in pieces, each a request of its own: an interruption costs one piece."""
        offset, length = span(locator, offset, length)
        return self._pieces(self.read(locator, offset, min(size, length)), locator, offset, length, size)

    def _pieces(self, piece: bytes, locator: Locator, offset: int, length: int, size: int) -> Iterator[bytes]:
        while piece:
            yield piece
            offset, length = offset + len(piece), length - len(piece)
            if not length:
                return
            piece = self.read(locator, offset, min(size, length))

    def _size(self, key: str) -> int:
        found = self._call(lambda: self._client.head_object(Bucket=self._bucket, Key=self._prefix + key))
        return int(found["ContentLength"])

    def holds(self, locator: Locator) -> bool:
        """Whether the bucket has it, in its length."""
        try:
            return self._size(locator.object_key) >= locator.offset + locator.length
        except NotFound:
            return False

    def recorded(self, locator: Locator) -> None:
        """None: the name of an object ends with its digest."""

    def delete(self, *locators: Locator) -> None:
        """Remove the objects, a request for each: not every server knows how to remove many at once."""
        for locator in locators:
            self._delete(locator.object_key)

    def _delete(self, key: str) -> None:
        with suppress(NotFound):
            self._call(lambda: self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key))

    def walk(self, prefix: str = "") -> Iterator[Locator]:
        """All objects whose key starts with `prefix`, a page for each request."""
        for key, length in self._list(prefix):
            if not key.startswith(SMALL_PREFIX):
                yield Locator(key, 0, length)

    def _list(self, prefix: str, since: str = "") -> Iterator[tuple[str, int]]:
        after = {"StartAfter": self._prefix + since} if since else {}  # not every server heeds it
        while True:
            where = {"Bucket": self._bucket, "Prefix": self._prefix + prefix, **after}
            page = self._call(partial(self._client.list_objects_v2, **where))
            yield from ((each["Key"].removeprefix(self._prefix), each["Size"]) for each in page.get("Contents", ()))
            if not page.get("IsTruncated"):
                return
            after = {"ContinuationToken": page["NextContinuationToken"]}

    def put_small(self, name: str, data: bytes) -> None:
        """Send the bytes; acknowledged on return."""
        self._put_whole(SMALL_PREFIX + small_name(name), data, "application/octet-stream")

    def read_small(self, name: str) -> bytes:
        """The bytes of that name."""
        return self._read(SMALL_PREFIX + small_name(name))

    def small(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """The names, sorted; a request for each thousand."""
        listed = self._list(SMALL_PREFIX + prefix, SMALL_PREFIX + after if after else "")
        return iter(sorted(name for key, _ in listed if (name := key.removeprefix(SMALL_PREFIX)) > after))

    def delete_small(self, name: str) -> None:
        """Remove what has that name."""
        self._delete(SMALL_PREFIX + small_name(name))

    def unproven(self) -> list[Unproven]:
        """Nothing: what `put` returned from was durable."""
        return []

    def proven(self) -> None:
        """Nothing was asked."""

    def check(self) -> None:
        """Nothing, or Unavailable when the bucket cannot be reached."""
        try:
            self._call(lambda: self._client.head_bucket(Bucket=self._bucket))
        except NotFound:
            raise Unavailable(f"there is no bucket {self._bucket}") from None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _checked(body: bytes) -> dict[str, Any]:
    """A body with its checksums; some servers check only the older one."""
    return {
        "Body": body,
        "ChecksumSHA256": base64.b64encode(hashlib.sha256(body).digest()).decode(),
        "ContentMD5": base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode(),
    }


def _code(error: Exception) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _translated(error: Exception) -> ArchiveError:
    code = _code(error)
    if code in _MISSING:
        return NotFound("no such object")
    if code in _FULL:
        return OutOfResources("the object store is full")
    return Unavailable(f"the object store cannot be reached: {code or type(error).__name__}")
