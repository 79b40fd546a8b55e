"""The full product of containers, codecs, structures and timings, and what is left out of it."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from functools import partial

from helpers.frame_matrix.case import FRAMES, HIDDEN, Case
from helpers.frame_matrix.containers import CONTAINERS, COPIED_FROM, make_file
from helpers.frame_matrix.encoding import BY_PROGRAM

CODECS = (
    "h264",
    "hevc",
    "av1",
    "vp8",
    "vp9",
    "mpeg4",
    "xvid",
    "mpeg2",
    "mpeg1",
    "mjpeg",
    "h263",
    "flv1",
    "msmpeg4v3",
    "msmpeg4v2",
    "wmv1",
    "wmv2",
    "theora",
    "prores",
    "ffv1",
    "gif",
)

STRUCTURES = ("plain", "b", "pyramid", "packed", "open", "refresh")
TIMINGS = ("constant", "variable", "edit", "late", "restart")

_VIDEO_CODECS = [codec for codec in CODECS if codec != "gif"]
_HOLDS = {
    "mp4": "h264 hevc av1 vp9 mpeg4 xvid mpeg2 mpeg1 mjpeg ffv1",
    "mov": "h264 hevc mpeg4 xvid mpeg2 mpeg1 mjpeg h263 flv1 msmpeg4v3 msmpeg4v2 wmv1 wmv2 theora"
    " prores ffv1",
    "mkv": " ".join(_VIDEO_CODECS),
    "webm": "av1 vp8 vp9",
    "avi": " ".join(_VIDEO_CODECS),
    "flv": "h264 hevc av1 vp9 flv1",
    "ts": "h264 hevc mpeg4 xvid mpeg2 mpeg1",
    "mpg": "h264 hevc mpeg4 xvid mpeg2 mpeg1",
    "3gp": "h264 mpeg4 xvid h263",
    "ogv": "vp8 theora",
    "wmv": "h264 av1 vp8 vp9 mpeg4 xvid mpeg2 mpeg1 mjpeg h263 flv1 msmpeg4v3 msmpeg4v2 wmv1 wmv2"
    " theora ffv1",
    "gif": "gif",
}

# of the others: plain
_STRUCTURES_OF = {
    "h264": "plain b pyramid open refresh",
    "hevc": "plain b pyramid open refresh",
    "av1": "plain pyramid open",
    "mpeg4": "plain b packed open",
    "xvid": "plain b packed open",
    "mpeg2": "plain b open",
    "mpeg1": "plain b open",
}

_BOXES = ("mp4", "mov", "3gp")

# FFmpeg reads them from FLV since 6.1, and since 6.0 it hides AV1's frames before an edit list's
# beginning; the program may be older than PyAV's library
_ENHANCED_FLV = ("hevc", "av1", "vp9")

# What FFmpeg shows after an edit list's beginning where that is not just the frames from there on:
# it begins with the keyframe before, waits until a refresh is through, and takes the marks of
# hidden frames for others' where a decoder holds frames back that the container does not know of.
_SHOWN_AFTER_EDIT = {
    ("h264", "refresh"): range(17, FRAMES),
    ("mpeg1", "plain"): range(10, FRAMES),
    ("mpeg1", "b"): (9, *range(11, FRAMES)),
    ("mpeg1", "open"): (10, 11, *range(13, FRAMES)),
}


def omission(container: str, codec: str, structure: str, timing: str) -> str | None:
    """The reason for which no case is made of this kind, or None if there is one."""
    if codec not in _HOLDS[container].split():
        if codec == "gif":
            return f"the decoder of GIF is let into no {container}"
        return f"FFmpeg writes no {codec} into {container} that it reads again"
    if structure not in _STRUCTURES_OF.get(codec, "plain").split():
        return _structure_omission(codec, structure)
    if structure == "packed" and container != "avi":
        return "packed B-frames belong to AVI; copies into other containers are extra cases"
    if timing == "edit" and container not in _BOXES:
        return f"{container} has no edit lists"
    if timing == "restart" and container in _BOXES:
        return f"{container} holds durations, which never run backwards"
    if timing == "restart" and container in ("avi", "gif"):
        return f"{container} holds no timestamps"
    if timing == "restart" and container == "wmv":
        return "FFmpeg reads nothing after an asf, and writes no time that runs backwards"
    if timing == "late" and container == "gif":
        return "gif holds delays, and none before its first picture"
    return None


def _structure_omission(codec: str, structure: str) -> str:
    if structure == "packed":
        return "only MPEG-4 part 2 packs B-frames"
    if codec in ("mjpeg", "prores", "ffv1"):
        return f"{codec} has only intra frames"
    if structure == "refresh":
        return f"the encoders here refresh no {codec} without keyframes"
    if codec in ("mpeg4", "xvid", "mpeg2", "mpeg1"):
        return f"no frame refers to a B-frame of {codec}"
    if codec == "av1":
        return "AV1 has no B-frames; its hidden frames are the pyramid's"
    if codec in ("vp8", "vp9"):
        return f"{codec} has no B-frames; its hidden reference frames are extra cases"
    return f"{codec} has no B-frames"


def matrix() -> list[Case]:
    """The cases of the full product that are made."""
    return [
        _case(*kind)
        for kind in itertools.product(CONTAINERS, CODECS, STRUCTURES, TIMINGS)
        if omission(*kind) is None
    ]


def _case(container: str, codec: str, structure: str, timing: str) -> Case:
    expected = range(FRAMES)
    if timing == "edit":
        expected = _SHOWN_AFTER_EDIT.get((codec, structure), range(HIDDEN, FRAMES))
    is_enhanced = container == "flv" and codec in _ENHANCED_FLV
    return Case(
        f"{codec}-{structure}-{timing}.{container}",
        partial(make_file, container=container, codec=codec, structure=structure, timing=timing),
        expected=tuple(expected),
        program=codec in BY_PROGRAM or (container, codec) in COPIED_FROM,
        by_pyav=is_enhanced or (codec, timing) == ("av1", "edit"),
        kind=(container, codec, structure, timing),
    )


def representative(cases: Sequence[Case]) -> list[Case]:
    """A tenth of the matrix in which values of each two axes meet as often as so many cases allow.

    The order is by a hash of the names, so that most of the choice stays when cases are added.
    """
    left = sorted(cases, key=lambda case: zlib.crc32(case.name.encode()))
    chosen, met = [], set()
    while len(chosen) < len(cases) // 10:
        best = max(left, key=lambda case: len(_pairs(case) - met))
        left.remove(best)
        chosen.append(best)
        met |= _pairs(best)
    return chosen


def _pairs(case: Case) -> set[tuple[str, ...]]:
    values = [f"{axis} {value}" for axis, value in enumerate(case.kind)]
    return {*itertools.combinations(values, 2), *((value,) for value in values)}


def one_of_each(cases: Sequence[Case]) -> list[Case]:
    """One container of each kind of extra case, another one from kind to kind."""
    kinds: dict[str, list[Case]] = {}
    for case in cases:
        kinds.setdefault(case.name.rpartition(".")[0], []).append(case)
    return [group[number % len(group)] for number, group in enumerate(kinds.values())]
