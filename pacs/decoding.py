"""Codecs kept at arm's length: every decode of stored bytes runs in a child process that may crash, hang or swell.

Children are made by a fork server when they are first needed, each with limits on memory, CPU time and files and with
no way to new privileges; one that dies or overruns its deadline is replaced, and its caller gets Undecodable. What
comes back from a child is bytes, never pickled objects: a codec that is taken over reaches no further than its answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import pickle
import queue
import resource
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, Final

from pacs.dicom import late, planes, presentation, transcode
from pacs.dicom.decode import PixelInfo, decode_frame
from pacs.dicom.render import PLAIN, Extras, Window, relevant, render
from pacs.dicom.transcode import transcode_dataset
from pacs.errors import (
    ArchiveError,
    InvalidInput,
    InvalidUID,
    MalformedDataset,
    TooLarge,
    Unavailable,
    Undecodable,
    UnsupportedTransferSyntax,
)

Task = Callable[..., bytes]

_HEADER = struct.Struct("<BQ")
_DONE, _FAILED = 0, 1
_READY: Final = b"ready"
_MAX_RESULT: Final = 1 << 32
_DRAWN_HERE_BYTES: Final = 4 << 20
_START_S: Final = 60.0
_RECYCLED_AFTER: Final = 1000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38

# What a child may report; anything else that goes wrong in it is Undecodable.
_ERRORS: Final[Mapping[str, type[ArchiveError]]] = {
    kind.__name__: kind
    for kind in (Undecodable, UnsupportedTransferSyntax, MalformedDataset, InvalidInput, InvalidUID, TooLarge)
}


class DecodingPool:
    """Up to `workers` decoding children, started when first needed. Safe to use from any thread."""

    def __init__(self, workers: int = 1, *, deadline_s: float = 60.0, memory_bytes: int = 4 << 30) -> None:
        """`memory_bytes` is what a child may take beyond what it holds when it is ready."""
        self._children = [_Child(deadline_s, memory_bytes) for _ in range(max(1, workers))]
        # Last in, first out: under little load one warm child does all, and the others are never started.
        self._idle: queue.LifoQueue[_Child] = queue.LifoQueue()
        for child in reversed(self._children):
            self._idle.put(child)
        self._deadline_s = deadline_s
        self._closed = threading.Event()
        self._closing = threading.Lock()

    def explicit_le_frame(self, data: bytes, info: PixelInfo) -> bytes:
        """`pacs.dicom.transcode.explicit_le_frame` in a child; native frames, which meet no codec, are made here."""
        if info.syntax.codec == "native":
            return transcode.explicit_le_frame(data, info)
        return self.run(transcode.explicit_le_frame, data, info)

    def frame(self, data: bytes, info: PixelInfo, target_ts: str) -> bytes:
        """`pacs.dicom.transcode.transcoded_frame` in a child."""
        return self.run(transcode.transcoded_frame, data, info, target_ts)

    def render(
        self,
        data: bytes,
        info: PixelInfo,
        metadata: Mapping[str, Any],
        *,
        frame_number: int = 1,
        window: Window | tuple[float, float, str] | None = None,
        viewport: Sequence[int] | None = None,
        quality: int = 90,
        media_type: str = "image/jpeg",
        extras: Extras = PLAIN,
    ) -> bytes:
        """`pacs.dicom.render.render` of a stored frame, decoded and drawn in a child.

        Native frames of ordinary size that meet neither a codec nor a foreign colour profile are drawn here.
        """
        wanted, number = relevant(metadata, frame_number)
        if frame_number != 1:  # else `metadata` may be of one frame already, whose number `extras` knows
            extras = replace(extras, number=frame_number)
        how = {"frame_number": number, "window": window, "viewport": viewport, "quality": quality,
               "media_type": media_type, "extras": extras}  # fmt: skip
        small = info.native_bytes <= _DRAWN_HERE_BYTES and (viewport is None or viewport[0] * viewport[1] <= 1 << 22)
        if info.syntax.codec == "native" and small and extras.profile is None:
            return _decoded_and_rendered(data, info, wanted, how)
        return self.run(_decoded_and_rendered, data, info, wanted, how)

    def present(
        self, data: bytes, info: PixelInfo, metadata: Mapping[str, Any], state: Mapping[str, Any], **how: Any
    ) -> bytes:
        """`pacs.dicom.presentation.render` of a stored frame, decoded and drawn in a child."""
        return self.run(_decoded_and_presented, data, info, metadata, state, how)

    def transcode(self, dataset: bytes, source_ts: str, target_ts: str) -> bytes:
        """`pacs.dicom.transcode.transcode_dataset` in a child."""
        return self.run(transcode_dataset, dataset, source_ts, target_ts)

    def run(self, task: Task, *arguments: Any) -> bytes:
        """What `task`, a function at the top of a module, returns for `arguments` in a child.

        Raises what the task raises if it is one of our errors about its input; Undecodable if the child dies, runs out
        of memory or is not done within the deadline; Unavailable if no child is free in that time or can be started.
        """
        if self._closed.is_set():
            raise Unavailable("decoders are closed")
        try:
            child = self._idle.get(timeout=self._deadline_s)
        except queue.Empty:
            raise Unavailable("all decoders are busy") from None
        try:
            if self._closed.is_set():
                raise Unavailable("decoders are closed")
            return child.run(task, arguments)
        finally:
            self._idle.put(child)

    @property
    def processes(self) -> list[int]:
        """The process ids of the children that run now."""
        return [pid for child in self._children if (pid := child.pid) is not None]

    def close(self) -> None:
        """End all children; calls that are under way get Undecodable, later ones Unavailable."""
        with self._closing:
            if self._closed.is_set():
                return
            self._closed.set()
        for child in self._children:
            child.kill()
        # Whoever still holds one gives it back now that its process is gone; none can start another.
        held = [self._idle.get(timeout=_START_S) for _ in self._children]
        for child in held:
            child.stop()
            self._idle.put(child)  # for those who wait for one: they see that it is too late


class _Child:
    """One slot of the pool; only the thread that took it out of the queue uses it, but for `kill`."""

    def __init__(self, deadline_s: float, memory_bytes: int) -> None:
        self._deadline_s = deadline_s
        self._memory_bytes = memory_bytes
        self._process: Any = None
        self._socket: socket.socket | None = None
        self._done = 0
        self._ended = False

    @property
    def pid(self) -> int | None:
        process = self._process
        try:
            return process.pid if process is not None and process.is_alive() else None
        except ValueError:  # closed by its own thread in between
            return None

    def run(self, task: Task, arguments: tuple[Any, ...]) -> bytes:
        if not self._ready() or self._done >= _RECYCLED_AFTER:
            self._renew()
        request = pickle.dumps((task, arguments), protocol=5)
        until = time.monotonic() + self._deadline_s
        try:
            outcome, answer = self._asked(request, until)
        except EOFError:
            if not self._done:
                self.stop()
                raise Undecodable("the decoder died of this") from None
            # It may have been dying already, of something else: a fresh one decides.
            self._renew()
            return self.run(task, arguments)
        self._done += 1
        if outcome == _DONE:
            return answer
        kind, reason, about = _reported(answer)
        raise kind(reason, about=about)

    def _asked(self, request: bytes, until: float) -> tuple[int, bytes]:
        """Outcome and answer. Raises EOFError if the child is gone, Undecodable if it is late; it is ended then."""
        try:
            self._send(_HEADER.pack(0, len(request)), until)
            self._send(request, until)
            return self._receive(until)
        except TimeoutError:
            self.stop()
            raise Undecodable(f"not decoded within {self._deadline_s:g} s") from None
        except OSError:
            raise EOFError from None

    def _renew(self) -> None:
        self.stop()
        if self._ended:
            raise Unavailable("decoders are closed")
        self._start()

    def _ready(self) -> bool:
        """Whether the child is there: its end of the socket closes the moment it dies, before anybody reaps it."""
        if self._socket is None:
            return False
        try:
            self._socket.settimeout(0)
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # the end, or words that nobody asked for

    def kill(self) -> None:
        """End the process at once and for good; whoever waits for it notices."""
        self._ended = True
        process = self._process
        if process is not None:
            with contextlib.suppress(ValueError):  # closed by its own thread in between
                process.kill()
        channel = self._socket
        if channel is not None:
            with contextlib.suppress(OSError):  # wakes whoever waits for an answer, whatever became of the process
                channel.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """End the process and let go of everything that belongs to it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, self._memory_bytes, self._deadline_s), name="decoder", daemon=True
        )
        try:
            process.start()
        except OSError as error:
            ours.close()
            raise Unavailable(f"no decoder can be started: {error}") from None
        finally:
            theirs.close()
        self._process, self._done = process, 0
        self._socket = socket.socket(fileno=os.dup(ours.fileno()))
        ours.close()
        if self._ended:  # `kill` came while the process was being made, and did not see it
            self.stop()
            raise Unavailable("decoders are closed")
        try:
            _, answer = self._receive(time.monotonic() + _START_S)
        except (OSError, EOFError):
            answer = b""
        if answer != _READY:
            self.stop()
            raise Unavailable("a decoder did not start")

    def _send(self, data: bytes, until: float) -> None:
        assert self._socket is not None
        self._socket.settimeout(max(0.001, until - time.monotonic()))
        self._socket.sendall(data)

    def _receive(self, until: float) -> tuple[int, bytes]:
        outcome, length = _HEADER.unpack(self._exactly(_HEADER.size, until))
        if length > _MAX_RESULT:
            raise EOFError
        return outcome, bytes(self._exactly(length, until))

    def _exactly(self, length: int, until: float) -> bytearray:
        assert self._socket is not None
        # Grown as it arrives: a child that is no longer ours to trust does not decide what is allocated here.
        held = bytearray()
        while len(held) < length:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            piece = self._socket.recv(min(1 << 20, length - len(held)))
            if not piece:
                raise EOFError
            held += piece
        return held


