"""The sizes of copies."""

import itertools

# NVDEC decodes pictures in blocks of 16 pixels, and DALI uses one of its decoders again only for
# videos whose sides need no cropping. Making one takes 50 to 100 ms, a hundred times a clip.
BLOCK = 16
# by which the ratio of the sides may change: half a block of a side of 256, so that most pictures
# allow it; the crops of training change it by a third
_STRETCH = 1 / 32
_SHRINK = 1 / 16  # of a side, more than which a picture that is small already must not lose


def image_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) of an image with the short side scaled down to ``short_side``, never up.

    >>> image_size(500, 375, 256), image_size(97, 64, 256)
    ((341, 256), (97, 64))
    """
    return _scaled(width, height, short_side, unit=1)


def video_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) of a video with the short side scaled down to ``short_side``, never up.

    Both sides are multiples of 16 where the picture allows: where the ratio of the sides changes by
    at most 1/32, no side gets larger than it was, and none gets smaller by more than 1/16 than it
    would be otherwise. All do whose short side is 272 or more, for copies of 256. The picture is
    stretched, not padded or cut: frames have no edge that a clip could show, and lack nothing. Else
    both sides are even.

    >>> video_size(1280, 720, 256), video_size(340, 256, 256), video_size(97, 64, 256)
    ((448, 256), (336, 256), (96, 64))
    >>> video_size(160, 120, 256), video_size(61, 41, 256)
    ((160, 120), (60, 40))
    """
    scale = min(1.0, short_side / min(width, height))
    fitting = []
    for side, other in itertools.product(_blocks(width * scale), _blocks(height * scale)):
        across, down = side / (width * scale), other / (height * scale)
        stretch = max(across, down) / min(across, down) - 1
        is_inside = side <= width and other <= height
        if is_inside and stretch <= _STRETCH and min(across, down) >= 1 - _SHRINK:
            fitting.append((stretch, -min(across, down), (side, other)))
    if fitting:
        _, _, size = min(fitting)
        return size
    return _scaled(width, height, short_side, unit=2)


def _blocks(side: float) -> tuple[int, int]:
    """The multiples of a block next to a side."""
    below = int(side // BLOCK)
    return max(1, below) * BLOCK, (below + 1) * BLOCK


def _scaled(width: int, height: int, short_side: int, unit: int) -> tuple[int, int]:
    scale = min(1.0, short_side / min(width, height))
    # a whole pixel is cut off rather than made up where an odd side must become even
    rounding = 0.5 if scale < 1 else 0
    return (
        max(unit, int(width * scale / unit + rounding) * unit),
        max(unit, int(height * scale / unit + rounding) * unit),
    )
