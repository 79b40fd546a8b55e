"""How a file of each kind is copied, in a process with limits of memory and time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from omnidali.catalog.database.media import Media
from omnidali.curation.copies.encode import Recipe, encode_image, encode_video
from omnidali.media_kind import MediaKind
from omnidali.processes.isolated_process import call_isolated

# Takes the original, the copy's path, a recipe, the short side and the most frames that are copied.
# Returns how many frames did not decode and were replaced.
#
# Raises DecodeError if the original cannot be copied; OSError or av.FFmpegError if the copy cannot
# be written.
Encoder = Callable[[Media, Path, Recipe, int, int | None], int]


def _encode_image(
    media: Media, path: Path, recipe: Recipe, short_side: int, limit: int | None
) -> int:
    call_isolated(encode_image, media, path, short_side)
    return 0


def _encode_video(
    media: Media, path: Path, recipe: Recipe, short_side: int, limit: int | None
) -> int:
    replaced = call_isolated(encode_video, media, path, recipe, short_side, limit)
    assert isinstance(replaced, int)
    return replaced


def _encode_folder(
    media: Media, path: Path, recipe: Recipe, short_side: int, limit: int | None
) -> int:
    """Copy the images of a folder of frames; none stays where one fails."""
    path.mkdir(exist_ok=True)
    images = [media.frame(number) for number in range(min(media.frames, limit or media.frames))]
    copies = [path / os.path.basename(image.path) for image in images]
    with contextlib.ExitStack() as undo:
        for image, copy in zip(images, copies, strict=True):
            undo.callback(copy.unlink, missing_ok=True)
            ENCODERS[MediaKind.IMAGE](image, copy, recipe, short_side, None)
        undo.pop_all()
    return 0


ENCODERS: dict[MediaKind, Encoder] = {
    MediaKind.IMAGE: _encode_image,
    MediaKind.VIDEO: _encode_video,
    MediaKind.UNTRIMMED: _encode_video,
    MediaKind.FRAMES: _encode_folder,
}
