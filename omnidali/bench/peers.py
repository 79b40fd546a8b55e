"""The loaders of other projects, all doing one and the same job, each as somebody who knows it well would write it.

Every peer decodes the wanted frames alone, cuts the planned box, scales it bilinearly, mirrors where it is planned, and
delivers normalised float32 batches. One decoder thread a worker, bytes rather than floats between processes,
normalisation in place: what is common knowledge is done for all of them.

``pip install -c constraints.txt -e '.[bench]'`` installs decord, spdl and torchcodec. The two of them that use FFmpeg
look for its shared libraries (``apt install ffmpeg``); torchcodec 0.13 goes with torch 2.13. mmaction2 asks for
opencv-python and opencv-contrib-python, which would overwrite our opencv-python-headless, so it comes without them::

    pip install -c constraints.txt addict einops importlib_metadata matplotlib rich scipy termcolor yapf
    pip install -c constraints.txt --no-deps mmaction2 mmcv-lite mmengine

mmaction2 1.2.0 refuses mmcv 2.2, and its wheel lacks ``mmaction.models.localizers.drn``, which is replaced here by an
empty module before the import.

No torchvision: its wheel on PyPI wants CUDA's torch and does not load beside the CPU one.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import accumulate, pairwise
from types import ModuleType
from typing import Any
from weakref import finalize

import av
import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from omnidali.bench.job import Item, Job
from pipelines.feeds import MEAN, STD

_AHEAD = 3  # batches under way while one is consumed; DataLoader's own default is 2 a worker

Clip = Callable[[Item, int], np.ndarray]  # decodes to uint8 (T, size, size, 3), RGB


@dataclass(frozen=True)
class Peer:
    """A loader to compare with.

    Attributes:
        package: what has to be importable.
        kinds: of jobs that it can do.
        codecs: of videos that it decodes on a CPU, as the catalog calls them; None for whatever FFmpeg decodes.
        settings: arguments of ``deliver`` to choose the best of.
        deliver: (job, **settings) -> float32 (N, 3, T, size, size) of each step, in any memory layout;
            raises ImportError at once where the package is missing.
    """

    name: str
    package: str
    kinds: tuple[str, ...]
    codecs: tuple[str, ...] | None
    settings: tuple[dict[str, Any], ...]
    deliver: Callable[..., Iterator[torch.Tensor]]


# ---- what several peers share: a plain DataLoader, a plain thread pool ----


class _Clips(Dataset):
    def __init__(self, job: Job, clip: Clip):
        self.items, self.size, self.clip = [item for step in job.steps for item in step], job.size, clip

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.from_numpy(self.clip(self.items[number], self.size))


def _steps(job: Job) -> list[range]:
    """Numbers of the items of each step, counted through."""
    return [range(*edges) for edges in pairwise(accumulate(map(len, job.steps), initial=0))]


def _one_thread(_worker: int = 0) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _few_threads(job: Job) -> None:
    """Leave the cores to the workers: more threads beside them wait in loops, which costs more than they help."""
    torch.set_num_threads(max(1, job.workers // 4))


def _by_processes(job: Job, clip: Clip) -> Iterator[torch.Tensor]:
    """PyTorch's DataLoader: every worker makes whole batches of bytes, which the main process normalises.

    The workers live as long as the job; a second epoch, for which to keep them, there is none.
    """
    loader = DataLoader(_Clips(job, clip), batch_sampler=_steps(job), num_workers=job.workers,
                        worker_init_fn=_one_thread)
    free = []
    _few_threads(job)
    for clips in loader:
        yield _normalised(clips, free)


def _by_threads(job: Job, clip: Clip) -> Iterator[torch.Tensor]:
    """Decoders that release the GIL need no processes; every thread writes into the batch itself."""
    def start(step: tuple[Item, ...]):
        batch = _lend(free, (len(step), len(step[0].frames), job.size, job.size, 3))
        return batch, [pool.submit(make, item, out) for item, out in zip(step, batch)]

    def make(item: Item, out: torch.Tensor) -> None:
        _normalise(torch.from_numpy(clip(item, job.size)), out)

    free = []
    with ThreadPoolExecutor(job.workers, initializer=_one_thread) as pool:
        try:
            steps, waiting = iter(job.steps), deque()
            while True:
                waiting.extend(start(step) for step, _ in zip(steps, range(_AHEAD - len(waiting))))
                if not waiting:
                    return
                batch, parts = waiting.popleft()
                for part in parts:
                    part.result()
                yield batch.permute(0, 4, 1, 2, 3)
                del batch, parts  # the memory is free once the consumer lets go of it too
        finally:
            pool.shutdown(cancel_futures=True)


_WAYS = {"processes": _by_processes, "threads": _by_threads}


def _normalise(clip: torch.Tensor, out: torch.Tensor) -> None:
    """(T, H, W, 3) of bytes to floats. Whole rows at once: broadcasting over 3 channels is ten times slower."""
    rows = out.view(-1, out.shape[-2] * 3)
    scale = 1 / torch.tensor(STD)
    out.copy_(clip)
    rows.mul_(scale.repeat(out.shape[-2])).add_((-torch.tensor(MEAN) * scale).repeat(out.shape[-2]))


def _lend(free: list[np.ndarray], shape: tuple[int, ...]) -> torch.Tensor:
    """Memory of an earlier batch that nobody holds any more, or new: fresh pages cost as much as normalising."""
    memory = next((free.pop(place) for place, array in enumerate(free) if array.shape == shape), None)
    memory = np.empty(shape, np.float32) if memory is None else memory
    lent = memory.view()  # lives as long as any tensor that looks into it
    finalize(lent, free.append, memory).atexit = False
    return torch.from_numpy(lent)


def _normalised(clips: Sequence[torch.Tensor], free: list[np.ndarray]) -> torch.Tensor:
    """N times (T, H, W, 3) of bytes to (N, 3, T, H, W), channels last in memory."""
    batch = _lend(free, (len(clips), *clips[0].shape))
    for clip, out in zip(clips, batch):  # one that still lies in the processor's cache
        _normalise(clip, out)
    return batch.permute(0, 4, 1, 2, 3)


def _cut(picture: np.ndarray, item: Item, out: np.ndarray) -> None:
    """The box of a picture (H, W, 3), scaled and mirrored, into ``out``."""
    top, left, bottom, right = item.box
    if item.flip:
        cv2.flip(cv2.resize(picture[top:bottom, left:right], out.shape[1::-1], interpolation=cv2.INTER_LINEAR), 1, out)
    else:
        cv2.resize(picture[top:bottom, left:right], out.shape[1::-1], out, interpolation=cv2.INTER_LINEAR)


def _blank(item: Item, size: int) -> np.ndarray:
    return np.empty((len(item.frames), size, size, 3), np.uint8)


def _cut_all(pictures: np.ndarray, item: Item, size: int) -> np.ndarray:
    out = _blank(item, size)
    for picture, frame in zip(pictures, out):
        _cut(picture, item, frame)
    return out


def _repeat(out: np.ndarray, item: Item, done: Mapping[int, int]) -> np.ndarray:
    """Copy the frames that are wanted twice; ``done`` says where each frame was written."""
    for place, frame in enumerate(item.frames):
        if done[frame] != place:
            out[place] = out[done[frame]]
    return out


# ---- decord ----


def _decord_clip(item: Item, size: int) -> np.ndarray:
    from decord import VideoReader, cpu

    return _cut_all(VideoReader(item.path, ctx=cpu(0), num_threads=1).get_batch(item.frames).asnumpy(), item, size)


def _decord(job: Job, way: str) -> Iterator[torch.Tensor]:
    import_module("decord")
    return _WAYS[way](job, _decord_clip)


# ---- PyAV ----


def _pyav_clip(item: Item, size: int) -> np.ndarray:
    """Forward through the file, over to the next keyframe where the container's index has one before the wanted frame.

    Frames are told by their times, which needs a constant frame rate.
    """
    places = {frame: place for place, frame in reversed(list(enumerate(item.frames)))}
    out, wanted, index = _blank(item, size), deque(sorted(places)), -1
    with av.open(item.path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        ticks, first = 1 / (stream.average_rate * stream.time_base), stream.start_time or 0
        if not len(stream.index_entries):  # WebM's is read at the first seek
            container.seek(first, stream=stream)
        keys = [round((entry.timestamp - first) / ticks) for entry in stream.index_entries if entry.is_keyframe]
        back = 0
        while wanted:
            key = max((key for key in keys if key <= wanted[0] - back), default=0)
            if key > index + 1 or back:
                container.seek(first + round(key * ticks), stream=stream)
            for frame in container.decode(stream):
                index = round((frame.pts - first) / ticks)
                if index > wanted[0]:  # B-frames: the keyframe is decoded before that time, and shown behind it
                    back += 1
                    break
                if index == wanted[0]:
                    back = 0
                    _cut(frame.to_ndarray(format="rgb24"), item, out[places[wanted.popleft()]])
                    if not wanted or any(index + 1 < key <= wanted[0] for key in keys):
                        break
            else:
                raise RuntimeError(f"{item.path} ends before frame {wanted[0]}")
    return _repeat(out, item, places)


def _pyav(job: Job, way: str) -> Iterator[torch.Tensor]:
    return _WAYS[way](job, _pyav_clip)


# ---- OpenCV ----


def _imread(path: str, flag: int) -> np.ndarray:
    picture = cv2.imread(path, flag)
    if picture is None:
        raise RuntimeError(f"OpenCV reads no picture in {path}")
    return picture


def _opencv_photo(item: Item, size: int) -> np.ndarray:
    out, (top, left, bottom, right) = _blank(item, size), item.box
    factor = next((factor for factor in (8, 4, 2) if min(bottom - top, right - left) >= factor * size), 1)
    if factor == 1:
        _cut(_imread(item.path, cv2.IMREAD_COLOR_RGB), item, out[0])
    else:  # JPEG decodes at a fraction of the size for a fraction of the work
        flag = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}[factor]
        small = Item(item.path, item.frames, tuple(edge // factor for edge in item.box), item.flip, item.file)
        _cut(cv2.cvtColor(_imread(item.path, flag), cv2.COLOR_BGR2RGB), small, out[0])
    return out


def _opencv_clip(item: Item, size: int, jump: int) -> np.ndarray:
    """Unwanted frames are grabbed (decoded, not converted); behind gaps of ``jump`` frames OpenCV seeks."""
    places = {frame: place for place, frame in reversed(list(enumerate(item.frames)))}
    out, at = _blank(item, size), 0
    capture = cv2.VideoCapture(item.path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    for wanted in sorted(places):
        if wanted - at >= jump:
            capture.set(cv2.CAP_PROP_POS_FRAMES, wanted)
            at = wanted
        while at < wanted:
            capture.grab()
            at += 1
        given, picture = capture.read()
        at += 1
        if not given:
            raise RuntimeError(f"{item.path} ends before frame {wanted}")
        frame = out[places[wanted]]
        _cut(picture, item, frame)
        cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frame)
    capture.release()
    return _repeat(out, item, places)


def _opencv(job: Job, way: str, jump: int) -> Iterator[torch.Tensor]:
    return _WAYS[way](job, _opencv_photo if job.kind == "image" else partial(_opencv_clip, jump=jump))


# ---- torchcodec ----


def _torchcodec_clip(item: Item, size: int, seek_mode: str) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(item.path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=seek_mode)
    if max(item.frames) >= len(decoder):  # "approximate" takes the length from the header and may miss the last frame
        decoder = VideoDecoder(item.path, dimension_order="NHWC", num_ffmpeg_threads=1)
    return _cut_all(decoder.get_frames_at(list(item.frames)).data.numpy(), item, size)


def _torchcodec(job: Job, way: str, seek_mode: str) -> Iterator[torch.Tensor]:
    import_module("torchcodec.decoders")
    return _WAYS[way](job, partial(_torchcodec_clip, seek_mode=seek_mode))


# ---- DALI ----


def _dali(job: Job) -> Iterator[torch.Tensor]:
    """Paths, boxes and mirroring come from an external source; reading, decoding and scaling are DALI's."""
    from nvidia.dali import fn, pipeline_def, types

    video = job.kind == "video"

    def feeds():
        for step in job.steps:
            columns = [[np.frombuffer(item.path.encode(), np.uint8) for item in step],
                       [np.array(item.box[:2], np.float32 if video else np.int32) for item in step],
                       [np.array(item.box[2:], np.float32 if video else np.int32) for item in step],
                       [np.array(item.flip, np.int32) for item in step]]
            if video:
                columns.append([np.array(item.frames, np.int32) for item in step])
            yield tuple(columns)

    @pipeline_def(batch_size=max(map(len, job.steps)), num_threads=job.workers, device_id=None)  # 2 batches ahead
    def graph():
        paths, start, end, flip, *frames = fn.external_source(source=feeds, num_outputs=5 if video else 4)
        data = fn.io.file.read(paths)
        scale = {"size": [job.size] * 2, "interp_type": types.INTERP_LINEAR, "antialias": False}  # twice as quick
        if video:
            pictures = fn.resize(fn.decoders.video(data, frames=frames[0], device="cpu"), roi_start=start, roi_end=end,
                                 **scale)
        else:  # the slice is cut while decoding
            pictures = fn.resize(fn.decoders.image_slice(data, start=start, end=end, axes=[0, 1]), **scale)
        return fn.crop_mirror_normalize(pictures, mirror=flip, mean=list(MEAN), std=list(STD), dtype=types.FLOAT,
                                        output_layout="FHWC" if video else "HWC")

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
        return self.pipeline({"filename": item.path, "frame_inds": np.array(item.frames), "box": item.box,
                              "planned_flip": item.flip, "modality": "RGB", "num_clips": 1,
                              "clip_len": len(item.frames)})


