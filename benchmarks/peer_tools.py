"""What peers share: a plain DataLoader, a plain thread pool, cropping and normalising."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, islice, pairwise
from weakref import finalize

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.loader_task import ClipRequest, LoaderTask
from omnidali.utils.constants import MEAN, STD

AHEAD = 3  # batches under way while one is consumed; the default of DataLoader is 2 a worker

ClipDecoder = Callable[[ClipRequest, int], np.ndarray]  # to uint8 (T, size, size, 3), RGB


class _Clips(Dataset):
    def __init__(self, task: LoaderTask, decode: ClipDecoder):
        self.clips = [clip for step in task.steps for clip in step]
        self.size = task.size
        self.decode = decode

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.from_numpy(self.decode(self.clips[number], self.size))


def clip_numbers(task: LoaderTask) -> list[list[int]]:
    """Numbers of the clips of each step, counted through."""
    return [list(range(*edges)) for edges in pairwise(accumulate(map(len, task.steps), initial=0))]


def limit_torch_threads(_worker: int = 0) -> None:
    """Let OpenCV and torch of this process or thread use one thread."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def use_few_threads(task: LoaderTask) -> None:
    """Leave the cores to the workers: more threads beside them wait in loops and slow them down."""
    torch.set_num_threads(max(1, task.workers // 4))


def _by_processes(task: LoaderTask, decode: ClipDecoder) -> Iterator[torch.Tensor]:
    """PyTorch's DataLoader: its workers make whole batches of bytes, the main process normalises.

    The workers live as long as the task; there is no second epoch to keep them for.
    """
    loader = DataLoader(
        _Clips(task, decode),
        batch_sampler=clip_numbers(task),
        num_workers=task.workers,
        worker_init_fn=limit_torch_threads,
    )
    free: list[np.ndarray] = []
    use_few_threads(task)
    for clips in loader:
        yield normalised_batch(clips, free)


def _by_threads(task: LoaderTask, decode: ClipDecoder) -> Iterator[torch.Tensor]:
    """A pool of threads, for decoders that release the GIL; each writes into the batch itself."""

    def start(step: tuple[ClipRequest, ...]) -> tuple[torch.Tensor, list[Future]]:
        batch = lend(free, (len(step), len(step[0].frames), task.size, task.size, 3))
        parts = [pool.submit(make, clip, out) for clip, out in zip(step, batch, strict=True)]
        return batch, parts

    def make(clip: ClipRequest, out: torch.Tensor) -> None:
        normalise_clip(torch.from_numpy(decode(clip, task.size)), out)

    free: list[np.ndarray] = []
    with ThreadPoolExecutor(task.workers, initializer=limit_torch_threads) as pool:
        try:
            steps = iter(task.steps)
            waiting: deque[tuple[torch.Tensor, list[Future]]] = deque()
            while True:
                waiting.extend(map(start, islice(steps, AHEAD - len(waiting))))
                if not waiting:
                    return
                batch, parts = waiting.popleft()
                for part in parts:
                    part.result()
                yield batch.permute(0, 4, 1, 2, 3)
                del batch, parts  # the memory is free once the consumer drops it, too
        finally:
            pool.shutdown(cancel_futures=True)


WAYS = {"processes": _by_processes, "threads": _by_threads}


def normalise_clip(clip: torch.Tensor, out: torch.Tensor) -> None:
    """Normalise bytes (T, H, W, 3) into floats of the same shape.

    Whole rows at once: broadcasting over 3 channels is ten times slower.
    """
    width = out.shape[-2]
    scale = 1 / torch.tensor(STD)
    shift = -torch.tensor(MEAN) * scale
    out.copy_(clip)
    out.view(-1, width * 3).mul_(scale.repeat(width)).add_(shift.repeat(width))


def lend(free: list[np.ndarray], shape: tuple[int, ...]) -> torch.Tensor:
    """Memory of an earlier batch that is no longer in use, or new memory.

    Fresh pages cost as much as normalising.

    Args:
        free: the memory that is not in use.
        shape: of the float32 tensor.
    """
    memory = next(
        (free.pop(place) for place, array in enumerate(free) if array.shape == shape), None
    )
    if memory is None:
        memory = np.empty(shape, np.float32)
    lent = memory.view()  # lives as long as any tensor that looks into it
    finalize(lent, free.append, memory).atexit = False
    return torch.from_numpy(lent)


def normalised_batch(clips: Sequence[torch.Tensor], free: list[np.ndarray]) -> torch.Tensor:
    """N times (T, H, W, 3) of bytes to (N, 3, T, H, W), channels last in memory."""
    batch = lend(free, (len(clips), *clips[0].shape))
    for clip, out in zip(clips, batch, strict=True):  # one that is still in the CPU's cache
        normalise_clip(clip, out)
    return batch.permute(0, 4, 1, 2, 3)


def crop_into(image: np.ndarray, clip: ClipRequest, out: np.ndarray) -> None:
    """Scale the box of an image (H, W, 3) into ``out``, and flip it where that is planned."""
    top, left, bottom, right = clip.box
    box = image[top:bottom, left:right]
    size = out.shape[1::-1]
    if clip.flip:
        cv2.flip(cv2.resize(box, size, interpolation=cv2.INTER_LINEAR), 1, out)
    else:
        cv2.resize(box, size, out, interpolation=cv2.INTER_LINEAR)


def empty_clip(clip: ClipRequest, size: int) -> np.ndarray:
    """Memory for a clip: uint8 (T, size, size, 3)."""
    return np.empty((len(clip.frames), size, size, 3), np.uint8)


def crop_all(images: np.ndarray, clip: ClipRequest, size: int) -> np.ndarray:
    """The boxes of all frames (T, H, W, 3), scaled and flipped."""
    out = empty_clip(clip, size)
    for image, frame in zip(images, out, strict=True):
        crop_into(image, clip, frame)
    return out


def repeat_frames(out: np.ndarray, clip: ClipRequest, places: Mapping[int, int]) -> np.ndarray:
    """Copy the frames that are wanted twice; ``places`` says where each frame was written."""
    for place, frame in enumerate(clip.frames):
        if places[frame] != place:
            out[place] = out[places[frame]]
    return out
