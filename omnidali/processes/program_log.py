"""The log of a program that a command runs: what it prints, in a file and where it went before."""

import contextlib
import fcntl
import os
import termios
import threading
import tty
from collections.abc import Iterator
from pathlib import Path

from omnidali.utils.untrusted_text import for_terminal

_STDERR = 2
_CHUNK = 1 << 16  # bytes
_LAST_WORDS = 5.0  # seconds for what is still on its way when the program has ended


def log_of(out: Path, step: str) -> Path:
    """Where the log of a step of an experiment lies.

    Args:
        out: folder of the experiment.
        step: name of the step.
    """
    return out / "logs" / f"{step}.log"


class ProgramLog:
    """A text file that grows by lines; one that cannot be written is done without.

    A context manager.

    Args:
        path: of the file, which keeps what it holds; None: no file.

    Attributes:
        path: of the file; None if there is none, or it cannot be written.
    """

    def __init__(self, path: Path | None):
        self.path: Path | None = None
        self._lock = threading.Lock()
        self._file: int | None = None
        if path is not None:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
                self.path = path

    def __enter__(self) -> "ProgramLog":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._file is not None:
                os.close(self._file)
            self._file = None

    def add(self, line: str) -> None:
        """Write a line."""
        data = f"{for_terminal(line, None)}\n".encode("utf-8", "backslashreplace")
        with self._lock, contextlib.suppress(OSError):
            if self._file is not None:
                os.write(self._file, data)

    @contextlib.contextmanager
    def copying_stderr(self) -> Iterator[int | None]:
        """Yield a descriptor for a program's stderr, whose text goes to that of this process, too.

        It is a terminal where that of this process is one, so that bars are shown as before. None
        without a file.
        """
        if self._file is None:
            yield None
            return

        reader, writer = _open_like_stderr()
        copier = threading.Thread(target=self._copy, args=(reader,), daemon=True, name="stderr")
        copier.start()
        try:
            yield writer
        finally:
            os.close(writer)
            copier.join(_LAST_WORDS)

    def _copy(self, reader: int) -> None:
        begun = b""  # of a line
        with contextlib.suppress(OSError):  # the end of a terminal is an error
            while chunk := os.read(reader, _CHUNK):
                with contextlib.suppress(OSError):
                    os.write(_STDERR, chunk)
                *lines, begun = (begun + chunk).split(b"\n")
                for line in lines:
                    self._add_last_state(line)
                begun = begun[-_CHUNK:]  # a bar is one line for hours
        os.close(reader)
        if begun:  # a program that is killed ends no line
            self._add_last_state(begun)

    def _add_last_state(self, line: bytes) -> None:
        """Write a line of stderr; of a bar, which overwrites itself, what it showed at last."""
        last = line.rstrip(b"\r").rpartition(b"\r")[2]
        self.add(last.decode("utf-8", "backslashreplace"))


def _open_like_stderr() -> tuple[int, int]:
    """Both ends of a pipe, or of a terminal of the size of that which this process prints on."""
    if not os.isatty(_STDERR):
        return os.pipe()
    try:
        reader, writer = os.openpty()
    except OSError:  # a machine without any left
        return os.pipe()
    with contextlib.suppress(OSError):
        tty.setraw(writer)
        size = fcntl.ioctl(_STDERR, termios.TIOCGWINSZ, b"\0" * 8)
        fcntl.ioctl(writer, termios.TIOCSWINSZ, size)
    return reader, writer
