"""What decoding alone costs, step by step, on one core; and on a GPU how many decodes at once it
takes.

A loader cannot be faster than its codec. With a GPU the same samples are decoded by DALI too, at
several depths, and the best ``loader.cpu_share`` for ``decode: hybrid`` follows.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmarks.workloads import WORKLOADS, make_media, open_tables, plan_of
from omnidali.catalog.database.store import Media
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.probe import open_video
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import decode_video, indexed_frames
from omnidali.errors import UserError
from omnidali.pipelines import EncodedImages, EncodedVideos
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say

_SIZE, _FILES, _REPEATS = 224, 6, 5
_DEPTHS = (1, 4, 7, 8, 14, 16, 32)  # samples that a GPU gets at once


def bench_decode(out: str | Path, only: list[str] | None) -> list[dict]:
    """Measure each kind of generated media; writes and prints one record each.

    Args:
        only: beginnings of the media's names, none for all.

    Raises:
        UserError: for unknown names.
    """
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
    make_media(Path(out) / "media", list(chosen.values()))
    records = []
    for root, load in chosen.items():
        (table,) = open_tables(Path(out) / "media", load)
        media = [table.media(record) for record in table.records[:_FILES].tolist()]
        row = {
            "bench": "decode",
            "media": root,
            **(_photos(media) if table.kind == "image" else _videos(media)),
        }
        if torch.cuda.is_available():
            row |= _on_gpu(plan_of([table], load, 0), table.kind == "image")
        records.append(write_record(out, row))
        say(
            f"{root}: "
            + ", ".join(
                f"{name} {value}" for name, value in row.items() if name not in ("bench", "media")
            )
        )
    return records


def _photos(media: list[Media]) -> dict[str, float]:
    pixels = np.empty((1, 1, _SIZE, _SIZE, 3), np.uint8)
    times = {}
    for name, share in (("whole_ms", 1.0), ("half_the_area_ms", 0.5**0.5)):

        def decode(one: Media, share=share) -> None:
            box = [[0, 0, int(one.height * share), int(one.width * share)]]
            decode_image(one, np.array(box), _SIZE, pixels)

        times[name] = _best(decode, media)
    return times


def _videos(media: list[Media]) -> dict[str, float | None]:
    """Milliseconds: open by the demuxer, unpack the index, a frame, the pixels of a frame, a packet
    that is passed.
    """

    def opened(one: Media) -> None:
        with open_video(one.span, one.container):
            pass

    def decoded(one: Media, wanted) -> int:
        return sum(1 for _ in indexed_frames(one, PacketIndex.unpack(one.packets), list(wanted)))

    def ends(one: Media) -> list[int]:
        """The last frame of each GOP: how fast are those before it passed?"""
        index = PacketIndex.unpack(one.packets)
        return sorted({*(np.flatnonzero(index.keys)[1:] - 1).tolist(), one.frames - 1})

    frames = media[0].frames
    pixels = np.empty((1, frames, _SIZE, _SIZE, 3), np.uint8)
    width, height = media[0].width, media[0].height
    whole = np.array([[0, (width - height) // 2, height, (width + height) // 2]])
    plain = _best(lambda one: decoded(one, range(frames)), media)
    with_pixels = _best(
        lambda one: decode_video(one, np.arange(frames), whole, _SIZE, pixels), media
    )
    return {
        "open_ms": _best(opened, media),
        "index_ms": _best(lambda one: PacketIndex.unpack(one.packets), media),
        "frame_ms": round(plain / frames, 3),
        "pixels_ms": round((with_pixels - plain) / frames, 3),
        "passed_packet_ms": round(_best(lambda one: decoded(one, ends(one)), media) / frames, 3),
        "bytes_per_frame": round(
            sum(os.path.getsize(one.span.path) for one in media) / frames / len(media)
        ),
    }


def _on_gpu(plan, images: bool) -> dict[str, float]:
    """Samples a second by DALI at each depth, by all cores, and the share of the cores that keeps
    both busy.
    """
    table, (samples,) = plan.tables[0], plan(0)
    places = [place % len(samples) for place in range(2 * max(_DEPTHS))]
    media = [table.media(table.records[samples.pieces[place, 0]]) for place in places]
    rates = {}
    for depth in _DEPTHS:
        graph = (EncodedImages if images else EncodedVideos)(_SIZE, 1, depth, max(8, depth), 0)
        feeds = []
        for first in range(0, len(places), depth):
            part = places[first : first + depth]
            boxes = samples.boxes[part, 0].astype(np.float32)
            feeds.append(
                {
                    "start0": list(boxes[:, :2]),
                    "end0": list(boxes[:, 2:]),
                    "flip0": [np.array(0, np.int32)] * len(part),
                    **({} if images else {"frames": list(samples.frames[part])}),
                }
            )
        for turn in range(2):  # the first makes the decoders
            start = time.perf_counter()
            for number, feed in enumerate(feeds):
                files = media[number * depth : (number + 1) * depth]
                graph.run({**feed, "data": [one.span.read() for one in files]})
            torch.cuda.synchronize()
        rates[f"gpu_samples_per_second_depth_{depth}"] = round(
            len(places) / (time.perf_counter() - start), 1
        )

    def by_core(place: int) -> None:
        index = places[place]
        pixels = np.empty((1, samples.frames.shape[1], _SIZE, _SIZE, 3), np.uint8)
        if images:
            decode_image(media[place], samples.boxes[index], _SIZE, pixels)
        else:
            decode_video(media[place], samples.frames[index], samples.boxes[index], _SIZE, pixels)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        start = time.perf_counter()
        list(pool.map(by_core, range(len(places))))
        cores = len(places) / (time.perf_counter() - start)
    return {
        **rates,
        "cores_samples_per_second": round(cores, 1),
        "best_cpu_share": round(cores / (cores + max(rates.values())), 2),
    }


def _best(work: Callable[[Media], object], media: list[Media]) -> float:
    """Milliseconds for one file: the median over files of the quickest of some repeats."""
    times = []
    for one in media:
        quickest = float("inf")
        for _ in range(_REPEATS):
            start = time.perf_counter()
            work(one)
            quickest = min(quickest, time.perf_counter() - start)
        times.append(1000 * quickest)
    return round(statistics.median(times), 3)
