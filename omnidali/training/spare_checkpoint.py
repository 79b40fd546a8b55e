"""A checkpoint that could only be saved in the folder for temporary files."""

import contextlib
import tempfile
from pathlib import Path

from omnidali.models.checkpoint_file import save_checkpoint
from omnidali.training.run_lock import RunFolderTakenError
from omnidali.utils.untrusted_text import for_shell


class SpareCheckpoint:
    """Saves elsewhere (TMPDIR) what cannot be saved where it belongs.

    Args:
        place: where the checkpoint belongs.

    Attributes:
        step: steps done in the checkpoint that is there; None if there is none.
    """

    def __init__(self, place: Path):
        self.step: int | None = None
        self._place = place

    def save(self, state: dict) -> Path | None:
        """Save into a new private folder; None if that fails."""
        path = None
        step = state["loader"]["step"]
        try:
            path = Path(tempfile.mkdtemp(prefix="omnidali-")) / f"step-{step}.pt"
            save_checkpoint(path, state)
            self.step = step
            return path
        except Exception:  # the caller has other ways
            if path is not None:
                _remove(path)
            return None

    def remove(self, path: Path) -> None:
        """Remove a checkpoint that is where it belongs by now."""
        _remove(path)
        self.step = None

    def how_to_use(self, path: Path, failure: Exception) -> str:
        """Advice in words and as a command.

        Args:
            path: of the checkpoint.
            failure: why it is not where it belongs.
        """
        found = f"What was trained is in {path}."
        if isinstance(failure, RunFolderTakenError):
            return f"{found} Go on with {for_shell('--resume', path)} and another run_dir."
        move = for_shell("mv", path, self._place)
        return f"{found} Once there is room: {move}, then start with --resume auto."


def _remove(path: Path) -> None:
    """Remove a file that was saved elsewhere, with the folder made for it."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()
