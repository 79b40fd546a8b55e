"""The task of a loader in plain terms: paths, frames and boxes, no loader's own classes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class ClipRequest:
    """One clip of a batch.

    Attributes:
        path: of the file.
        frames: presentation indices, in any order, repeats allowed; (0,) for an image.
        box: (top, left, bottom, right) in pixels of the upright image.
        flip: whether left and right are swapped after scaling.
        file: number painted into the file's images.
    """

    path: str
    frames: tuple[int, ...]
    box: tuple[int, int, int, int]
    flip: bool
    file: int


@dataclass(frozen=True)
class LoaderTask:
    """Batches to deliver, in this order.

    Attributes:
        kind: ``image`` or ``video``.
        size: side of the delivered images, pixels.
        steps: the clips of each batch; all have equally many frames.
        workers: cores that may be used.
    """

    kind: str
    size: int
    steps: tuple[tuple[ClipRequest, ...], ...]
    workers: int

    def write(self, path: str | Path) -> None:
        """Write as JSON."""
        Path(path).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: str | Path) -> LoaderTask:
        """Read the task that :meth:`write` has written."""
        fields = json.loads(Path(path).read_text())
        steps = tuple(
            tuple(
                ClipRequest(**{**row, "frames": tuple(row["frames"]), "box": tuple(row["box"])})
                for row in step
            )
            for step in fields.pop("steps")
        )
        return cls(**fields, steps=steps)
