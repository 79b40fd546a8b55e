"""The workloads: media that are generated once, and the samplers that read them."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.loader_task import ClipRequest, LoaderTask
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.schema import ClipConfig
from omnidali.config.sources import SourceConfig
from omnidali.curation.copies.encode import RECIPES
from omnidali.planning.camera_motion import load_motion
from omnidali.planning.train_plan import TrainPlan
from omnidali.testing.numbered_media import BITS, write_image, write_video

_IMAGES = 2000
_VIDEOS = 24
_FRAMES = 300  # ten seconds
_LONG = 30  # pieces of ten seconds in a long video
_PLAIN = {"preset": "medium", "crf": "23"}
_ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "h264": ("mp4", {"options": _PLAIN}),
    "hevc": (
        "mp4",
        {
            "codec": "libx265",
            "options": {"preset": "fast", "crf": "26", "x265-params": "log-level=none"},
        },
    ),
    "vp9": (
        "webm",
        {
            "codec": "libvpx-vp9",
            "options": {"deadline": "realtime", "cpu-used": "6", "crf": "32", "b": "0"},
        },
    ),
    "mjpeg": ("avi", {"codec": "mjpeg", "pixels": "yuvj420p", "options": {"q": "4"}}),
    "fast": ("mp4", {"options": RECIPES["fast"].options}),  # as `omnidali transcode` encodes
}
FAST_COPY = f"fast copy gop {RECIPES['fast'].gop}"
DENSE_COPY = "h264 gop 16"


@dataclass(frozen=True)
class Workload:
    """The files, frames and boxes to load.

    Attributes:
        name: in tables and records.
        sources: generated media with their shares.
        clip: the sampler.
        batch: samples of a step.
        compare: whether other loaders do it too; they know no fusion and no inflated images.
    """

    name: str
    sources: tuple[SourceConfig, ...]
    clip: ClipConfig
    batch: int
    compare: bool = True


def _videos(media: str, **settings: Any) -> SourceConfig:
    return SourceConfig(kind="video", root=media, list=f"{media}.txt", **settings)


def _images(**settings: Any) -> SourceConfig:
    return SourceConfig(kind="image", root="jpeg", list="jpeg.txt", **settings)


def _pieces(gop: int) -> SourceConfig:
    return SourceConfig(
        kind="untrimmed",
        root=f"h264-long-gop{gop}",
        list=f"h264-long-gop{gop}.txt",
        format="pieces",
    )


TSN = ClipConfig(num_clips=8)
_SLOWONLY = ClipConfig(num_clips=1, clip_len=8, frame_interval=8)
_SLOWONLY_4 = ClipConfig(num_clips=1, clip_len=4, frame_interval=16)
_FOUR = ClipConfig(num_clips=4, clip_len=8, frame_interval=8)
_GOPS = (250, 16, 8)
WORKLOADS = (
    Workload("W1 jpeg", (_images(),), ClipConfig(num_clips=1), 64),
    *(Workload(f"W2 tsn-8 h264 gop {gop}", (_videos(f"h264-gop{gop}"),), TSN, 16) for gop in _GOPS),
    *(
        Workload(f"W2 tsn-8 {codec} gop 16", (_videos(f"{codec}-gop16"),), TSN, 16)
        for codec in ("hevc", "vp9")
    ),
    Workload("W2 tsn-8 mjpeg", (_videos("mjpeg-gop1"),), TSN, 16),
    *(
        Workload(f"W3 slowonly-8x8 h264 gop {gop}", (_videos(f"h264-gop{gop}"),), _SLOWONLY, 16)
        for gop in _GOPS
    ),
    *(
        Workload(f"{name} {FAST_COPY}", (_videos(f"fast-gop{RECIPES['fast'].gop}"),), clip, 16)
        for name, clip in (("W2 tsn-8", TSN), ("W3 slowonly-8x8", _SLOWONLY))
    ),
    Workload("W3 slowonly-4x16 h264 gop 16", (_videos("h264-gop16"),), _SLOWONLY_4, 16),
    *(Workload(f"W4 tsn-8 of 5 min gop {gop}", (_pieces(gop),), TSN, 16) for gop in (250, 30)),
    *(
        Workload(f"W4 4 clips 8x8 of 5 min gop {gop}", (_pieces(gop),), _FOUR, 4)
        for gop in (250, 30)
    ),
    Workload(
        "W5 fused 2:1:1",
        (_images(weight=2), _videos("h264-gop16"), _videos("h264-gop8")),
        TSN,
        32,
        False,
    ),
    *(
        Workload(
            f"inflate {inflate} {decode}",
            (_images(inflate=inflate, decode=decode),),
            _SLOWONLY,
            16,
            False,
        )
        for decode in ("cpu", "dali")
        for inflate in ("still", "translate_constant", "warp")
    ),
)


def workload_plan(
    tables: Sequence[SourceTable], load: Workload, seed: int, check: bool = False
) -> TrainPlan:
    """The plan of a workload.

    Args:
        tables: of its sources.
        load: the workload.
        seed: of the plan.
        check: leave the images as they are, so that the numbers in them can be read.
    """
    clip = load.clip
    sources = list(load.sources)
    if check:
        clip = replace(clip, crop="center", flip=0.0)
        sources = [
            source if source.inflate == "single" else replace(source, inflate="still")
            for source in sources
        ]
    motions = dict.fromkeys(range(len(tables)), load_motion(None, False))
    return TrainPlan(tables, sources, clip, load.batch, seed, motions=motions)


def loader_task_of(plan: TrainPlan, steps: int) -> LoaderTask:
    """The first steps of a plan over one source, as other loaders understand it."""
    table = plan.tables[0]
    batches = []
    for step in range(steps):
        (samples,) = plan(step)
        media = map(table.media, table.records[samples.pieces[:, 0]].tolist())
        columns = zip(media, samples.frames, samples.boxes[:, 0], samples.flips[:, 0], strict=True)
        batches.append(
            tuple(
                ClipRequest(
                    path=file.span.path,
                    frames=tuple(frames.tolist()),
                    box=tuple(box.tolist()),
                    flip=bool(flip),
                    file=int(Path(file.path).stem),
                )
                for file, frames, box, flip in columns
            )
        )
    return LoaderTask(
        kind="image" if table.kind.is_still else "video",
        size=samples.size,
        steps=tuple(batches),
        workers=len(os.sched_getaffinity(0)),
    )


def open_tables(media: Path, load: Workload) -> list[SourceTable]:
    """The catalog's tables of a workload's sources."""
    reader = CatalogReader(media / "catalog.sqlite")
    return [reader.table(source.root) for source in load.sources]


def make_workload_media(folder: Path, loads: Sequence[Workload]) -> None:
    """Generate the media that are missing, keep them for the next run, and probe them."""
    roots = {source.root: source for load in loads for source in load.sources}
    missing = [root for root in sorted(roots) if not (folder / f"{root}.txt").exists()]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        pending = [
            pool.submit(write, *arguments, **options)
            for root in missing
            for write, arguments, options in _jobs(folder, root)
        ]
        for future in tqdm(pending, desc="media", unit="file", disable=None):
            future.result()
    build_catalog(folder / "catalog.sqlite", roots, folder, progress=False)


def _jobs(folder: Path, root: str) -> list[tuple[Callable, tuple, dict]]:
    """The (function, arguments, options) that write a source and its list."""
    form, _, gop = root.partition("-gop")
    jobs: list[tuple[Callable, tuple, dict]]
    if form == "jpeg":
        lines = [f"{number}.jpg" for number in range(_IMAGES)]
        jobs = [
            (write_image, (folder / root / name, number % 2**BITS), {})
            for number, name in enumerate(lines)
        ]
    else:
        codec, _, length = form.partition("-")
        ending, encoder = _ENCODERS[codec]
        options = {
            **encoder,
            "gop": int(gop),
            # GOP 250 is x264's default, with B-frames; shorter ones are made for training
            "b_frames": 3 if gop == "250" else 0,
            "frames": _FRAMES * (_LONG if length else 1),
        }
        names = [f"{number}.{ending}" for number in range(1 if length else _VIDEOS)]
        jobs = [
            (write_video, (folder / root / name, number), options)
            for number, name in enumerate(names)
        ]
        lines = names
        if length:
            lines = [f"0.{ending} {10 * piece} {10 * piece + 10}" for piece in range(_LONG)]

    text = "".join(f"{line} 0\n" for line in lines)
    return [*jobs, ((folder / f"{root}.txt").write_text, (text,), {})]
