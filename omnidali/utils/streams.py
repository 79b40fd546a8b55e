"""Standard streams in odd states: closed, left by their reader, or a pipe that is full."""

import contextlib
import os
import select
import stat
import sys
import threading
from typing import TextIO

_CHUNK = select.PIPE_BUF  # bytes that a pipe which is ready takes without waiting
_PATIENCE_MS = 1000  # for a reader that is slow, until its first line is dropped


def open_missing_streams() -> None:
    """Put /dev/null if stdin, stdout or stderr is closed.

    Otherwise the next file to be opened gets that number, and what a library prints ends up in that
    file.
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
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def drop_unread_output() -> None:
    """Make stdout and stderr drop lines that nobody reads, and survive a reader that leaves.

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
            _reopen_without_blocking(number)
            setattr(sys, name, DroppingStream(stream))


def _reopen_without_blocking(number: int) -> None:
    """Open a pipe once more, so that libraries which print do not wait either.

    The flag is not set on the open file itself: other processes share it and must not notice.
    """
    with contextlib.suppress(OSError):  # of a reader that left, or of another user's pipe
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            again = os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.dup2(again, number)
            os.close(again)


def reader_left() -> bool:
    """Whether the reader of stdout is gone, as `head` is after its last line."""
    try:
        poll = select.poll()
        poll.register(1, 0)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except OSError:
        return False


def close_stdout() -> None:
    """Discard what is left for a reader that is gone, so that Python's exit reports no error."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


class DroppingStream:
    """A text stream that writes whole lines, and drops those that its reader does not take.

    The number of dropped lines is printed once the reader takes lines again. Errors of the reader,
    such as a terminal that is gone, are not raised.

    Args:
        stream: whose file, encoding and the like are used; its buffer must be empty.

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
            text = self._pending
            self._pending = ""
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
        """Whether the reader took all of ``data``."""
        patience = 0 if self.dropped else _PATIENCE_MS  # a slow reader is waited for once
        length = len(data)
        try:
            number = self._stream.fileno()
            poll = select.poll()
            poll.register(number, select.POLLOUT)
            waits = os.get_blocking(number)  # then only a stream that is ready may be written to

            while data:
                if waits and not poll.poll(patience):
                    return False
                try:
                    data = data[os.write(number, data[:_CHUNK]) :]
                    self._is_cut = 0 < len(data) < length
                except BlockingIOError:
                    if not poll.poll(patience):
                        return False
            return True
        except (OSError, ValueError):
            return False

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
