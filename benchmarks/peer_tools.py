"""What several peers share: a plain DataLoader, a plain thread pool, cutting and normalising."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from weakref import finalize

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.loader_task import Item, Job
from omnidali.utils.constants import MEAN, STD

AHEAD = 3  # batches under way while one is consumed; DataLoader's own default is 2 a worker

Clip = Callable[[Item, int], np.ndarray]  # decodes to uint8 (T, size, size, 3), RGB


class _Clips(Dataset):
    def __init__(self, job: Job, clip: Clip):
        self.items, self.size, self.clip = (
            [item for step in job.steps for item in step],
            job.size,
            clip,
        )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.from_numpy(self.clip(self.items[number], self.size))


def item_numbers(job: Job) -> list[range]:
    """Numbers of the items of each step, counted through."""
    return [range(*edges) for edges in pairwise(accumulate(map(len, job.steps), initial=0))]


def one_thread(_worker: int = 0) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def few_threads(job: Job) -> None:
    """Leave the cores to the workers: more threads beside them wait in loops, which costs more than
    they help.
    """
    torch.set_num_threads(max(1, job.workers // 4))


def _by_processes(job: Job, clip: Clip) -> Iterator[torch.Tensor]:
    """PyTorch's DataLoader: every worker makes whole batches of bytes, which the main process
    normalises.

    The workers live as long as the job; a second epoch, for which to keep them, there is none.
    """
    loader = DataLoader(
        _Clips(job, clip),
        batch_sampler=item_numbers(job),
        num_workers=job.workers,
        worker_init_fn=one_thread,
    )
    free = []
    few_threads(job)
    for clips in loader:
        yield normalised_batch(clips, free)


def _by_threads(job: Job, clip: Clip) -> Iterator[torch.Tensor]:
    """Decoders that release the GIL need no processes; every thread writes into the batch itself."""

    def start(step: tuple[Item, ...]):
        batch = lend(free, (len(step), len(step[0].frames), job.size, job.size, 3))
        return batch, [pool.submit(make, item, out) for item, out in zip(step, batch)]

    def make(item: Item, out: torch.Tensor) -> None:
        normalise_clip(torch.from_numpy(clip(item, job.size)), out)

    free = []
    with ThreadPoolExecutor(job.workers, initializer=one_thread) as pool:
        try:
            steps, waiting = iter(job.steps), deque()
            while True:
                waiting.extend(start(step) for step, _ in zip(steps, range(AHEAD - len(waiting))))
                if not waiting:
                    return
                batch, parts = waiting.popleft()
                for part in parts:
                    part.result()
                yield batch.permute(0, 4, 1, 2, 3)
                del batch, parts  # the memory is free once the consumer lets go of it too
        finally:
            pool.shutdown(cancel_futures=True)


WAYS = {"processes": _by_processes, "threads": _by_threads}


def normalise_clip(clip: torch.Tensor, out: torch.Tensor) -> None:
    """(T, H, W, 3) of bytes to floats. Whole rows at once: broadcasting over 3 channels is ten
    times slower.
    """
    rows = out.view(-1, out.shape[-2] * 3)
    scale = 1 / torch.tensor(STD)
    out.copy_(clip)
    rows.mul_(scale.repeat(out.shape[-2])).add_((-torch.tensor(MEAN) * scale).repeat(out.shape[-2]))


def lend(free: list[np.ndarray], shape: tuple[int, ...]) -> torch.Tensor:
    """Memory of an earlier batch that nobody holds any more, or new: fresh pages cost as much as
    normalising.
    """
    memory = next(
        (free.pop(place) for place, array in enumerate(free) if array.shape == shape), None
    )
    memory = np.empty(shape, np.float32) if memory is None else memory
    lent = memory.view()  # lives as long as any tensor that looks into it
    finalize(lent, free.append, memory).atexit = False
    return torch.from_numpy(lent)


def normalised_batch(clips: Sequence[torch.Tensor], free: list[np.ndarray]) -> torch.Tensor:
    """N times (T, H, W, 3) of bytes to (N, 3, T, H, W), channels last in memory."""
    batch = lend(free, (len(clips), *clips[0].shape))
    for clip, out in zip(clips, batch):  # one that still lies in the processor's cache
        normalise_clip(clip, out)
    return batch.permute(0, 4, 1, 2, 3)


def cut(picture: np.ndarray, item: Item, out: np.ndarray) -> None:
    """The box of a picture (H, W, 3), scaled and mirrored, into ``out``."""
    top, left, bottom, right = item.box
    if item.flip:
        cv2.flip(
            cv2.resize(
                picture[top:bottom, left:right], out.shape[1::-1], interpolation=cv2.INTER_LINEAR
            ),
            1,
            out,
        )
    else:
        cv2.resize(
            picture[top:bottom, left:right], out.shape[1::-1], out, interpolation=cv2.INTER_LINEAR
        )


def blank(item: Item, size: int) -> np.ndarray:
    return np.empty((len(item.frames), size, size, 3), np.uint8)


def cut_all(pictures: np.ndarray, item: Item, size: int) -> np.ndarray:
    out = blank(item, size)
    for picture, frame in zip(pictures, out):
        cut(picture, item, frame)
    return out


def repeat_frames(out: np.ndarray, item: Item, done: Mapping[int, int]) -> np.ndarray:
    """Copy the frames that are wanted twice; ``done`` says where each frame was written."""
    for place, frame in enumerate(item.frames):
        if done[frame] != place:
            out[place] = out[done[frame]]
    return out
