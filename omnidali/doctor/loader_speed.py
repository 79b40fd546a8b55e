"""The whole loader on small workloads, on both roads."""

import time
from dataclasses import dataclass, replace
from typing import Any

from omnidali.config.schema import ClipConfig
from omnidali.doctor.device import Device
from omnidali.doctor.findings import Findings
from omnidali.doctor.media import MediaFolder, Video
from omnidali.doctor.world import Road, World

_MEDIA = "media"
_WARM_UP = 2  # batches before the clock starts
_SECONDS = 2.5  # of a workload on a road
_QUICK_SECONDS = 0.2
_TSN = ClipConfig(num_clips=8)
_DENSE = ClipConfig(num_clips=1, clip_len=8, frame_interval=8)
_ONE = ClipConfig(num_clips=1)
_QUICK_BATCH = 4
_QUICK_SIDE = 64  # pixels
_RATE = 30  # frames a second of the videos


@dataclass(frozen=True)
class Workload:
    """What is loaded.

    Attributes:
        sources: names of those of :func:`make_world`, with further settings.
        clip: the sampler.
        batch: samples of a step.
    """

    sources: dict[str, dict[str, Any]]
    clip: ClipConfig
    batch: int


WORKLOADS = {
    "W1 jpeg": Workload({"photos": {}}, _ONE, 64),
    "W2 tsn-8 gop 8": Workload({"gop8": {}}, _TSN, 16),
    "W2 tsn-8 gop 250": Workload({"gop250": {}}, _TSN, 16),
    "W3 slowonly-8x8 gop 8": Workload({"gop8": {}}, _DENSE, 16),
    "W4 tsn-8 of a long video": Workload({"long": {}}, _TSN, 16),
    "W5 photos and videos 2:1:1": Workload(
        {"photos": {"weight": 2}, "gop8": {}, "gop250": {}}, _TSN, 32
    ),
}


def look_at_loader(findings: Findings) -> None:
    """Load every workload on both roads for a moment."""
    device = Device(findings.context.device_id)
    world: World | None = None
    quick = findings.context.quick
    # the media are a case of their own: what is made of them stays if time runs out
    for name in findings.cases([_MEDIA, *WORKLOADS], reserve=3 * _SECONDS):
        world = world or make_world(findings, device)
        if name == _MEDIA:
            continue
        row: dict[str, float] = {}
        try:
            by_dali = _measure(world, WORKLOADS[name], Road(device, is_dali=True), quick)
            by_cpu = _measure(world, WORKLOADS[name], Road(device, is_dali=False), quick)
            row = {"gpu": by_dali.rate, "cpu": by_cpu.rate, "left to cpu": by_dali.left_to_cpu}
        except Exception as error:
            findings.error(name, error)
            continue
        findings.fact(name, row)
        text = f"{name}: {by_dali.rate:,} clips/s by DALI, {by_cpu.rate:,} by the cores"
        if not by_dali.by_dali or by_dali.left_to_cpu:
            findings.bad(f"{text}; but DALI did not decode {by_dali.left_to_cpu or 'all'} files")
        else:
            findings.good(text)


@dataclass(frozen=True)
class _Speed:
    """Of a workload on a road.

    Attributes:
        rate: clips a second.
        by_dali: clips that DALI decoded.
        left_to_cpu: files that it did not decode.
    """

    rate: float
    by_dali: int
    left_to_cpu: int


def _measure(world: World, load: Workload, road: Road, quick: bool) -> _Speed:
    """Load for a moment."""
    seconds = _QUICK_SECONDS if quick else _SECONDS
    clip, batch = load.clip, load.batch
    if quick:
        clip, batch = replace(clip, size=_QUICK_SIDE), _QUICK_BATCH
    part = World(
        world.folder,
        {name: world.files[name] for name in load.sources},
        {name: {**world.kinds[name], **more} for name, more in load.sources.items()},
    )
    with part.loader(road, clip, batch, threads=road.device.cores) as loader:
        for _ in range(_WARM_UP):
            next(loader)
        road.device.synchronise()
        count = 0
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            count += len(next(loader))
        road.device.synchronise()
        rate = count / (time.perf_counter() - begun)
        rows = loader.stats().values()
        return _Speed(
            rate=round(rate, 1),
            by_dali=sum(row.by_dali for row in rows),
            left_to_cpu=sum(row.left_to_cpu for row in rows),
        )


def make_world(findings: Findings, device: Device) -> World:
    """Photos, videos of two lengths of GOP, and a long video in pieces."""
    quick = findings.context.quick
    count, frames, long = (4, 60, 120) if quick else (8, 300, 900)
    files = MediaFolder(findings.context.scratch)
    codec = device.main_codec

    def video(gop: int, file: int, length: int = frames) -> Video:
        b_frames = 3 if gop == 250 and codec in ("h264", "hevc") else 0
        return Video(codec, 340, 256, frames=length, gop=gop, b_frames=b_frames, file=file)

    long_video = video(30, 0, long)
    short = {gop: [video(gop, file) for file in range(count)] for gop in (8, 250)}
    files.videos([long_video, *short[8], *short[250]])

    seconds = 2 if quick else 10
    pieces = [f"{start} {start + seconds} 0" for start in range(0, long // _RATE, seconds)]
    world = World(
        files.folder,
        {
            "photos": [files.image(number) for number in range(8 if quick else 64)],
            "gop8": files.videos(short[8]),
            "gop250": files.videos(short[250]),
            "long": [files.video(long_video)] * len(pieces),
        },
        {
            "photos": {"kind": "image"},
            "gop8": {"kind": "video"},
            "gop250": {"kind": "video"},
            "long": {"kind": "untrimmed", "format": "pieces"},
        },
        {"long": pieces},
    )
    world.build()
    return world
