"""Faults on purpose: what goes wrong with media on real disks and in real crawls.

A fault is applied to a whole file, before the probe (the catalog meets it) or after the probe (a
running loader meets it). ``FAULTS`` holds them by name, each with its outcome for both.

>>> from pathlib import Path
>>> from tempfile import TemporaryDirectory
>>> fault = FAULTS["mp4: half of it"]
>>> fault.kind, fault.at_probe, fault.after_probe
(<MediaKind.VIDEO: 'video'>, 'refused', 'fails')
>>> with TemporaryDirectory() as folder:
...     path = Path(folder, "a.mp4")
...     BASES[fault.base](path, 7)
...     size = path.stat().st_size
...     fault.apply(path, 7)
...     path.stat().st_size == size // 2
True
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from omnidali.media_kind import MediaKind
from omnidali.testing.odd_media import (
    DASH,
    FFCONCAT,
    FRAMES,
    HTML,
    M3U8,
    MediaMaker,
    animation,
    huge_png,
    odd_image,
    odd_video,
    write_audio_only,
    write_cmyk_jpeg,
    write_headers_only,
    write_huge_jpeg,
    write_huge_video,
)

# the outcomes
REFUSED = "refused"  # the probe leaves the file out, with a reason
EXACT = "exact"  # every frame is the painted one
REPLACED = "replaced"  # some frames are replaced by their neighbours, and the file is named
FAILS = "fails"  # the clip is replaced by one of another file of its class, and the file is named
UNSURE = "unsure"  # the decoder may notice or not: right or wrong images, or one of the above

BASES = {  # makers of the whole files that faults are applied to
    "mp4": odd_video(),
    "mp4 with the index first": odd_video(muxer={"movflags": "faststart"}),
    "webm": odd_video("webm", "libvpx-vp9"),
    "jpg": odd_image(".jpg"),
}
_ALL = tuple(range(FRAMES))


@dataclass(frozen=True)
class Fault:
    """One way in which a file is damaged or missing.

    Attributes:
        base: the whole file that it is applied to, of ``BASES``.
        apply: damages the file at a path; the number is the one that its images show.
        at_probe: the outcome if the fault is there before the probe.
        after_probe: the outcome if the fault happens after the probe.
        reason: regular expression for the probe's reason.
        frames: numbers painted into the frames that the probe counts and a decoder outputs.
    """

    base: str
    apply: MediaMaker
    at_probe: str
    after_probe: str
    reason: str = ""
    frames: tuple[int, ...] = _ALL

    @property
    def kind(self) -> MediaKind:
        """Image or video."""
        return MediaKind.IMAGE if self.base == "jpg" else MediaKind.VIDEO


def truncate_file(share: float = 1.0, short: int = 0) -> MediaMaker:
    """A fault that keeps a share of a file's bytes, less so many bytes."""

    def apply(path: Path, file: int) -> None:
        os.truncate(path, int(path.stat().st_size * share) - short)

    return apply


