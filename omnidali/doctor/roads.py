"""Media through DALI's graphs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.decoding.colours import rgb_correction
from omnidali.decoding.excerpt import make_excerpt
from omnidali.doctor.device import Device, pixels_of
from omnidali.doctor.pictures import SIZE, middle
from omnidali.pipelines import EncodedImages, EncodedVideos, Feeds, Graph


@dataclass(frozen=True)
class Stream:
    """Bytes for a decoder, and what to take of them.

    Attributes:
        data: uint8 (bytes,).
        places: int32 (F,), which of the frames that come out are wanted.
        colours: float32 (3, 4), from the decoder's RGB to the right one.
    """

    data: np.ndarray
    places: np.ndarray
    colours: np.ndarray


StreamMaker = Callable[[Media, Sequence[int], Device], Stream]


def excerpt_of(media: Media, frames: Sequence[int], device: Device) -> Stream:
    """What some frames of a video need, as the loader feeds it.

    Raises:
        DecodeError: if no excerpt of the file can be made.
    """
    excerpt = make_excerpt(media, np.array(frames), shows_hidden=device.number is not None)
    colours = rgb_correction(excerpt.colorspace, excerpt.is_full_range)
    return Stream(excerpt.data, excerpt.places, colours)


def whole_file(media: Media, frames: Sequence[int], device: Device) -> Stream:
    """The whole video, for comparison."""
    index = PacketIndex.unpack(media.packets)
    return Stream(
        np.fromfile(media.span.path, np.uint8),
        np.array(frames, np.int32),
        rgb_correction(index.colorspace, index.is_full_range),
    )


def video_feeds(media: Sequence[Media], streams: Sequence[Stream]) -> Feeds:
    """The feeds of a graph that shows the middle of each frame."""
    return {
        "data": [stream.data for stream in streams],
        "frames": [stream.places for stream in streams],
        "sides": [np.array(one.stored[::-1], np.int32) for one in media],
        "colours": [stream.colours for stream in streams],
        **_box_feeds(media),
    }


def image_feeds(media: Sequence[Media]) -> Feeds:
    """The feeds of a graph that shows the middle of each image."""
    data = [np.fromfile(one.span.path, np.uint8) for one in media]
    return {"data": data, **_box_feeds(media)}


def _box_feeds(media: Sequence[Media]) -> Feeds:
    boxes = [middle(one)[0].astype(np.float32) for one in media]
    return {
        "start0": [box[:2] for box in boxes],
        "end0": [box[2:] for box in boxes],
        "flip0": [np.array(0, np.int32)] * len(boxes),
    }


def video_graph(device: Device, batch: int = 1, size: int = SIZE) -> Graph:
    """A graph that decodes videos and scales their middle, ``batch`` of them at a time."""
    threads = max(2, min(batch, device.cores))
    return EncodedVideos(size, 1, batch=batch, threads=threads, device_id=device.number)


def image_graph(device: Device, batch: int = 1, size: int = SIZE) -> Graph:
    """A graph that decodes images and scales their middle, ``batch`` of them at a time."""
    threads = max(2, min(batch, device.cores))
    return EncodedImages(size, 1, batch=batch, threads=threads, device_id=device.number)


def run_timed(device: Device, graph: Graph, feeds: Feeds) -> tuple[np.ndarray, float]:
    """Run a graph once: pixels (n, F, S, S, 3) on the scale 0..255, and milliseconds.

    Raises:
        PipelineError: if a sample does not decode.
    """
    begun = time.perf_counter()
    (output,) = graph.run(feeds)
    device.synchronise()
    milliseconds = 1000 * (time.perf_counter() - begun)
    return pixels_of(torch.from_dlpack(output)), milliseconds


def show_frames(
    device: Device,
    graph: Graph,
    media: Media,
    frames: Sequence[int],
    make_stream: StreamMaker = excerpt_of,
) -> tuple[np.ndarray, float]:
    """Frames (F, S, S, 3) of a video on DALI's road, and milliseconds with what comes before.

    Raises:
        PipelineError, DecodeError: if they do not decode.
    """
    begun = time.perf_counter()
    feeds = video_feeds([media], [make_stream(media, frames, device)])
    before = 1000 * (time.perf_counter() - begun)
    pixels, milliseconds = run_timed(device, graph, feeds)
    return pixels[0], before + milliseconds
