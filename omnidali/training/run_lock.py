"""One run a folder: a lock that the kernel releases when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path

from omnidali.errors import UserError

_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class RunLock:
    """Holds ``run.lock`` of a run folder until :meth:`release` or the end of this process.

    Args:
        folder: of the run; it is made where it is missing.

    Raises:
        UserError: if another process holds the lock, naming it, or the folder cannot be written.
    """

    def __init__(self, folder: Path):
        path = folder / "run.lock"
        self._handle: int | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.register_at_fork(after_in_child=self._forget)  # a child must not hold it when this process is gone
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, json.dumps({"host": socket.gethostname(), "pid": os.getpid(),
                                                "since": time.strftime("%Y-%m-%d %H:%M:%S")}).encode(), 0)
        except BlockingIOError:
            holder = _read(self._handle)
            self._forget()
            raise UserError(f"run_dir {folder}", "a folder that no other run is writing to", f"one of {holder}",
                            "Wait for that run, end it, or choose another run_dir.") from None
        except OSError as error:
            if self._handle is not None and error.errno in _UNSUPPORTED:
                print(f"{path} cannot be locked here ({error.strerror}): make sure that no other run uses this folder",
                      file=sys.stderr, flush=True)
                return
            self._forget()
            raise UserError(f"run_dir {folder}", "a folder that can be written", str(error.strerror or error),
                            "Choose another run_dir or correct its permissions.") from None

    def release(self) -> None:
        """Let others have the folder. A second call does nothing."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(self._handle, fcntl.LOCK_UN)  # also where a child has not closed its copy yet
            self._forget()

    def _forget(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _read(handle: int) -> str:
    try:
        holder = json.loads(os.pread(handle, 1000, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"
