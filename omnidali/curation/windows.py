"""Whole long videos that commands cut into windows, where other lists say themselves what the
pieces are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from omnidali.catalog.listing.list_formats import recognise
from omnidali.config.schema import MediaConfig
from omnidali.errors import UserError

FRAME_SECONDS = 1.0  # a 2D teacher looks at a frame a second of long videos (OmniSource, Sec. 3.3)
WHOLE_FILES = ("path_label", "class folders")  # lists of long videos that windows are cut from


def takes_windows(source: MediaConfig, data_root: str) -> bool:
    """Whether windows are cut from the source's videos.

    Raises:
        UserError: for a list that cannot be read.
    """
    if source.kind != "untrimmed":
        return False
    form = source.format
    if source.list and form == "auto":
        form = recognise(Path(data_root, source.list), source.kind, Path(data_root, source.root))
    return not source.list or form in WHOLE_FILES


def in_pieces(source: MediaConfig, data_root: str, window: float | None) -> MediaConfig:
    """A source of long videos with all of its pieces, where they are windows of so many seconds;
    others as they are.

    Args:
        window: None: as configured.
    """
    if source.kind != "untrimmed":
        return source
    seconds = window if window and takes_windows(source, data_root) else source.window_seconds
    return replace(source, pieces="all", window_seconds=seconds)


def check_window(window: float | None, sources: Mapping[str, MediaConfig], data_root: str) -> None:
    """Refuse a length of windows that would change nothing.

    Raises:
        UserError: naming --window.
    """
    if window is not None and not any(
        takes_windows(source, data_root) for source in sources.values()
    ):
        raise UserError(
            "--window",
            "a source of long videos whose list names them whole",
            f"none in {', '.join(sources)}",
            "Leave it out: their lists say what the pieces are. Where"
            " `dedup` wrote them, give it the option.",
        )
