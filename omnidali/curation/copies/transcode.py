"""A training copy of a config's media: every file under its old name, and quick to decode.

A second start continues where the first one was killed.
"""

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.listing.folders import class_folders
from omnidali.config.load import dump_config
from omnidali.config.schema import Config
from omnidali.curation.copies.copy_check import compare_with_original
from omnidali.curation.copies.copy_layout import CopyLayout, lay_out
from omnidali.curation.copies.copy_tar import copy_tar
from omnidali.curation.copies.encode import ENCODERS, JPEG_QUALITY, RECIPES, Recipe
from omnidali.curation.job_log import LogRow, file_stamp, read_job_log, run_logged_jobs
from omnidali.curation.output_folder import check_resumable_folder, is_disk_error
from omnidali.errors import DecodeError, UserError
from omnidali.loading.data import open_data
from omnidali.loading.open_loader import check_motions
from omnidali.processes.isolated_process import call_isolated
from omnidali.utils.atomic_write import write_whole, writing_to
from omnidali.utils.untrusted_text import say

JOB_LOG = "transcode.jsonl"
# folder in the copy for files that are being written; on the same disk, so that they are renamed
_UNFINISHED = ".transcode"


@dataclass
class CopyUnit:
    """The unit of one copying job.

    Attributes:
        original: absolute path.
        copy: absolute path.
        path: of the copy, relative to the copy's folder.
        table: of the source.
        records: catalog ids of its media in ``table``.
        frames: of all of them.
    """

    original: str
    copy: Path
    path: str
    table: SourceTable
    records: list[int] = field(default_factory=list)
    frames: int = 0

    @property
    def media(self) -> list[Media]:
        return [self.table.media(record) for record in self.records]


@dataclass(frozen=True)
class CopyResult:
    """What :func:`transcode` did.

    Attributes:
        layout: of the copy.
        tables: of the originals, by source.
        copies: of the copies, by source.
        rows: of the job log, by source.
        lost: catalog ids of the originals that failed, by source.
    """

    layout: CopyLayout
    tables: dict[str, SourceTable]
    copies: dict[str, SourceTable]
    rows: dict[str, list[LogRow]]
    lost: dict[str, list[int]]


def transcode(
    config: Config,
    out: str | Path,
    *,
    recipe: str = "fast",
    names: Collection[str] = (),
    short_side: int = 256,
    workers: int = 0,
) -> CopyResult:
    """Make or complete the copy in ``out``, write its config and fill its catalog.

    Args:
        config: of the originals.
        out: folder for the copy.
        recipe: for videos, a key of :data:`~omnidali.curation.copies.encode.RECIPES`.
        names: of the sources, ``evaluation`` among them; none: all.
        short_side: pixels; nothing is enlarged.
        workers: threads, 0 for all cores.

    Raises:
        UserError: for folders inside each other, a full disk, and if more than half of the files
            fail.
    """
    layout = lay_out(config, names, out)
    check_motions(config)  # all other files that are copied are read at once
    say(*open_data(config).summary)
    reader = CatalogReader(config.catalog_path)
    tables = {name: reader.table(name) for name in layout.roots}  # with what `fraction` leaves out
    units = find_units(layout, tables)

    with writing_to(layout.out, av.FFmpegError):
        _prepare_folder(layout)
        workers = workers or len(os.sched_getaffinity(0))
        log = _copy_units(
            units, layout.out, recipe=RECIPES[recipe], short_side=short_side, workers=workers
        )
        (layout.out / _UNFINISHED).rmdir()
        _refuse_many_failures(log, units, layout.out)
        write_whole(layout.out / "config.yaml", dump_config(layout.config))
    open_data(layout.config)

    copied = CatalogReader(layout.config.catalog_path)
    copies = {name: copied.table(name) for name in tables}
    rows: dict[str, list[LogRow]] = {name: [] for name in tables}
    lost: dict[str, list[int]] = {name: [] for name in tables}
    for unit in units:
        row = log[unit.path]
        rows[unit.table.name].append(row)
        failed = {path for path, _ in row["failed"]}
        lost[unit.table.name] += [
            record for record in unit.records if failed and unit.table.media(record).path in failed
        ]
    return CopyResult(layout=layout, tables=tables, copies=copies, rows=rows, lost=lost)


def find_units(layout: CopyLayout, tables: Mapping[str, SourceTable]) -> list[CopyUnit]:
    """What there is to copy, the longest first, so that no thread is left with a long video.

    Raises:
        UserError: if two originals have the same place in the copy.
    """
    units: dict[Path, CopyUnit] = {}
    for name, table in tables.items():
        root, copy = layout.roots[name]
        for record in np.unique(table.records).tolist():
            media = table.media(record)
            file = media.span.path
            place = copy / os.path.relpath(file, root)

            path = os.path.relpath(place, layout.out)
            unit = units.setdefault(place, CopyUnit(file, place, path, table))
            if unit.original != file:
                raise UserError(
                    str(place),
                    "one original",
                    f"{unit.original} and {file}",
                    "Copy one of the sources elsewhere with --sources.",
                )
            if unit.table is table:  # the same file of another source is the same copy
                unit.records.append(record)
                unit.frames += media.frames
    return sorted(units.values(), key=lambda unit: -unit.frames)