def _mmaction2(job: Job, layout: str) -> Iterator[torch.Tensor]:
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
    pipeline = Compose([*decode, _mmaction2_box, Resize(scale=(job.size, job.size), keep_ratio=False),
                        lambda results: mirror(results) if results["planned_flip"] else results,
                        FormatShape(layout), PackActionInputs()])
    normalise = ActionDataPreprocessor(mean=MEAN, std=STD, format_shape=layout)

    def batches():
        loader = DataLoader(_Samples(job, pipeline), batch_sampler=_steps(job), num_workers=job.workers,
                            collate_fn=pseudo_collate, worker_init_fn=_one_thread)
        _few_threads(job)
        for data in loader:
            clips = normalise(data)["inputs"]
            yield clips.transpose(1, 2) if layout == "NCHW" else clips[:, 0]

    return batches()


# ---- SPDL ----


def _spdl_photo(item: Item, size: int, scale: str) -> np.ndarray:
    from spdl import io

    if scale == "ffmpeg":
        return io.to_numpy(io.load_image(item.path, filter_desc=_spdl_filter(item, size)))[None]
    return _cut_all(io.to_numpy(io.load_image(item.path))[None], item, size)


def _spdl_clip(item: Item, size: int, scale: str) -> np.ndarray:
    """SPDL filters every frame it decodes, wanted or not; OpenCV can be given the wanted ones alone."""
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
        _cut(cv2.cvtColor(planes.reshape(planes.shape[-2:]), cv2.COLOR_YUV2RGB_I420), item, shown)
    return out if order == list(range(len(order))) else out[order]


