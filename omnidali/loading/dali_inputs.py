"""What DALI's graphs are fed of files: whole images, and excerpts of videos."""

from dataclasses import dataclass, field

import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.image_header import read_image_header
from omnidali.catalog.probing.limits import MAX_IMAGE_BYTES
from omnidali.decoding.colours import rgb_correction
from omnidali.decoding.excerpt import make_excerpt
from omnidali.decoding.image import has_readable_header, is_cut_off
from omnidali.errors import DecodeError


@dataclass(frozen=True)
class FileContent:
    """What a graph is fed of one file.

    Attributes:
        data: uint8 (bytes,), an image or the excerpt of a video.
        frames: int32 (F / P,), places of the wanted frames in the excerpt; empty for an image.
        colours: float32 (3, 4) of the video; empty for an image.
    """

    data: np.ndarray
    frames: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    colours: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


def read_content(
    media: Media, frames: np.ndarray | None, *, shows_hidden: bool = False
) -> FileContent | None:
    """Read what is needed of a file.

    Args:
        media: the file.
        frames: int (F / P,), the wanted frames of a video; none of an image.
        shows_hidden: as of :func:`~omnidali.decoding.excerpt.make_excerpt`.

    Returns:
        None if the file is not what the probe saw: the CPU says what is wrong with it, or decodes
            it all the same.

    Raises:
        OSError: if it cannot be read.
    """
    if frames is None:
        data = media.span.read_bytes(MAX_IMAGE_BYTES)
        return FileContent(np.frombuffer(data, np.uint8)) if _is_probed(data, media) else None
    try:
        excerpt = make_excerpt(media, frames, shows_hidden=shows_hidden)
    except DecodeError:
        return None
    colours = rgb_correction(excerpt.colorspace, excerpt.is_full_range)
    return FileContent(excerpt.data, excerpt.places, colours)


def _is_probed(content: bytes, media: Media) -> bool:
    """Whether the image is still what the probe saw, is whole, and DALI's decoder reads its header.

    The CPU refuses a picture that is cut off; nvJPEG may fill it up with grey.
    """
    header = read_image_header(content)
    if (header.codec, header.width, header.height) != (media.codec, media.width, media.height):
        return False
    return not (header.is_jpeg and is_cut_off(content)) and has_readable_header(content)
