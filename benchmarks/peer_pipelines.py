"""Peers that bring a pipeline of their own: DALI, mmaction2, SPDL."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from types import ModuleType

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.loader_task import Item, Job
from benchmarks.peer_tools import (
    AHEAD,
    cut,
    cut_all,
    few_threads,
    item_numbers,
    normalised_batch,
    one_thread,
)
from omnidali.utils.constants import MEAN, STD

# ---- DALI ----


def dali(job: Job) -> Iterator[torch.Tensor]:
    """Paths, boxes and mirroring come from an external source; reading, decoding and scaling are
    DALI's.
    """
    from nvidia.dali import fn, pipeline_def, types

    video = job.kind == "video"

    def feeds():
        for step in job.steps:
            columns = [
                [np.frombuffer(item.path.encode(), np.uint8) for item in step],
                [np.array(item.box[:2], np.float32 if video else np.int32) for item in step],
                [np.array(item.box[2:], np.float32 if video else np.int32) for item in step],
                [np.array(item.flip, np.int32) for item in step],
            ]
            if video:
                columns.append([np.array(item.frames, np.int32) for item in step])
            yield tuple(columns)

    # 2 batches ahead
    @pipeline_def(batch_size=max(map(len, job.steps)), num_threads=job.workers, device_id=None)
    def graph():
        paths, start, end, flip, *frames = fn.external_source(
            source=feeds, num_outputs=5 if video else 4
        )
        data = fn.io.file.read(paths)
        # twice as quick
        scale = {"size": [job.size] * 2, "interp_type": types.INTERP_LINEAR, "antialias": False}
        if video:
            pictures = fn.resize(
                fn.decoders.video(data, frames=frames[0], device="cpu"),
                roi_start=start,
                roi_end=end,
                **scale,
            )
        else:  # the slice is cut while decoding
            pictures = fn.resize(
                fn.decoders.image_slice(data, start=start, end=end, axes=[0, 1]), **scale
            )
        return fn.crop_mirror_normalize(
            pictures,
            mirror=flip,
            mean=list(MEAN),
            std=list(STD),
            dtype=types.FLOAT,
            output_layout="FHWC" if video else "HWC",
        )

    def batches():
        pipe = graph()
        pipe.build()
        for _ in job.steps:
            clips = torch.from_dlpack(pipe.run()[0].as_tensor())
            yield clips.permute(0, 4, 1, 2, 3) if video else clips.permute(0, 3, 1, 2)[:, :, None]

    return batches()


# ---- mmaction2 ----


def _mmaction2_box(results: dict) -> dict:
    """In the place of a random crop, done as that does it."""
    top, left, bottom, right = results["box"]
    results["imgs"] = [picture[top:bottom, left:right] for picture in results["imgs"]]
    results["img_shape"] = (bottom - top, right - left)
    return results


class _Samples(Dataset):
    def __init__(self, job: Job, pipeline: Callable[[dict], dict]):
        self.items, self.pipeline = [item for step in job.steps for item in step], pipeline

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> dict:
        item = self.items[number]
        return self.pipeline(
            {
                "filename": item.path,
                "frame_inds": np.array(item.frames),
                "box": item.box,
                "planned_flip": item.flip,
                "modality": "RGB",
                "num_clips": 1,
                "clip_len": len(item.frames),
            }
        )


def mmaction2(job: Job, layout: str) -> Iterator[torch.Tensor]:
    """Its own transforms and preprocessor; frames, box and mirroring are given instead of drawn."""
    name = "mmaction.models.localizers.drn"
    if name not in sys.modules:  # forgotten in the wheel of 1.2.0
        sys.modules[name], sys.modules[f"{name}.drn"] = ModuleType(name), ModuleType(f"{name}.drn")
        sys.modules[f"{name}.drn"].DRN = None
    from mmaction.datasets.transforms import (
        DecordDecode,
        DecordInit,
        Flip,
        FormatShape,
        ImageDecode,
        PackActionInputs,
        Resize,
    )
    from mmaction.models.data_preprocessors import ActionDataPreprocessor
    from mmengine.dataset import Compose, pseudo_collate

    mirror = Flip(flip_ratio=1)
    decode = [ImageDecode()] if job.kind == "image" else [DecordInit(num_threads=1), DecordDecode()]
    pipeline = Compose(
        [
            *decode,
            _mmaction2_box,
            Resize(scale=(job.size, job.size), keep_ratio=False),
            lambda results: mirror(results) if results["planned_flip"] else results,
            FormatShape(layout),
            PackActionInputs(),
        ]
    )
    normalise = ActionDataPreprocessor(mean=MEAN, std=STD, format_shape=layout)

    def batches():
        loader = DataLoader(
            _Samples(job, pipeline),
            batch_sampler=item_numbers(job),
            num_workers=job.workers,
            collate_fn=pseudo_collate,
            worker_init_fn=one_thread,
        )
        few_threads(job)
        for data in loader:
            clips = normalise(data)["inputs"]
            yield clips.transpose(1, 2) if layout == "NCHW" else clips[:, 0]

    return batches()


# ---- SPDL ----


def _spdl_photo(item: Item, size: int, scale: str) -> np.ndarray:
    from spdl import io

    if scale == "ffmpeg":
        return io.to_numpy(io.load_image(item.path, filter_desc=_spdl_filter(item, size)))[None]
    return cut_all(io.to_numpy(io.load_image(item.path))[None], item, size)


def _spdl_clip(item: Item, size: int, scale: str) -> np.ndarray:
    """SPDL filters every frame it decodes, wanted or not; OpenCV can be given the wanted ones
    alone.
    """
    from spdl import io

    wanted = sorted(set(item.frames))
    order = [wanted.index(frame) for frame in item.frames]
    packets = io.demux_video(item.path)
    if scale == "ffmpeg" or packets.codec.pix_fmt != "yuv420p":
        frames = io.sample_decode_video(packets, wanted, filter_desc=_spdl_filter(item, size))
        return io.to_numpy(io.convert_frames(frames))[order]
    out = np.empty((len(wanted), size, size, 3), np.uint8)
    for frame, shown in zip(io.sample_decode_video(packets, wanted, filter_desc=None), out):
        planes = io.to_numpy(io.convert_frames(frame))
        cut(cv2.cvtColor(planes.reshape(planes.shape[-2:]), cv2.COLOR_YUV2RGB_I420), item, shown)
    return out if order == list(range(len(order))) else out[order]


def _spdl_filter(item: Item, size: int) -> str:
    from spdl.io import get_video_filter_desc

    top, left, bottom, right = item.box
    return get_video_filter_desc(
        filter_desc=f"crop={right - left}:{bottom - top}:{left}:{top}:exact=1,"
        f"scale={size}:{size}:flags=bilinear{',hflip' if item.flip else ''}"
    )


def spdl(job: Job, scale: str) -> Iterator[torch.Tensor]:
    """One thread pool for decoding; batches are normalised in it too."""
    from spdl.pipeline import PipelineBuilder
    from spdl.pipeline.defs import Aggregator

    import_module("spdl.io")
    free, clip = [], partial(_spdl_photo if job.kind == "image" else _spdl_clip, scale=scale)

    class Batches(Aggregator):
        def __init__(self):
            self.clips, self.sizes = [], iter(map(len, job.steps))
            self.size = next(self.sizes)

        def accumulate(self, item):
            self.clips.append(item)
            if len(self.clips) == self.size:
                clips, self.clips, self.size = self.clips, [], next(self.sizes, None)
                return clips

        def flush(self):
            return None

    def normalised(clips: list[np.ndarray]) -> torch.Tensor:
        torch.set_num_threads(1)
        return normalised_batch([torch.from_numpy(clip) for clip in clips], free)

    def batches():
        pipeline = (
            PipelineBuilder()
            .add_source([item for step in job.steps for item in step])
            .pipe(lambda item: clip(item, job.size), concurrency=job.workers, output_order="input")
            .aggregate(Batches())
            .pipe(normalised)
            .add_sink(AHEAD)
            .build(num_threads=job.workers + 1, max_failures=0)
        )
        with pipeline.auto_stop():
            yield from pipeline

    return batches()
