"""Faults on purpose: what goes wrong with media on real disks and in real crawls, each with what a
loader makes of it.

A fault is applied to a whole file, before the probe (the catalog meets it) or behind it (a running
loader does).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from omnidali.testing import odd_media as odd

REFUSED = "refused"  # the probe leaves it out, with a reason
EXACT = "exact"  # every frame is the painted one
# some frames do not come: their neighbours stand for them, and the file is named
REPLACED = "replaced"
FAILS = "fails"  # no clip comes: another file of its class stands for it, and the file is named
# the decoder may notice or may not: pictures, right or wrong, or one of the above
UNSURE = "unsure"

BASES = {  # the good files that faults befall
    "mp4": odd.video(),
    "mp4 with the index first": odd.video(muxer={"movflags": "faststart"}),
    "webm": odd.video("webm", "libvpx-vp9"),
    "jpg": odd.image(".jpg"),
}


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong with one file.

    Attributes:
        base: the kind of good file that it befalls, of ``BASES``.
        apply: makes it of the good file at a path; the number is the one that the good file's
            pictures show.
        before, behind: what comes of it if it is there at the probe, and if it comes behind the
            probe.
        says: in the probe's reason, as a regular expression.
        frames: numbers painted into the frames that the probe counts and a decoder gives.
    """

    base: str
    apply: odd.Make
    before: str
    behind: str
    says: str = ""
    frames: tuple[int, ...] = tuple(range(odd.FRAMES))

    @property
    def kind(self) -> str:
        """``image`` or ``video``."""
        return "image" if self.base == "jpg" else "video"


def cut(share: float = 1.0, short: int = 0) -> odd.Make:
    """Cut a file off behind a share of its bytes, and so many bytes before that."""
    return lambda path, file: os.truncate(path, int(path.stat().st_size * share) - short)


