"""Whether a file that failed is of any use at all."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from omnidali.catalog.store import Media
from omnidali.decoding.demuxed import demuxed_frames
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import indexed_frames, upright_size


def anything_decodes(media: Media, kind: str) -> bool:
    """Whether some clip of a file can be had, though not the one that was wanted.

    Args:
        kind: of the source, as in :class:`~omnidali.config.MediaConfig`.
    """
    if kind == "image":
        return _image(media)
    if kind == "frames":
        return any(_image(media.frame(number)) for number in range(media.frames))
    for source in (indexed_frames, demuxed_frames) if media.packets else (demuxed_frames,):
        with suppress(Exception):  # of what no decoder takes nothing is known
            for _, frame in source(media, list(range(media.frames))):
                if upright_size(frame, media) == (media.width, media.height):
                    return True
    return False


def _image(media: Media) -> bool:
    side, whole = min(media.width, media.height), (0, 0, media.height, media.width)
    tries = [(whole, max(1, side // factor)) for factor in (8, 4, 2)] + [(whole, side // 2 + 1)]
    tries += [((0, 0, 1, 1), 1), ((media.height - 1, media.width - 1, media.height, media.width), 1)]
    for box, size in tries:  # each way of decoding has its turn
        with suppress(Exception):
            decode_image(media, np.array([box]), size, np.empty((1, 1, size, size, 3), np.uint8))
            return True
    return False
