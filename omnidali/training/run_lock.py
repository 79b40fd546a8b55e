"""One run a folder: locks that the kernel releases when their process ends, however it ends."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path

from omnidali.errors import UserError, start_of
from omnidali.utils.untrusted_text import warn

_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)
_NAME = "run.lock"


class RunFolderTakenError(UserError):
    """Another run writes to the folder."""


class RunLock:
    """Holds a run folder until :meth:`release` or the end of this process.

    Two things are locked: the folder itself, as nobody deletes that to get rid of a lock, though
    network disks refuse it; and a file in it, which names its holder. Both are checked before each
    save, as somebody may have deleted them.

    Args:
        folder: of the run; it is made where it is missing.

    Raises:
        UserError: if another process holds the folder, naming it, or the folder cannot be written.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._handles: dict[Path, int] = {}
        self._is_supported = True  # by the file system
        self._has_warned = False
        # the lowest first
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            self._acquire()
        except UserError:
            self.release()
            raise
        # a child must not hold it when this process is gone
        os.register_at_fork(after_in_child=self._forget)

    def check(self) -> None:
        """Lock the folder again if it, or its lock, was deleted or replaced.

        Raises:
            RunFolderTakenError: if another run has taken the folder.
            UserError: if it cannot be locked again.
        """
        is_held = self._handles and all(_is_at(*held) for held in self._handles.items())
        if is_held or not self._is_supported:
            self._has_warned = False
            return
        if not self._has_warned:
            warn(
                f"{self._folder}, or {_NAME} in it, was removed or replaced: the run locks it again"
            )
        self._has_warned = True
        self._forget()
        self._acquire()

    def release(self) -> None:
        """Let others have the folder, and leave no lock file. A second call does nothing."""
        # the folder last, or others would find the lock of the file
        for path, handle in reversed(self._handles.items()):
            with contextlib.suppress(OSError):
                if path.name == _NAME and _is_at(path, handle):
                    path.unlink()
                fcntl.flock(handle, fcntl.LOCK_UN)  # also if a child has not closed its copy yet
        self._forget()
        for folder in self._made:  # those that a refused start has made, and left empty
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _acquire(self) -> None:
        where = f"run_dir {self._folder}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock(self._folder, os.O_RDONLY)
            file = self._lock(self._folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
            if file is not None:
                holder = {
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                }
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps(holder).encode(), 0)
        except BlockingIOError:
            self._forget()
            raise RunFolderTakenError(
                where,
                "a folder that no other run is writing to",
                f"one of {_read_holder(self._folder / _NAME)}",
                "Wait for that run, end it, or choose another run_dir.",
            ) from None
        except OSError as error:
            self._forget()
            raise UserError(
                where,
                "a folder that can be written",
                f"{error.strerror or error}{start_of(self._folder)}",
                "Choose another run_dir or correct its permissions.",
            ) from None

        self._is_supported = bool(self._handles)
        if not self._is_supported:
            warn(
                f"{self._folder} cannot be locked here: make sure that no other run uses this"
                " folder"
            )

    def _lock(self, path: Path, flags: int) -> int | None:
        """Open and lock; None if this file system cannot.

        Raises:
            BlockingIOError: if another process holds it.
        """
        while True:
            handle = os.open(path, flags | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(handle)
                if error.errno in _UNSUPPORTED:
                    return None
                raise
            if _is_at(path, handle):
                self._handles[path] = handle
                return handle
            os.close(handle)  # a run that ended has just deleted it

    def _forget(self) -> None:
        for handle in self._handles.values():
            os.close(handle)
        self._handles = {}


def _is_at(path: Path, handle: int) -> bool:
    """Whether ``path`` is still the name of an open file; true if the disk does not say."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def _read_holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes()[:1000])
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
