"""From the planes of a decoded frame to RGB, by the matrix and the range that the file names."""

import functools

import av
import cv2
import numpy as np

from omnidali.catalog.probing.frame_planes import PLANAR, frame_planes, is_full_range
from omnidali.decoding.scale import cut_and_scale

# Shares of red and blue in luma, by FFmpeg's number of the matrix (ITU-T H.273, table 4). All
# others are taken for BT.601, as FFmpeg's own conversion does; most files name none.
_BT601 = (0.299, 0.114)
_UNKNOWN = 2
_LUMA = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
    10: (0.2627, 0.0593),  # the same with constant luminance
}
_BY_SHIFTS = {
    (1, 1): "yuv420p",
    (0, 1): "yuv422p",
    (0, 0): "yuv444p",
    (1, 0): "yuv440p",
    (0, 2): "yuv411p",
    (2, 2): "yuv410p",
}


def write_rgb(frame: av.VideoFrame, box: tuple[int, int, int, int], out: np.ndarray) -> None:
    """Write a box of a frame, scaled, in RGB.

    The box is cut out of the planes before any conversion, so that only the box is
    converted.

    Args:
        frame: as decoded.
        box: top, left, bottom, right in pixels of the coded frame.
        out: uint8 (height, width, 3).
    """
    height, width, _ = out.shape
    # The conversion to eight bits may lose them.
    matrix = rgb_matrix(frame.colorspace, is_full_range(frame))
    if frame.format.name not in PLANAR:
        frame = _eight_bits(frame)
    if frame.format.name not in PLANAR:
        cut_and_scale(frame.to_ndarray(), box, width, height, out)
        return

    planes = frame_planes(frame)
    shifts = PLANAR[frame.format.name]
    if shifts is None:
        cv2.merge([cut_and_scale(planes[0], box, width, height)] * 3, dst=out)
        return

    down, across = shifts
    colour = (box[0] >> down, box[1] >> across, -(-box[2] >> down), -(-box[3] >> across))
    channels = [
        cut_and_scale(plane, part, width, height)
        for plane, part in zip(planes, (box, colour, colour), strict=True)
    ]
    cv2.transform(cv2.merge(channels), matrix, dst=out)


def _eight_bits(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame in a planar format with the same colours, or in RGB."""
    form = frame.format
    if form.is_rgb or form.has_palette or len(form.components) < 3:
        return frame.reformat(format="rgb24", threads=1)
    colour = form.components[1]
    shifts = (_halvings(frame.height, colour.height), _halvings(frame.width, colour.width))
    return frame.reformat(
        format=_BY_SHIFTS.get(shifts, "yuv444p"),
        src_color_range=frame.color_range,
        dst_color_range=frame.color_range,
        threads=1,
    )


def _halvings(whole: int, part: int) -> int:
    """How often a side was halved to get a part of it, which is rounded up."""
    return next((times for times in range(4) if -(-whole >> times) == part), 0)


@functools.cache
def rgb_matrix(colorspace: int, is_full_range: bool) -> np.ndarray:
    """Rows R, G, B over (Y, U, V, 1), for 8-bit values: float32 (3, 4)."""
    red, blue = _LUMA.get(colorspace, _BT601)
    green = 1 - red - blue
    y, c, offset = (1, 1, 0) if is_full_range else (255 / 219, 255 / 224, 16)

    rows = np.array(
        [
            [y, 0, 2 * (1 - red) * c],
            [y, -2 * (1 - blue) * blue / green * c, -2 * (1 - red) * red / green * c],
            [y, 2 * (1 - blue) * c, 0],
        ]
    )
    return np.column_stack([rows, -rows @ [offset, 128, 128]]).astype(np.float32)


@functools.cache
def rgb_correction(colorspace: int, is_full_range: bool) -> np.ndarray:
    """What takes the RGB of DALI's video decoders to the right RGB, both 0 to 255.

    DALI converts by BT.601, whatever the file names, and goes by the range. Its CPU decoder was
    measured with VP9 of five matrices in both ranges, VP8 and MJPEG (``yuvj420p``): to the level
    what FFmpeg makes of BT.601 in the range of the decoded frame. NVDEC's frames go through
    ``VideoColorSpaceConversion`` (DALI 2.4, dali/operators/video/color_space.cu), BT.601 in full
    range if the stream says so, which NVIDIA's parser reads, or the container
    (``FramesDecoderGpu::IsFullRange``): so an excerpt names it.

    Args:
        colorspace: FFmpeg's number of the file's matrix.
        is_full_range: the file's range, by which the decoder goes, too.

    Returns:
        float32 (3, 4), [M | T]; the identity where the decoder is right.
    """
    right = rgb_matrix(colorspace, is_full_range)
    done = rgb_matrix(_UNKNOWN, is_full_range)
    if np.array_equal(right, done):  # ordinary files keep their bits
        return np.eye(3, 4, dtype=np.float32)
    factor = right[:, :3].astype(np.float64) @ np.linalg.inv(done[:, :3].astype(np.float64))
    return np.column_stack([factor, right[:, 3] - factor @ done[:, 3]]).astype(np.float32)
