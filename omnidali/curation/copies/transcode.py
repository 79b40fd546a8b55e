"""A training copy of a config's media: every file under its old name, quick to decode, resumed
where it was killed.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np

from omnidali.catalog.database.store import CatalogReader, Media, SourceTable
from omnidali.catalog.file_span import FileSpan, Region
from omnidali.catalog.listing.folders import class_folders
from omnidali.config.load import dump_config
from omnidali.config.schema import Config
from omnidali.curation.copies import encode
from omnidali.curation.copies.copy_check import check_frames
from omnidali.curation.copies.copy_layout import Layout, lay_out
from omnidali.curation.copies.encode import JPEG_QUALITY, RECIPES, Recipe
from omnidali.curation.job_log import check_folder, complete, is_of_the_disk, read_journal, stamp
from omnidali.decoding.failure_cause import cause_of
from omnidali.errors import DecodeError, UserError
from omnidali.loading.data import open_data
from omnidali.processes import child_pool as children
from omnidali.utils.atomic_write import write_whole, writing_to
from omnidali.utils.untrusted_text import say

JOURNAL = "transcode.jsonl"
# bytes of a tar's, as the catalog takes them: tarfile reads what they claim into memory
_LONGEST_HEADER = 1 << 20
# folder in the copy for files that are being written; same disk, so they are renamed
_UNFINISHED = ".transcode"


@dataclass
class Unit:
    """What is copied in one go: a file, a folder of frames, or a tar with its members.

    Attributes:
        original: absolute path. records: catalog ids of its media in ``table``.
    """

    original: str
    copy: Path
    table: SourceTable
    records: list[int] = field(default_factory=list)
    frames: int = 0


@dataclass(frozen=True)
class Copied:
    """What :func:`transcode` did.

    Attributes:
        layout: of the copy. tables, copies: of the originals and of the copies, by source.
        rows: of each source, journal entries of its units. lost: catalog ids of the originals that
            failed, by source.
    """

    layout: Layout
    tables: dict[str, SourceTable]
    copies: dict[str, SourceTable]
    rows: dict[str, list[dict]]
    lost: dict[str, list[int]]


def transcode(
    config: Config,
    out: str | Path,
    recipe: str = "fast",
    names: Collection[str] = (),
    short_side: int = 256,
    workers: int = 0,
) -> Copied:
    """Make or complete the copy in ``out``, write its config and fill its catalog.

    Args:
        names: of the sources, ``evaluation`` among them; none: all. workers: threads, 0 for all
            cores.

    Raises:
        UserError: for folders inside each other, a full disk, and if more than half of the files
            fail.
    """
    layout, workers = lay_out(config, names, out), workers or len(os.sched_getaffinity(0))
    data = open_data(config)
    say(*data.summary)
    reader = CatalogReader(config.catalog_path)
    tables = {name: reader.table(name) for name in layout.roots}  # with what `fraction` leaves out
    units = find_units(layout, tables)
    for original in layout.files:
        if not os.path.isfile(original):
            raise UserError(original, "a file that the config names", "none", "Correct the config.")
    unfinished = layout.out / _UNFINISHED
    with writing_to(layout.out, av.FFmpegError):
        check_folder(layout.out, JOURNAL, _UNFINISHED)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for original, copy in layout.files.items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(original, copy)
            # or the catalog would read it again
            os.utime(copy, ns=(0, os.stat(original).st_mtime_ns))
        for root, copy in layout.class_roots:  # a class without a usable file keeps its number
            for folder in class_folders(Path(root)):
                (copy / folder).mkdir(parents=True, exist_ok=True)
        journal = _run(units, layout.out, RECIPES[recipe], short_side, workers)
        unfinished.rmdir()
        _refuse_many_failures(journal, units, layout.out)
        write_whole(layout.out / "config.yaml", dump_config(layout.config))
    open_data(layout.config)
    copied = CatalogReader(layout.config.catalog_path)
    rows, lost = {name: [] for name in tables}, {name: [] for name in tables}
    for unit in units:
        row = journal[_key(unit, layout.out)]
        rows[unit.table.name].append(row)
        bad = {path for path, _ in row["failed"]}
        lost[unit.table.name] += [
            record for record in unit.records if bad and unit.table.media(record).path in bad
        ]
    return Copied(layout, tables, {name: copied.table(name) for name in tables}, rows, lost)


def _refuse_many_failures(journal: dict[str, dict], units: list[Unit], out: Path) -> None:
    failed = [failure for row in journal.values() for failure in row["failed"]]
    total = sum(len(unit.records) for unit in units)
    if 2 * len(failed) > total:
        raise UserError(
            str(out / JOURNAL),
            "at least half of the files copied",
            f"{len(failed)} of {total} that failed, such as {': '.join(failed[0])}",
            "Look at the files that the journal names.",
        )


def find_units(layout: Layout, tables: dict[str, SourceTable]) -> list[Unit]:
    """What there is to copy, the longest first, so that no long video is left for one thread at the
    end.

    Raises:
        UserError: if two originals have the same place in the copy.
    """
    units: dict[Path, Unit] = {}
    for name, table in tables.items():
        for record in np.unique(table.records).tolist():
            media = table.media(record)
            file = media.span.path
            place = layout.place(name, file)
            unit = units.setdefault(place, Unit(file, place, table))
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


def _run(
    units: list[Unit], out: Path, recipe: Recipe, short_side: int, workers: int
) -> dict[str, dict]:
    """Copy what the journal does not know, a few units ahead; returns the journal's entry of every
    unit.
    """
    known = read_journal(out / JOURNAL)
    journal, todo = {}, []
    for unit in units:
        # what remains is of sources that are not copied this time
        row = known.pop(_key(unit, out), None)
        if (
            row
            and row["bytes_out"]
            and row["original"] == stamp(unit.original)
            and _lies(unit, row["bytes_out"])
            and row["made"] == _made(unit, recipe, short_side)
            and not row.get("passing")
            and (row.get("checked") or _is_right(unit))
        ):
            journal[row["path"]] = {**row, "checked": True}
        else:
            todo.append(unit)
    complete(
        out / JOURNAL,
        known.values(),
        journal,
        todo,
        workers,
        lambda unit: _copy(unit, out, recipe, short_side),
    )
    return journal


def _copy(unit: Unit, out: Path, recipe: Recipe, short_side: int) -> dict:
    """Write one unit and rename it into its place; returns the journal's entry."""
    part = out / _UNFINISHED / f"{unit.table.name}-{unit.records[0]}"
    row = {
        "path": _key(unit, out),
        "original": stamp(unit.original),
        "made": _made(unit, recipe, short_side),
        "files": len(unit.records),
        "frames": unit.frames,
        "replaced": 0,
        "bytes_in": 0,
        "bytes_out": 0,
        "failed": [],
        "checked": True,
    }
    media = unit.table.media(unit.records[0])
    try:
        unit.copy.parent.mkdir(parents=True, exist_ok=True)
        if unit.table.kind == "frames":
            _copy_folder(media, unit.copy, part, short_side, row)
            return row
        if media.span.size is not None:
            _copy_tar(unit, part, recipe, short_side, row)
        else:
            row["replaced"] = _encode(media, part, recipe, short_side)
        row["bytes_in"], row["bytes_out"] = os.path.getsize(unit.original), os.path.getsize(part)
        os.replace(part, unit.copy)
    except (DecodeError, av.FFmpegError, OSError, OverflowError) as error:
        part.unlink(missing_ok=True)
        if is_of_the_disk(error, out):
            raise
        if unit.table.kind != "frames":
            unit.copy.unlink(missing_ok=True)
        row["failed"].append((media.path, str(error)))
    return row


