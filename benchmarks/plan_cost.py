"""Cost of planning a step and of starting on a warm catalog, by the number of rows."""

import resource
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.columns import write_columns
from omnidali.catalog.database.connection import connect
from omnidali.catalog.database.reader import CatalogReader
from omnidali.config.schema import ClipConfig
from omnidali.config.sources import SourceConfig
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.train_plan import TrainPlan
from omnidali.testing.numbered_media import write_image
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say

_SLOTS = 512
_BATCH = 64


def bench_plan(out: str | Path, sizes: Sequence[int]) -> list[dict]:
    """Measure both at every size; writes and prints one record each.

    The catalog's rows are made up: all name one real image, each by another path, so that the
    check at the start finds it.

    Args:
        out: folder for the records.
        sizes: rows of the catalogs.
    """
    records = []
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            row = _measure(Path(folder), rows)
        records.append(write_record(out, row))
        say(
            f"{rows:>12,} rows: {row['ms_per_step']} ms a step of {_SLOTS} slots, warm start"
            f" {row['warm_start_seconds']} s, first batch {row['first_batch_seconds']} s, tables"
            f" {row['table_mb']} MB, process {row['resident_mb']} MB more"
        )
    return records


def _measure(folder: Path, rows: int) -> dict:
    """The record of one size."""
    path = folder / "catalog.sqlite"
    source = SourceConfig(kind="image", root=".", list="list.txt")
    # by another process, so that its memory is not counted
    making = get_context("spawn").Process(target=_make_catalog, args=(folder, path, source, rows))
    making.start()
    making.join()

    before = _resident_mb()
    start = time.perf_counter()
    build_catalog(path, {"rows": source}, folder, progress=False)
    table = CatalogReader(path).table("rows")
    plan = TrainPlan([table], [source], ClipConfig(), _SLOTS, seed=0)
    plan(0)
    warm_start = time.perf_counter() - start
    resident = _resident_mb() - before
    batch_plan = TrainPlan([table], [source], ClipConfig(num_clips=1), _BATCH, seed=0)
    with FusionIterator(batch_plan, [source]) as batches:
        next(batches)
    first_batch = time.perf_counter() - start

    times = []
    for step in range(1, 201):
        start = time.perf_counter()
        plan(step)
        times.append(time.perf_counter() - start)
    arrays = [value for value in vars(table).values() if isinstance(value, np.ndarray)]
    return {
        "bench": "plan",
        "rows": rows,
        "slots": _SLOTS,
        "ms_per_step": round(1000 * float(np.median(times)), 3),
        "warm_start_seconds": round(warm_start, 2),
        "first_batch_seconds": round(first_batch, 2),
        "resident_mb": round(resident, 1),
        "table_mb": round(sum(array.nbytes for array in arrays) / 1e6, 1),
    }


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def _make_catalog(folder: Path, path: Path, source: SourceConfig, rows: int) -> None:
    assert source.list is not None
    write_image(folder / "0.jpg", 0)
    for number in range(3200):  # for paths that lead through two of the folders and back
        (folder / f"d{number}").mkdir()
    (folder / source.list).write_text("0.jpg 0\n")
    build_catalog(path, {"rows": source}, folder, progress=False)

    db = connect(path)
    probed = (
        "state, container, codec, width, height, frames, frame_rate, tick, rotation, timing,"
        " keyframes, packets, bytes, mtime_ns"
    )
    db.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        f" INSERT INTO media (source, path, {probed})"
        " SELECT source, 'd' || (i / 3200) || '/../d' || (i % 3200) || '/../0.jpg',"
        f" {probed} FROM media, n WHERE id = 1",
        (rows - 1,),
    )
    db.execute(
        "INSERT INTO entries (source, media, label, unit, first, last, video, positive)"
        " SELECT source, id, id % 1000, '', 0, 0, '', 1 FROM media WHERE id > 1"
    )

    write_columns(db, 1, by_video=False)
    db.commit()
    db.close()
