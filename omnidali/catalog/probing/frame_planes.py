"""The planes of a decoded frame as arrays, which way up it is shown, and its checksum."""

import math
import struct
import zlib
from collections.abc import Iterable
from typing import cast

import av
import numpy as np
from av.sidedata.sidedata import SideData, Type

from omnidali.catalog.probing.limits import UnsupportedMediaError

# Planar formats: how often the sides of the colour planes are halved (down, across).
PLANAR = {
    "gray": None,
    "yuv420p": (1, 1),
    "yuvj420p": (1, 1),
    "yuv422p": (0, 1),
    "yuvj422p": (0, 1),
    "yuv444p": (0, 0),
    "yuvj444p": (0, 0),
    "yuv440p": (1, 0),
    "yuvj440p": (1, 0),
    "yuv411p": (0, 2),
    "yuvj411p": (0, 2),
    "yuv410p": (2, 2),
}
_MATRIX = struct.Struct("<9i")
_FULL_RANGE = 2  # FFmpeg's number
_FLAT = 1e-6  # a determinant below this turns the picture into a line


def frame_planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """The planes of a frame in a format of :data:`PLANAR`: uint8 (H, W), views into the frame."""
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        planes.append(rows[: plane.height, : plane.width])
    return planes


def is_full_range(frame: av.VideoFrame) -> bool:
    """Whether black is 0 and white the highest value, instead of 16 and 235."""
    return frame.color_range == _FULL_RANGE or "j" in frame.format.name


def frame_checksum(frame: av.VideoFrame) -> int:
    """A checksum of a frame's pixels, size, format and colours."""
    name = frame.format.name
    facts = frame.width, frame.height, name, frame.colorspace, frame.color_range
    crc = zlib.crc32(repr(facts).encode())
    planes = frame_planes(frame) if name in PLANAR else [frame.to_ndarray(format="rgb24")]
    for plane in planes:
        crc = zlib.crc32(np.ascontiguousarray(plane).data, crc)
    return crc


def frame_orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """How a viewer turns a coded frame.

    A matrix that maps everything to a line or a point, such as one of zeros, is no orientation.

    Returns:
        Degrees counter-clockwise, and whether the frame is mirrored left to right before.

    Raises:
        UnsupportedMediaError: for other angles than quarters, and for matrices that distort the
            picture.
    """
    entries = cast(Iterable[SideData], frame.side_data)  # PyAV's hints say it is a dict
    data = next((bytes(entry) for entry in entries if entry.type == Type.DISPLAYMATRIX), b"")
    if len(data) < _MATRIX.size:
        return 0, False
    # The right and the down direction of the coded picture, as (x, y) on the screen.
    right_x, right_y, _, down_x, down_y, *_ = (value / 65536 for value in _MATRIX.unpack_from(data))
    determinant = right_x * down_y - right_y * down_x
    if abs(determinant) < _FLAT:
        return 0, False

    is_mirrored = determinant < 0
    if is_mirrored:
        right_x, right_y = -right_x, -right_y
    degrees = -math.degrees(math.atan2(right_y, right_x))  # y grows downwards
    quarter = round(degrees / 90)
    if abs(degrees - 90 * quarter) > 1:
        raise UnsupportedMediaError(f"rotated by {round(degrees) % 360} degrees")
    return 90 * quarter % 360, is_mirrored


def show_upright(picture: np.ndarray, rotation: int, mirrored: bool) -> np.ndarray:
    """Turn a coded picture (H, W, ...) as :func:`frame_orientation` says; a view."""
    return np.rot90(picture[:, ::-1] if mirrored else picture, rotation // 90)