def _copy_folder(media: Media, folder: Path, part: Path, short_side: int, row: dict) -> None:
    """Copy the images of a folder of frames; none stays where one fails."""
    folder.mkdir(exist_ok=True)
    images = [media.frame(number) for number in range(media.frames)]
    copies = [folder / os.path.basename(image.path) for image in images]
    try:
        for image, copy in zip(images, copies):
            encode_photo(image, part, short_side)
            os.replace(part, copy)
    except DecodeError:
        for copy in copies:
            copy.unlink(missing_ok=True)
        raise
    # one left from when the original had more frames would count as its next
    (folder / os.path.basename(media.frame(media.frames).path)).unlink(missing_ok=True)
    row["bytes_in"] = sum(os.path.getsize(image.path) for image in images)
    row["bytes_out"] = sum(copy.stat().st_size for copy in copies)


class _TarFile(Region):
    """A tar without headers of endless length."""

    def read(self, count: int = -1) -> bytes:
        """As of any file."""
        if not 0 <= count <= _LONGEST_HEADER:
            raise tarfile.ReadError("a header of endless length")
        return super().read(count)


def _copy_tar(unit: Unit, part: Path, recipe: Recipe, short_side: int, row: dict) -> None:
    """The same members in the same order; those that the catalog refused stay as they are, those
    that fail go.

    What the disk does not give is tried again at the next start.
    """
    media = {entry.span.offset: entry for entry in map(unit.table.media, unit.records)}
    member_file = part.with_name(f"{part.name}-member")
    file, position = None, -1
    try:
        with (
            _TarFile(FileSpan(unit.original)) as file,
            tarfile.open(fileobj=file, mode="r:") as original,
            tarfile.open(part, "w") as copy,
        ):
            for member in original:
                original.members.clear()  # which it keeps for random access
                if member.offset <= position or member.size < 0:
                    # and would again, without end
                    raise tarfile.ReadError("headers that lead backwards")
                position = member.offset
                entry = media.get(member.offset_data) if member.isreg() else None
                if member.issparse():  # a few bytes that would become any number of zeros
                    continue
                if entry is None:
                    copy.addfile(member, original.extractfile(member) if member.isreg() else None)
                    continue
                try:
                    row["replaced"] += _encode(entry, member_file, recipe, short_side)
                except DecodeError as error:
                    row["failed"].append((entry.path, str(error)))
                    row["passing"] = row.get("passing", False) or cause_of(error).passes
                    continue
                member.size = member_file.stat().st_size
                with open(member_file, "rb") as data:
                    copy.addfile(member, data)
            if file.error is not None:
                raise file.error
    except (tarfile.TarError, OSError) as error:
        # whatever came of it: the original's, not the copy's
        if file is not None and file.error is not None:
            raise cause_of(file.error).error() from None
        if isinstance(error, tarfile.TarError):
            raise DecodeError(f"tar broken: {error}") from None
        raise
    finally:
        member_file.unlink(missing_ok=True)


