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
from omnidali.config.sources import SourceConfig
from omnidali.decoding.excerpt import make_excerpt
from omnidali.decoding.routes import dali_codecs
from omnidali.decoding.video import decode_video
from omnidali.doctor.device import Device
from omnidali.doctor.pictures import middle
from omnidali.doctor.roads import StreamMaker, excerpt_of, video_feeds, whole_file
from omnidali.pipelines import EncodedVideos, Graph
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say

KINDS = (
    *(f"vp9-gop{gop}" for gop in (8, 16, 250)),
    "mjpeg-gop1",
    *(f"h264-gop{gop}" for gop in (8, 16, 250)),
    "hevc-gop16",
)
_CPU = Device(None)
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
        by_dali = kind.partition("-")[0] in dali_codecs(None)
        row = {"bench": "excerpts", "media": kind, **_measure(clips, by_dali)}
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
        for way, make_stream in (("excerpt", excerpt_of), ("whole_file", whole_file)):
            row[f"dali_{name}_{way}_ms"] = _best(
                [partial(_decode_by_dali, graph, make_stream, *clip) for clip in wanted]
            )
    return row


def _decode_by_cpu(media: Media, frames: np.ndarray) -> None:
    pixels = np.empty((1, len(frames), _SIZE, _SIZE, 3), np.uint8)
    decode_video(media, frames, middle(media), _SIZE, pixels)


def _decode_by_dali(
    graph: Graph, make_stream: StreamMaker, media: Media, frames: np.ndarray
) -> None:
    graph.run(video_feeds([media], [make_stream(media, frames.tolist(), _CPU)]))


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
