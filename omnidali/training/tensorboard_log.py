"""TensorBoard's files, written by a run that must outlive a full disk."""

import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from omnidali.training.loggers import Logger, flatten
from omnidali.utils.untrusted_text import for_tensorboard


class TensorBoardLog(Logger):
    """A SummaryWriter that is replaced after an error: once its thread fails, it writes no more.

    Args:
        folder: of the run; its folder ``tb`` is made by the first write.
    """

    name = "TensorBoard's events"

    def __init__(self, folder: Path):
        self.place = folder / "tb"
        self._writer: SummaryWriter | None = None
        _silence_writer_threads()

    def log_values(self, kind: str, step: int, values: Mapping[str, object]) -> None:
        """Write the numbers, as ``kind/name``."""

        def draw(writer: SummaryWriter) -> None:
            for name, value in flatten(values):
                writer.add_scalar(for_tensorboard(f"{kind}/{name}"), value, step)

        self._write(draw)

    def log_image(self, tag: str, step: int, image: np.ndarray) -> None:
        """Write a picture."""
        self._write(
            lambda writer: writer.add_image(for_tensorboard(tag), image, step, dataformats="HWC")
        )

    def _write(self, draw: Callable[[SummaryWriter], object]) -> None:
        """Call ``draw`` with the writer, and flush it to the disk.

        Raises:
            OSError: if that fails.
        """
        try:
            if self._writer is None:
                self._writer = SummaryWriter(str(self.place))
            draw(self._writer)
            self._writer.flush()
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file, and lose what cannot be written. A second call does nothing."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None


def _silence_writer_threads() -> None:
    """Suppress the traceback of a writer's thread; the next flush raises its error."""
    before = threading.excepthook
    if before.__module__ == __name__:
        return

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not type(failed.thread).__module__.startswith("tensorboard."):
            before(failed)

    threading.excepthook = hook
