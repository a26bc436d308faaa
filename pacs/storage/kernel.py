"""Three calls of the Linux kernel that `os` does not have: preallocate, punch a hole, start writing back."""

from __future__ import annotations

import ctypes
import errno
import os

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_WRITE = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _prepared(name: str, *arguments: object) -> object:
    function = getattr(_libc, name, None)
    if function is not None:
        function.argtypes = arguments
        function.restype = ctypes.c_int
    return function


# The kernel's 64-bit offsets whatever the size of a C long.
_fallocate = _prepared("fallocate64", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64) or _prepared(
    "fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64
)
_sync_file_range = _prepared("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def _call_fallocate(fd: int, mode: int, offset: int, length: int) -> bool:
    """Whether the file system did it. Raises OSError for anything but its not being able to."""
    if not callable(_fallocate):
        return False
    while _fallocate(fd, mode, offset, length):
        code = ctypes.get_errno()
        if code in _NOT_SUPPORTED:
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True


def preallocate(fd: int, offset: int, length: int) -> bool:
    """Whether blocks were set aside for that range; the size of the file stays. Raises OSError when there are none."""
    return _call_fallocate(fd, _KEEP_SIZE, offset, length)


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Whether that range now reads as zeros and its whole blocks are free again. Raises OSError."""
    return _call_fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)


def start_writing(fd: int, offset: int, length: int) -> None:
    """Have the kernel begin to write that range to the disk: a later sync waits less. Promises nothing."""
    if callable(_sync_file_range):
        _sync_file_range(fd, offset, length, _WRITE)
