"""Checks that excerpts of a case decode to the wanted frames, from front to back."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import av
import numpy as np

from conftest import media_of
from helpers.dali_graphs import decode_by_dali
from helpers.frame_matrix.reference import decode_by_program, decode_by_pyav, painted
from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.frame_planes import PLANAR, frame_planes
from omnidali.catalog.probing.packet_decoder import decoder_options, use_one_thread
from omnidali.catalog.probing.probe import IRREGULAR
from omnidali.catalog.probing.video_container import open_video, video_stream
from omnidali.decoding.excerpt import make_excerpt
from omnidali.decoding.matroska import CODECS
from omnidali.decoding.routes import dali_codecs

# FFmpeg since version 7 or 8 takes a keyframe of HEVC after a cut for a mistake if it has the
# count of a picture before it. Its program of version 5 does not, nor does the standard.
_BY_PROGRAM = ("hevc-open-restart",)

Planes = list[np.ndarray]


def has_excerpts(media: Media) -> bool:
    """Whether the catalog's facts say that excerpts of a video can be made."""
    return media.codec.removesuffix(IRREGULAR) in CODECS


def excerpt_problems(path: Path) -> list[str]:
    """What is wrong with the excerpts of a video.

    They are decoded from front to back: bit for bit against the video itself, decoded likewise,
    and by DALI if it can.
    """
    media = media_of(path)
    if not has_excerpts(media):
        return []
    if path.stem.startswith(_BY_PROGRAM):
        whole = [_painted_alone(frame) for frame in decode_by_pyav(path)]
    else:
        with open_video(media.span, media.container) as container:
            stream = video_stream(container)
            assert stream is not None
            whole = _decode(container, stream)
    if len(whole) != media.frames:
        return [f"{len(whole)} frames instead of {media.frames}"]

    problems = []
    for wanted in _choices(media.frames, path.name):
        excerpt = make_excerpt(media, np.array(wanted))
        shown = _decode_excerpt(excerpt.data.tobytes(), path)
        for number, place in zip(wanted, excerpt.places.tolist(), strict=True):
            if place >= len(shown):
                problems.append(f"{wanted}: {len(shown)} frames came, {place} was to be {number}")
            elif not _is_same(shown[place], whole[number]):
                problems.append(f"{wanted}: frame {number} differs")
    if media.codec.partition(":")[0] in dali_codecs(None):
        problems += _dali_problems(media, path.name)
    return problems


def _choices(count: int, name: str) -> list[list[int]]:
    """What is wanted at once: everything, each frame alone, and random sets with repeats."""
    rng = np.random.default_rng(len(name))
    random = [rng.integers(0, count, 8).tolist() for _ in range(6)]
    return [list(range(count)), *([number] for number in range(count)), *random]


def _decode_excerpt(data: bytes, path: Path) -> list[Planes]:
    if path.stem.startswith(_BY_PROGRAM):
        file = path.with_name(f"excerpt-of-{path.name}.mkv")
        file.write_bytes(data)
        return [_painted_alone(frame) for frame in decode_by_program(file)]
    with av.open(io.BytesIO(data), format="matroska") as container:
        return _decode(container, container.streams.video[0])


def _decode(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> list[Planes]:
    use_one_thread(stream.codec_context)
    stream.codec_context.options = decoder_options(stream.codec_context.codec.canonical_name)
    frames: list[av.VideoFrame] = []
    for packet in container.demux(stream):
        with suppress(av.FFmpegError):  # as the program does, it goes on
            frames += packet.decode()
    return [_planes(frame) for frame in frames]


def _painted_alone(frame: np.ndarray) -> Planes:
    """The number that a frame shows, in the stead of its planes: two versions of FFmpeg differ."""
    return [np.array([[painted(frame)]])]


def _planes(frame: av.VideoFrame) -> Planes:
    if frame.format.name in PLANAR:
        return [np.array(plane) for plane in frame_planes(frame)]
    return [frame.to_ndarray(format="rgb24")]


def _is_same(shown: Planes, right: Planes) -> bool:
    """Whether planes are equal, but for padding at the right and at the bottom."""
    if len(shown) != len(right):
        return False
    return all(
        np.array_equal(plane[: other.shape[0], : other.shape[1]], other)
        for plane, other in zip(shown, right, strict=True)
    )


def _dali_problems(media: Media, name: str) -> list[str]:
    choices = _choices(media.frames, name)
    excerpts = [make_excerpt(media, np.array(wanted)) for wanted in choices]
    decoded = decode_by_dali([(excerpt.data, excerpt.places) for excerpt in excerpts])
    problems = []
    for wanted, frames in zip(choices, decoded, strict=True):
        shown = [painted(frame) for frame in frames]
        if shown != _numbers(media, wanted):
            problems.append(f"DALI shows {shown} for {wanted}")
    return problems


def _numbers(media: Media, wanted: Sequence[int]) -> list[int | None]:
    """What the CPU's road shows in these frames."""
    from omnidali import read_frames

    return [painted(frame) for frame in read_frames(media.path, wanted)]
