"""Whether a file that failed is of any use at all."""

import errno
import os
import time

import av
import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.packed_numbers import unpack_numbers
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import frame_sources, upright_size
from omnidali.errors import DecodeError
from omnidali.media_kind import MediaKind

# Errors that another try would meet again, until somebody changes the file.
_LASTING = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}
RECHECK_SECONDS = 10.0  # for the frames of a long video or a large folder


def is_decodable(media: Media, kind: MediaKind, patience: float = RECHECK_SECONDS) -> bool | None:
    """Whether some clip of a file can be had, though not the one that was wanted.

    A file is called useless, and never tried again, only if no draw of it could have succeeded:
    else it would depend on which caller was first.

    Args:
        media: the file.
        kind: of the source.
        patience: seconds after which it is in doubt.

    Returns:
        None if it is in doubt.
    """
    try:
        if kind.is_folder:
            os.listdir(media.span.path)
        else:
            open(media.span.path, "rb").close()
        return _CHECKS[kind](media, time.monotonic() + patience)
    except OSError as error:
        return False if error.errno in _LASTING else None
    except MemoryError:
        return None


def _is_folder_decodable(media: Media, deadline: float) -> bool | None:
    for number in range(media.frames):
        if _is_image_decodable(media.frame(number), deadline):
            return True
        if time.monotonic() > deadline:
            return None
    return False


def _is_video_decodable(media: Media, deadline: float) -> bool | None:
    """Try each frame by itself: in a longer run, a packet that fails may take others along."""
    keyframes = unpack_numbers(media.keyframes).tolist()
    others = sorted(set(range(media.frames)) - set(keyframes))
    index = PacketIndex.unpack(media.packets) if media.packets else None
    for wanted in (*keyframes, *others):
        for source in frame_sources(index):
            try:
                for _, frame in source(media, index, [wanted]):
                    if upright_size(frame, media) == media.stored:
                        return True
            except MemoryError:
                raise
            except Exception as error:
                _raise_if_passing(error)
        if time.monotonic() > deadline:
            return None
    return False


def _is_image_decodable(media: Media, deadline: float) -> bool:
    """Try each way of decoding: at 1/8 to 1/1 of the size, and the first and the last pixel."""
    width, height = media.width, media.height
    side = min(width, height)
    whole = (0, 0, height, width)
    tries = [
        *((whole, max(1, side // factor)) for factor in (8, 4, 2)),
        (whole, side // 2 + 1),
        ((0, 0, 1, 1), 1),
        ((height - 1, width - 1, height, width), 1),
    ]
    for box, size in tries:
        try:
            decode_image(media, np.array([box]), size, np.empty((1, 1, size, size, 3), np.uint8))
            return True
        except DecodeError as error:
            _raise_if_passing(error.__context__)
    return False


_CHECKS = {
    MediaKind.IMAGE: _is_image_decodable,
    MediaKind.FRAMES: _is_folder_decodable,
    MediaKind.VIDEO: _is_video_decodable,
    MediaKind.UNTRIMMED: _is_video_decodable,
}


def _raise_if_passing(error: BaseException | None) -> None:
    """Raise an error of the disk that another try may not meet; FFmpeg's are about the content."""
    if (
        isinstance(error, OSError)
        and not isinstance(error, av.FFmpegError)
        and error.errno not in _LASTING
    ):
        raise error
