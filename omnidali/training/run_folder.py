"""The folder of a run: config.yaml, environment.json, metrics.jsonl, tb/, pictures/, checkpoints/."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from omnidali.charts import write_picture
from omnidali.clips import StepBatch
from omnidali.config import Config
from omnidali.environment import describe_environment
from omnidali.errors import UserError
from omnidali.settings import dump_config
from omnidali.training.checkpoint import LAST, load_checkpoint, save_checkpoint
from omnidali.training.pictures import clip_grid


class RunFolder:
    """Everything a run writes; where ``writes`` is false only :meth:`load` does anything.

    Args:
        config: gives ``run_dir``.
        writes: whether this process does; the main rank of a run that is meant.
        resume: ``auto`` or a path inside the folder; anything else refuses a folder with checkpoints.

    Raises:
        UserError: if the folder cannot be written, or holds a run that would be overwritten.
    """

    def __init__(self, config: Config, writes: bool, resume: str = "auto"):
        self.path, self._writes, self._writer = Path(config.run_dir), writes, None
        self._shown: set[str] = set()
        if not writes:
            return
        own = resume == "auto" or self.path.resolve() in (Path(resume).resolve(), *Path(resume).resolve().parents)
        if not own and self._checkpoint(LAST).exists():
            raise UserError(f"run_dir {self.path}", "a folder without checkpoints", f"a run with {LAST}",
                            "Go on with --resume auto, or choose another run_dir.")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
            (self.path / "environment.json").write_text(json.dumps(describe_environment(), indent=2) + "\n")
            self._metrics = open(self.path / "metrics.jsonl", "a", encoding="utf-8", buffering=1)
            self._writer = SummaryWriter(str(self.path / "tb"))
        except OSError as error:
            raise UserError(f"run_dir {self.path}", "a folder that can be written", str(error.strerror or error),
                            "Choose another run_dir or correct its permissions.") from None

    def _checkpoint(self, name: str) -> Path:
        return self.path / "checkpoints" / name

    def load(self, resume: str) -> dict | None:
        """The checkpoint that ``resume`` (auto, none or a path) means; None to start anew."""
        if resume == "none" or (resume == "auto" and not self._checkpoint(LAST).exists()):
            return None
        return load_checkpoint(self.path if resume == "auto" else resume)

    def save(self, state: dict, *names: str) -> None:
        """Write a checkpoint under each of ``names``."""
        for name in names if self._writes else ():
            save_checkpoint(self._checkpoint(name), state)

    def log(self, kind: str, step: int, values: Mapping[str, object]) -> None:
        """One line of metrics.jsonl; numbers also go to TensorBoard as ``kind/name``."""
        if not self._writes:
            return
        row = {"kind": kind, "step": step, "time": round(time.time(), 3)}
        self._metrics.write(json.dumps({**row, **values}) + "\n")
        for name, value in _flatten(values):
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def show_batch(self, batch: StepBatch, names: tuple[str, ...], class_names: tuple[str, ...]) -> None:
        """Write a picture of each source's first clips as the model sees them, also to TensorBoard."""
        if not self._writes or len(self._shown) == len(names):
            return
        for number, name in enumerate(names):
            if name in self._shown:
                continue
            for group in batch.groups:
                mine = (group.source == number).nonzero()[:6, 0]
                if len(mine):
                    self._shown.add(name)
                    labels = [_title(label, class_names) for label in group.labels[mine]]
                    grid = clip_grid(group.clips[mine], labels)
                    write_picture(self.path / "pictures" / f"step{batch.step}-{name}.png", grid)
                    self._writer.add_image(f"clips/{name}", grid, batch.step, dataformats="HWC")

    def show_confusion(self, grid, step: int) -> None:
        """Write the confusion picture (H, W, 3) uint8 as a file and to TensorBoard."""
        if self._writes:
            write_picture(self.path / "pictures" / f"step{step}-confusion.png", grid)
            self._writer.add_image("evaluation/confusion", grid, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the files; a second call does nothing."""
        if self._writer is not None:
            self._writer.close()
            self._metrics.close()
            self._writer = None


def _title(label: torch.Tensor, names: tuple[str, ...]) -> str:
    """A class name, or the parts of a blended clip."""
    if label.ndim == 0:
        return names[int(label)]
    parts = label.nonzero()[:, 0].tolist()
    return " + ".join(f"{float(label[part]):.2f} {names[part]}" for part in parts)


def _flatten(values: Mapping[str, object], above: str = ""):
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{above}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{above}{name}", value