def _spdl_filter(item: Item, size: int) -> str:
    from spdl.io import get_video_filter_desc

    top, left, bottom, right = item.box
    return get_video_filter_desc(filter_desc=f"crop={right - left}:{bottom - top}:{left}:{top}:exact=1,"
                                             f"scale={size}:{size}:flags=bilinear{',hflip' if item.flip else ''}")


def _spdl(job: Job, scale: str) -> Iterator[torch.Tensor]:
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
        return _normalised([torch.from_numpy(clip) for clip in clips], free)

    def batches():
        pipeline = (PipelineBuilder().add_source([item for step in job.steps for item in step])
                    .pipe(lambda item: clip(item, job.size), concurrency=job.workers, output_order="input")
                    .aggregate(Batches()).pipe(normalised).add_sink(_AHEAD)
                    .build(num_threads=job.workers + 1, max_failures=0))
        with pipeline.auto_stop():
            yield from pipeline

    return batches()


_BOTH = ("processes", "threads")
_NO_AV1 = ("h264", "hevc", "mpeg4", "vp8", "vp9", "mjpeg")  # the FFmpeg in their wheels has no decoder for it
PEERS = {peer.name: peer for peer in (
    Peer("decord", "decord", ("video",), _NO_AV1, tuple({"way": way} for way in _BOTH), _decord),
    Peer("pyav", "av", ("video",), None, tuple({"way": way} for way in _BOTH), _pyav),
    Peer("opencv", "cv2", ("image", "video"), _NO_AV1,
         tuple({"way": way, "jump": jump} for way in _BOTH for jump in (1 << 30, 32)), _opencv),
    Peer("dali", "nvidia.dali", ("image", "video"), ("vp8", "vp9", "mjpeg"), ({},), _dali),
    Peer("mmaction2", "mmaction", ("image", "video"), _NO_AV1, ({"layout": "NCHW"}, {"layout": "NCTHW"}), _mmaction2),
    Peer("spdl", "spdl", ("image", "video"), None, ({"scale": "opencv"}, {"scale": "ffmpeg"}), _spdl),
    Peer("torchcodec", "torchcodec", ("video",), None,
         tuple({"way": way, "seek_mode": mode} for way in _BOTH for mode in ("approximate", "exact")), _torchcodec),
)}
