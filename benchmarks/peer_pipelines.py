"""Peers that bring a pipeline of their own: DALI, mmaction2, SPDL."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.loader_task import ClipRequest, LoaderTask
from benchmarks.peer_tools import (
    AHEAD,
    clip_numbers,
    crop_all,
    crop_into,
    limit_torch_threads,
    normalised_batch,
    use_few_threads,
)
from omnidali.utils.constants import MEAN, STD

# ---- DALI ----


def dali(task: LoaderTask) -> Iterator[torch.Tensor]:
    """DALI reads, decodes and scales; paths, boxes and flips come from an external source."""
    from nvidia.dali import fn, pipeline_def
    from nvidia.dali.data_node import DataNode
    from nvidia.dali.types import DALIDataType, DALIInterpType

    video = task.kind == "video"
    # two batches are made ahead, DALI's default
    largest = max(map(len, task.steps))

    @pipeline_def(batch_size=largest, num_threads=task.workers, device_id=None)  # type: ignore[call-overload]
    def graph() -> DataNode:
        paths, start, end, flip, *frames = fn.external_source(
            source=_dali_feeds(task), num_outputs=5 if video else 4
        )
        data = fn.io.file.read(paths)  # type: ignore[attr-defined]
        # without antialiasing it is twice as quick
        linear = DALIInterpType.INTERP_LINEAR
        scale: dict[str, Any] = {"size": [task.size] * 2, "interp_type": linear, "antialias": False}
        if video:
            decoded = fn.decoders.video(data, frames=frames[0], device="cpu")
            images = fn.resize(decoded, roi_start=start, roi_end=end, **scale)
        else:
            box = fn.decoders.image_slice(data, start=start, end=end, axes=[0, 1])
            images = fn.resize(box, **scale)
        assert isinstance(images, DataNode)
        return fn.crop_mirror_normalize(
            images,
            mirror=flip,
            mean=list(MEAN),
            std=list(STD),
            dtype=DALIDataType.FLOAT,
            output_layout="FHWC" if video else "HWC",
        )

    def batches() -> Iterator[torch.Tensor]:
        pipe = graph()
        pipe.build()
        for _ in task.steps:
            clips = torch.from_dlpack(pipe.run()[0].as_tensor())
            yield clips.permute(0, 4, 1, 2, 3) if video else clips.permute(0, 3, 1, 2)[:, :, None]

    return batches()


def _dali_feeds(task: LoaderTask) -> Iterator[tuple[list[np.ndarray], ...]]:
    """The columns of each step: paths, starts and ends of boxes, flips, and a video's frames."""
    edge = np.float32 if task.kind == "video" else np.int32
    for step in task.steps:
        columns: list[list[np.ndarray]] = [
            [np.frombuffer(clip.path.encode(), np.uint8) for clip in step],
            [np.array(clip.box[:2], edge) for clip in step],
            [np.array(clip.box[2:], edge) for clip in step],
            [np.array(clip.flip, np.int32) for clip in step],
        ]
        if task.kind == "video":
            columns.append([np.array(clip.frames, np.int32) for clip in step])
        yield tuple(columns)


# ---- mmaction2 ----


def complete_mmaction2() -> None:
    """Put an empty module in the place of the one that the wheel of 1.2.0 lacks."""
    name = "mmaction.models.localizers.drn"
    if name not in sys.modules:
        sys.modules[name] = ModuleType(name)
        inner = ModuleType(f"{name}.drn")
        vars(inner)["DRN"] = None
        sys.modules[inner.__name__] = inner


def _mmaction2_box(results: dict) -> dict:
    """Crop the planned box, as the random crop does with its own."""
    top, left, bottom, right = results["box"]
    results["imgs"] = [picture[top:bottom, left:right] for picture in results["imgs"]]
    results["img_shape"] = (bottom - top, right - left)
    return results


class _Samples(Dataset):
    def __init__(self, task: LoaderTask, pipeline: Callable[[dict], dict]):
        self.clips = [clip for step in task.steps for clip in step]
        self.pipeline = pipeline

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: int) -> dict:
        clip = self.clips[number]
        return self.pipeline(
            {
                "filename": clip.path,
                "frame_inds": np.array(clip.frames),
                "box": clip.box,
                "planned_flip": clip.flip,
                "modality": "RGB",
                "num_clips": 1,
                "clip_len": len(clip.frames),
            }
        )


