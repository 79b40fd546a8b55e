"""How much of its original a copy shows."""

from fractions import Fraction

import cv2
import numpy as np
import pytest

from omnidali.curation.copies.copy_gain import ssim


def test_ssim_is_one_for_equal_images_and_falls_with_blur():
    noise = np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8)
    assert ssim(noise, noise) == pytest.approx(1) and ssim(noise, 255 - noise) < 0
    assert Fraction(1, 2) < ssim(noise, cv2.GaussianBlur(noise, (3, 3), 0.5)) < 1