def _reported(answer: bytes) -> tuple[type[ArchiveError], str, str]:
    """Kind, reason and subject of an error that a child reports; not even the form of it is trusted."""
    try:
        report = json.loads(answer)
        return _ERRORS[report["kind"]], str(report["reason"])[:500], str(report["about"])[:64]
    except (ValueError, KeyError, TypeError, RecursionError):
        return Undecodable, "the decoder failed", ""


def _decoded_and_rendered(data: bytes, info: PixelInfo, metadata: Mapping[str, Any], how: Mapping[str, Any]) -> bytes:
    return render(decode_frame(data, info), info, metadata, stored=_native(data, info, metadata), **how)


def _native(data: bytes, info: PixelInfo, metadata: Mapping[str, Any]) -> bytes | None:
    """The frame's native bytes, where overlays may lie in their unused bits: only kept where no codec knows of them."""
    if info.syntax.codec == "native":
        return data
    kept = info.syntax.codec in ("rle", "deflate", "uncompressed") and bool(planes.tags(metadata))
    return transcode.explicit_le_frame(data, info) if kept else None


def _decoded_and_presented(
    data: bytes, info: PixelInfo, metadata: Mapping[str, Any], state: Mapping[str, Any], how: Mapping[str, Any]
) -> bytes:
    stored = _native(data, info, metadata)
    return presentation.render(decode_frame(data, info), info, metadata, state, stored=stored, **how)