def _prepare_folder(layout: CopyLayout) -> None:
    """Take the folder, and copy lists and the like."""
    check_resumable_folder(layout.out, JOB_LOG, _UNFINISHED)
    shutil.rmtree(layout.out / _UNFINISHED, ignore_errors=True)
    (layout.out / _UNFINISHED).mkdir()

    for original, copy in layout.files.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original, copy)
        # or the catalog would read it again
        os.utime(copy, ns=(0, os.stat(original).st_mtime_ns))

    sources = layout.config.all_sources
    for name, (root, copy) in layout.roots.items():
        if not (sources[name].list or sources[name].tars):
            for folder in class_folders(Path(root)):  # one without a usable file keeps its number
                (copy / folder).mkdir(parents=True, exist_ok=True)


def _refuse_many_failures(log: dict[str, LogRow], units: list[CopyUnit], out: Path) -> None:
    failed = [failure for row in log.values() for failure in row["failed"]]
    total = sum(len(unit.records) for unit in units)
    if 2 * len(failed) > total:
        raise UserError(
            str(out / JOB_LOG),
            "at least half of the files copied",
            f"{len(failed)} of {total} that failed, such as {': '.join(failed[0])}",
            "Look at the files that the journal names.",
        )


def _copy_units(
    units: list[CopyUnit], out: Path, *, recipe: Recipe, short_side: int, workers: int
) -> dict[str, LogRow]:
    """Copy what the log does not know; returns the log's row of every unit."""
    known = read_job_log(out / JOB_LOG)
    finished = {}
    todo = []
    for unit in units:
        row = known.pop(unit.path, None)
        if row and _is_finished(unit, row, _made(unit, recipe, short_side)):
            finished[unit.path] = {**row, "checked": True}
        else:
            todo.append(unit)

    run_logged_jobs(
        out / JOB_LOG,
        others=known.values(),  # of sources that are not copied this time
        finished=finished,
        todo=todo,
        workers=workers,
        work=lambda unit: _copy(unit, out, recipe, short_side),
    )
    return finished


def _is_finished(unit: CopyUnit, row: LogRow, made: str) -> bool:
    """Whether the copy of an earlier start is the one that this start would make."""
    is_same = row["made"] == made and row["original"] == file_stamp(unit.original)
    if not (is_same and row["bytes_out"]) or row.get("passing"):
        return False
    if unit.table.kind.is_folder:
        lies_there = unit.copy.is_dir()
    else:
        lies_there = unit.copy.is_file() and unit.copy.stat().st_size == row["bytes_out"]
    return lies_there and (row.get("checked") or _is_right(unit))


def _is_right(unit: CopyUnit) -> bool:
    """Whether a copy that was never compared with its original, as before version 0.2, may stay."""
    media = unit.media
    if unit.table.kind.has_images:
        return not any(one.codec.endswith(":rotated") for one in media)  # EXIF turned JPEGs alone
    if media[0].span.size is not None:  # a tar
        return False
    try:
        call_isolated(compare_with_original, media[0], unit.copy)
    except (DecodeError, OSError) as reason:
        say(f"{unit.copy} is made again: {reason}", error=True)
        return False
    return True


def _folder_bytes(original: Media, copy: Path) -> tuple[int, int]:
    """The size of a folder's images, and of their copies; removes a copy that is one too many.

    It is left from when the original had more images, and would count as the next one.
    """
    images = [original.frame(number).path for number in range(original.frames + 1)]
    copies = [copy / os.path.basename(image) for image in images]
    copies.pop().unlink(missing_ok=True)
    return sum(map(os.path.getsize, images[:-1])), sum(map(os.path.getsize, copies))


def _made(unit: CopyUnit, recipe: Recipe, short_side: int) -> str:
    """Text that changes with anything but the original that the copy's bytes depend on."""
    how = f"jpeg quality {JPEG_QUALITY}" if unit.table.kind.has_images else str(recipe)
    return f"{how}, short side {short_side}"


def _copy(unit: CopyUnit, out: Path, recipe: Recipe, short_side: int) -> LogRow:
    """Write one unit and rename it into its place; returns the row of the log."""
    part = out / _UNFINISHED / f"{unit.table.name}-{unit.records[0]}"
    media = unit.media

    def encode(one: Media, path: Path) -> int:
        return ENCODERS[unit.table.kind](one, path, recipe, short_side, None)

    row: LogRow = {
        "path": unit.path,
        "original": file_stamp(unit.original),
        "made": _made(unit, recipe, short_side),
        "files": len(unit.records),
        "frames": unit.frames,
        "replaced": 0,
        "bytes_in": 0,
        "bytes_out": 0,
        "failed": [],
        "checked": True,
    }
    try:
        unit.copy.parent.mkdir(parents=True, exist_ok=True)
        if unit.table.kind.is_folder:  # whose images have their places already
            encode(media[0], unit.copy)
            row["bytes_in"], row["bytes_out"] = _folder_bytes(media[0], unit.copy)
            return row
        if media[0].span.size is not None:
            copy_tar(unit.original, media, encode, part, row)
        else:
            row["replaced"] = encode(media[0], part)
        row["bytes_in"] = os.path.getsize(unit.original)
        row["bytes_out"] = os.path.getsize(part)
        os.replace(part, unit.copy)
    except (DecodeError, av.FFmpegError, OSError, OverflowError) as error:
        part.unlink(missing_ok=True)
        if is_disk_error(error, out):
            raise
        if not unit.table.kind.is_folder:
            unit.copy.unlink(missing_ok=True)
        row["failed"].append((media[0].path, str(error)))
    return row
