"""Whether a file that failed is of any use at all."""

from __future__ import annotations

import errno
import os
import time

import av
import numpy as np

from omnidali.catalog.database.store import Media
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.probe import unpack_numbers
from omnidali.decoding.demuxer import demuxed_frames
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import indexed_frames, upright_size
from omnidali.errors import DecodeError

# errors that another try would meet again, until somebody changes the file
_LASTING = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}
LOOK_SECONDS = 10.0  # for the frames of a long video or a large folder


def anything_decodes(media: Media, kind: str, patience: float = LOOK_SECONDS) -> bool:
    """Whether some clip of a file can be had, though not the one that was wanted; true where that
    is in doubt.

    A file is called useless, and never tried again, only if no draw of it could have succeeded:
    else it would depend on who asked first.

    Args:
        kind: of the source, as in :class:`~omnidali.config.schema.MediaConfig`.
        patience: seconds behind which it is in doubt.
    """
    return surely_decodes(media, kind, patience) is not False


def surely_decodes(media: Media, kind: str, patience: float = LOOK_SECONDS) -> bool | None:
    """Whether some clip of a file can be had; None where that is in doubt.

    Arguments as of :func:`anything_decodes`.
    """
    try:
        os.listdir(media.span.path) if kind == "frames" else open(media.span.path, "rb").close()
        if kind == "image":
            return _image(media)
        if kind == "frames":
            return _folder(media, time.monotonic() + patience)
        return _video(media, time.monotonic() + patience)
    except OSError as error:
        return False if error.errno in _LASTING else None
    except MemoryError:
        return None


def _folder(media: Media, end: float) -> bool | None:
    for number in range(media.frames):
        if _image(media.frame(number)):
            return True
        if time.monotonic() > end:
            return None
    return False


def _video(media: Media, end: float) -> bool | None:
    """Each frame by itself: in a longer run, a packet that fails may take frames before it along."""
    keyframes = unpack_numbers(media.keyframes).tolist()
    others = sorted(set(range(media.frames)) - set(keyframes))
    index = PacketIndex.unpack(media.packets) if media.packets else None
    for wanted in (*keyframes, *others):
        for source in (
            (indexed_frames, demuxed_frames) if index and index.is_direct else (demuxed_frames,)
        ):
            try:
                for _, frame in source(media, index, [wanted]):
                    if upright_size(frame, media) == media.stored:
                        return True
            except MemoryError:
                raise
            except Exception as error:
                _raise_if_passing(error)
        if time.monotonic() > end:
            return None
    return False


def _image(media: Media) -> bool:
    side, whole = min(media.width, media.height), (0, 0, media.height, media.width)
    tries = [(whole, max(1, side // factor)) for factor in (8, 4, 2)] + [(whole, side // 2 + 1)]
    tries += [
        ((0, 0, 1, 1), 1),
        ((media.height - 1, media.width - 1, media.height, media.width), 1),
    ]
    for box, size in tries:  # each way of decoding has its turn
        try:
            decode_image(media, np.array([box]), size, np.empty((1, 1, size, size, 3), np.uint8))
            return True
        except DecodeError as error:
            _raise_if_passing(error.__context__)
    return False


def _raise_if_passing(error: BaseException | None) -> None:
    """Raise an error of the disk that another try may not meet; FFmpeg's own are about the content."""
    if (
        isinstance(error, OSError)
        and not isinstance(error, av.FFmpegError)
        and error.errno not in _LASTING
    ):
        raise error
