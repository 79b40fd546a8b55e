"""Feeds for DALI's graphs, and what comes out of them or stands in them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from nvidia.dali import Pipeline, fn
from nvidia.dali.data_node import DataNode
from nvidia.dali.types import DALIDataType

from conftest import media_of
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.decoding.colours import rgb_correction
from omnidali.pipelines import Feeds, Graph
from omnidali.utils.constants import MEAN, STD


def as_pixels(tensor) -> torch.Tensor:
    """A graph's output on the scale 0..255."""
    return torch.from_dlpack(tensor).float().cpu() * torch.tensor(STD) + torch.tensor(MEAN)


def as_bytes(tensor) -> np.ndarray:
    """A graph's output as the uint8 that were normalised."""
    return as_pixels(tensor).round().numpy().astype(np.uint8)


def box_feeds(boxes: np.ndarray, flips: Sequence[int], count: int = 1) -> Feeds:
    """The boxes and flips of ``count`` samples that have the same views.

    Args:
        boxes: (V, 4), top, left, bottom, right.
        flips: V of them.
        count: of samples.
    """
    feeds: Feeds = {}
    for view, (box, flip) in enumerate(zip(boxes, flips, strict=True)):
        edges = np.asarray(box, np.float32)
        feeds[f"start{view}"] = [edges[:2]] * count
        feeds[f"end{view}"] = [edges[2:]] * count
        feeds[f"flip{view}"] = [np.array(flip, np.int32)] * count
    return feeds


def video_feeds(path: Path, frames: Sequence[int], count: int = 1) -> Feeds:
    """The feeds of ``count`` samples, each of all of a video, but for boxes and flips."""
    media = media_of(path)
    index = PacketIndex.unpack(media.packets)
    return {
        "data": [np.fromfile(path, np.uint8)] * count,
        "frames": [np.array(frames, np.int32)] * count,
        "sides": [np.array([media.height, media.width], np.int32)] * count,
        "colours": [rgb_correction(index.colorspace, index.is_full_range)] * count,
    }


def decode_by_dali(
    videos: Sequence[tuple[np.ndarray, np.ndarray]], device_id: int | None = None
) -> list[np.ndarray]:
    """Whole frames of videos by DALI's decoder alone: uint8 (F, H, W, 3) each.

    Args:
        videos: the bytes of each, uint8, and int32 (F,) of its frames.
        device_id: of the GPU; None decodes on the CPU.
    """
    pipeline = Pipeline(len(videos), 2, device_id, prefetch_queue_depth=1)
    with pipeline:
        data = fn.external_source(name="data", dtype=DALIDataType.UINT8, ndim=1)
        frames = fn.external_source(name="frames", dtype=DALIDataType.INT32, ndim=1)
        device = "cpu" if device_id is None else "mixed"
        pipeline.set_outputs(fn.decoders.video(data, frames=frames, device=device, pad_mode="none"))
    pipeline.build()
    pipeline.feed_input("data", [data for data, _ in videos])
    pipeline.feed_input("frames", [frames for _, frames in videos])
    (decoded,) = pipeline.run()
    decoded = decoded if device_id is None else decoded.as_cpu()
    return [np.array(decoded.at(number)) for number in range(len(videos))]


class Operator(NamedTuple):
    """An operator as it stands in a defined graph.

    Attributes:
        schema: DALI's name of it.
        name: its own name; that of a feed.
        device: where it runs: cpu, gpu or mixed.
        takes: the names and devices of its inputs; arguments are inputs, too.
        regular: how many of these are no arguments.
        leaves: device of what it makes.
    """

    schema: str
    name: str
    device: str
    takes: tuple[tuple[str, str], ...]
    regular: int
    leaves: str

    @property
    def is_feed(self) -> bool:
        return self.schema == "ExternalSource"


def define_graph(
    monkeypatch, kind: type[Graph], **options
) -> tuple[list[DataNode], list[Operator]]:
    """Define a graph, but do not build it, which needs the GPU that it is for.

    Returns:
        Its outputs, and its operators, each after those that it takes from.
    """
    outputs: list[DataNode] = []
    set_outputs = Pipeline.set_outputs

    def note_outputs(pipeline, *nodes):
        outputs.extend(nodes)
        set_outputs(pipeline, *nodes)

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "set_outputs", note_outputs)
        patch.setattr(Pipeline, "build", lambda pipeline: None)
        kind(**options)

    found: dict[str, Operator] = {}
    for output in outputs:
        for instance in _sources(output):
            found.setdefault(instance.name, _operator(instance))
    return outputs, list(found.values())


def _sources(node: DataNode) -> Iterator:
    """The operators that a node comes from, the last one last."""
    for taken in node.source.inputs:
        yield from _sources(taken)
    yield node.source


def _operator(instance) -> Operator:
    instance.check_args()  # DALI's own check, which is part of building
    spec = instance.spec
    operator = instance._op
    return Operator(
        schema=getattr(operator, "schema_name", type(operator).__name__),
        name=instance.name,
        device=operator.device,
        takes=tuple((spec.InputName(n), spec.InputDevice(n)) for n in range(spec.NumInput())),
        regular=spec.NumRegularInput(),
        leaves=spec.OutputDevice(0),
    )
