"""TensorBoard's files, written by a run that must outlive a full disk."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class Board:
    """A SummaryWriter that is made anew after an error: once its thread has failed, it never writes
    again.
    """

    def __init__(self, folder: Path):
        self._folder, self._writer = folder, None
        _keep_writers_quiet()

    def write(self, draw: Callable[[SummaryWriter], None]) -> None:
        """Call ``draw`` with the writer and put the result on the disk.

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
        """Close the file; what cannot be written is lost. A second call does nothing."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None


def _keep_writers_quiet() -> None:
    """An error of the writer's thread is raised by the next flush; a traceback of its own would
    only frighten.
    """
    others = threading.excepthook
    if getattr(others, "__module__", None) != __name__:

        def hook(failed: threading.ExceptHookArgs) -> None:
            if not type(failed.thread).__module__.startswith("tensorboard."):
                others(failed)

        threading.excepthook = hook
