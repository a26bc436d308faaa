"""Child processes as their parent sees them: started warm, watched for time and memory, killed without fail."""

from __future__ import annotations

import json
import logging
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from analysis.api import NotAnalysable
from analysis.command_guard import descendants
from analysis.devices import Device
from analysis.keeper import END
from pacs.errors import Unavailable

log = logging.getLogger("m3dicom.child")

START_S = 120.0
POLL_S = 0.1
METER_S = 1.0  # how often the memory of a device is looked at
GRACE_S = 0.5  # between asking a plug-in to stop and killing it
END_S = 10.0  # for the kernel to take back the memory of what was killed
MAX_TASKS = 1000  # a start takes seconds; what leaks is noticed by its memory long before
MAX_IDLE_BYTES = 1 << 30
_PAGE = os.sysconf("SC_PAGE_SIZE")
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip


class TaskFailed(Exception):
    """The task ended without results, for a reason that a person can read."""


class TaskLost(TaskFailed):
    """The process was killed from outside: the next attempt may well succeed."""


class TaskStopped(Exception):
    """The task was stopped on request."""


_SECRET = re.compile(r"^(M3DICOM_|AWS_|PG)|PASSW|SECRET|TOKEN|CREDENTIAL|PRIVATE|_KEY$|API_?KEY", re.IGNORECASE)


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for code that is not ours, without our settings and what else may open a database or a store."""
    return {name: value for name, value in environment.items() if not _SECRET.search(name)}


def told(text: object) -> str:
    """Words of code that is not ours as a Workitem can hold them (ST, PS3.5 6.2): 1024 characters, no controls.

    The database and JSON take neither NUL nor half a surrogate pair, and such words must not cost the lease.
    """
    whole = str(text)[:1024].encode(errors="replace").decode()
    return "".join(each if each.isprintable() or each == "\n" else " " for each in whole)


def _fraction(value: object) -> float:
    """0 to 1; 0 for what is no number, as a plug-in says it that divides by nothing."""
    number = float(value) if isinstance(value, int | float) else 0.0
    return min(max(number, 0.0), 1.0) if number == number else 0.0


@dataclass(frozen=True)
class Limits:
    """What one task may take; `gpu_memory_mb` of `device` where it has one (0 = all)."""

    seconds: float
    memory_mb: int
    device: Device | None = None
    gpu_memory_mb: int = 0


Check = Callable[[float, str], Literal["continue", "stop"]]
"""Told the latest progress (0 to 1) and message several times a second; says whether to go on."""


class Child:
    """One warm process for one plug-in on one device. Belongs to the thread that started it, and dies with it."""

    def __init__(
        self, target: str, device: str, threads: int, extra: Mapping[str, str] | None = None, *, version: str = ""
    ) -> None:
        """Start it; `extra` goes into its environment, `version` is that of the plug-in that it has to have."""
        self.target = target
        self._version = version
        self.tasks = 0
        self.backend = ""
        self._crash = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        parent_in, child_out = os.pipe()
        child_in, parent_out = os.pipe()
        environment = without_secrets(os.environ) | {
            **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
            "PYTHONHASHSEED": "0",
        }
        environment |= extra or {}
        environment |= Device(device).environment if ":" in device else {}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        passed = (child_in, child_out, self._crash.fileno())
        command = [sys.executable, "-m", "analysis.child", target, device, str(child_in), str(child_out)]
        try:
            self._process = subprocess.Popen(
                [*command, str(os.getpid()), str(self._crash.fileno())],
                pass_fds=passed,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # so that what it starts can be ended with it
            )
        except OSError as error:
            os.close(parent_in)
            os.close(parent_out)
            raise Unavailable("no process can be started for the analysis") from error
        finally:
            os.close(child_in)
            os.close(child_out)
        self._in, self._out = parent_in, parent_out
        self._pid = self._process.pid
        self._received = b""

    @property
    def pid(self) -> int:
        """Its process id; that of its keeper (`analysis.keeper`) until it is ready."""
        return self._pid

    @property
    def reusable(self) -> bool:
        """Whether it is alive and worth keeping: not too old, and not holding on to memory."""
        return self._process.poll() is None and self.tasks < MAX_TASKS and self.memory_bytes() < MAX_IDLE_BYTES

    def memory_bytes(self, most: int = MAX_IDLE_BYTES) -> int:
        """Its resident memory and that of all that it has started, 0 once it is gone.

        What they share, as after a fork, counts once where the sum would else be more than `most`.
        """
        everybody = descendants(self._process.pid)
        resident = sum(_resident_bytes(pid) for pid in everybody)
        if len(everybody) == 1 or resident <= most:
            return resident
        return sum(_proportional_bytes(pid) for pid in everybody)

    def run(self, task: dict[str, Any], limits: Limits, check: Check) -> list[dict[str, Any]]:
        """The result files of a task. The process is killed on any way out but a result or a plug-in's own end.

        Raises NotAnalysable (the plug-in refused), TaskStopped (`check` said so), TaskFailed (crash, deadline, memory,
        error of the plug-in), and Unavailable where the plug-in was replaced on the disk by another version.
        """
        try:
            if not self.backend:
                self._await_ready(check)
            self.tasks += 1
            self._say({"task": task | {"gpu_memory_mb": limits.gpu_memory_mb}})
            done = self._watch(limits, check)
            if descendants(self._process.pid) != [self.pid]:
                self.close()  # what a plug-in leaves running ends with its task
            return done
        except (NotAnalysable, _PluginError):
            raise
        except BaseException:
            self.close()
            raise

    def _await_ready(self, check: Check) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if check(0.0, "starting") == "stop":
                raise TaskStopped
            for message in self._messages():
                if "ready" in message:
                    if self._version and message["version"] != self._version:
                        words = f"version {message['version']} was installed over {self._version} of the plug-in"
                        raise Unavailable(f"{words} while the worker ran: it has to be started again")
                    self.backend, self._pid = str(message["ready"]), int(message["pid"])
                    log.info("plug-in %s computes with %s", self.target, self.backend)
                    return
                raise self._internal_error(message["failed"])
        raise TaskFailed("The analysis process did not start.")

    def _watch(self, limits: Limits, check: Check) -> list[dict[str, Any]]:
        deadline = time.monotonic() + limits.seconds
        progress, words = 0.0, ""
        stopping: float | None = None
        metered = time.monotonic()
        while True:
            for message in self._messages():
                if "progress" in message:
                    progress, words = _fraction(message["progress"]), told(message["message"])
                elif "done" in message and stopping is None:
                    done: list[dict[str, Any]] = message["done"]
                    return done
                elif "refused" in message:
                    raise NotAnalysable(told(message["refused"]))
                elif "failed" in message:
                    raise self._internal_error(message["failed"])
                else:
                    raise TaskStopped
            now = time.monotonic()
            if stopping is not None:
                if now > stopping:
                    raise TaskStopped
                continue
            most = limits.memory_mb << 20
            if self.memory_bytes(most) > most:
                raise TaskFailed(f"The analysis needed more than {limits.memory_mb} MB of memory and was stopped.")
            if now > deadline:
                raise TaskFailed(f"The analysis took longer than {limits.seconds:g} s and was stopped.")
            if limits.device is not None and limits.gpu_memory_mb and now - metered > METER_S:
                metered = now
                if limits.device.used_mb(self.pid) > limits.gpu_memory_mb:
                    raise TaskFailed(f"The analysis needed more than {limits.gpu_memory_mb} MB of GPU memory.")
            if check(progress, words) == "stop":
                stopping = now + GRACE_S
                self._say({"cancel": True})

    def _messages(self) -> list[dict[str, Any]]:
        """What has come within POLL_S. Raises TaskFailed once the process is gone."""
        readable, _, _ = select.select([self._in], [], [], POLL_S)
        if not readable:
            return []
        chunk = os.read(self._in, 1 << 16)
        if not chunk:
            raise self._crashed()
        *lines, self._received = (self._received + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def _say(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._out, data) :]
        except OSError as error:
            raise self._crashed() from error

    def _crashed(self) -> TaskFailed:
        if not self._ended():
            self._process.kill()
        status = self._process.wait()
        self._crash.seek(0)
        log.error(
            "analysis process %d ended: %s\n%s", self.pid, status, self._crash.read(8192).decode(errors="replace")
        )
        if status == -signal.SIGKILL:
            return TaskLost("The analysis was stopped by the system, most likely for want of memory.")
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return TaskFailed(f"The analysis stopped unexpectedly ({how}).")

    def _ended(self) -> bool:
        """Whether it ended within `END_S`: the kernel tells at once, whatever is done to the clock meanwhile."""
        if self._process.poll() is not None:
            return True
        told = os.pidfd_open(self._process.pid)
        try:
            end = select.poll()
            end.register(told, select.POLLIN)
            return bool(end.poll(END_S * 1000))
        finally:
            os.close(told)

    def _internal_error(self, failed: dict[str, Any]) -> TaskFailed:
        if failed["type"] == "MemoryError":
            return _PluginError("The analysis ran out of memory.")
        if failed["type"] == "OutOfMemoryError":  # CuPy's
            return _PluginError("The analysis needed more GPU memory than it declares, or than there is.")
        if failed.get("words"):  # of a command; they are for the Workitem alone, not for the log
            log.error("plug-in %s failed", self.target)
            return _PluginError(told(failed["words"]))
        log.error("plug-in %s raised %s at\n  %s", self.target, failed["type"], "\n  ".join(failed["trace"]))
        return _PluginError(f"The analysis failed because of an internal error ({failed['type']}).")

    def close(self) -> None:
        """Kill it with all that it has started, and wait for its end."""
        if self._in < 0:
            return
        self._process.send_signal(END)
        if not self._ended():  # nothing can be done of a process that the kernel does not let go
            log.error("what plug-in %s had started does not end", self.target)
            self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._crash.close()
        self._in = -1


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def _proportional_bytes(pid: int) -> int:
    """Its memory, of what it shares with others its part alone."""
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+([0-9]+) kB", told, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


class _PluginError(TaskFailed):
    """An error that the process itself survived."""
