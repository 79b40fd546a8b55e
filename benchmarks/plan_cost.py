"""Cost of planning a step and of starting on a warm catalog, by the number of rows."""

from __future__ import annotations

import resource
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.columns import pack
from omnidali.catalog.database.store import CatalogReader, connect
from omnidali.config.schema import ClipConfig, SourceConfig
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.plan import TrainPlan
from omnidali.testing.numbered_media import write_photo
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say

_SLOTS = 512
_BATCH = 64


def bench_plan(out: str | Path, sizes: list[int]) -> list[dict]:
    """Measure both at every size; writes and prints one record each.

    The catalog's rows are made up: all name one real photo, each by another path, so that the
    start's check finds it.
    """
    records = []
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path, source = (
                Path(folder, "catalog.sqlite"),
                SourceConfig(kind="image", root=".", list="list.txt"),
            )
            # by another process, so that its memory is not counted
            making = get_context("spawn").Process(
                target=_make_catalog, args=(Path(folder), path, source, rows)
            )
            making.start()
            making.join()
            before, start = _resident_mb(), time.perf_counter()
            build_catalog(path, {"rows": source}, folder, progress=False)
            table = CatalogReader(path).table("rows")
            plan = TrainPlan([table], [source], ClipConfig(), _SLOTS, seed=0)
            plan(0)
            warm_start, resident = time.perf_counter() - start, _resident_mb() - before
            with FusionIterator(
                TrainPlan([table], [source], ClipConfig(num_clips=1), _BATCH, 0), [source]
            ) as batches:
                next(batches)
            first_batch = time.perf_counter() - start
            times = []
            for step in range(1, 201):
                start = time.perf_counter()
                plan(step)
                times.append(time.perf_counter() - start)
        record = {
            "bench": "plan",
            "rows": rows,
            "slots": _SLOTS,
            "ms_per_step": round(1000 * float(np.median(times)), 3),
            "warm_start_seconds": round(warm_start, 2),
            "first_batch_seconds": round(first_batch, 2),
            "resident_mb": round(resident, 1),
            "table_mb": round(
                sum(array.nbytes for array in vars(table).values() if isinstance(array, np.ndarray))
                / 1e6,
                1,
            ),
        }
        del table, plan
        records.append(write_record(out, record))
        say(
            f"{rows:>12,} rows: {record['ms_per_step']} ms a step of {_SLOTS} slots, warm start"
            f" {record['warm_start_seconds']} s, first batch {record['first_batch_seconds']} s, tables"
            f" {record['table_mb']} MB, process {record['resident_mb']} MB more"
        )
    return records


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def _make_catalog(folder: Path, path: Path, source: SourceConfig, rows: int) -> None:
    write_photo(folder / "0.jpg", 0)
    for number in range(3200):
        (folder / f"d{number}").mkdir()
    (folder / source.list).write_text("0.jpg 0\n")
    build_catalog(path, {"rows": source}, folder, progress=False)
    db = connect(path)
    probed = (
        "state, container, codec, width, height, frames, frame_rate, tick, rotation, timing, keyframes, packets,"
        " bytes, mtime_ns"
    )
    db.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        f" INSERT INTO media (source, path, {probed}) SELECT source, 'd' || (i / 3200) || '/../d' || (i % 3200)"
        f" || '/../0.jpg', {probed} FROM media, n WHERE id = 1",
        (rows - 1,),
    )
    db.execute(
        "INSERT INTO entries (source, media, label, unit, first, last, video, positive)"
        " SELECT source, id, id % 1000, '', 0, 0, '', 1 FROM media WHERE id > 1"
    )
    pack(db, 1, by_video=False)
    db.commit()
    db.close()
