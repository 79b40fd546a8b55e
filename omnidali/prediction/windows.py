"""The parts of videos that have predictions of their own: windows, or what a list names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from omnidali.catalog.database.listed_items import RATE_IF_UNKNOWN, spans
from omnidali.catalog.database.media import Media
from omnidali.catalog.database.source_table import COLUMNS, SourceTable
from omnidali.prediction.targets import Span

_WINDOW_SECONDS = 10.0  # of a video that is long; as long as a clip of Kinetics
_LONG_SECONDS = 3 * _WINDOW_SECONDS  # a longer video is cut into windows though nobody asks for it


@dataclass(frozen=True)
class Part:
    """A part of a video.

    Attributes:
        row: of the video in its table.
        begin: its first frame.
        frames: how many it has; 0: a list names what the video does not have.
        start: in seconds after the first frame of the video.
        end: exclusive, in seconds.
    """

    row: int
    begin: int
    frames: int
    start: float
    end: float


@dataclass(frozen=True)
class _TimedSpan:
    """A part of a video, and the times of its frames; attributes as of the catalog's items."""

    unit: str
    first: float
    last: float
    frames: int
    rate: float
    tick: float
    timing: bytes

    @classmethod
    def of(cls, media: Media, span: Span) -> "_TimedSpan":
        """The part of a file that a span names."""
        return cls(
            **vars(span),
            frames=media.frames,
            rate=media.frame_rate,
            tick=media.tick,
            timing=media.timing,
        )


@dataclass(frozen=True)
class WindowRule:
    """Which videos are cut into windows, and how long these are.

    Attributes:
        seconds: of a window.
        longer_than: seconds; a shorter video has no windows.
    """

    seconds: float
    longer_than: float

    @classmethod
    def of(cls, window: float | None) -> "WindowRule | None":
        """The rule for a length that was asked for; None: windows of 10 s for videos of more than
        30 s. A length of 0 makes no windows.
        """
        if window is None:
            return cls(_WINDOW_SECONDS, _LONG_SECONDS)
        return cls(window, window) if window > 0 else None


def find_parts(
    table: SourceTable, row: int, rule: WindowRule | None, listed: Sequence[Span] = ()
) -> list[Part]:
    """The parts of a video that have predictions of their own.

    Windows are those of a source of kind ``untrimmed``: a remainder of less than half a window
    belongs to the one before.

    Args:
        table: of videos, a row each.
        row: of the video.
        rule: for windows; None: none.
        listed: the parts that a list names, instead of windows.

    Returns:
        In the order of the list, or of time; none for a short video.
    """
    media = table.media(table.first_record(row))
    if table.kind.is_folder:  # it has the number of the first frame there, and no times
        media = replace(media, timing=b"")
    if not listed:
        if rule is None or _duration_of(media) <= rule.longer_than:
            return []
        listed = [Span("windows", 0, rule.seconds)]
        found = list(_parts(media, row, listed))
        return found if len(found) > 1 else []
    return list(_parts(media, row, listed))


def _parts(media: Media, row: int, listed: Sequence[Span]) -> Iterator[Part]:
    seconds = _edges(media)
    for span in listed:
        found = list(spans(_TimedSpan.of(media, span)))
        for _, begin, frames in found:
            yield Part(
                row,
                begin,
                frames,
                start=round(float(seconds[begin]), 3),
                end=round(float(seconds[begin + frames]), 3),
            )
        if not found and span.unit == "seconds":
            yield Part(row, begin=0, frames=0, start=span.first, end=span.last)


def _duration_of(media: Media) -> float:
    """Seconds from the first frame of a video to the end of its last one."""
    return float(_edges(media)[-1])


def _edges(media: Media) -> np.ndarray:
    """When each frame is shown, and when the last one ends: float64 (frames + 1,), seconds."""
    times = media.frame_times
    if times is None:
        seconds = np.arange(media.frames) / (media.frame_rate or RATE_IF_UNKNOWN)
    else:
        seconds = (times - times[0]) * media.tick
    last = seconds[-1] + (seconds[-1] - seconds[0]) / max(media.frames - 1, 1)
    return np.append(seconds, last)


def table_of_parts(table: SourceTable, parts: Sequence[Part]) -> SourceTable:
    """A table with a row for each part of the videos of another one.

    Args:
        table: of whole videos.
        parts: one or more, all of which have frames.
    """
    rows = np.array([part.row for part in parts])
    chosen = table.take(rows, "parts")
    return replace(
        chosen,
        frames=np.array([part.frames for part in parts], COLUMNS["frames"]),
        firsts=np.array([part.begin for part in parts], COLUMNS["firsts"]),
    )
