"""Operations on pixels beside torchvision's, which they claim to equal."""

import math

import numpy as np
import pytest
import torch

from omnidali.training import pixel_operations as pixel

SIZE = 23
TOLERANCE = 1e-5
FILL = torch.tensor([0.485, 0.456, 0.406])


@pytest.fixture(scope="module")
def theirs():
    return pytest.importorskip("torchvision.transforms.v2.functional")


@pytest.fixture(scope="module")
def clips():
    """Six clips of two frames: noise, a smooth one, few levels, one grey, one colour, black."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (6, 2, SIZE, SIZE, 3), generator=generator) / 255
    noise[1] = torch.linspace(0.2, 0.7, SIZE)[:, None] * torch.tensor([1.0, 0.5, 0.8])
    noise[2] = (noise[2] * 3).round() / 3
    noise[3] = noise[3, ..., :1]
    noise[4] = torch.tensor([0.1, 0.9, 0.4])
    noise[5] = 0
    return noise


def column(*numbers):
    return torch.tensor(numbers).view(-1, 1, 1, 1, 1)


FACTORS = (0.1, 0.6, 1.0, 1.3, 1.9, 2.5)
PLAIN = {
    "change_brightness": ("adjust_brightness", FACTORS),
    "change_contrast": ("adjust_contrast", FACTORS),
    "change_saturation": ("adjust_saturation", FACTORS),
    "change_sharpness": ("adjust_sharpness", FACTORS),
    "turn_hue": ("adjust_hue", (-0.5, -0.3, -0.05, 0.1, 0.35, 0.5)),
    "posterize": ("posterize", (4.0, 5.0, 6.0, 7.0, 8.0, 4.0)),
    "solarize": ("solarize", (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)),
    "autocontrast": ("autocontrast", (None,) * 6),
    "equalize": ("equalize", (None,) * 6),
}


@pytest.mark.parametrize("name", PLAIN)
def test_operation_equals_torchvisions(clips, theirs, name):
    their_name, numbers = PLAIN[name]
    has_numbers = numbers[0] is not None
    ours = getattr(pixel, name)(clips, column(*numbers) if has_numbers else None)
    for clip, number, got in zip(clips, numbers, ours, strict=True):
        arguments = ()
        if has_numbers:
            arguments = (int(number) if name == "posterize" else number,)
        expected = getattr(theirs, their_name)(clip.permute(0, 3, 1, 2), *arguments)
        assert torch.allclose(got.permute(0, 3, 1, 2), expected, rtol=0, atol=TOLERANCE)


WARPS = {
    "shear_x": (-0.3, -0.1, 0.0, 0.05, 0.2, 0.3),
    "shear_y": (-0.3, -0.1, 0.0, 0.05, 0.2, 0.3),
    "translate_x": (-0.4, -0.1, 0.0, 0.1, 0.2, 0.45),
    "translate_y": (-0.4, -0.1, 0.0, 0.1, 0.2, 0.45),
    "rotate": (-30.0, -7.0, 0.0, 3.0, 12.0, 30.0),
}


@pytest.mark.parametrize("name", WARPS)
def test_warp_equals_torchvisions(clips, theirs, name):
    from torchvision.transforms import InterpolationMode

    matrices = pixel.inverse_matrices(name, np.array(WARPS[name], np.float32), SIZE)
    ours = pixel.warp(clips, torch.from_numpy(matrices), FILL)
    for clip, number, got in zip(clips, WARPS[name], ours, strict=True):
        degrees = math.degrees(math.atan(number))
        shift = int(number * SIZE)
        angle, translate, shear, center = {
            "shear_x": (0.0, [0, 0], [degrees, 0.0], [0, 0]),
            "shear_y": (0.0, [0, 0], [0.0, degrees], [0, 0]),
            "translate_x": (0.0, [shift, 0], [0.0, 0.0], None),
            "translate_y": (0.0, [0, shift], [0.0, 0.0], None),
            "rotate": (-number, [0, 0], [0.0, 0.0], None),
        }[name]
        # torchvision's own fill counts twice where a pixel lies half outside
        expected = theirs.affine(
            (clip - FILL).permute(0, 3, 1, 2),
            angle=angle,
            translate=translate,
            scale=1.0,
            shear=shear,
            interpolation=InterpolationMode.BILINEAR,
            center=center,
        )
        expected = expected.permute(0, 2, 3, 1) + FILL
        assert torch.allclose(got, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", PLAIN)
def test_each_row_has_the_same_bits_in_any_batch(clips, name):
    """Also at other places in memory, and of a size that vector registers do not divide."""
    numbers = [number if number is not None else 0.0 for number in PLAIN[name][1]]
    operation = getattr(pixel, name)
    whole = operation(clips, column(*numbers))
    for row, number in enumerate(numbers):
        assert torch.equal(operation(clips[row : row + 1], column(number))[0], whole[row])
    order = torch.tensor([5, 0, 3])
    part = operation(clips[order], column(*[numbers[row] for row in order]))
    assert torch.equal(part, whole[order])


def test_frame_of_two_pixels_has_no_inside_to_sharpen():
    tiny = torch.rand(1, 1, 2, 2, 3)
    assert torch.equal(pixel.change_sharpness(tiny, column(1.9)), tiny)
