"""Why a file does not decode, and what is to blame: the disk, the machine, or the file itself."""

import errno
from dataclasses import dataclass

import av
import cv2

from omnidali.errors import DISK, FILE, HANG, MACHINE, DecodeError

_OF_THE_MACHINE = {errno.ENOMEM, errno.EMFILE, errno.ENFILE}
_THEN = "; then: "


@dataclass(frozen=True)
class Cause:
    """Why a clip does not decode.

    Attributes:
        reason: for people.
        trouble: what is to blame: ``disk``, ``hang``, ``machine`` or ``file``.

    >>> print(Cause("Input/output error", DISK).then(Cause("Invalid data")))
    disk: Input/output error; then: Invalid data
    """

    reason: str
    trouble: str = FILE

    @property
    def passes(self) -> bool:
        """Whether it belongs to the moment, and no new file is needed."""
        return self.trouble != FILE

    def then(self, other: "Cause") -> "Cause":
        """This cause, and what another way of decoding made of the same file.

        If any of them met trouble of the disk, the file is not to blame.
        """
        known = self.reason.split(_THEN)
        new = [reason for reason in other.reason.split(_THEN) if reason not in known]
        return Cause(_THEN.join(known + new), self.trouble if self.passes else other.trouble)

    def error(self) -> DecodeError:
        """The error to raise."""
        return DecodeError(self.reason, self.trouble)

    def __str__(self) -> str:
        return f"{DISK if self.trouble == HANG else self.trouble}: {self.reason}"


def cause_of(error: BaseException) -> Cause:
    """The cause of an error at reading or decoding a file.

    FFmpeg's errors are about the content, whatever their number is: its demuxers say EIO for files
    that are cut off, and those of the disk are kept apart by
    :func:`~omnidali.catalog.probing.video_container.open_video`.
    """
    reason = str(getattr(error, "strerror", None) or error) or type(error).__name__
    if isinstance(error, DecodeError):
        return Cause(error.reason, error.trouble)
    if isinstance(error, MemoryError):  # FFmpeg's, too
        return Cause("out of memory", MACHINE)
    if isinstance(error, av.FFmpegError):  # an "Input/output error" is none of the disk
        return Cause("cut off" if error.errno == errno.EIO else reason)
    if isinstance(error, cv2.error):
        return Cause(error.err or reason, MACHINE if error.code == cv2.Error.StsNoMem else FILE)
    if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that: a place no file has
        return Cause(reason, MACHINE if error.errno in _OF_THE_MACHINE else DISK)
    return Cause(reason)


def graver(first: Cause | None, other: Cause | None) -> Cause | None:
    """Of two failures on the same way: the first one of the disk, or else the first one."""
    if first is None or other is None:
        return first or other
    return other if other.passes and not first.passes else first
