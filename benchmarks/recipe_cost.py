"""Training copies with B-frames beside those without: bytes, and time a clip, at equal quality.

A B-frame that no other frame refers to is passed over unless it is wanted. A GOP of many such
frames has few pictures on the way to any of its frames, and fewer bytes. What that is worth depends
on the footage, which has to be real: where all is noise, B-frames save nothing.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from tqdm import tqdm

from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.curation.copies.copy_size import video_size
from omnidali.curation.copies.encode import RECIPES, scaled_frames
from omnidali.decoding.video import indexed_frames
from omnidali.errors import UserError
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say
from omnidali.utils.x264 import repeatable

FAST = "fast"
KINDS = {"tsn-8": 0, "8x1": 1, "8x8": 8}  # clips of 8 frames, and the distance between these
_SHORT_SIDE = 256
_LEAST = 58  # frames of a video: the clip 8x8 spans 57
_CLIPS = 4  # of each kind and video
_RATE = 30
# frames of a GOP, and the most B-frames after each other
_GOPS = {
    "gop 16": (16, 0),
    "gop 8, 7 B": (8, 7),
    "gop 16, 7 B": (16, 7),
    "gop 32, 7 B": (32, 7),
    "gop 32, 15 B": (32, 15),
}
_CRFS = (18, 20, 22, 24)  # of all forms but FAST, whose quality lies between theirs


@dataclass(frozen=True, eq=False)
class _Form:
    """How videos are encoded.

    Attributes:
        name: of its GOPs.
        crf: quality, smaller is better.
        options: of libx264.
    """

    name: str
    crf: int
    options: dict[str, str]


@dataclass
class _Cost:
    """The sums over all videos of one form.

    Attributes:
        frames: of the videos.
        size: bytes.
        psnr: of the brightness, dB, by frame.
        milliseconds: of one thread's processor time, by kind of clip; the quickest repeat of each.
        pictures: that are decoded, by kind of clip.
        clips: of each kind.
    """

    frames: int = 0
    size: int = 0
    psnr: float = 0.0
    milliseconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    pictures: Counter[str] = field(default_factory=Counter)
    clips: int = 0


def bench_recipes(
    out: str | Path, videos: Sequence[str], frames: int = 240, repeats: int = 3
) -> list[dict]:
    """Measure every form over the same frames and clips; writes and prints one record each.

    Args:
        out: folder for the records. The copies lie in a temporary folder.
        videos: files to copy.
        frames: of each that are copied at most.
        repeats: decodings of every clip; all forms take turns.

    Raises:
        UserError: for a video that is too short.
    """
    costs = {form: _Cost() for form in _forms()}
    for path in tqdm(videos, desc="measure", unit="video", disable=None):
        original = _media(path)
        if original.frames < _LEAST:
            raise UserError(
                path, f"a video of {_LEAST} frames or more", str(original.frames), "Leave it out."
            )
        with tempfile.TemporaryDirectory() as folder:
            _measure(original, min(frames, original.frames), repeats, Path(folder), costs)

    records = []
    (plain,) = (cost for form, cost in costs.items() if form.name == FAST)
    for name in dict.fromkeys(form.name for form in costs):
        members = {form.crf: cost for form, cost in costs.items() if form.name == name}
        row = {
            "bench": "recipes",
            "form": name,
            "videos": len(videos),
            **_at_quality(members, plain),
        }
        records.append(write_record(out, row))
    say("", *_table(records))
    return records


def _forms() -> list[_Form]:
    fast = RECIPES[FAST]
    made = [_Form(FAST, fast.crf, fast.options)]
    for name, (gop, b_frames) in _GOPS.items():
        # all B-frames disposable, and as many as there may be: what x264 would choose is fewer
        params = (
            f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={b_frames}:b-adapt=0:b-pyramid=none"
        )
        for crf in _CRFS:
            plain = {
                "preset": fast.preset,
                "tune": fast.tune,
                "crf": str(crf),
                "x264-params": params,
            }
            made.append(_Form(name, crf, repeatable(plain)))
    return made


def _measure(
    original: Media, count: int, repeats: int, folder: Path, costs: dict[_Form, _Cost]
) -> None:
    """Add the costs of one video."""
    size = video_size(original.width, original.height, _SHORT_SIDE)
    wanted = [frame.planes for frame in scaled_frames(original, *size, count)]
    copies = {}
    for number, (form, cost) in enumerate(costs.items()):
        path = folder / f"{number}.mp4"
        _encode(path, wanted, size, form)
        copies[form] = _media(path)
        cost.frames += count
        cost.size += path.stat().st_size
        shown = scaled_frames(copies[form], *size, count)
        for one, other in zip(wanted, shown, strict=True):
            cost.psnr += cv2.PSNR(one[: size[1]], other.planes[: size[1]])

    for cost in costs.values():
        cost.clips += _CLIPS
    for kind, numbers in _clips(count):
        quickest = dict.fromkeys(costs, float("inf"))
        for _ in range(repeats):
            for form, media in copies.items():
                index = PacketIndex.unpack(media.packets)
                start = time.thread_time()  # this thread decodes, whatever else is at work
                for _ in indexed_frames(media, index, numbers):
                    pass
                quickest[form] = min(quickest[form], 1000 * (time.thread_time() - start))
        for form, cost in costs.items():
            index = PacketIndex.unpack(copies[form].packets)
            cost.milliseconds[kind] += quickest[form]
            cost.pictures[kind] += sum(len(index.needed(run)) for run in index.runs(numbers))


def _encode(path: Path, frames: Sequence[np.ndarray], size: tuple[int, int], form: _Form) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as copy:
        stream = copy.add_stream("libx264", rate=_RATE, options=form.options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for number, planes in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts = number
            frame.time_base = Fraction(1, _RATE)
            copy.mux(stream.encode(frame))
        copy.mux(stream.encode(None))


def _clips(count: int) -> Iterator[tuple[str, list[int]]]:
    """Kind and frames of each clip of a video; the same ones for all forms."""
    rng = np.random.default_rng(count)
    for kind, distance in KINDS.items():
        for _ in range(_CLIPS):
            if distance:
                first = int(rng.integers(count - 7 * distance))
                yield kind, list(range(first, first + 8 * distance, distance))
            else:
                edges = np.linspace(0, count, 9).astype(int)
                yield kind, rng.integers(edges[:-1], edges[1:]).tolist()


def _media(path: str | Path) -> Media:
    span = FileSpan(str(path))
    return Media.of(str(path), span, probe_video(span))


def _at_quality(by_crf: Mapping[int, _Cost], plain: _Cost) -> dict[str, object]:
    """The figures of a form at the quality of ``plain``, which lies between those of its crfs.

    Args:
        by_crf: rising.
        plain: whose quality counts.
    """
    members = list(by_crf.values())
    qualities = [cost.psnr / cost.frames for cost in reversed(members)]  # rising
    target = plain.psnr / plain.frames

    def between(values: Sequence[float]) -> float:
        return float(np.interp(target, qualities, list(reversed(values))))

    row: dict[str, object] = {
        "frames": plain.frames,
        "crf": round(between(list(by_crf)), 1),
        "psnr": round(between(qualities[::-1]), 2),
        "kilobytes_per_second": round(
            between([cost.size * _RATE / cost.frames / 1000 for cost in members]), 1
        ),
    }
    for kind in KINDS:
        row[f"ms_{kind}"] = round(between([c.milliseconds[kind] / c.clips for c in members]), 2)
        row[f"pictures_{kind}"] = round(between([c.pictures[kind] / c.clips for c in members]), 1)
    return row


def _table(records: Sequence[dict]) -> Iterator[str]:
    """A line for each form, beside the first."""
    first = records[0]
    kinds = " | ".join(f"{kind}, ms | pictures" for kind in KINDS)
    yield f"| at {first['psnr']} dB | crf | bytes | {kinds} |"
    yield f"|{'---|' * (3 + 2 * len(KINDS))}"
    for row in records:
        size = row["kilobytes_per_second"] / first["kilobytes_per_second"]
        cells = [row["form"], f"{row['crf']:g}", f"{size:.2f}"]
        for kind in KINDS:
            cells += [f"{row[f'ms_{kind}']:.1f}", f"{row[f'pictures_{kind}']:.0f}"]
        yield f"| {' | '.join(cells)} |"
