"""What excerpts cost and save: a clip by DALI's decoder from an excerpt, and from the whole file.

DALI decodes on one core here, where it has the codec; the CPU's own road is measured beside it.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.workloads import TSN, Workload, make_workload_media, open_tables, workload_plan
from omnidali.catalog.database.media import Media
from omnidali.config.schema import SourceConfig
from omnidali.decoding.excerpt import make_excerpt
from omnidali.decoding.video import decode_video
from omnidali.loading.dali_inputs import read_content
from omnidali.pipelines import EncodedVideos, Feeds
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say

KINDS = (
    *(f"vp9-gop{gop}" for gop in (8, 16, 250)),
    "mjpeg-gop1",
    *(f"h264-gop{gop}" for gop in (8, 16, 250)),
    "hevc-gop16",
)
_DALI = ("vp9", "mjpeg")  # codecs of DALI's decoder on the CPU
_SIZE = 224
_CLIPS = 6
_REPEATS = 5


def bench_excerpts(out: str | Path, only: Sequence[str] | None = None) -> list[dict]:
    """Measure each kind of generated video; writes and prints one record each.

    Args:
        out: folder for media and records.
        only: beginnings of the kinds' names; None for all.
    """
    chosen = [kind for kind in KINDS if only is None or kind.startswith(tuple(only))]
    loads = [_workload(kind) for kind in chosen]
    folder = Path(out) / "media"
    make_workload_media(folder, loads)

    records = []
    for kind, load in zip(chosen, loads, strict=True):
        (table,) = open_tables(folder, load)
        (samples,) = workload_plan([table], load, 0)(0)
        clips = [
            (table.media(int(table.records[samples.pieces[place, 0]])), samples.frames[place])
            for place in range(_CLIPS)
        ]
        row = {"bench": "excerpts", "media": kind, **_measure(clips, kind.startswith(_DALI))}
        records.append(write_record(out, row))
        figures = [f"{name} {value}" for name, value in row.items() if name not in ("bench",)]
        say(", ".join(figures))
    return records


def _workload(kind: str) -> Workload:
    source = SourceConfig(kind="video", root=kind, list=f"{kind}.txt")
    return Workload(f"W2 tsn-8 {kind}", (source,), TSN, _CLIPS)


def _measure(clips: Sequence[tuple[Media, np.ndarray]], by_dali: bool) -> dict[str, float]:
    """Milliseconds of TSN-8 of one clip, and of its first and last frame."""
    packets = [make_excerpt(media, frames).packets for media, frames in clips]
    row = {
        "packets": round(statistics.mean(packets), 1),
        "excerpt_ms": _best([partial(make_excerpt, *clip) for clip in clips]),
        "cpu_ms": _best([partial(_decode_by_cpu, *clip) for clip in clips]),
    }
    if not by_dali:
        return row

    graph = EncodedVideos(_SIZE, 1, batch=1, threads=1, device_id=None)
    chosen = {
        "tsn_8": clips,
        "first_frame": [(media, np.array([0])) for media, _ in clips],
        "last_frame": [(media, np.array([media.frames - 1])) for media, _ in clips],
    }
    for name, wanted in chosen.items():
        for way, decode in (("excerpt", _from_excerpt), ("whole_file", _from_whole_file)):
            row[f"dali_{name}_{way}_ms"] = _best([partial(decode, graph, *clip) for clip in wanted])
    return row


def _square(media: Media) -> np.ndarray:
    """The middle of the picture: top, left, bottom, right."""
    margin = (media.width - media.height) // 2
    return np.array([[0, margin, media.height, media.width - margin]])


def _decode_by_cpu(media: Media, frames: np.ndarray) -> None:
    pixels = np.empty((1, len(frames), _SIZE, _SIZE, 3), np.uint8)
    decode_video(media, frames, _square(media), _SIZE, pixels)


def _from_excerpt(graph: EncodedVideos, media: Media, frames: np.ndarray) -> None:
    content = read_content(media, frames)
    assert content is not None
    graph.run(_feeds(media, content.data, content.frames, content.colours))


def _from_whole_file(graph: EncodedVideos, media: Media, frames: np.ndarray) -> None:
    data = np.frombuffer(media.span.read_bytes(), np.uint8)
    graph.run(_feeds(media, data, frames.astype(np.int32), np.eye(3, 4, dtype=np.float32)))


def _feeds(media: Media, data: np.ndarray, frames: np.ndarray, colours: np.ndarray) -> Feeds:
    (box,) = _square(media).astype(np.float32)
    return {
        "data": [data],
        "frames": [frames],
        "sides": [np.array(media.stored[::-1], np.int32)],
        "colours": [colours],
        "start0": [box[:2]],
        "end0": [box[2:]],
        "flip0": [np.array(0, np.int32)],
    }


def _best(works: Sequence[Callable[[], object]]) -> float:
    """Milliseconds of one work: the median over works of the quickest of some repeats."""
    times = []
    for work in works:
        quickest = float("inf")
        for _ in range(_REPEATS):
            start = time.perf_counter()
            work()
            quickest = min(quickest, time.perf_counter() - start)
        times.append(1000 * quickest)
    return round(statistics.median(times), 3)
