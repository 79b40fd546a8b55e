"""How much of its original a copy shows, and what decoding either costs."""

from __future__ import annotations

import time

import cv2
import numpy as np

from omnidali.catalog.database.store import Media
from omnidali.catalog.probing.probe import open_video, video_stream
from omnidali.curation.copies.encode import pictures
from omnidali.utils.heartbeat import moves_on

_FRAMES = 60  # of a video whose pictures are compared


def compare_pictures(original: Media, copy: Media) -> tuple[float, float]:
    """Mean PSNR (dB) and SSIM of a copy's brightness against the original, scaled alike.

    Raises:
        DecodeError: if one of them gives no frame.
    """
    size, count = (copy.width, copy.height), min(copy.frames, _FRAMES)
    pairs = [
        (one.planes[: copy.height], other.planes[: copy.height])
        for one, other in zip(pictures(original, *size, count), pictures(copy, *size, count))
    ]
    return float(np.mean([cv2.PSNR(*pair) for pair in pairs])), float(
        np.mean([ssim(*pair) for pair in pairs])
    )


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Mean structural similarity of two pictures, uint8 (H, W) (Wang et al. 2004, Gaussian window
    of 11 pixels).
    """

    def blur(picture):
        return cv2.GaussianBlur(picture, (11, 11), 1.5)

    x, y = one.astype(np.float32), other.astype(np.float32)
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, both = (
        blur(x * x) - mean_x**2,
        blur(y * y) - mean_y**2,
        blur(x * y) - mean_x * mean_y,
    )
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(
        (
            ((2 * mean_x * mean_y + c1) * (2 * both + c2))
            / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
        ).mean()
    )


def decoding_cost(media: Media, is_photo: bool, most: int) -> tuple[float, float]:
    """Milliseconds to open a file, and for each of its first frames on one thread.

    Args:
        is_photo: whether it is a photo, which is not opened apart. most: frames of a video that are
            decoded.
    """
    start = time.perf_counter()
    if is_photo:
        cv2.imdecode(media.span.read(), cv2.IMREAD_COLOR)
        return 0.0, 1000 * (time.perf_counter() - start)
    with open_video(media.span, media.container) as container:
        stream = video_stream(container)
        stream.codec_context.thread_count = 1
        opened, count = time.perf_counter(), 0
        for count, _ in zip(range(1, most + 1), container.decode(stream)):
            moves_on()
        return 1000 * (opened - start), 1000 * (time.perf_counter() - opened) / max(count, 1)
