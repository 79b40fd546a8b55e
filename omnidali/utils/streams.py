"""What a process prints, when nobody can or will read it: a closed stream, a reader that left, a
pipe that is full.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
import threading
from typing import TextIO

_CHUNK = select.PIPE_BUF  # bytes that a pipe which is ready takes without waiting
_PATIENCE_MS = 1000  # for a reader that is slow, until its first line is dropped


def open_missing() -> None:
    """Put /dev/null where stdin, stdout or stderr is closed.

    The next file to be opened would otherwise get its number, and what a library prints would end
    up in that file.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)  # as the streams of every process
        # it was closed when Python began; by now its number may be another file's
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


def never_wait() -> None:
    """Make stdout and stderr drop what nobody reads instead of waiting, and outlive whoever reads
    them.

    For processes whose work is worth more than their output. A second call does nothing.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            number = stream.fileno()
        except (OSError, ValueError, AttributeError):  # of a test, or a notebook
            continue
        if number in (1, 2) and not isinstance(stream, DroppingStream):
            with contextlib.suppress(OSError):
                stream.flush()
            _open_without_waiting(number)
            setattr(sys, name, DroppingStream(stream))


def _open_without_waiting(number: int) -> None:
    """Open a pipe once more, so that libraries which print do not wait either.

    Other processes have it open, too, and are not to notice; so the flag is not set on what is
    shared with them.
    """
    with contextlib.suppress(OSError):  # of a reader that left, or of another user's pipe
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            again = os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.dup2(again, number)
            os.close(again)


def reader_left() -> bool:
    """Whether whoever read stdout is gone, as `head` is after its last line."""
    try:
        poll = select.poll()
        poll.register(1, 0)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except OSError:
        return False


def close_stdout() -> None:
    """Let what is left for a reader that is gone go nowhere, without a word at the end of the
    process.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


class DroppingStream:
    """A text stream that writes whole lines, and drops those that its reader does not take.

    How many were dropped is said once it takes lines again. Errors of the reader, such as a
    terminal that is gone, are no errors of who prints.

    Args:
        stream: whose file, encoding and the like are used; nothing may be left in its buffer.

    Attributes:
        dropped: lines since the last one that was written.
    """

    def __init__(self, stream: TextIO):
        self.dropped = 0
        self._is_cut = False  # whether the last line that was written lacks its end
        self._stream = stream
        self._pending = ""
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Take ``text``; it is written at the end of its line."""
        with self._lock:
            self._pending += text
            if "\n" in text or "\r" in text:
                self.flush()
        return len(text)

    def flush(self) -> None:
        """Write what is there, or drop it."""
        with self._lock:
            text, self._pending = self._pending, ""
            if not text:
                return
            lines = max(1, text.count("\n"))
            if self.dropped:
                text = f"[{self.dropped:,} lines were dropped here, as nobody read them]\n{text}"
            if self._is_cut:
                text = f"\n{text}"
            data = text.encode(self._stream.encoding or "utf-8", "backslashreplace")
            self.dropped = 0 if self._send(data) else self.dropped + lines

    def _send(self, data: bytes) -> bool:
        try:
            number = self._stream.fileno()
            poll = select.poll()
            poll.register(number, select.POLLOUT)
            waits = os.get_blocking(number)  # then only a stream that is ready may be written to
            length = len(data)
            while data:
                if waits and not poll.poll(self._patience):
                    return False
                try:
                    data = data[os.write(number, data[:_CHUNK]) :]
                    self._is_cut = 0 < len(data) < length
                except BlockingIOError:
                    if not poll.poll(self._patience):
                        return False
            return True
        except (OSError, ValueError):
            return False

    @property
    def _patience(self) -> int:
        """Milliseconds to wait for the reader: none for one that has been waited for."""
        return 0 if self.dropped else _PATIENCE_MS

    def writable(self) -> bool:
        """As of every stream that is written to."""
        return True

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
