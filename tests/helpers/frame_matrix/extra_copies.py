"""Extra cases: copies, hidden references and cuts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from helpers.frame_matrix.case import FRAMES, Case
from helpers.frame_matrix.containers import copy, make_file
from helpers.frame_matrix.encoding import Encoded, run_encoder
from helpers.frame_matrix.extra_case import make_cases, write_muxed


def copy_cases() -> Iterator[Case]:
    """B-frames out of AVI, which has no timestamps, into containers that need some; and back."""
    origin = partial(make_cases, make=_copied, program=True)
    videos = (
        "h264-pyramid",
        "hevc-pyramid",
        "mpeg4-b",
        "mpeg4-packed",
        "xvid-b",
        "xvid-packed",
        "mpeg2-b",
        "mpeg1-b",
    )
    for video in videos:
        # into others FFmpeg refuses to write packets without a time
        yield from origin("from-avi", kinds=f"{video}.mp4,mov", origin="avi")
        yield from origin(
            "from-avi-genpts",
            kinds=f"{video}.mp4,mov,mkv,ts",
            origin="avi",
            before=("-fflags", "+genpts"),
        )
    yield from origin("from-avi", kinds="mpeg1-b.ts", origin="avi")
    yield from origin(
        "from-mp4",
        origin="mp4",
        kinds="h264-pyramid.avi hevc-open.avi mpeg4-b.avi xvid-b.avi mpeg2-b.avi"
        " mpeg1-b.avi av1-pyramid.avi vp9-plain.avi",
    )


def _copied(
    path: Path,
    container: str,
    codec: str,
    structure: str,
    *,
    origin: str,
    before: Sequence[str] = (),
) -> None:
    base = path.with_name(f"{path.name}.{origin}")
    make_file(base, origin, codec, structure)
    copy(base, path, before=before)


def hidden_reference_cases() -> Iterator[Case]:
    """Frames that are decoded and never shown."""
    yield from make_cases(
        "references",
        _hiding_references,
        program=True,
        expected=range(40),
        kinds="vp8-hidden.webm,mkv,avi,ivf vp9-hidden.webm,mkv,avi,ivf,mp4"
        " av1-hidden.webm,mkv,ivf,mp4",
    )


def _hiding_references(path: Path, container: str, codec: str, structure: str) -> None:
    arguments = ["-pix_fmt", "yuv420p", "-g", "20", "-auto-alt-ref", "1", "-lag-in-frames", "16"]
    if codec == "av1":
        arguments += ["-c:v", "libaom-av1", "-cpu-used", "8", "-crf", "20"]
        run_encoder(arguments, path, codec=codec, count=40)
        return
    # VP8's encoder hides frames in the second of two passes alone
    arguments += ["-c:v", {"vp8": "libvpx", "vp9": "libvpx-vp9"}[codec], "-b:v", "1500k"]
    arguments += ["-deadline", "good", "-cpu-used", "4", "-passlogfile", str(path)]
    run_encoder([*arguments, "-pass", "1", "-f", "null"], path, codec=codec, count=40)
    run_encoder([*arguments, "-pass", "2"], path, codec=codec, count=40)
    Path(f"{path}-0.log").unlink()


def cut_cases() -> Iterator[Case]:
    """Files that begin or end elsewhere than an encoder's, and short ones.

    Frames without what they refer to are left out by all decoders but MPEG-4's and HEVC's.
    """
    within = partial(make_cases, "from-within-a-gop", write_muxed, change=_without_the_first)
    yield from within(
        "h264-plain.ts,mkv,avi,mp4 h264-b.ts,mkv,avi,mp4 mpeg2-plain.ts,mkv,avi,mp4",
        expected=_from(9),
    )
    yield from within("hevc-plain.ts,mkv,mp4 hevc-b.ts,mkv,mp4", expected=None, by_pyav=True)
    yield from within("mpeg2-b.ts,mkv,avi,mp4", expected=_from(7))
    yield from within("mpeg4-plain.ts,mkv,avi,mp4 mpeg4-b.ts,mkv,avi,mp4", expected=None)
    for video, expected in (("h264-b", _from(9)), ("hevc-b", None), ("mpeg2-b", _from(7))):
        yield from make_cases(
            "from-within-a-packet",
            _cut_bytes,
            f"{video}.ts",
            expected=expected,
            by_pyav=video == "hevc-b",
        )

    kinds = "h264-open.mp4,mkv,ts hevc-open.mp4,mkv,ts mpeg2-open.mp4,mkv,ts"
    yield from make_cases(
        "from-its-second-keyframe",
        write_muxed,
        kinds,
        change=_without_the_first_gop,
        expected=_from(9),
    )
    yield from make_cases(
        "without-its-last-packets",
        write_muxed,
        kinds,
        change=_without_the_last,
        expected=range(FRAMES - 3),
    )

    seeks = partial(
        make_cases,
        "copied-from-the-middle",
        _copied,
        program=True,
        origin="mp4",
        before=("-ss", "0.42"),
    )
    yield from seeks(
        "h264-plain.mp4,mov h264-b.mp4,mov h264-open.mp4,mov hevc-open.mp4,mov mpeg4-b.mp4,mov",
        expected=_from(13),
    )
    yield from seeks(
        "h264-plain.mkv,ts h264-b.mkv,ts h264-open.mkv hevc-open.mkv,ts av1-plain.mkv",
        expected=_from(9),
    )
    yield from seeks("mpeg4-b.mkv", expected=_from(7))
    yield from seeks("av1-pyramid.mp4", expected=_from(13), by_pyav=True)

    for count in (1, 2, 3):
        yield from make_cases(
            f"of-{count}",
            write_muxed,
            expected=range(count),
            count=count,
            kinds="h264-pyramid.mp4 h264-b.ts mpeg4-b.avi mpeg4-packed.avi"
            " mpeg2-b.mpg mpeg1-b.mp4 vp9-plain.webm av1-pyramid.mp4",
        )


def _from(first: int) -> range:
    return range(first, FRAMES)


def _without_the_first(video: Encoded) -> Encoded:
    return video.part(range(4, FRAMES))


def _without_the_first_gop(video: Encoded) -> Encoded:
    return video.part(range(video.keys.index(True, 1), FRAMES))


def _without_the_last(video: Encoded) -> Encoded:
    return video.part(range(FRAMES - 3))


def _cut_bytes(path: Path, container: str, codec: str, structure: str) -> None:
    make_file(path, container, codec, structure)
    path.write_bytes(path.read_bytes()[188 * 60 :])
