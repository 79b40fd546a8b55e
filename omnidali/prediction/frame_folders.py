"""Folders of frames, told apart from folders of photos by the names and sizes of their images."""

import os
import re
from collections.abc import Sequence

from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.formats import IMAGE_ENDINGS
from omnidali.catalog.probing.image_probe import probe_image
from omnidali.catalog.probing.limits import UnsupportedMediaError

_FEWEST = 4  # frames; fewer images are photos
_NUMBERED = re.compile(r"(.*?)([0-9]+)(\.[A-Za-z0-9]+)", re.DOTALL)


def frame_pattern(folder: str, names: Sequence[str] | None = None) -> str | None:
    """The pattern of the names in a folder of frames; None for other folders.

    Its images have one name but for their numbers, which begin with 0 or 1 and have no gap, and
    one size. Crawled photos have numbers, too, but as good as never one size.

    Args:
        folder: to look into.
        names: of its files and folders; None: they are read.

    Returns:
        Such as ``img_{:05}.jpg``.
    """
    if names is None:
        try:
            names = os.listdir(folder)
        except OSError:
            return None
    images = [name for name in names if os.path.splitext(name)[1].lower() in IMAGE_ENDINGS]
    matches = [_NUMBERED.fullmatch(name) for name in images if not name.startswith(".")]
    if len(matches) < _FEWEST or None in matches:
        return None

    parts = [match.groups() for match in matches if match is not None]
    numbers = sorted(int(digits) for _, digits, _ in parts if len(digits) < 16)
    first, count = numbers[0] if numbers else -1, len(parts)
    if first not in (0, 1) or numbers != list(range(first, first + count)):
        return None
    if len({(prefix, ending) for prefix, _, ending in parts}) > 1:
        return None

    pattern = _pattern(parts[0][0], parts[0][2], [digits for _, digits, _ in parts])
    if pattern is None or not _are_one_size(folder, pattern, first, count):
        return None
    return pattern


def _pattern(prefix: str, ending: str, digits: Sequence[str]) -> str | None:
    """The pattern that gives all names; None if some are padded in another way."""
    width = min(map(len, digits))
    is_padded = all(len(text) == width or not text.startswith("0") for text in digits)
    if not is_padded or "\n" in prefix:
        return None
    escaped = prefix.replace("{", "{{").replace("}", "}}")
    return f"{escaped}{{:0{width}}}{ending}"


def _are_one_size(folder: str, pattern: str, first: int, count: int) -> bool:
    """Whether some of the images, spread over the folder, have one size."""
    places = {0, count // 3, 2 * count // 3, count - 1}
    sizes = set()
    for place in places:
        path = os.path.join(folder, pattern.format(first + place))
        try:
            if not os.path.isfile(path):
                return False
            probe = probe_image(FileSpan(path))
        except (OSError, UnsupportedMediaError):
            continue
        sizes.add((probe.width, probe.height))
    return len(sizes) == 1
