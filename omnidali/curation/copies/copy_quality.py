"""How much of its original a copy shows, and what decoding either costs."""

from __future__ import annotations

import itertools
import time

import cv2
import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.video_container import open_video, video_stream
from omnidali.curation.copies.encode import scaled_frames
from omnidali.utils.heartbeat import report_progress

_FRAMES = 60  # of a video whose frames are compared


def compare_brightness(original: Media, copy: Media) -> tuple[float, float]:
    """Mean PSNR (dB) and SSIM of a copy's brightness against the original, scaled alike.

    Raises:
        DecodeError: if one of them gives no frame.
    """
    count = min(copy.frames, _FRAMES)
    frames = zip(
        scaled_frames(original, copy.width, copy.height, count),
        scaled_frames(copy, copy.width, copy.height, count),
        strict=True,
    )
    pairs = [(one.planes[: copy.height], other.planes[: copy.height]) for one, other in frames]
    psnr = np.mean([cv2.PSNR(*pair) for pair in pairs])
    return float(psnr), float(np.mean([ssim(*pair) for pair in pairs]))


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Mean structural similarity of two images, uint8 (H, W).

    As Wang et al. 2004 define it, with a Gaussian window of 11 pixels.
    """

    def blur(image: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(image, (11, 11), 1.5)

    x, y = one.astype(np.float32), other.astype(np.float32)
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((similarity / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def decoding_cost(media: Media, is_image: bool, limit: int) -> tuple[float, float]:
    """Milliseconds to open a file, and for each of its first frames on one thread.

    Args:
        media: the file.
        is_image: whether it is an image, which is not opened apart.
        limit: frames of a video that are decoded at most.
    """
    start = time.perf_counter()
    if is_image:
        cv2.imdecode(media.span.read(), cv2.IMREAD_COLOR)
        return 0.0, 1000 * (time.perf_counter() - start)

    count = 0
    with open_video(media.span, media.container) as container:
        stream = video_stream(container)
        assert stream is not None
        stream.codec_context.thread_count = 1
        opened = time.perf_counter()
        for _ in itertools.islice(container.decode(stream), limit):
            report_progress()
            count += 1
        return 1000 * (opened - start), 1000 * (time.perf_counter() - opened) / max(count, 1)