def flip_bits(each: int, keep_time: bool = False) -> MediaMaker:
    """A fault that turns a bit over in one of ``each`` bytes.

    Args:
        each: bytes from one flipped bit to the next, in the mean.
        keep_time: leave the file's time as it was, as a disk that goes bad does.
    """

    def apply(path: Path, file: int) -> None:
        data = np.fromfile(path, np.uint8)
        rng = np.random.default_rng(file)
        places = rng.choice(len(data), max(1, len(data) // each), replace=False)
        data[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
        _overwrite(path, data.tobytes(), keep_time)

    return apply


def write_zeros(first: float, last: float, keep_time: bool = False) -> MediaMaker:
    """A fault that writes zeros from one share of a file's bytes to another."""

    def apply(path: Path, file: int) -> None:
        data = bytearray(path.read_bytes())
        begin = int(first * len(data))
        end = int(last * len(data))
        data[begin:end] = bytes(end - begin)
        _overwrite(path, bytes(data), keep_time)

    return apply


def _overwrite(path: Path, data: bytes, keep_time: bool) -> None:
    status = path.stat()
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def delete_file(path: Path, file: int) -> None:
    """Delete the file."""
    path.unlink()


def replace_by_folder(path: Path, file: int) -> None:
    """Put a folder in the file's place."""
    path.unlink()
    path.mkdir()


def replace_by_loop(path: Path, file: int) -> None:
    """Put a link to itself in the file's place: unreadable for anyone, root too."""
    path.unlink()
    path.symlink_to(path.name)


def forbid_reading(path: Path, file: int) -> None:
    """Take the permission to read away; root reads the file all the same."""
    path.chmod(0)


def make_hang(path: Path, file: int) -> None:
    """Let whoever opens the file wait for ever, as on a lost network disk; see :func:`end_hang`."""
    path.unlink()
    os.mkfifo(path)


def end_hang(path: Path) -> None:
    """Remove a file of :func:`make_hang`; readers that wait at it find it empty."""
    writer = os.open(path, os.O_RDWR)
    path.unlink()
    os.close(writer)


def replace_by(make: MediaMaker) -> MediaMaker:
    """A fault that puts another file in the place, as programs do: write aside, then rename."""

    def apply(path: Path, file: int) -> None:
        aside = path.with_name(path.name + ".new")
        make(aside, file)
        os.replace(aside, path)

    return apply


def _replaced(
    base: str,
    make: MediaMaker,
    at_probe: str,
    after_probe: str,
    reason: str = "",
    frames: tuple[int, ...] = _ALL,
) -> Fault:
    return Fault(base, replace_by(make), at_probe, after_probe, reason, frames)


def _general_faults() -> Iterator[tuple[str, Fault]]:
    """The faults that can befall any file."""
    for base in ("mp4", "webm", "jpg"):
        what = "not a photo: " if base == "jpg" else "not a video: "
        for name, apply, reason in (
            ("zero bytes", truncate_file(0), "empty file"),
            ("zeros alone", write_zeros(0, 1), what + "zeros, as of a download"),
            ("deleted", delete_file, "missing file"),
            ("a folder in its place", replace_by_folder, "not a regular file"),
            ("a link to itself", replace_by_loop, "symbolic links|leaves the root"),
            ("a web page", replace_by(HTML), what + "a web page"),
            ("an HLS playlist", replace_by(M3U8), what + "a playlist"),
            ("an ffconcat playlist", replace_by(FFCONCAT), what + "a playlist"),
            ("a DASH playlist", replace_by(DASH), what + "a playlist"),
            ("hanging", make_hang, "not a regular file"),
            ("no permission", forbid_reading, "unreadable: Permission denied"),
        ):
            if apply is not forbid_reading or os.geteuid():
                yield f"{base}: {name}", Fault(base, apply, REFUSED, FAILS, reason)

        for name, each in (("a few bits", 2000), ("many bits", 50)):
            loud = Fault(base, flip_bits(each), UNSURE, UNSURE)
            silent = Fault(base, flip_bits(each, keep_time=True), UNSURE, UNSURE)
            yield f"{base}: {name} flipped", loud
            yield f"{base}: {name} flipped in silence", silent


# MP4 has its index at the end: without it nothing is found. WebM, and an index that comes first,
# give the frames that are left.
_PARTIAL_FILES = {
    "mp4: half of it": Fault("mp4", truncate_file(0.5), REFUSED, FAILS, "broken"),
    "mp4: nine tenths of it": Fault("mp4", truncate_file(0.9), REFUSED, FAILS, "broken"),
    "mp4: a byte short": Fault("mp4", truncate_file(short=1), EXACT, EXACT),
    "mp4: zeros in the middle": Fault("mp4", write_zeros(0.4, 0.6), UNSURE, UNSURE),
    "mp4: fewer frames than declared": Fault(
        "mp4 with the index first", truncate_file(0.5), EXACT, REPLACED, frames=_ALL[:10]
    ),
    "webm: half of it": Fault("webm", truncate_file(0.5), EXACT, REPLACED, frames=_ALL[:10]),
    "webm: nine tenths of it": Fault("webm", truncate_file(0.9), EXACT, REPLACED, frames=_ALL[:20]),
    "webm: a byte short": Fault("webm", truncate_file(short=1), EXACT, EXACT),
    "webm: zeros in the middle": Fault(
        "webm", write_zeros(0.4, 0.6), EXACT, REPLACED, frames=_ALL[:9] + _ALL[16:]
    ),
    "jpg: half of it": Fault("jpg", truncate_file(0.5), FAILS, FAILS),
    "jpg: nine tenths of it": Fault("jpg", truncate_file(0.9), FAILS, FAILS),
    "jpg: a byte short": Fault("jpg", truncate_file(short=1), FAILS, FAILS),
    "jpg: zeros in the middle": Fault("jpg", write_zeros(0.4, 0.6), UNSURE, UNSURE),
}

_OPEN_GOPS = odd_video(b_frames=3, options={"x264-params": "open-gop=1:keyint=8:bframes=3"})
_UNEVEN = np.cumsum(np.arange(FRAMES) * 37 % 90 + 5).tolist()  # times, milliseconds
_INTERLACED = odd_video(size=(96, 80), options={"x264-params": "interlaced=1"})
_OTHER_VIDEOS = {
    "mp4: another file of another size": _replaced("mp4", odd_video(size=(64, 48)), EXACT, FAILS),
    "mp4: another file of the same size": _replaced("mp4", odd_video(gop=4), EXACT, EXACT),
    "mp4: an AVI by another name": _replaced("mp4", odd_video("avi", "mpeg4"), EXACT, FAILS),
    "mp4: an ASF by another name": _replaced("mp4", odd_video("asf", "mpeg4"), EXACT, FAILS),
    "mp4: sound alone": _replaced("mp4", write_audio_only, REFUSED, FAILS, "sound alone"),
    "mp4: headers without frames": _replaced(
        "mp4", write_headers_only, REFUSED, FAILS, "no frames"
    ),
    "mp4: one frame": _replaced("mp4", odd_video(frames=1), EXACT, REPLACED, frames=_ALL[:1]),
    "mp4: no keyframe first": _replaced(
        "mp4", odd_video(drop_first=1), EXACT, UNSURE, frames=_ALL[8:]
    ),
    "mp4: no keyframe at all": _replaced(
        "mp4", odd_video(gop=FRAMES, drop_first=1), REFUSED, FAILS, "no frame decodes"
    ),
    "mp4: open GOPs": _replaced("mp4", _OPEN_GOPS, EXACT, EXACT),
    "mp4: a variable frame rate": _replaced(
        "mp4", odd_video(b_frames=2, times=_UNEVEN), EXACT, EXACT
    ),
    "mp4: an edit list": _replaced(
        "mp4", odd_video(begin=-5, b_frames=2), EXACT, REPLACED, frames=_ALL[5:]
    ),
    "mp4: a late start": _replaced("mp4", odd_video(begin=300), EXACT, EXACT),
    "mp4: a late start in Matroska": _replaced(
        "mp4", odd_video("matroska", begin=300), EXACT, FAILS
    ),
    "mp4: odd sizes": _replaced("mp4", odd_video(pixels="yuv444p", size=(97, 73)), EXACT, FAILS),
    "webm: odd sizes": _replaced(
        "webm", odd_video("webm", "libvpx-vp9", size=(97, 73)), EXACT, FAILS
    ),
    "mp4: 10 bits": _replaced(
        "mp4", odd_video(codec="libx265", pixels="yuv420p10le"), EXACT, EXACT
    ),
    "mp4: 4:4:4": _replaced("mp4", odd_video(pixels="yuv444p"), EXACT, EXACT),
    "mp4: interlaced": _replaced("mp4", _INTERLACED, EXACT, FAILS),
    "mp4: rotated": _replaced("mp4", odd_video(rotation=180), EXACT, UNSURE),
    # the container's header has other numbers than the stream: FFmpeg takes those of the stream
    "webm: an IVF that claims to be huge": _replaced("webm", write_huge_video, EXACT, FAILS),
}

_OTHER_IMAGES = {
    "jpg: another file of another size": _replaced(
        "jpg", odd_image(".jpg", size=(50, 80)), EXACT, FAILS
    ),
    "jpg: another file of the same size": _replaced(
        "jpg", odd_image(".jpg", cv2.IMWRITE_JPEG_QUALITY, 60), EXACT, EXACT
    ),
    "jpg: a PNG by another name": _replaced("jpg", odd_image(".png"), EXACT, EXACT),
    "jpg: a BMP by another name": _replaced("jpg", odd_image(".bmp"), EXACT, EXACT),
    "jpg: CMYK": _replaced("jpg", write_cmyk_jpeg, EXACT, EXACT),
    "jpg: a PNG of 16 bits": _replaced("jpg", odd_image(".png", deep=True), EXACT, EXACT),
    "jpg: a grey PNG of 16 bits": _replaced(
        "jpg", odd_image(".png", deep=True, grey=True), EXACT, EXACT
    ),
    "jpg: an animated WebP": _replaced("jpg", animation(".webp"), REFUSED, FAILS, "animated WebP"),
    "jpg: a GIF": _replaced("jpg", animation(".gif"), REFUSED, FAILS, "GIF"),
    "jpg: a PNG that claims to be huge": _replaced(
        "jpg", huge_png(65535), REFUSED, FAILS, "too large"
    ),
    "jpg: a PNG that claims to be large": _replaced("jpg", huge_png(9000), FAILS, FAILS),
    "jpg: a JPEG that claims to be huge": _replaced(
        "jpg", write_huge_jpeg, REFUSED, FAILS, "too large"
    ),
}

FAULTS = {**dict(_general_faults()), **_PARTIAL_FILES, **_OTHER_VIDEOS, **_OTHER_IMAGES}
