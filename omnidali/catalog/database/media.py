"""What a decoder needs of one file."""

import os
from dataclasses import dataclass, replace

import numpy as np

from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.packed_numbers import unpack_numbers, unpack_times
from omnidali.catalog.probing.probe import Probe


@dataclass(frozen=True, kw_only=True)
class Media(Probe):
    """A probed file, member of a tar, or folder of frames, and where it lies.

    ``width`` and ``height`` are those of the plan. They differ from ``stored`` if a source
    stretches pixels that are not square.

    Attributes:
        path: for people; a member of a tar has the tar's name and a colon before its own.
        span: the bytes to read.
        stamp: size in bytes and time of change in nanoseconds of the file, or of its tar, at the
            probe.
        stored: width and height in pixels before stretching.
    """

    path: str
    span: FileSpan
    stamp: tuple[int | None, int | None]
    stored: tuple[int, int]

    @classmethod
    def of(cls, path: str, span: FileSpan, probe: Probe) -> "Media":
        """Make the value of a file that was just probed, without a catalog."""
        status = os.stat(span.path)
        return cls(
            **vars(probe),
            path=path,
            span=span,
            stamp=(status.st_size, status.st_mtime_ns),
            stored=(probe.width, probe.height),
        )

    @property
    def frame_times(self) -> np.ndarray | None:
        """Timestamps int64 (frames,) in presentation order, in stream ticks; None without any."""
        return unpack_times(self.timing, self.frames)

    def frame(self, number: int) -> "Media":
        """The image of one frame of a folder of frames, 0 being the first that the folder holds."""
        first = int(unpack_numbers(self.timing)[0])
        path = os.path.join(self.path, self.container.format(first + number))
        return replace(self, path=path, container=self.codec.partition(":")[0], span=FileSpan(path))
