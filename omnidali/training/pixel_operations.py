"""Changes of pixels, each on a batch of clips with a number for each clip.

Pixels are float32 (n, T, H, W, 3), RGB, 0..1. A number holds for all frames of its clip; means,
extrema and histograms are those of each frame. The results are those of
``torchvision.transforms.v2.functional`` on float images, to within 1e-5. Every row has the same
bits in any batch: sums are exact, and there is no function whose last bit depends on the place.
"""

import numpy as np
import torch
import torch.nn.functional as F

_GREY = (0.2989, 0.587, 0.114)  # of ITU-R BT.601, as torchvision rounds them
_FINE = 1 << 20  # levels of grey by which a mean is summed in whole numbers
_LEVELS = 256
_NEARLY_ONE_MORE = _LEVELS - 1e-3  # so that 1.0 belongs to the highest level


def change_brightness(pixels: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Pixels times their factor; factors (n, 1, 1, 1, 1), as of all functions here."""
    return (pixels * factors).clamp_(0, 1)


def change_contrast(pixels: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Blend with the mean grey of each frame."""
    fine = (_grey_of(pixels) * _FINE).round_().to(torch.int32)
    count = fine.shape[2] * fine.shape[3]
    means = fine.sum(dim=(2, 3, 4), keepdim=True).double() / (_FINE * count)
    return _blend(pixels, means.float(), factors)


def change_saturation(pixels: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Blend with the grey of each pixel."""
    return _blend(pixels, _grey_of(pixels), factors)


def change_sharpness(pixels: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Blend with frames that are smoothed inside: 5 parts of the pixel, 1 of each neighbour."""
    height, width = pixels.shape[2:4]
    if min(height, width) <= 2:
        return pixels
    inner = 4 * pixels[:, :, 1:-1, 1:-1]
    for down in range(3):
        for right in range(3):
            inner = inner + pixels[:, :, down : height - 2 + down, right : width - 2 + right]
    smooth = pixels.clone()
    smooth[:, :, 1:-1, 1:-1] = inner / 13
    return _blend(pixels, smooth, factors)


def turn_hue(pixels: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turn the hue in HSV, of which 1 is the whole circle."""
    red, green, blue = pixels.unbind(dim=-1)
    value = pixels.amax(dim=-1)
    chroma = value - pixels.amin(dim=-1)
    divisor = torch.where(chroma == 0, 1, chroma)

    # in sixths of the circle, from red over green and blue back to red
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sixths = torch.where(chroma == 0, 0, sixths)
    sixths = (sixths + 6 * turns[..., 0]).remainder(6)

    # each channel falls from the value by chroma over one sixth, stays, and rises (Smith, 1978)
    channels = [value - chroma * _fall((sixths + offset).remainder(6)) for offset in (5, 3, 1)]
    return torch.stack(channels, dim=-1).clamp_(0, 1)


def _fall(sixths: torch.Tensor) -> torch.Tensor:
    """How much of the chroma a channel lacks: 0 around its own colour, 1 opposite to it."""
    return torch.minimum(sixths, 4 - sixths).clamp_(0, 1)


def posterize(pixels: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Keep the highest ``bits`` of each channel."""
    levels = torch.exp2(bits).round_()
    return torch.minimum((pixels * levels).floor_(), levels - 1) / levels


def solarize(pixels: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Invert what is not below the threshold."""
    return torch.where(pixels >= thresholds, 1 - pixels, pixels)


def autocontrast(pixels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Stretch each channel of each frame from 0 to 1."""
    low = pixels.amin(dim=(2, 3), keepdim=True)
    high = pixels.amax(dim=(2, 3), keepdim=True)
    is_flat = low == high
    stretched = (pixels - low) / torch.where(is_flat, 1, high - low)
    return torch.where(is_flat, pixels, stretched.clamp_(0, 1))


def equalize(pixels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Give each channel of each frame a flat histogram of 256 levels, as Pillow does."""
    clips, frames, height, width, channels = pixels.shape
    levels = (pixels * _NEARLY_ONE_MORE).to(torch.int64)
    flat = levels.permute(0, 1, 4, 2, 3).reshape(-1, height * width)
    counts = torch.zeros(len(flat), _LEVELS, dtype=torch.int64, device=pixels.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat))

    # the highest level that occurs does not count for the distance of two levels
    top = flat.amax(dim=1, keepdim=True)
    distance = (height * width - counts.gather(1, top)).div(_LEVELS - 1, rounding_mode="floor")
    below = counts.cumsum(dim=1) - counts
    table = (below + distance // 2).div(distance.clamp(min=1), rounding_mode="floor")
    table = table.clamp_(0, _LEVELS - 1)

    equal = torch.where(distance == 0, flat, table.gather(1, flat))
    equal = equal.view(clips, frames, channels, height, width).permute(0, 1, 3, 4, 2)
    return equal.to(torch.float32) / (_LEVELS - 1)


def warp(pixels: torch.Tensor, matrices: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
    """Move pixels, bilinearly.

    Args:
        pixels: (n, T, H, W, 3).
        matrices: float32 (n, 2, 3), from a place in the result to one in ``pixels``: x and y from
            the top left corner, in pixels, whose centres are at halves.
        fill: (3,), the colour of what lies outside.
    """
    clips, frames, height, width, _ = pixels.shape
    x = torch.arange(width, device=pixels.device, dtype=torch.float32) + 0.5
    y = torch.arange(height, device=pixels.device, dtype=torch.float32)[:, None] + 0.5
    rows = matrices[:, :, :, None, None]
    places = [rows[:, axis, 0] * x + rows[:, axis, 1] * y + rows[:, axis, 2] for axis in (0, 1)]
    grid = torch.stack([places[0] * (2 / width) - 1, places[1] * (2 / height) - 1], dim=-1)

    # outside is 0 here, so that the fill is blended in at the edges
    planes = (pixels - fill).permute(0, 1, 4, 2, 3).reshape(clips, -1, height, width)
    moved = F.grid_sample(planes, grid, padding_mode="zeros", align_corners=False)
    moved = moved.view(clips, frames, 3, height, width).permute(0, 1, 3, 4, 2)
    return (moved + fill).clamp_(0, 1)


def inverse_matrices(kind: str, values: np.ndarray, size: int) -> np.ndarray:
    """The matrices of :func:`warp` for shears, shifts and turns: float32 (n, 2, 3).

    Args:
        kind: ``shear_x``, ``shear_y``, ``translate_x``, ``translate_y`` or ``rotate``.
        values: float (n,), of :class:`~omnidali.planning.augmentation.Operations`.
        size: side of the frames, pixels.
    """
    matrices = np.tile(np.eye(2, 3), (len(values), 1, 1))
    if kind == "shear_x":
        matrices[:, 0, 1] = values
    elif kind == "shear_y":
        matrices[:, 1, 0] = values
    elif kind.startswith("translate"):
        matrices[:, int(kind == "translate_y"), 2] = -np.trunc(values * size)
    else:
        angles = np.radians(values.astype(float))
        turns = np.array([[np.cos(angles), -np.sin(angles)], [np.sin(angles), np.cos(angles)]])
        matrices[:, :, :2] = turns.transpose(2, 0, 1)
        centre = np.full(2, size / 2)
        matrices[:, :, 2] = centre - matrices[:, :, :2] @ centre
    return matrices.astype(np.float32)


def _grey_of(pixels: torch.Tensor) -> torch.Tensor:
    """The grey of each pixel, (..., 1)."""
    red, green, blue = (pixels[..., c : c + 1] * weight for c, weight in enumerate(_GREY))
    return red + green + blue


def _blend(pixels: torch.Tensor, other: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    return (pixels * factors + other * (1 - factors)).clamp_(0, 1)
