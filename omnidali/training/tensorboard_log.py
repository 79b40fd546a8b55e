"""TensorBoard's files, written by a run that must outlive a full disk."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class TensorBoardLog:
    """A SummaryWriter that is replaced after an error: once its thread fails, it writes no more.

    Args:
        folder: of the files; it is made by the first write.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._writer: SummaryWriter | None = None
        _silence_writer_threads()

    def write(self, draw: Callable[[SummaryWriter], object]) -> None:
        """Call ``draw`` with the writer, and flush it to the disk.

        Raises:
            OSError: if that fails.
        """
        try:
            if self._writer is None:
                self._writer = SummaryWriter(str(self._folder))
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