def _serve(connection: Connection, memory_bytes: int, deadline_s: float) -> None:
    """The child: limits first, then one task after the other until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    late.load()  # before the limits, which are on what comes after
    _confine(memory_bytes)
    channel = socket.socket(fileno=os.dup(connection.fileno()))
    connection.close()
    channel.settimeout(None)
    _answer(channel, _DONE, _READY)
    while True:
        header = _read(channel, _HEADER.size)
        if header is None:
            return
        request = _read(channel, _HEADER.unpack(header)[1])
        if request is None:
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime + deadline_s) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        outcome, answer = _result(request)
        _answer(channel, outcome, answer)


def _result(request: bytearray) -> tuple[int, bytes]:
    try:
        task, arguments = pickle.loads(request)  # noqa: S301  (comes from the parent that made this process)
        return _DONE, task(*arguments)
    except ArchiveError as error:
        report = {"kind": type(error).__name__, "reason": error.reason, "about": error.about}
    except MemoryError:
        report = {"kind": "Undecodable", "reason": "needs more memory than a decoder may have", "about": ""}
    except Exception as error:
        report = {"kind": "Undecodable", "reason": f"the decoder failed: {type(error).__name__}", "about": ""}
    return _FAILED, json.dumps(report).encode()


def _confine(memory_bytes: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    with open("/proc/self/statm") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + memory_bytes, mapped + memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _read(channel: socket.socket, length: int) -> bytearray | None:
    held = bytearray(length)
    view = memoryview(held)
    while view:
        count = channel.recv_into(view)
        if not count:
            return None
        view = view[count:]
    return held


def _answer(channel: socket.socket, outcome: int, answer: bytes) -> None:
    channel.sendall(_HEADER.pack(outcome, len(answer)))
    channel.sendall(answer)