def flip_bits(each: int, keep_time: bool = False) -> odd.Make:
    """Turn a bit over in one of ``each`` bytes; ``keep_time``: as a disk does, which tells nobody."""

    def apply(path: Path, file: int) -> None:
        data, rng = np.fromfile(path, np.uint8), np.random.default_rng(file)
        places = rng.choice(len(data), max(1, len(data) // each), replace=False)
        data[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
        _overwrite(path, data.tobytes(), keep_time)

    return apply


def zeros(first: float, last: float, keep_time: bool = False) -> odd.Make:
    """Write zeros from one share of a file's bytes to another."""

    def apply(path: Path, file: int) -> None:
        data = bytearray(path.read_bytes())
        begin, end = int(first * len(data)), int(last * len(data))
        data[begin:end] = bytes(end - begin)
        _overwrite(path, bytes(data), keep_time)

    return apply


def _overwrite(path: Path, data: bytes, keep_time: bool) -> None:
    status = path.stat()
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def delete(path: Path, file: int) -> None:
    """The file is gone."""
    path.unlink()


def folder(path: Path, file: int) -> None:
    """A folder lies where the file was."""
    path.unlink()
    path.mkdir()


def link_to_itself(path: Path, file: int) -> None:
    """A link that leads nowhere: unreadable for anyone, root too."""
    path.unlink()
    path.symlink_to(path.name)


def forbid(path: Path, file: int) -> None:
    """No permission to read; root reads it all the same."""
    path.chmod(0)


def hang(path: Path, file: int) -> None:
    """Whoever opens the file waits for ever, as on a network disk that is gone; see :func:`let_go`."""
    path.unlink()
    os.mkfifo(path)


def let_go(path: Path) -> None:
    """Remove a file that :func:`hang` made; those who wait at it find it empty."""
    writer = os.open(path, os.O_RDWR)
    path.unlink()
    os.close(writer)


def replaced_by(make: odd.Make) -> odd.Make:
    """Another file takes the place, as a program does that writes aside and renames."""

    def apply(path: Path, file: int) -> None:
        aside = path.with_name(path.name + ".new")
        make(aside, file)
        os.replace(aside, path)

    return apply


def _odd(
    base: str,
    make: odd.Make,
    before: str,
    behind: str,
    says: str = "",
    frames: range = range(odd.FRAMES),
) -> Fault:
    return Fault(base, replaced_by(make), before, behind, says, tuple(frames))


def _faults() -> Iterator[tuple[str, Fault]]:
    for base in ("mp4", "webm", "jpg"):
        what = "not a JPEG, PNG or WebP image: " if base == "jpg" else "not a video: "
        for name, apply, says in (
            ("zero bytes", cut(0), "empty file"),
            ("zeros alone", zeros(0, 1), what + "unknown bytes"),
            ("deleted", delete, "missing file"),
            ("a folder in its place", folder, "not a regular file"),
            ("a link to itself", link_to_itself, "symbolic links|leaves the root"),
            ("a web page", replaced_by(odd.HTML), what + "a web page"),
            ("an HLS playlist", replaced_by(odd.M3U8), what + "a playlist"),
            ("an ffconcat playlist", replaced_by(odd.FFCONCAT), what + "a playlist"),
            ("a DASH playlist", replaced_by(odd.DASH), what + "a web page"),
        ):
            yield f"{base}: {name}", Fault(base, apply, REFUSED, FAILS, says)
        yield f"{base}: hanging", Fault(base, hang, REFUSED, FAILS, "not a regular file")
        if os.geteuid():
            yield (
                f"{base}: no permission",
                Fault(base, forbid, REFUSED, FAILS, "unreadable: Permission denied"),
            )
        for name, each in (("a few bits", 2000), ("many bits", 50)):
            yield f"{base}: {name} flipped", Fault(base, flip_bits(each), UNSURE, UNSURE)
            yield (
                f"{base}: {name} flipped in silence",
                Fault(base, flip_bits(each, keep_time=True), UNSURE, UNSURE),
            )
    # MP4 has its index at the end: without it nothing is found. WebM and an index that comes first
    # give what is left.
    yield "mp4: half of it", Fault("mp4", cut(0.5), REFUSED, FAILS, "broken")
    yield "mp4: nine tenths of it", Fault("mp4", cut(0.9), REFUSED, FAILS, "broken")
    yield "mp4: a byte short", Fault("mp4", cut(short=1), EXACT, EXACT)
    yield "mp4: zeros in the middle", Fault("mp4", zeros(0.4, 0.6), UNSURE, UNSURE)
    yield (
        "mp4: fewer frames than declared",
        Fault("mp4 with the index first", cut(0.5), EXACT, REPLACED, frames=tuple(range(10))),
    )
    yield "webm: half of it", Fault("webm", cut(0.5), EXACT, REPLACED, frames=tuple(range(10)))
    yield (
        "webm: nine tenths of it",
        Fault("webm", cut(0.9), EXACT, REPLACED, frames=tuple(range(20))),
    )
    yield "webm: a byte short", Fault("webm", cut(short=1), EXACT, EXACT)
    yield (
        "webm: zeros in the middle",
        Fault("webm", zeros(0.4, 0.6), EXACT, REPLACED, frames=(*range(9), *range(16, 24))),
    )
    yield "jpg: half of it", Fault("jpg", cut(0.5), FAILS, FAILS)
    yield "jpg: nine tenths of it", Fault("jpg", cut(0.9), FAILS, FAILS)
    yield "jpg: a byte short", Fault("jpg", cut(short=1), FAILS, FAILS)
    yield "jpg: zeros in the middle", Fault("jpg", zeros(0.4, 0.6), UNSURE, UNSURE)

    video, image = odd.video, odd.image
    uneven = np.cumsum(np.arange(odd.FRAMES) * 37 % 90 + 5).tolist()
    yield "mp4: another file of another size", _odd("mp4", video(size=(64, 48)), EXACT, FAILS)
    yield "mp4: another file of the same size", _odd("mp4", video(gop=4), EXACT, EXACT)
    yield "mp4: an AVI by another name", _odd("mp4", video("avi", "mpeg4"), EXACT, FAILS)
    yield "mp4: sound alone", _odd("mp4", odd.audio_only, REFUSED, FAILS, "no video stream")
    yield "mp4: headers without frames", _odd("mp4", odd.no_frames, REFUSED, FAILS, "no frames")
    yield "mp4: one frame", _odd("mp4", video(frames=1), EXACT, REPLACED, frames=range(1))
    yield (
        "mp4: no keyframe first",
        _odd("mp4", video(drop_first=1), EXACT, UNSURE, frames=range(8, odd.FRAMES)),
    )
    yield (
        "mp4: no keyframe at all",
        _odd("mp4", video(gop=odd.FRAMES, drop_first=1), REFUSED, FAILS, "no frame decodes"),
    )
    yield (
        "mp4: open GOPs",
        _odd(
            "mp4",
            video(b_frames=3, options={"x264-params": "open-gop=1:keyint=8:bframes=3"}),
            EXACT,
            EXACT,
        ),
    )
    yield "mp4: a variable frame rate", _odd("mp4", video(b_frames=2, times=uneven), EXACT, EXACT)
    yield (
        "mp4: an edit list",
        _odd("mp4", video(begin=-5, b_frames=2), EXACT, REPLACED, frames=range(5, odd.FRAMES)),
    )
    yield "mp4: a late start", _odd("mp4", video(begin=300), EXACT, EXACT)
    yield "mp4: a late start in Matroska", _odd("mp4", video("matroska", begin=300), EXACT, FAILS)
    yield "mp4: odd sizes", _odd("mp4", video(pixels="yuv444p", size=(97, 73)), EXACT, FAILS)
    yield "webm: odd sizes", _odd("webm", video("webm", "libvpx-vp9", size=(97, 73)), EXACT, FAILS)
    yield "mp4: 10 bits", _odd("mp4", video(codec="libx265", pixels="yuv420p10le"), EXACT, EXACT)
    yield "mp4: 4:4:4", _odd("mp4", video(pixels="yuv444p"), EXACT, EXACT)
    yield (
        "mp4: interlaced",
        _odd("mp4", video(size=(96, 80), options={"x264-params": "interlaced=1"}), EXACT, FAILS),
    )
    yield "mp4: rotated", _odd("mp4", video(rotation=180), EXACT, UNSURE)
    # the numbers in the container's header are not those of the stream: FFmpeg goes by the stream
    yield "webm: an IVF that claims to be huge", _odd("webm", odd.video_bomb, EXACT, FAILS)

    yield (
        "jpg: another file of another size",
        _odd("jpg", image(".jpg", size=(50, 80)), EXACT, FAILS),
    )
    yield (
        "jpg: another file of the same size",
        _odd("jpg", image(".jpg", cv2.IMWRITE_JPEG_QUALITY, 60), EXACT, EXACT),
    )
    yield "jpg: a PNG by another name", _odd("jpg", image(".png"), EXACT, EXACT)
    yield "jpg: CMYK", _odd("jpg", odd.cmyk_jpeg, EXACT, EXACT)
    yield "jpg: a PNG of 16 bits", _odd("jpg", image(".png", deep=True), EXACT, EXACT)
    yield (
        "jpg: a grey PNG of 16 bits",
        _odd("jpg", image(".png", deep=True, grey=True), EXACT, EXACT),
    )
    yield (
        "jpg: an animated WebP",
        _odd("jpg", odd.animated(".webp"), REFUSED, FAILS, "animated WebP"),
    )
    yield "jpg: a GIF", _odd("jpg", odd.animated(".gif"), REFUSED, FAILS, "GIF")
    yield (
        "jpg: a PNG that claims to be huge",
        _odd("jpg", odd.png_bomb(65535), REFUSED, FAILS, "too large"),
    )
    yield "jpg: a PNG that claims to be large", _odd("jpg", odd.png_bomb(9000), FAILS, FAILS)
    yield (
        "jpg: a JPEG that claims to be huge",
        _odd("jpg", odd.jpeg_bomb, REFUSED, FAILS, "too large"),
    )


FAULTS = dict(_faults())
