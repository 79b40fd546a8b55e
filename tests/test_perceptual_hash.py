"""Sketches of frames against OpenCV, and their similarity."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from omnidali.curation.dedup.perceptual_hash import (
    SKETCH_BYTES,
    HashSimilarity,
    pack_sketches,
    sketch_frames,
)
from omnidali.testing.numbered_media import numbered_image
from omnidali.utils.constants import MEAN, STD


def test_hash_matches_the_cosine_transform_of_opencv():
    pixels = cv2.resize(numbered_image(7, 0, 160, 160), (64, 64), interpolation=cv2.INTER_AREA)
    clip = torch.from_numpy((pixels - np.array(MEAN)) / np.array(STD)).permute(2, 0, 1)[
        None, :, None
    ]
    kept = pack_sketches(sketch_frames(clip).double().numpy())
    assert kept.shape == (1, SKETCH_BYTES)
    grey = (pixels @ np.array([0.299, 0.587, 0.114])).reshape(32, 2, 32, 2).mean(axis=(1, 3))
    waves = cv2.dct(grey)
    order = sorted((i + j, i, j) for i in range(32) for j in range(32))[1:65]
    expected = np.array([waves[i, j] > 0 for _, i, j in order])
    assert (np.unpackbits(kept[0, :8]) == expected).mean() > 0.98  # one bit may lie at zero
    thumbs = pixels.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3)).transpose(2, 0, 1).reshape(-1)
    np.testing.assert_allclose(kept[0, 8:], thumbs, atol=1)


def test_frames_without_contrast_and_far_hashes_are_similar_to_nothing():
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256, (70, SKETCH_BYTES), np.uint8)
    frames[0, 8:] = 5  # plain
    frames[1] = frames[2]
    frames[3, :8] = frames[2, :8] ^ 255
    frames[3, 8:] = frames[2, 8:]
    measure = HashSimilarity(18)
    similarity = measure(measure.prepare(frames), measure.prepare(frames)).numpy()
    one, other = (
        measure.prepare(
            np.concatenate([frames[:1, :8], np.tile(np.uint8([5, 5 + step]), (1, 96))], axis=1)
        )
        for step in (6, 3)
    )
    assert one.contrast[0] == 3 and other.contrast[0] == 1.5
    assert (
        measure(one, one) == 1
        and measure(one, other) == measure(other, one) == measure(other, other) == -1
    )
    assert (
        (similarity[0] == -1).all()
        and similarity[1, 2] == 1
        and similarity[2, 3] == -1
        and similarity[69, 69] == 1
    )
