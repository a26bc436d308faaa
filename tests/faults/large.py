"""One very large object by either door, and how much memory the server takes for it beyond what it takes when idle."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dicom_data
import httpx
import raw_dicom as raw
from conftest import RunningServer
from dimse_client import CT, EXPLICIT, Association, command, pdu, pdv

PIECE = 1 << 18


def resident(process: int) -> int:
    """Bytes of memory of a process and its children that are its own: shared file pages (a mapped index) left out."""
    total = 0
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{process}/status").read_text()
        total = 1024 * int(status.split("RssAnon:")[1].split()[0])
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in (task / "children").read_text().split():
                total += resident(int(child))
    return total


class Watch:
    """The most memory that a process took while this was open, beyond what it took before."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._idle = resident(process)
        self._most = self._idle
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            self._most = max(self._most, resident(self._process))

    @property
    def beyond_idle(self) -> int:
        """In bytes."""
        return self._most - self._idle


def pieces(uid: str, size: int) -> tuple[bytes, int]:
    """The data set of a multi-frame image up to its pixels, and how many bytes of pixels follow."""
    frame = 2 * 1024 * 1024
    frames = max(size // frame, 1)
    ds = dicom_data.image(0, 4, 4, SOPInstanceUID=uid, NumberOfFrames=frames, PixelData=None)
    ds.Rows = ds.Columns = 1024
    head = dicom_data.dataset_bytes(ds) + raw.element(0x7FE00010, "OW", length=frame * frames)
    return head, frame * frames


def by_dimse(server: RunningServer, uid: str, size: int) -> int:
    """The status of a C-STORE of about `size` bytes."""
    head, left = pieces(uid, size)
    with Association(server.dimse, contexts=((CT, (EXPLICIT,)),), timeout=600) as assoc:
        fields: dict[int, int | str | bytes] = {
            0x0002: CT, 0x0100: 1, 0x0110: 1, 0x0700: 0, 0x0800: 1, 0x1000: uid,
        }  # fmt: skip
        context = assoc.accepted[CT][0]
        room = min(assoc.max_length, PIECE) - 6
        zeros = bytes(room)
        assoc.send(pdu(4, pdv(context, 3, command(fields))) + pdu(4, pdv(context, 0, head)))
        whole = struct.pack(">BBI", 4, 0, room + 6) + struct.pack(">IBB", room + 2, context, 0)
        while left > room:
            assoc.send(whole)
            assoc.send(zeros)
            left -= room
        assoc.send(pdu(4, pdv(context, 2, bytes(left))))
        return int(assoc.response()[0][0x0900])


def by_stow(server: RunningServer, uid: str, size: int, token: str) -> int:
    """The status code of a STOW-RS request with one instance of about `size` bytes, sent in chunks."""
    head, pixels = pieces(uid, size)

    def body() -> Iterator[bytes]:
        small = dicom_data.part10(dicom_data.image(0, 4, 4, SOPInstanceUID=uid))
        meta = small[: 144 + int.from_bytes(small[140:144], "little")]
        yield b"--b\r\nContent-Type: application/dicom\r\n\r\n" + meta + head
        zeros, left = bytes(PIECE), pixels
        while left:
            yield zeros[: min(left, PIECE)]
            left -= min(left, PIECE)
        yield b"\r\n--b--\r\n"

    headers = {
        "Content-Type": 'multipart/related; type="application/dicom"; boundary=b',
        "Authorization": f"Bearer {token}",
    }
    return httpx.post(f"{server.dicomweb}/studies", content=body(), headers=headers, timeout=600).status_code


def read_back(server: RunningServer, uid: str, token: str) -> int:
    """How many bytes WADO-RS gives of the instance."""
    headers = {"Authorization": f"Bearer {token}"}
    (row,) = httpx.get(
        f"{server.dicomweb}/instances", params={"SOPInstanceUID": uid}, headers=headers, timeout=60
    ).json()
    headers["Accept"] = "application/dicom; transfer-syntax=*"
    total = 0
    with httpx.stream("GET", row["00081190"]["Value"][0], headers=headers, timeout=600) as answer:
        for piece in answer.iter_raw():
            total += len(piece)
    return total


def settled(server: RunningServer) -> None:
    """Return when the memory of the server has stopped growing after its start."""
    last, until = -1, time.monotonic() + 30
    while (now := resident(server.process.pid)) != last and time.monotonic() < until:
        last = now
        time.sleep(0.5)
