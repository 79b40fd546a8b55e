"""Where the bytes of a media file lie: in a file of their own, or inside a tar that is never unpacked."""

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
        wanted = self.size if self.size is not None and (count < 0 or count > self.size) else count
        return np.fromfile(self.path, np.uint8, wanted, offset=self.offset)

    def read_bytes(self, count: int | None = None) -> bytes:
        """All bytes, or at most the first ``count``.

        Raises:
            OSError: if they cannot be read.
        """
        with open(self.path, "rb", buffering=0) as file:
            if self.size is None:
                return file.read() if count is None else file.read(count)
            return os.pread(file.fileno(), self.size if count is None else min(count, self.size), self.offset)

    def reader(self, file: io.FileIO) -> Callable[[int, int], memoryview]:
        """A function that gives ``count`` bytes from ``offset`` on, out of the opened file and within the span."""
        def read(offset: int, count: int) -> memoryview:
            inside = count if self.size is None else max(0, min(count, self.size - offset))
            return memoryview(os.pread(file.fileno(), inside, self.offset + offset))

        return read


class Region(io.RawIOBase):
    """A read-only, seekable view of a part of a file."""

    def __init__(self, span: FileSpan):
        self._file, self._span, self._position = open(span.path, "rb"), span, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._span.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._span.size - self._position)
        wanted = left if count is None or count < 0 else min(count, left)
        data = os.pread(self._file.fileno(), wanted, self._span.offset + self._position)
        self._position += len(data)
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


def stamp_of(path: str) -> tuple[int | None, int | None]:
    """Size in bytes and time of change in nanoseconds; None where there is no such file."""
    try:
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns
    except (OSError, ValueError):
        return None, None
