"""The folder of a run: config.yaml, environment.json, metrics.jsonl, tb/, pictures/, checkpoints/."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from omnidali.clips import StepBatch
from omnidali.config import Config
from omnidali.errors import UserError
from omnidali.settings import dump_config
from omnidali.training.checkpoint import LAST, load_checkpoint, save_checkpoint
from omnidali.training.pictures import clip_grid, write_picture

_PACKAGES = ("omnidali", "torch", "nvidia-dali-cuda120", "av", "opencv-python-headless", "numpy")


class RunFolder:
    """Everything a run writes; on ranks other than the main one every method does nothing.

    Args:
        config: gives ``run_dir``.
        is_main: whether this process writes.
        resume: ``auto`` or a path inside the folder; anything else refuses a folder with checkpoints.

    Raises:
        UserError: if the folder cannot be written, or holds a run that would be overwritten.
    """

    def __init__(self, config: Config, is_main: bool, resume: str = "auto"):
        self.path, self._is_main, self._writer = Path(config.run_dir), is_main, None
        if not is_main:
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
        for name in names if self._is_main else ():
            save_checkpoint(self._checkpoint(name), state)

    def log(self, kind: str, step: int, values: Mapping[str, object]) -> None:
        """One line of metrics.jsonl; numbers also go to TensorBoard as ``kind/name``."""
        if not self._is_main:
            return
        row = {"kind": kind, "step": step, "time": round(time.time(), 3)}
        self._metrics.write(json.dumps({**row, **values}) + "\n")
        for name, value in _flatten(values):
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def show_batch(self, batch: StepBatch, names: tuple[str, ...], class_names: tuple[str, ...]) -> None:
        """Write one picture a source with the clips as the model sees them, also to TensorBoard."""
        if not self._is_main:
            return
        for number, name in enumerate(names):
            for group in batch.groups:
                mine = (group.source == number).nonzero()[:6, 0]
                if len(mine):
                    labels = [class_names[label] for label in group.labels[mine].tolist()]
                    grid = clip_grid(group.clips[mine], labels)
                    write_picture(self.path / "pictures" / f"step{batch.step}-{name}.png", grid)
                    self._writer.add_image(f"clips/{name}", grid, batch.step, dataformats="HWC")

    def show_confusion(self, grid, step: int) -> None:
        """Write the confusion picture (H, W, 3) uint8 as a file and to TensorBoard."""
        if self._is_main:
            write_picture(self.path / "pictures" / f"step{step}-confusion.png", grid)
            self._writer.add_image("evaluation/confusion", grid, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the files; a second call does nothing."""
        if self._writer is not None:
            self._writer.close()
            self._metrics.close()
            self._writer = None


def describe_environment() -> dict[str, object]:
    """Versions, hardware and commit, for records that others can compare with."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    try:
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, text=True,
                                capture_output=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        commit = None
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"python": platform.python_version(), "versions": versions, "commit": commit,
            "cores": len(os.sched_getaffinity(0)), "cpu": _cpu_name(), "gpu": gpu}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _flatten(values: Mapping[str, object], above: str = ""):
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{above}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{above}{name}", value
