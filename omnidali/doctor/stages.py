"""Clips a second of each stage of DALI's road, and of the CPU's decoders."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from omnidali.catalog.database.media import Media
from omnidali.decoding.excerpt import make_excerpt
from omnidali.decoding.video import decode_video
from omnidali.doctor.device import Device
from omnidali.doctor.findings import Findings
from omnidali.doctor.media import MediaFolder, Video
from omnidali.doctor.pictures import media_of, middle
from omnidali.doctor.roads import StreamMaker, excerpt_of, video_feeds, video_graph, whole_file
from omnidali.loading.device_work import device_work
from omnidali.pipelines import Feeds

_SEGMENTS = 8  # TSN's
_SIZE = 224
_SMALL = 16
_IN_FLIGHT = (1, 7, 16)
_SECONDS = 1.5  # of a measurement
_QUICK_SECONDS = 0.3


def look_at_stages(findings: Findings) -> None:
    """Measure reading, excerpts, decoding, scaling and copying of TSN's clips at 340x256."""
    device = Device(findings.context.device_id)
    clips = _make_clips(findings, device, gop=8)
    measures: dict[str, Callable[[float], float]] = {
        "whole file read": lambda seconds: _read(clips, seconds),
        "excerpt made": lambda seconds: _make_excerpts(clips, 1, seconds),
        "excerpt made, 4 threads": lambda seconds: _make_excerpts(clips, 4, seconds),
        **{f"decoded, {count} in flight": _decoder(device, clips, count) for count in _IN_FLIGHT},
        "decoded, 7 in flight, hardly scaled": _decoder(device, clips, 7, size=_SMALL),
        "whole files decoded, 7 in flight": _decoder(device, clips, 7, maker=whole_file),
        "copied into a batch": lambda seconds: _copy(device, seconds),
        "pixels of the CPU sent": lambda seconds: _upload(device, seconds),
        "decoded by one core": lambda seconds: _decode_on_cpu(clips, 1, seconds),
        "decoded by all cores": lambda seconds: _decode_on_cpu(clips, device.cores, seconds),
    }
    seconds = _QUICK_SECONDS if findings.context.quick else _SECONDS
    findings.fact("clip", f"{_SEGMENTS} frames of a video of 340x256, {device.main_codec}, GOP 8")
    for name in findings.cases(measures, reserve=4 * seconds):
        try:
            rate = round(measures[name](seconds), 1)
        except Exception as error:
            findings.error(name, error)
            continue
        findings.fact(name, rate)
        findings.good(f"{name}: {rate:,.0f} clips/s")


Clip = tuple[Media, np.ndarray]


def _make_clips(findings: Findings, device: Device, gop: int) -> list[Clip]:
    """Files with the frames that TSN takes of them."""
    count = 4 if findings.context.quick else 8
    frames = 60 if findings.context.quick else 300
    files = MediaFolder(findings.context.scratch)
    videos = [
        Video(device.main_codec, 340, 256, frames=frames, gop=gop, file=number)
        for number in range(count)
    ]
    rng = np.random.default_rng(0)
    width = frames / _SEGMENTS
    return [
        (media_of(path), (width * (np.arange(_SEGMENTS) + rng.random(_SEGMENTS))).astype(int))
        for path in files.videos(videos)
    ]


def _rate(run: Callable[[int], int], seconds: float) -> float:
    """Clips a second of a function that takes a number of a round and returns its clips."""
    run(0)
    count = 0
    begun = time.perf_counter()
    turn = 1
    while (passed := time.perf_counter() - begun) < seconds or not count:
        count += run(turn)
        turn += 1
    return count / passed if passed else 0.0


def _read(clips: Sequence[Clip], seconds: float) -> float:
    def read(turn: int) -> int:
        media, _ = clips[turn % len(clips)]
        return min(1, len(media.span.read_bytes()))

    return _rate(read, seconds)


def _make_excerpts(clips: Sequence[Clip], threads: int, seconds: float) -> float:
    with ThreadPoolExecutor(threads) as pool:

        def make(turn: int) -> int:
            return len(list(pool.map(lambda clip: make_excerpt(clip[0], clip[1]), clips)))

        return _rate(make, seconds)


def _decoder(
    device: Device,
    clips: Sequence[Clip],
    count: int,
    size: int = _SIZE,
    maker: StreamMaker = excerpt_of,
) -> Callable[[float], float]:
    """A measurement of decoding with so many clips in flight."""

    def measure(seconds: float) -> float:
        graph = video_graph(device, count, size)
        batches: list[Feeds] = []
        for first in range(0, len(clips), count):
            batch = [clips[(first + place) % len(clips)] for place in range(count)]
            media = [one for one, _ in batch]
            batches.append(
                video_feeds(media, [maker(one, frames.tolist(), device) for one, frames in batch])
            )

        def decode(turn: int) -> int:
            graph.run(batches[turn % len(batches)])
            device.synchronise()
            return count

        return _rate(decode, seconds)

    return measure


def _copy(device: Device, seconds: float) -> float:
    """Copy clips on the device into a batch of half precision."""
    count = 16
    shape = (count, _SEGMENTS, _SIZE, _SIZE, 3)
    clips = torch.zeros(shape, dtype=torch.float16, device=device.torch_device)
    batch = torch.zeros(shape, dtype=torch.bfloat16, device=device.torch_device)

    def copy(turn: int) -> int:
        batch.copy_(clips)
        device.synchronise()
        return count

    return _rate(copy, seconds)


def _upload(device: Device, seconds: float) -> float:
    """Send pixels that the CPU has decoded to the device."""
    count = 4
    work = device_work(device.torch_device)
    pixels = np.zeros((count, _SEGMENTS, _SIZE, _SIZE, 3), np.uint8)

    def upload(turn: int) -> int:
        work.upload(pixels)
        device.synchronise()
        return count

    return _rate(upload, seconds)


def _decode_on_cpu(clips: Sequence[Clip], threads: int, seconds: float) -> float:
    def decode_one(clip: Clip) -> int:
        media, frames = clip
        out = np.empty((1, len(frames), _SIZE, _SIZE, 3), np.uint8)
        decode_video(media, frames, middle(media), _SIZE, out)
        return 1

    with ThreadPoolExecutor(threads) as pool:

        def decode(turn: int) -> int:
            batch = [clips[(turn + place) % len(clips)] for place in range(threads)]
            return sum(pool.map(decode_one, batch))

        return _rate(decode, seconds)
