"""One source of a running loader: from planned samples to clips in the step's buffer."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from omnidali.catalog.store import SourceTable
from omnidali.decoding.image import decode_image
from omnidali.decoding.routes import CPU
from omnidali.decoding.video import decode_video
from omnidali.errors import CannotDecode, DecodeError
from omnidali.planning.plan import Samples
from pipelines import DecodedClips, EncodedImages, EncodedVideos, PipelineError


@dataclass
class Started:
    """Samples whose CPU part is under way.

    Attributes:
        on_cpu, on_dali: int arrays, places of the samples by decoder.
        pixels: uint8 (n on the CPU, V, F, size, size, 3), filled by the futures.
        futures: one a CPU sample, each giving the number of replaced frames.
    """

    step: int
    samples: Samples
    on_cpu: np.ndarray
    on_dali: np.ndarray
    pixels: np.ndarray
    futures: list[Future]


class Producer:
    """Decodes the samples of one source.

    Args:
        table: the source's rows. routes: {codec: decoder} of :func:`choose_routes`.
        pool: threads for decoding on the CPU, shared by all sources.
        threads: DALI's threads. device: where the clips go. rank: named in errors.
    """

    def __init__(self, table: SourceTable, routes: dict[str, str], pool: ThreadPoolExecutor, threads: int,
                 device: torch.device, rank: int):
        self.table, self.rank = table, rank
        self._cpu_codecs = np.array([routes[name] == CPU for name in table.codec_names])
        self._pool, self._threads = pool, threads
        self._device_id = device.index or 0 if device.type == "cuda" else None
        self._graphs: dict[tuple, object] = {}

    def start(self, step: int, samples: Samples) -> Started:
        """Hand the CPU's part of the work to the pool and return at once."""
        cpu = self._cpu_codecs[self.table.codecs[samples.rows]] if len(samples) else np.zeros(0, bool)
        on_cpu, on_dali = np.flatnonzero(cpu), np.flatnonzero(~cpu)
        pixels = np.empty((len(on_cpu), samples.boxes.shape[1], samples.frames.shape[1], samples.size, samples.size, 3),
                          np.uint8)
        futures = [self._pool.submit(self._decode_on_cpu, step, samples, index, pixels[place])
                   for place, index in enumerate(on_cpu.tolist())]
        return Started(step, samples, on_cpu, on_dali, pixels, futures)

    def finish(self, started: Started, out: torch.Tensor) -> tuple[int, torch.Tensor]:
        """Wait for the CPU's part, run the DALI graphs and write the clips.

        Args:
            out: (n, V, F * repeat, size, size, 3), the place in the step's buffer.

        Returns:
            How many frames were replaced by a neighbour, and the clips: ``out``, or a tensor of the same
            shape and type that DALI made and nothing needs to copy.

        Raises:
            DecodeError: naming the file.
        """
        replaced = sum(future.result() for future in started.futures)
        samples = started.samples
        if len(started.on_cpu):
            count, views = started.pixels.shape[:2]
            graph = self._graph(DecodedClips, samples, count)
            flat = graph.run({"pixels": list(started.pixels.reshape(-1, *started.pixels.shape[2:])),
                              "flip": _scalars(samples.flips[started.on_cpu])})[0]
            clips = torch.from_dlpack(flat)
            clips = clips.view(count, views, *clips.shape[1:])
            if clips.shape == out.shape and clips.dtype == out.dtype and self._device_id is None:
                return replaced, clips  # DALI's dynamic executor leaves a buffer alone as long as it is held
            self._write(out, started.on_cpu, clips)
        if len(started.on_dali):
            for view, clips in enumerate(self._run_dali(started.step, samples, started.on_dali)):
                self._write(out[:, view:view + 1], started.on_dali, torch.from_dlpack(clips)[:, None])
        return replaced, out

    def _decode_on_cpu(self, step: int, samples: Samples, index: int, out: np.ndarray) -> int:
        media = self.table.media(samples.rows[index])
        try:
            if self.table.kind == "image":
                decode_image(media, samples.boxes[index], samples.size, out)
                return 0
            return decode_video(media, samples.frames[index], samples.boxes[index], samples.size, out)
        except CannotDecode as error:
            raise DecodeError(self.table.name, media.path, step, self.rank, str(error)) from None

    def _run_dali(self, step: int, samples: Samples, index: np.ndarray) -> list:
        media = [self.table.media(row) for row in samples.rows[index]]
        feeds: dict[str, list[np.ndarray]] = {"data": []}
        for item in media:
            try:
                feeds["data"].append(np.fromfile(item.path, np.uint8))
            except OSError as error:
                reason = f"unreadable: {error.strerror}"
                raise DecodeError(self.table.name, item.path, step, self.rank, reason) from None
        kind = EncodedImages
        if self.table.kind == "video":
            kind = EncodedVideos
            feeds["frames"] = list(samples.frames[index])
        for view in range(samples.boxes.shape[1]):
            boxes = samples.boxes[index, view].astype(np.float32)
            feeds |= {f"start{view}": list(boxes[:, :2]), f"end{view}": list(boxes[:, 2:]),
                      f"flip{view}": _scalars(samples.flips[index, view])}
        graph = self._graph(kind, samples, len(index))
        try:
            return graph.run(feeds)
        except PipelineError as error:
            for place, item in enumerate(media):  # DALI does not name the culprit: each sample alone does
                try:
                    graph.run({name: values[place:place + 1] for name, values in feeds.items()})
                except PipelineError as reason:
                    raise DecodeError(self.table.name, item.path, step, self.rank, str(reason)) from None
            paths = f"one of {', '.join(item.path for item in media)}"
            raise DecodeError(self.table.name, paths, step, self.rank, f"{error} (each file alone decodes)") from None

    def _graph(self, kind: type, samples: Samples, count: int):
        """The built graph of this kind and shape, rebuilt where the batch has outgrown it."""
        key = (kind, samples.size, samples.boxes.shape[1])
        if key not in self._graphs or self._graphs[key].capacity < count:
            # a source's slots differ by one between steps: room for it saves building the graph twice
            self._graphs[key] = kind(samples.size, samples.boxes.shape[1], count + 1, self._threads, self._device_id)
        return self._graphs[key]

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
