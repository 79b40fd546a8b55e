"""A small source of numbered media, its catalog, and the loader on one of the two roads."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch

from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.schema import ClipConfig
from omnidali.config.sources import SourceConfig
from omnidali.doctor.device import Device, pixels_of
from omnidali.loading.batch import StepBatch
from omnidali.loading.fusion import FusionIterator
from omnidali.loading.loader_options import LoaderOptions
from omnidali.planning.train_plan import TrainPlan
from omnidali.testing.numbered_media import read_numbers

_SEED = 7
# middle crops, so that painted numbers can be read
CENTRED = ClipConfig(num_clips=4, size=112, crop="center", flip=0.0)


@dataclass(frozen=True)
class Road:
    """A way of decoding.

    Attributes:
        device: where the clips go.
        is_dali: whether DALI decodes what it can.
    """

    device: Device
    is_dali: bool

    @property
    def torch_device(self) -> torch.device:
        """Where the clips go; the CPU's road ends on the CPU."""
        return self.device.torch_device if self.is_dali else torch.device("cpu")

    @property
    def decode(self) -> Literal["auto", "cpu", "hybrid"]:
        """The setting of a source.

        Without a GPU, ``auto`` is the CPU; ``hybrid`` with no share for it is DALI wherever it can.
        """
        if not self.is_dali:
            return "cpu"
        return "hybrid" if self.device.number is None else "auto"


@dataclass(frozen=True)
class World:
    """Sources of media with numbered frames.

    Attributes:
        folder: for lists and catalog; the files lie below it.
        files: by source, the paths of its files.
        kinds: by source, the settings besides ``root`` and ``list``.
        lines: by source, what follows a path in its list; one line a file.
    """

    folder: Path
    files: Mapping[str, Sequence[Path]]
    kinds: Mapping[str, Mapping[str, Any]]
    lines: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def sources(self) -> dict[str, SourceConfig]:
        """Settings by name."""
        return {
            name: SourceConfig(root=".", list=f"{name}.txt", **settings)
            for name, settings in self.kinds.items()
        }

    @property
    def catalog(self) -> Path:
        """The database."""
        return self.folder / "catalog.sqlite"

    def build(self) -> None:
        """Write the lists, and probe the files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, paths in self.files.items():
            ends = self.lines.get(name) or ["0"] * len(paths)
            names = [path.relative_to(self.folder) for path in paths]
            text = "".join(f"{path} {end}\n" for path, end in zip(names, ends, strict=True))
            (self.folder / f"{name}.txt").write_text(text)
        build_catalog(self.catalog, self.sources, self.folder, progress=False)

    def tables(self) -> list[SourceTable]:
        """Of the sources, once the catalog is built."""
        reader = CatalogReader(self.catalog)
        return [reader.table(name) for name in self.kinds]

    @contextlib.contextmanager
    def loader(
        self,
        road: Road,
        clip: ClipConfig = CENTRED,
        batch: int = 8,
        **options: Unpack[LoaderOptions],
    ) -> Iterator[FusionIterator]:
        """A loader on a road.

        Args:
            road: which decoders to use.
            clip: the sampler.
            batch: samples of a step.
            **options: of :class:`FusionIterator`.
        """
        sources = [replace(one, decode=road.decode) for one in self.sources.values()]
        plan = TrainPlan(self.tables(), sources, clip, batch, _SEED)
        options = {"device": road.torch_device, "cpu_share": 0.0, **options}
        with FusionIterator(plan, sources, **options) as loader:
            yield loader


def clips_of(batch: StepBatch) -> list[tuple[int, np.ndarray]]:
    """(slot, clip (T, S, S, 3) on the scale 0..255) of a step, by slot."""
    clips: list[tuple[int, np.ndarray]] = []
    for group in batch.groups:
        pixels = pixels_of(group.clips.permute(0, 2, 3, 4, 1))
        clips += zip(group.slot.tolist(), pixels, strict=True)
    return sorted(clips, key=lambda clip: clip[0])


def shown_numbers(clip: np.ndarray) -> tuple[tuple[int, int], ...]:
    """(file, frame) of each frame of a clip, by the painted numbers."""
    return tuple(map(read_numbers, clip))
