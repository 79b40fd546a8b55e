"""Where the bytes of a media file lie: in a file of their own, or inside a tar that is never
unpacked.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class FileSpan:
    """A whole file, or ``size`` bytes from ``offset`` on of the archive at ``path``."""

    path: str
    offset: int = 0
    size: int | None = None

    def read(self, count: int = -1) -> np.ndarray:
        """The first ``count`` bytes, or all: uint8 (bytes,).

        Raises:
            OSError: if they cannot be read.
        """
        import numpy as np  # the probe of photos starts in half the time without it

        with open(self.path, "rb", buffering=0) as file:
            whole = os.fstat(file.fileno()).st_size if self.size is None else self.size
            data = np.empty(whole if count < 0 else min(count, whole), np.uint8)
            return data[: _fill(file.fileno(), memoryview(data), self.offset)]

    def read_bytes(self, count: int | None = None) -> bytes:
        """All bytes, or at most the first ``count``.

        Raises:
            OSError: if they cannot be read.
        """
        with open(self.path, "rb", buffering=0) as file:
            whole = os.fstat(file.fileno()).st_size if self.size is None else self.size
            return _read(file.fileno(), whole if count is None else min(count, whole), self.offset)

    def reader(self, file: io.FileIO) -> Callable[[int, int], memoryview]:
        """A function that gives ``count`` bytes from ``offset`` on, out of the opened file and
        within the span.
        """

        def read(offset: int, count: int) -> memoryview:
            inside = count if self.size is None else max(0, min(count, self.size - offset))
            return memoryview(_read(file.fileno(), inside, self.offset + offset))

        return read


class Region(io.RawIOBase):
    """A read-only, seekable view of a span.

    FFmpeg loses errors of the disk, or makes errors of the content of them. Here the first one is
    kept, and the file seems to end.

    Args:
        check: is given all bytes before FFmpeg is, those of reads that follow each other with an
            ``overlap``; what it raises becomes the ``error``.

    Attributes:
        error: the first error of the disk, or of the check.
        size: bytes of the span.

    Raises:
        OSError: if the file cannot be opened.
    """

    def __init__(
        self, span: FileSpan, check: Callable[[bytes], object] | None = None, overlap: int = 0
    ):
        self._check = check
        self._overlap = overlap
        self._seen = b""  # the last bytes of the last read
        self._seen_to = 0
        self._file = open(span.path, "rb", buffering=0)
        self._offset = span.offset
        self._size = os.fstat(self._file.fileno()).st_size if span.size is None else span.size
        self._position = 0
        self.error: Exception | None = None

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, count: int) -> bytes:
        """Bytes of the span without going there, fewer at its end; errors of the disk are raised."""
        inside = max(0, min(count, self._size - offset))
        return _read(self._file.fileno(), inside, self._offset + offset) if inside else b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        wanted = left if count is None or count < 0 else min(count, left)
        if self.error is not None:
            return b""
        try:
            data = _read(self._file.fileno(), wanted, self._offset + self._position)
            self._look_at(data)
        except Exception as error:
            self.error = error
            return b""
        self._position += len(data)
        return data

    def _look_at(self, data: bytes) -> None:
        if self._check is None:
            return
        before = self._seen if self._seen_to == self._position else b""
        self._check(before + data[: self._overlap])
        self._check(data)
        self._seen = (before + data[-self._overlap :])[-self._overlap :]
        self._seen_to = self._position + len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _read(file: int, count: int, offset: int) -> bytes:
    """Up to ``count`` bytes of a descriptor: fewer at the end of the file alone.

    A read that meets a bad sector gives what lies before it; only the next one fails.
    """
    data = os.pread(file, count, offset)
    parts = [data]
    got = len(data)
    while data and got < count:
        data = os.pread(file, count - got, offset + got)
        parts.append(data)
        got += len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _fill(file: int, into: memoryview, offset: int) -> int:
    """Read into memory, as :func:`_read`; returns how many bytes came."""
    got = 0
    while got < len(into):
        count = os.preadv(file, [into[got:]], offset + got)
        if not count:
            break
        got += count
    return got


def stamp_of(path: str) -> tuple[int | None, int | None]:
    """Size in bytes and time of change in nanoseconds; None where there is no such file."""
    try:
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns
    except (OSError, ValueError):
        return None, None
