"""The cost of decoding alone, step by step, on one core; and what a GPU decodes at several depths.

A loader cannot be faster than its codec. With a GPU, DALI decodes the same samples, at several
depths, and the best ``loader.cpu_share`` for ``decode: hybrid`` follows.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.workloads import WORKLOADS, make_workload_media, open_tables, workload_plan
from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.video_container import open_video
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import decode_video, indexed_frames
from omnidali.distributed.devices import count_gpus
from omnidali.errors import UserError
from omnidali.loading.dali_inputs import read_content
from omnidali.pipelines import EncodedImages, EncodedVideos, Feeds
from omnidali.planning.samples import Samples
from omnidali.planning.train_plan import TrainPlan
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say

_SIZE = 224
_FILES = 6
_REPEATS = 5
_LABELS = ("bench", "media")  # of a record
_DEPTHS = (1, 4, 7, 8, 14, 16, 32)  # samples that a GPU gets at once


def bench_decode(out: str | Path, only: list[str] | None, device: str = "auto") -> list[dict]:
    """Measure each kind of generated media; writes and prints one record each.

    Args:
        out: folder for media and records.
        only: beginnings of the media's names; None for all.
        device: ``cpu`` for the cores alone; ``auto``, ``cuda``: a GPU, too.

    Raises:
        UserError: for unknown names, and for ``cuda`` without a GPU.
    """
    on_gpu = count_gpus(device) > 0
    loads = {
        load.sources[0].root: load
        for load in reversed(WORKLOADS)
        if load.compare and "W4" not in load.name
    }
    chosen = {
        root: load
        for root, load in sorted(loads.items())
        if only is None or root.startswith(tuple(only))
    }
    if not chosen:
        raise UserError(
            "--media",
            f"beginnings of: {', '.join(loads)}",
            " ".join(only or ()),
            "Correct the name.",
        )

    folder = Path(out) / "media"
    make_workload_media(folder, list(chosen.values()))

    records = []
    for root, load in chosen.items():
        (table,) = open_tables(folder, load)
        media = [table.media(record) for record in table.records[:_FILES].tolist()]
        measure = _images if table.kind.is_still else _videos
        row = {"bench": "decode", "media": root, **measure(media)}
        if on_gpu:
            row |= _on_gpu(workload_plan([table], load, 0), table.kind.is_still)
        records.append(write_record(out, row))
        figures = [f"{name} {value}" for name, value in row.items() if name not in _LABELS]
        say(f"{root}: {', '.join(figures)}")
    return records


def _images(media: Sequence[Media]) -> dict[str, float]:
    """Milliseconds of an image: decode the whole, or a box of half of its area."""
    pixels = np.empty((1, 1, _SIZE, _SIZE, 3), np.uint8)

    def decode(image: Media, share: float) -> None:
        box = np.array([[0, 0, int(image.height * share), int(image.width * share)]])
        decode_image(image, box, _SIZE, pixels)

    return {
        "whole_ms": _best(partial(decode, share=1.0), media),
        "half_the_area_ms": _best(partial(decode, share=0.5**0.5), media),
    }


def _videos(media: Sequence[Media]) -> dict[str, float]:
    """Milliseconds of a video's parts.

    Returns:
        Times to open it by the demuxer, to unpack the index, of a frame, of the pixels of a frame,
        of a packet that is passed.
    """
    frames = media[0].frames
    width = media[0].width
    height = media[0].height
    square = np.array([[0, (width - height) // 2, height, (width + height) // 2]])
    pixels = np.empty((1, frames, _SIZE, _SIZE, 3), np.uint8)

    def open_by_demuxer(video: Media) -> None:
        with open_video(video.span, video.container):
            pass

    def unpack_index(video: Media) -> PacketIndex:
        return PacketIndex.unpack(video.packets)

    def decode_all(video: Media) -> None:
        _decode(video, range(frames))

    def decode_with_pixels(video: Media) -> None:
        decode_video(video, np.arange(frames), square, _SIZE, pixels)

    def decode_ends(video: Media) -> None:
        """Decode the last frame of each GOP, past all the others."""
        keys = np.flatnonzero(unpack_index(video).keys)
        _decode(video, sorted({*(keys[1:] - 1).tolist(), video.frames - 1}))

    plain = _best(decode_all, media)
    total = sum(os.path.getsize(video.span.path) for video in media)
    return {
        "open_ms": _best(open_by_demuxer, media),
        "index_ms": _best(unpack_index, media),
        "frame_ms": round(plain / frames, 3),
        "pixels_ms": round((_best(decode_with_pixels, media) - plain) / frames, 3),
        "passed_packet_ms": round(_best(decode_ends, media) / frames, 3),
        "bytes_per_frame": round(total / frames / len(media)),
    }


def _decode(video: Media, wanted: Sequence[int]) -> None:
    for _ in indexed_frames(video, PacketIndex.unpack(video.packets), list(wanted)):
        pass


def _on_gpu(plan: TrainPlan, images: bool) -> dict[str, float]:
    """Samples a second by DALI at each depth and by all cores, and the best share of the cores."""
    table = plan.tables[0]
    (samples,) = plan(0)
    places = [place % len(samples) for place in range(2 * max(_DEPTHS))]
    media = [table.media(table.records[samples.pieces[place, 0]]) for place in places]
    rates = {
        f"gpu_samples_per_second_depth_{depth}": round(
            _gpu_rate(depth, samples, places, media, images), 1
        )
        for depth in _DEPTHS
    }

    def decode(number: int) -> None:
        place = places[number]
        boxes = samples.boxes[place]
        frames = samples.frames[place]
        pixels = np.empty((1, len(frames), _SIZE, _SIZE, 3), np.uint8)
        if images:
            decode_image(media[number], boxes, _SIZE, pixels)
        else:
            decode_video(media[number], frames, boxes, _SIZE, pixels)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        start = time.perf_counter()
        list(pool.map(decode, range(len(places))))
        cores = len(places) / (time.perf_counter() - start)
    return {
        **rates,
        "cores_samples_per_second": round(cores, 1),
        "best_cpu_share": round(cores / (cores + max(rates.values())), 2),
    }


def _gpu_rate(
    depth: int, samples: Samples, places: Sequence[int], media: Sequence[Media], images: bool
) -> float:
    """Samples a second by DALI, with ``depth`` of them at once."""
    kind = EncodedImages if images else EncodedVideos
    graph = kind(_SIZE, 1, batch=depth, threads=max(8, depth), device_id=0)

    for _ in range(2):  # the first turn makes the decoders
        start = time.perf_counter()
        for first in range(0, len(places), depth):
            part = slice(first, first + depth)
            graph.run(_feeds(samples, places[part], media[part], images))
        torch.cuda.synchronize()
    return len(places) / (time.perf_counter() - start)


def _feeds(samples: Samples, places: Sequence[int], media: Sequence[Media], images: bool) -> Feeds:
    """What a graph is fed of some samples, read now."""
    contents = [
        read_content(file, None if images else samples.frames[place])
        for file, place in zip(media, places, strict=True)
    ]
    whole = [content for content in contents if content is not None]
    boxes = samples.boxes[places, 0].astype(np.float32)
    feeds: Feeds = {
        "data": [content.data for content in whole],
        "start0": list(boxes[:, :2]),
        "end0": list(boxes[:, 2:]),
        "flip0": [np.array(0, np.int32)] * len(places),
    }
    if not images:
        feeds["frames"] = [content.frames for content in whole]
        feeds["sides"] = [np.array(file.stored[::-1], np.int32) for file in media]
        feeds["colours"] = [content.colours for content in whole]
    return feeds


def _best(work: Callable[[Media], object], media: Sequence[Media]) -> float:
    """Milliseconds for one file: the median over files of the quickest of some repeats."""
    times = []
    for file in media:
        quickest = float("inf")
        for _ in range(_REPEATS):
            start = time.perf_counter()
            work(file)
            quickest = min(quickest, time.perf_counter() - start)
        times.append(1000 * quickest)
    return round(statistics.median(times), 3)
