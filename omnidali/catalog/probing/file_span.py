"""The bytes of a media file: a file of their own, or a part of a tar that is never unpacked."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

# Takes an offset and a count; returns the bytes there, fewer at the end.
ReadAt = Callable[[int, int], bytes]


@dataclass(frozen=True)
class FileSpan:
    """A whole file, or ``size`` bytes from ``offset`` on of the archive at ``path``."""

    path: str
    offset: int = 0
    size: int | None = None

    def read_bytes(self, count: int | None = None) -> bytes:
        """Read all bytes, or at most the first ``count``.

        Raises:
            OSError: if they cannot be read.
        """
        with open(self.path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size if self.size is None else self.size
            return _read(file.fileno(), size if count is None else min(count, size), self.offset)


class Region:
    """A read-only, seekable view of a span; a context manager.

    FFmpeg ignores errors of the disk, or takes them for errors of the content. The region keeps the
    first one, and the file seems to end there.

    Args:
        span: the bytes to show.
        check: receives all bytes before FFmpeg does; what it raises becomes the ``error``.
        overlap: how many bytes ``check`` sees of two reads that follow each other, from both.

    Attributes:
        size: bytes of the span.
        stamp: size and time of change, in nanoseconds, of the opened file.
        error: the first error of the disk, or of the check.

    Raises:
        OSError: if the file cannot be opened.
    """

    def __init__(
        self, span: FileSpan, check: Callable[[bytes], object] | None = None, overlap: int = 0
    ) -> None:
        self._file = open(span.path, "rb", buffering=0)  # noqa: SIM115  the region closes it
        self._offset = span.offset
        self._position = 0
        status = os.fstat(self._file.fileno())
        self.stamp = (status.st_size, status.st_mtime_ns)
        self.size = status.st_size if span.size is None else span.size
        self.error: Exception | None = None

        self._check = check
        self._overlap = overlap
        self._checked_end = b""  # the last bytes of the last read
        self._checked_to = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read_at(self, offset: int, count: int) -> bytes:
        """Read without moving, fewer bytes at the end; errors of the disk are raised."""
        inside = max(0, min(count, self.size - offset))
        return _read(self._file.fileno(), inside, self._offset + offset) if inside else b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}
        self._position = max(0, starts[whence] + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, count: int | None = -1) -> bytes:
        if self.error is not None:
            return b""

        wanted = self.size if count is None or count < 0 else count
        try:
            data = self.read_at(self._position, wanted)
            if self._check is not None:
                self._check_with_overlap(data, self._check)
        except Exception as error:
            self.error = error
            return b""
        self._position += len(data)
        return data

    def _check_with_overlap(self, data: bytes, check: Callable[[bytes], object]) -> None:
        before = self._checked_end if self._checked_to == self._position else b""
        check(before + data[: self._overlap])
        check(data)
        self._checked_end = (before + data[-self._overlap :])[-self._overlap :]
        self._checked_to = self._position + len(data)


def _read(file: int, count: int, offset: int) -> bytes:
    """Read up to ``count`` bytes of a descriptor; fewer come at the end of the file alone.

    A read that meets a bad sector gives what lies before it; only the next one fails.
    """
    parts = [os.pread(file, count, offset)]
    got = len(parts[0])
    while parts[-1] and got < count:
        parts.append(os.pread(file, count - got, offset + got))
        got += len(parts[-1])
    return parts[0] if len(parts) == 1 else b"".join(parts)


def stamp_of(path: str) -> tuple[int | None, int | None]:
    """Size in bytes and time of change in nanoseconds; None if there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # the second: not a possible name
        return None, None
    return status.st_size, status.st_mtime_ns
