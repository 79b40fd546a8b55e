"""Folders of frames on the CPU: each wanted frame is an image file of its own."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from omnidali.catalog.files import Place
from omnidali.catalog.probe import unpack_numbers
from omnidali.catalog.store import Media
from omnidali.decoding.image import decode_image
from omnidali.decoding.places import fill_missing, places_of
from omnidali.errors import CannotDecode


def frame_media(media: Media, codec: str, frame: int) -> Media:
    """The image file of one frame, 0 being the first that the folder holds."""
    path = os.path.join(media.path, media.container.format(int(unpack_numbers(media.timing)[0]) + frame))
    return replace(media, path=path, container=codec.partition(":")[0], place=Place(path))


def decode_frames(media: Media, codec: str, frames: np.ndarray, boxes: np.ndarray, size: int, out: np.ndarray) -> int:
    """Decode the planned frames; arguments, result and errors as :func:`decode_video`, with the images' codec."""
    places, found, reason = places_of(frames), [], None
    for frame, (first, *others) in places.items():
        try:
            decode_image(frame_media(media, codec, frame), boxes, size, out[:, first:first + 1])
        except CannotDecode as error:
            reason = reason or error
            continue
        for other in others:
            out[:, other] = out[:, first]
        found.append(frame)
    if not found:
        raise reason
    return fill_missing(out, places, found)