def mmaction2(task: LoaderTask, layout: str) -> Iterator[torch.Tensor]:
    """mmaction2's transforms and preprocessor; frames, box and flip are given instead of drawn."""
    complete_mmaction2()
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
    decode = (
        [ImageDecode()] if task.kind == "image" else [DecordInit(num_threads=1), DecordDecode()]
    )
    pipeline = Compose(
        [
            *decode,
            _mmaction2_box,
            Resize(scale=(task.size, task.size), keep_ratio=False),
            lambda results: mirror(results) if results["planned_flip"] else results,
            FormatShape(layout),
            PackActionInputs(),
        ]
    )
    normalise = ActionDataPreprocessor(mean=MEAN, std=STD, format_shape=layout)

    def batches():
        loader = DataLoader(
            _Samples(task, pipeline),
            batch_sampler=clip_numbers(task),
            num_workers=task.workers,
            collate_fn=pseudo_collate,
            worker_init_fn=limit_torch_threads,
        )
        use_few_threads(task)
        for data in loader:
            clips = normalise(data)["inputs"]
            yield clips.transpose(1, 2) if layout == "NCHW" else clips[:, 0]

    return batches()


# ---- SPDL ----


def _spdl_image(clip: ClipRequest, size: int, scale: str) -> np.ndarray:
    from spdl import io

    if scale == "ffmpeg":
        return io.to_numpy(io.load_image(clip.path, filter_desc=_spdl_filter(clip, size)))[None]
    return crop_all(io.to_numpy(io.load_image(clip.path))[None], clip, size)


def _spdl_clip(clip: ClipRequest, size: int, scale: str) -> np.ndarray:
    """Decode a clip: SPDL's filters scale every decoded frame, OpenCV the wanted frames alone."""
    from spdl import io

    wanted = sorted(set(clip.frames))
    order = [wanted.index(frame) for frame in clip.frames]
    packets = io.demux_video(clip.path)
    if scale == "ffmpeg" or packets.codec.pix_fmt != "yuv420p":
        frames = io.sample_decode_video(packets, wanted, filter_desc=_spdl_filter(clip, size))
        return io.to_numpy(io.convert_frames(frames))[order]

    out = np.empty((len(wanted), size, size, 3), np.uint8)
    decoded = io.sample_decode_video(packets, wanted, filter_desc=None)
    for frame, image in zip(decoded, out, strict=True):
        planes = io.to_numpy(io.convert_frames(frame))
        rgb = cv2.cvtColor(planes.reshape(planes.shape[-2:]), cv2.COLOR_YUV2RGB_I420)
        crop_into(rgb, clip, image)
    return out if order == list(range(len(order))) else out[order]


def _spdl_filter(clip: ClipRequest, size: int) -> str:
    from spdl.io import get_video_filter_desc

    top, left, bottom, right = clip.box
    return get_video_filter_desc(
        filter_desc=f"crop={right - left}:{bottom - top}:{left}:{top}:exact=1,"
        f"scale={size}:{size}:flags=bilinear{',hflip' if clip.flip else ''}"
    )


def spdl(task: LoaderTask, scale: str) -> Iterator[torch.Tensor]:
    """SPDL: one thread pool for decoding, which also normalises batches."""
    from spdl.pipeline import PipelineBuilder
    from spdl.pipeline.defs import Aggregator

    import_module("spdl.io")
    free: list[np.ndarray] = []
    decode = partial(_spdl_image if task.kind == "image" else _spdl_clip, scale=scale)

    class StepAggregator(Aggregator):
        """Collects the clips of each step."""

        def __init__(self) -> None:
            self.clips: list[np.ndarray] = []
            self.sizes = iter(map(len, task.steps))
            self.size = next(self.sizes)

        def accumulate(self, item: np.ndarray) -> list[np.ndarray] | None:
            self.clips.append(item)
            if len(self.clips) < self.size:
                return None
            clips = self.clips
            self.clips = []
            self.size = next(self.sizes, 0)
            return clips

        def flush(self) -> None:
            return None

    def normalise(clips: list[np.ndarray]) -> torch.Tensor:
        torch.set_num_threads(1)
        return normalised_batch([torch.from_numpy(clip) for clip in clips], free)

    def batches() -> Iterator[torch.Tensor]:
        pipeline = (
            PipelineBuilder()
            .add_source([clip for step in task.steps for clip in step])
            .pipe(
                lambda clip: decode(clip, task.size),
                concurrency=task.workers,
                output_order="input",
            )
            .aggregate(StepAggregator())
            .pipe(normalise)
            .add_sink(AHEAD)
            .build(num_threads=task.workers + 1, max_failures=0)
        )
        with pipeline.auto_stop():
            yield from pipeline

    return batches()
