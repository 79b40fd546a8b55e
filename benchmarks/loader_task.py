"""What a loader is asked for, in terms that no loader's own classes are needed for: paths, frames,
boxes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Item:
    """One clip.

    Attributes:
        frames: presentation indices, in any order, repeats allowed; (0,) for a photo.
        box: (top, left, bottom, right) in pixels of the upright picture.
        flip: left and right are swapped after scaling.
        file: number painted into the file's pictures.
    """

    path: str
    frames: tuple[int, ...]
    box: tuple[int, int, int, int]
    flip: bool
    file: int


@dataclass(frozen=True)
class Job:
    """Batches to deliver, in this order.

    Attributes:
        kind: "image" or "video".
        size: side of the delivered pictures, pixels.
        steps: the items of each batch; all items have equally many frames.
        workers: cores that may be used.
    """

    kind: str
    size: int
    steps: tuple[tuple[Item, ...], ...]
    workers: int

    def write(self, path: str | Path) -> None:
        """Write as JSON."""
        Path(path).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: str | Path) -> Job:
        """What :meth:`write` wrote."""
        fields = json.loads(Path(path).read_text())
        steps = tuple(
            tuple(
                Item(row["path"], tuple(row["frames"]), tuple(row["box"]), row["flip"], row["file"])
                for row in step
            )
            for step in fields.pop("steps")
        )
        return cls(**fields, steps=steps)
