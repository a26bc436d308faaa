"""The process above a plug-in's process: it ends with neither more nor less than all that the plug-in has started.

A worker may be killed without a word, and so may the plug-in's process, by the kernel for want of memory: what they had
started would go on. It comes to the keeper, which computes nothing and is nobody's to kill. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
from collections.abc import Iterable
from pathlib import Path

from analysis.command_guard import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, children

END = signal.SIGUSR1
"""What the worker sends to end all of it, and the kernel when the worker is gone."""

_WAITED_FOR = (END, signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_GUARD = b"analysis.command_guard"
_LOOK_S = 0.002


def keep(parent: int, descriptors: Iterable[int]) -> None:
    """Return in a new process below this one, which stays as its keeper: it dies with `parent`, and all below with it.

    `descriptors` are the new process' alone: who listens at their other end hears when that one ends. Call it before
    there are threads.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(PR_SET_PDEATHSIG, END)
    if os.getppid() != parent:
        os._exit(0)  # it died before we asked
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    keeper = os.getpid()
    child = os.fork()
    if child:
        for descriptor in descriptors:
            os.close(descriptor)
        _end_like(_status(child))
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _status(child: int) -> int:
    """How the child ended, once nothing is left of what it had started; 0 where all of it had to end."""
    while signal.sigwait(_WAITED_FOR) != END:  # SIGTERM and such go to all of a service: the worker sees to that
        status = _reaped(child)
        if status is not None:
            end_all()
            return status
    end_all()
    return 0


def _reaped(child: int) -> int | None:
    """Take note of who has ended; the wait status of the child where it was among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found = ended[1] if ended[0] == child else found
    return found


def end_all() -> None:
    """Kill all below this process, however it tries to get away, and wait until it is gone.

    Not the guard of a command, which sees that nobody is left to talk to, and has to end what may lie outside: a
    container (`analysis.command_guard`).
    """
    stopped: set[int] = set()
    while more := set(_below(os.getpid())) - stopped:
        for pid in more:
            _signal(pid, signal.SIGSTOP)  # what stands still starts nothing more
        stopped |= more
    while left := _below(os.getpid()):
        for pid in left:
            _signal(pid, signal.SIGKILL)
        _reaped(0)
        select.select((), (), (), _LOOK_S)  # time.sleep waits for a moment of the clock, and clocks jump


def _below(pid: int) -> list[int]:
    found: list[int] = []
    for child in children(pid):
        if not _is_guard(child):
            found += [child, *_below(child)]
    return found


def _is_guard(pid: int) -> bool:
    try:
        return _GUARD in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _end_like(status: int) -> None:
    """End this process as another one did, for whoever waits for it."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)
