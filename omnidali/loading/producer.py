"""One source of a running loader: from planned samples to clips in the step's buffer."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from omnidali.catalog.store import Media, SourceTable
from omnidali.decoding.frames import decode_frames
from omnidali.decoding.image import decode_image
from omnidali.decoding.routes import CPU, HYBRID, on_cpu
from omnidali.decoding.video import decode_video
from omnidali.errors import CannotDecode, DecodeError
from omnidali.loading.normalise import normalise, scratch
from omnidali.planning.motion import through_region
from omnidali.planning.plan import Samples
from pipelines import DecodedClips, EncodedImages, EncodedVideos, Graph, MovingImages, PipelineError

_DECODES_ON_GPU = 8
_PHOTOS_A_TASK = 4
_READERS = 4


@dataclass
class Started:
    """Samples that are being decoded.

    Attributes:
        out: (n, V, T, size, size, 3), the place in the step's buffer.
        on_cpu, on_dali: int arrays, places of the samples by decoder.
        pixels: uint8 (n on the CPU, V, F, size, size, 3), filled by the futures; F is T for a moving image.
            None where they write into ``out`` themselves.
        futures: for the CPU's samples, each giving the number of replaced frames.
        run: of DALI, which has begun.
    """

    step: int
    samples: Samples
    out: torch.Tensor
    on_cpu: np.ndarray
    on_dali: np.ndarray
    pixels: np.ndarray | None
    futures: list[Future]
    run: "_Run | None" = None


@dataclass
class _Run:
    """A DALI graph at work: on which files, for the error if there is one."""

    graph: Graph
    feeds: dict[str, list[np.ndarray]]
    files: list[Media]


class Producer:
    """Decodes the samples of one source.

    Args:
        table: the source's rows. routes: {codec: decoder} of :func:`choose_routes`.
        pool: threads for decoding on the CPU, shared by all sources.
        threads: DALI's threads. device: where the clips go. rank: named in errors.
        cpu_share: of the slots of codecs that DALI and the CPU share.
    """

    def __init__(self, table: SourceTable, routes: dict[str, str], pool: ThreadPoolExecutor, threads: int,
                 device: torch.device, rank: int, cpu_share: float = 0.0):
        self.table, self.rank, self._cpu_share = table, rank, cpu_share
        self._cpu_codecs, self._shared_codecs = (
            np.array([routes[name] == route for name in table.codec_names]) for route in (CPU, HYBRID))
        self._device_id = device.index or 0 if device.type == "cuda" else None
        # an H200 has seven video engines, and each wants a stream of its own to work on
        self._pool, self._threads = pool, threads if self._device_id is None else max(threads, _DECODES_ON_GPU)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="read")  # its threads start when needed
        self._graphs: dict[tuple, list[Graph]] = {}

    def start(self, step: int, samples: Samples, out: torch.Tensor) -> Started:
        """Hand the CPU's part of the work to the pool; read the files for DALI and start its graph.

        Raises:
            DecodeError: naming a file that cannot be read.
        """
        codecs = self.table.codecs[samples.pieces]
        cpu = self._cpu_codecs[codecs].any(axis=1)
        cpu |= self._shared_codecs[codecs].any(axis=1) & on_cpu(samples.slots, self._cpu_share)
        by_cpu, by_dali = np.flatnonzero(cpu), np.flatnonzero(~cpu)
        frames = samples.frames.shape[1] if samples.motions is None else samples.motions.shape[1]
        shape, pixels = (samples.boxes.shape[1], frames, samples.size, samples.size, 3), None
        if self._device_id is not None:  # one byte a value crosses the bus; the GPU normalises
            pixels = np.empty((len(by_cpu), *shape), np.uint8)

        def decode(places: range) -> int:
            replaced = 0
            for place in places:
                index = int(by_cpu[place])
                into = scratch("pixels", shape, np.uint8) if pixels is None else pixels[place]
                replaced += self._decode_on_cpu(step, samples, index, into)
                if pixels is None:
                    normalise(into, samples.flips[index], out[index])
            return replaced

        # a photo is done so soon that handing over each one alone would cost a tenth of the time
        each = _PHOTOS_A_TASK if self.table.kind == "image" else 1
        run = self._start_dali(step, samples, by_dali) if len(by_dali) else None
        futures = [self._pool.submit(decode, range(len(by_cpu))[first:first + each])
                   for first in range(0, len(by_cpu), each)]
        return Started(step, samples, out, by_cpu, by_dali, pixels, futures, run)

    def finish(self, started: Started) -> int:
        """Wait for the CPU's part and for DALI, and write the clips; returns how many frames were replaced.

        Raises:
            DecodeError: naming the file.
        """
        replaced = sum(future.result() for future in started.futures)
        samples, out = started.samples, started.out
        if started.pixels is not None and len(started.pixels):
            amount, views = started.pixels.shape[:2]
            graph = self._graph(DecodedClips, samples, amount)
            flat = graph.run({"pixels": list(started.pixels.reshape(-1, *started.pixels.shape[2:])),
                              "flip": _scalars(samples.flips[started.on_cpu])})[0]
            clips = torch.from_dlpack(flat)
            self._write(out, started.on_cpu, clips.view(amount, views, *clips.shape[1:]))
        if started.run is not None:
            for view, clips in enumerate(self._collect_dali(started)):
                self._write(out[:, view:view + 1], started.on_dali, clips[:, None])
        return replaced

    def drop(self, started: Started) -> None:
        """Let go of what nobody will finish; its graph is free again."""
        for future in started.futures:
            future.cancel()
        if started.run is not None:
            with contextlib.suppress(PipelineError):
                started.run.graph.collect()

    def _decode_on_cpu(self, step: int, samples: Samples, index: int, out: np.ndarray) -> int:
        """Decode one sample into ``out`` (V, F, size, size, 3); returns how many frames a neighbour stands for."""
        boxes, replaced = samples.boxes[index], 0
        decode = decode_frames if self.table.kind == "frames" else decode_video
        for record, places in self._files(samples, index):
            media = self.table.media(record)
            try:
                if self.table.kind == "image":
                    motions = None if samples.motions is None else samples.motions[index]
                    decode_image(media, boxes, samples.size, out, motions)
                    continue
                whole = len(places) == out.shape[1]
                part = out if whole else np.empty((len(out), len(places), *out.shape[2:]), np.uint8)
                replaced += decode(media, samples.frames[index, places], boxes, samples.size, part)
                if not whole:
                    out[:, places] = part
            except CannotDecode as error:
                raise DecodeError(self.table.name, media.path, step, self.rank, str(error)) from None
        return replaced

    def _files(self, samples: Samples, index: int) -> list[tuple[int, np.ndarray]]:
        """The files of one sample: catalog id, and places of the frames that come from it."""
        pieces = samples.pieces[index]
        records, each = self.table.records[pieces], samples.frames.shape[1] // len(pieces)
        if len(pieces) == 1:
            return [(int(records[0]), np.arange(each))]
        found = []
        for record in dict.fromkeys(records.tolist()):
            mine = np.flatnonzero(records == record)
            found.append((record, (mine[:, None] * each + np.arange(each)).reshape(-1)))
        return found

    def _start_dali(self, step: int, samples: Samples, index: np.ndarray) -> _Run:
        """Read these samples' files and hand them to a graph."""
        items = [item for place in index.tolist() for item in self._dali_items(samples, place)]
        files = [media for media, _ in items]
        feeds: dict[str, list[np.ndarray]] = {"data": []}
        for media, reading in [(media, self._readers.submit(media.span.read)) for media in files]:
            try:
                feeds["data"].append(reading.result())
            except OSError as error:
                reason = f"unreadable: {error.strerror}"
                raise DecodeError(self.table.name, media.path, step, self.rank, reason) from None
        each = len(items) // len(index)
        boxes, flips = (np.repeat(array[index], each, axis=0) for array in (samples.boxes, samples.flips))
        if samples.motions is not None:
            kind = MovingImages
            regions = [through_region(motions, media.width, media.height, samples.size)
                       for motions, media in zip(samples.motions[index], files)]
            feeds |= {"sides": [sides.astype(np.float32) for _, sides, _ in regions],
                      "matrices": [matrices.astype(np.float32) for *_, matrices in regions]}
            boxes = np.stack([region for region, *_ in regions])[:, None]
        elif self.table.kind in ("image", "frames"):
            kind = EncodedImages
        else:
            kind = EncodedVideos
            feeds["frames"] = [frames for _, frames in items]
        for view in range(boxes.shape[1]):
            edges = boxes[:, view].astype(np.float32)
            feeds |= {f"start{view}": list(edges[:, :2]), f"end{view}": list(edges[:, 2:]),
                      f"flip{view}": _scalars(flips[:, view])}
        run = _Run(self._graph(kind, samples, len(items)), feeds, files)
        try:
            run.graph.start(feeds)
        except PipelineError as error:
            raise self._dali_error(step, run, error) from None
        return run

    def _collect_dali(self, started: Started) -> list[torch.Tensor]:
        """What the graph made: one tensor (n, F, size, size, 3) a view."""
        try:
            outputs = started.run.graph.collect()
        except PipelineError as error:
            raise self._dali_error(started.step, started.run, error) from None
        return [torch.from_dlpack(clips).view(len(started.on_dali), -1, *clips.shape()[2:]) for clips in outputs]

    def _dali_error(self, step: int, run: _Run, error: PipelineError) -> DecodeError:
        """DALI does not name the culprit: each sample alone does."""
        for place, media in enumerate(run.files):
            try:
                run.graph.run({name: values[place:place + 1] for name, values in run.feeds.items()})
            except PipelineError as reason:
                return DecodeError(self.table.name, media.path, step, self.rank, str(reason))
        paths = f"one of {', '.join(media.path for media in run.files)}"
        return DecodeError(self.table.name, paths, step, self.rank, f"{error} (each file alone decodes)")

    def _dali_items(self, samples: Samples, index: int) -> list[tuple[Media, np.ndarray]]:
        """What DALI decodes for one sample: (file, frames), one a piece, or one a frame of a folder."""
        pieces, frames = samples.pieces[index], samples.frames[index]
        media = [self.table.media(self.table.records[piece]) for piece in pieces]
        if self.table.kind != "frames":
            return list(zip(media, frames.reshape(len(pieces), -1)))
        return [(media[0].frame(frame), frames[:0]) for frame in frames.tolist()]

    def _graph(self, kind: type, samples: Samples, amount: int) -> Graph:
        """A built graph of this kind and shape that is not at work; one more where all are, as many as steps ahead."""
        key = (kind, samples.size, samples.boxes.shape[1], samples.clip_frames)
        idle = [graph for graph in self._graphs.setdefault(key, []) if not graph.under_way]
        if idle and idle[0].capacity >= amount:
            return idle[0]
        if idle:  # outgrown
            self._graphs[key].remove(idle[0])
        # a source's slots differ by one between steps: room for it saves building the graph twice
        room = amount + samples.frames.shape[1]
        self._graphs[key].append(kind(samples.size, samples.boxes.shape[1], room, self._threads, self._device_id,
                                      samples.clip_frames))
        return self._graphs[key][-1]

    @staticmethod
    def _write(out: torch.Tensor, index: np.ndarray, clips: torch.Tensor) -> None:
        """Copy (n, V, F, ...) clips to their rows; one frame of a still image fills the whole clip."""
        clips = clips.expand(-1, -1, out.shape[2], -1, -1, -1)
        if len(index) == len(out):
            out.copy_(clips)
        else:
            out[torch.as_tensor(index, device=out.device)] = clips.to(out.dtype)


def _scalars(values: np.ndarray) -> list[np.ndarray]:
    return [np.array(value, np.int32) for value in values.reshape(-1)]
