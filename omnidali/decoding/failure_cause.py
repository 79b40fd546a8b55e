"""Why a file does not decode, and who is to blame: the disk at this moment, the machine, or the
file itself.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

import av
import cv2

from omnidali.errors import DISK, FILE, HANG, MACHINE, DecodeError

_OF_THE_MACHINE = {errno.ENOMEM, errno.EMFILE, errno.ENFILE}


@dataclass(frozen=True)
class Cause:
    """Why a clip does not decode.

    Attributes:
        reason: for people. trouble: who is to blame: ``disk``, ``hang``, ``machine`` or ``file``.

    >>> print(Cause("Input/output error", DISK).then(Cause("Invalid data")))
    disk: Input/output error; then: Invalid data
    """

    reason: str
    trouble: str = FILE

    @property
    def passes(self) -> bool:
        """Whether it belongs to the moment, and no new file is needed."""
        return self.trouble != FILE

    def then(self, other: Cause) -> Cause:
        """This cause, and what another way of decoding made of the same file.

        Where any of them met trouble of the disk, the file is not to blame.
        """
        trouble = self.trouble if self.passes else other.trouble
        told = self.reason.split("; then: ")
        new = [reason for reason in other.reason.split("; then: ") if reason not in told]
        return Cause("; then: ".join(told + new), trouble)

    def error(self) -> DecodeError:
        """The error to raise."""
        return DecodeError(self.reason, self.trouble)

    def __str__(self) -> str:
        return f"{DISK if self.trouble == HANG else self.trouble}: {self.reason}"


def cause_of(error: BaseException) -> Cause:
    """What an error at reading or decoding a file says.

    FFmpeg's errors are about the content, whatever their number is: its demuxers say EIO for files
    that are cut off, and those of the disk are kept apart by
    :func:`~omnidali.catalog.probing.probe.open_video`.
    """
    if isinstance(error, DecodeError):
        return Cause(error.reason, error.trouble)
    reason = str(getattr(error, "strerror", None) or error) or type(error).__name__
    if isinstance(error, av.FFmpegError) and error.errno == errno.EIO:
        return Cause("cut off")  # not what people take "Input/output error" for
    if isinstance(error, MemoryError):
        return Cause("out of memory", MACHINE)
    if isinstance(error, cv2.error):
        return Cause(error.err or reason, MACHINE if error.code == cv2.Error.StsNoMem else FILE)
    if isinstance(error, OSError) and not isinstance(error, av.FFmpegError):
        if error.errno == errno.EINVAL:  # a place that no file has
            return Cause(reason)
        return Cause(reason, MACHINE if error.errno in _OF_THE_MACHINE else DISK)
    return Cause(reason)


def graver(first: Cause | None, other: Cause | None) -> Cause | None:
    """Of two failures on the same way: the first one of the disk, or else the first one."""
    if first is None or other is None:
        return first or other
    return other if other.passes and not first.passes else first
