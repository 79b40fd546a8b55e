"""Whole long videos, which commands cut into windows; other lists name the pieces themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from omnidali.catalog.listing.list_reader import recognise
from omnidali.config.schema import MediaConfig
from omnidali.errors import UserError

FRAME_SECONDS = 1.0  # a 2D teacher looks at a frame a second of long videos (OmniSource, Sec. 3.3)
WHOLE_FILES = ("path_label", "class folders")  # formats of long videos that are cut into windows

_MediaT = TypeVar("_MediaT", bound=MediaConfig)


def is_cut_into_windows(source: MediaConfig, data_root: str) -> bool:
    """Whether windows are cut from the source's videos.

    Args:
        source: its settings.
        data_root: folder that list and root start from.

    Raises:
        UserError: for a list that cannot be read.
    """
    if not source.media_kind.has_pieces:
        return False
    if not source.list:
        return True

    form: str = source.format
    if form == "auto":
        path = Path(data_root, source.list)
        form = recognise(path, source.media_kind, Path(data_root, source.root))
    return form in WHOLE_FILES


def with_all_pieces(source: _MediaT, data_root: str, window: float | None) -> _MediaT:
    """A source of long videos with all of its pieces; other sources as they are.

    Args:
        source: its settings.
        data_root: folder that list and root start from.
        window: seconds of the pieces, where they are windows; None: as configured.

    Raises:
        UserError: for a list that cannot be read.
    """
    if not source.media_kind.has_pieces:
        return source
    if window and is_cut_into_windows(source, data_root):
        source = replace(source, window_seconds=window)
    return replace(source, pieces="all")


def check_window(window: float | None, sources: Mapping[str, MediaConfig], data_root: str) -> None:
    """Refuse a length of windows that would change nothing.

    Args:
        window: seconds; None: not asked for.
        sources: those that a command works on, by name.
        data_root: folder that lists and roots start from.

    Raises:
        UserError: naming --window.
    """
    if window is None:
        return
    if not any(is_cut_into_windows(source, data_root) for source in sources.values()):
        raise UserError(
            "--window",
            "a source of long videos whose list names them whole",
            f"none in {', '.join(sources)}",
            "Leave it out: their lists say what the pieces are. Where"
            " `dedup` wrote them, give it the option.",
        )