def encode_photo(media: Media, path: Path, short_side: int) -> None:
    """As :func:`omnidali.curation.copies.encode.encode_photo`, within limits of memory and time."""
    children.call(encode.encode_photo, media, path, short_side)


def encode_video(media: Media, path: Path, recipe: Recipe, short_side: int) -> int:
    """As :func:`omnidali.curation.copies.encode.encode_video`, within limits of memory and time."""
    return int(children.call(encode.encode_video, media, path, recipe, short_side))


def _encode(media: Media, path: Path, recipe: Recipe, short_side: int) -> int:
    """A photo or a video; returns how many frames of it were replaced."""
    if media.container in ("jpeg", "png", "webp"):
        encode_photo(media, path, short_side)
        return 0
    return encode_video(media, path, recipe, short_side)


def _is_right(unit: Unit) -> bool:
    """Whether a copy that was never compared with its original, as before version 0.2, may stay."""
    media = [unit.table.media(record) for record in unit.records]
    if unit.table.kind in ("image", "frames"):
        return not any(one.codec.endswith(":rotated") for one in media)  # EXIF turned JPEGs alone
    if len(media) != 1 or media[0].span.size is not None:
        return False
    try:
        children.call(check_frames, media[0], unit.copy)
    except (DecodeError, OSError) as reason:
        say(f"{unit.copy} is made again: {reason}", error=True)
        return False
    return True


def _made(unit: Unit, recipe: Recipe, short_side: int) -> str:
    """Text that changes with anything that the copy's bytes depend on, but for the original's."""
    how = f"jpeg quality {JPEG_QUALITY}" if unit.table.kind in ("image", "frames") else str(recipe)
    return f"{how}, short side {short_side}"


def _lies(unit: Unit, size: int) -> bool:
    """Whether the copy is there, and as long as it was."""
    if unit.table.kind == "frames":
        return unit.copy.is_dir()
    return unit.copy.is_file() and unit.copy.stat().st_size == size


def _key(unit: Unit, out: Path) -> str:
    return os.path.relpath(unit.copy, out)
