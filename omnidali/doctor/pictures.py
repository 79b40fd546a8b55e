"""Pictures of media by the CPU's decoders, and their comparison with what they should be."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.image_probe import probe_image
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import decode_video
from omnidali.doctor.findings import Findings
from omnidali.testing.numbered_media import read_numbers

SIZE = 160  # side of the crops, pixels
NEAR = 4.0  # mean difference of one picture on both roads, on the scale 0..255


def media_of(path: Path, is_image: bool = False) -> Media:
    """A file as the catalog sees it."""
    span = FileSpan(str(path))
    return Media.of(str(path), span, (probe_image if is_image else probe_video)(span))


def middle(media: Media) -> np.ndarray:
    """The square in the middle that has the whole short side: int32 (1, 4), as (y, x, y, x)."""
    side = min(media.width, media.height)
    top = (media.height - side) // 2
    left = (media.width - side) // 2
    return np.array([[top, left, top + side, left + side]], np.int32)


def cpu_video(media: Media, frames: Sequence[int]) -> np.ndarray:
    """The middle of frames of a video on the CPU's road: uint8 (F, S, S, 3).

    Raises:
        DecodeError: if none of the frames comes.
    """
    out = np.zeros((1, len(frames), SIZE, SIZE, 3), np.uint8)
    decode_video(media, np.array(frames), middle(media), SIZE, out)
    return out[0]


def cpu_image(media: Media) -> np.ndarray:
    """The middle of an image on the CPU's road: uint8 (1, S, S, 3).

    Raises:
        DecodeError: if it does not decode.
    """
    out = np.zeros((1, 1, SIZE, SIZE, 3), np.uint8)
    decode_image(media, middle(media), SIZE, out)
    return out[0]


def wrong_numbers(pixels: np.ndarray, file: int, frames: Sequence[int]) -> list[str]:
    """The frames of a clip (F, S, S, 3) that show another number, a line each."""
    shown = [read_numbers(picture) for picture in pixels]
    return [
        f"frame {frame} of file {file} shows frame {number} of file {name}"
        for (name, number), frame in zip(shown, frames, strict=True)
        if (name, number) != (file, frame)
    ]


def compare(shown: np.ndarray, right: np.ndarray, file: int, frames: Sequence[int]) -> dict:
    """How DALI's pictures and the CPU's differ from each other, and from what they should show.

    Args:
        shown: by DALI, (F, S, S, 3).
        right: by the CPU, likewise.
        file: its number.
        frames: their numbers.
    """
    return {
        "wrong": wrong_numbers(shown, file, frames),
        "wrong on the CPU": wrong_numbers(right, file, frames),
        "difference": round(difference(shown, right), 2),
    }


def judge_pictures(findings: Findings, name: str, row: dict, is_sure: bool = True) -> bool:
    """Say what is wrong in a row of :func:`compare`; returns whether DALI's pictures are right.

    Args:
        findings: of the check.
        name: of the case.
        row: what was found.
        is_sure: whether DALI has to decode it; else a failure is only worth knowing.
    """
    if row["wrong on the CPU"]:
        findings.bad(f"{name} on the CPU: {row['wrong on the CPU'][0]}")
    fault = ""
    if row["wrong"]:
        fault = f"{name} through DALI: {row['wrong'][0]}"
    elif row["difference"] > NEAR:
        fault = f"{name}: {row['difference']} of 255 from the CPU's picture"
    if fault:
        (findings.bad if is_sure else findings.note)(fault)
    return not fault


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The mean difference of pictures on the scale 0..255."""
    return float(np.abs(one.astype(np.float32) - other.astype(np.float32)).mean())
