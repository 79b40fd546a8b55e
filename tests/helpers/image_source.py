"""A small source of images to damage, and what a loader gives of it."""

from pathlib import Path

from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.schema import ClipConfig
from omnidali.config.sources import SourceConfig
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.train_plan import TrainPlan
from omnidali.testing.numbered_media import write_image

CENTER = ClipConfig(num_clips=4, size=56, crop="center", flip=0.0)
RANDOM = ClipConfig(num_clips=4, size=56)


def make_plan(tables, sources, clip=RANDOM, batch=12, seed=5):
    return TrainPlan(tables, list(sources.values()), clip, batch, seed)


def image_source(
    folder: Path, decode: str = "cpu", count: int = 8
) -> tuple[SourceTable, dict[str, SourceConfig], Path]:
    """A source of numbered PNGs in two classes: its table, its settings, and the files' folder."""
    for n in range(count):
        write_image(folder / "pics" / f"{n}.png", n, 60, 50)
    (folder / "l.txt").write_text("".join(f"{n}.png {n % 2}\n" for n in range(count)))
    source = {"web": SourceConfig(kind="image", root="pics", list="l.txt", decode=decode)}
    build_catalog(folder / "c.sqlite", source, folder, progress=False)
    return CatalogReader(folder / "c.sqlite").table("web"), source, folder / "pics"


def truncate(path: Path) -> None:
    """Damage a file after the probe."""
    path.write_bytes(path.read_bytes()[:90])


def open_images(table, source, plan=None, **options) -> FusionIterator:
    """A loader of eight steps that any number of files may fail in."""
    return FusionIterator(
        plan or make_plan([table], source, batch=4),
        list(source.values()),
        **{"threads": 2, "end": 8, "max_bad_ratio": 1.0, **options},
    )


def clips_by_slot(batches) -> dict[int, tuple[int, int, bytes]]:
    """Catalog id, label and pixels of every clip."""
    return {
        int(slot): (int(record), int(label), clip.numpy().tobytes())
        for batch in batches
        for group in batch.groups
        for slot, record, label, clip in zip(
            group.slot, group.record, group.labels, group.clips, strict=True
        )
    }
