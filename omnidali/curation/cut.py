"""Pieces of long videos as files, in the release's layout, for those who want files: training needs
none of this.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av

from omnidali.catalog.database.store import Media
from omnidali.config.schema import Config, SourceConfig
from omnidali.curation import trim
from omnidali.curation.copies.copy_layout import keep_apart
from omnidali.curation.job_log import check_folder, complete, is_of_the_disk, read_journal, stamp
from omnidali.curation.list_writer import write_config, write_parts
from omnidali.curation.pieces import Piece, Video, find_pieces, long_sources
from omnidali.curation.trim import EXACT, Cut
from omnidali.errors import DecodeError, UserError
from omnidali.processes import child_pool as children
from omnidali.utils.atomic_write import table_lines, write_whole, writing_to
from omnidali.utils.untrusted_text import for_markdown

JOURNAL, CUTS, REPORT = "cut.jsonl", "cuts.csv", "report.md"
# folder in the results for files that are being written; same disk, so they are renamed
_UNFINISHED = ".cut"
_COLUMNS = (
    "source",
    "file",
    "video",
    "index",
    "shows_class",
    "how",
    "start_seconds",
    "seconds",
    "begins_early_seconds",
    "ends_late_seconds",
    "frames",
    "replaced_frames",
    "problem",
)


@dataclass(frozen=True)
class Done:
    """What :func:`cut` did.

    Attributes:
        rows: the journal's entries of all pieces, in the order of the lists. failed: those that
            were not made.
        stops: whether more failed than ``loader.max_bad_ratio`` lets through.
    """

    out: Path
    rows: list[dict]
    failed: list[dict]
    stops: bool


def cut(
    config: Config,
    out: str | Path,
    names: Collection[str] = (),
    pieces: str | None = None,
    exact: bool = False,
    workers: int = 0,
) -> Done:
    """Make or complete the files of the sources' pieces, their lists, a config that names these,
    and the reports.

    Args:
        names: of the sources; none: all of long videos that are not in pieces yet.
        pieces: ``positive`` or ``all``; none: what the source's own ``pieces`` makes use of.
        exact: encode anew, so that files hold the very frames of the pieces. workers: threads, 0
            for all cores.

    Raises:
        UserError: for sources that have nothing to cut, an ``out`` among the originals, a full
            disk, and where no piece could be cut.
    """
    out = Path(os.path.abspath(out))
    sources = long_sources(config, names)
    root = Path(os.path.abspath(config.data_root))
    keep_apart(
        out, {name: os.path.realpath(root / source.root) for name, source in sources.items()}
    )
    wanted = {
        name: pieces or ("positive" if source.pieces == "positive" else "all")
        for name, source in sources.items()
    }
    videos, class_names = find_pieces(config, root, sources, wanted, bool(names))
    unfinished = out / _UNFINISHED
    with writing_to(out, av.FFmpegError):
        check_folder(out, JOURNAL, _UNFINISHED)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        every = [piece for group in videos.values() for video in group for piece in video.pieces]
        journal = _run(every, out, exact, workers or len(os.sched_getaffinity(0)))
        unfinished.rmdir()
        rows = [journal[piece.path] for piece in every]
        failed = [row for row in rows if not row["bytes_out"]]
        if len(failed) == len(rows):
            raise UserError(
                str(out),
                "pieces that can be cut",
                f"{len(rows)} that cannot, such as {failed[0]['video']}: {failed[0]['problem']}",
                "Look at the videos.",
            )
        _write_lists(config, out, sources, wanted, videos, journal, class_names)
        _write_reports(out, rows, exact)
    return Done(out, rows, failed, len(failed) > config.loader.max_bad_ratio * len(rows))


def _run(pieces: list[Piece], out: Path, exact: bool, workers: int) -> dict[str, dict]:
    """Cut what the journal does not know; returns the journal's entry of every piece."""
    known, journal, todo, originals = read_journal(out / JOURNAL), {}, {}, {}
    for piece in pieces:
        row, key = known.pop(piece.path, None), (piece.table.name, piece.record)
        if key not in originals:  # asked once a video: its row of the catalog may be large
            path = piece.table.media(piece.record).span.path
            originals[key] = path, stamp(path)
        if (
            row
            and row["bytes_out"]
            and row["made"] == _made(piece, exact)
            and (row["video"], row["original"]) == originals[key]
            and (stamp(out / piece.path) or [0])[0] == row["bytes_out"]
        ):
            journal[piece.path] = {**row, "shows_class": piece.positive}
        else:
            todo[piece.path] = piece
    complete(
        out / JOURNAL,
        known.values(),
        journal,
        todo.values(),
        workers,
        lambda piece: _make(piece, out, exact),
    )
    return journal


def _make(piece: Piece, out: Path, exact: bool) -> dict:
    """Write one file and rename it into its place once it was counted; returns the journal's entry."""
    media, target = piece.table.media(piece.record), out / piece.path
    part = out / _UNFINISHED / str(threading.get_ident())
    row = {
        "path": piece.path,
        "source": piece.table.name,
        "video": media.span.path,
        "original": stamp(media.span.path),
        "index": piece.number,
        "shows_class": piece.positive,
        "made": _made(piece, exact),
        "how": "encoded" if exact else "copied",
        "bytes_out": 0,
        "problem": "",
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = (encode_piece if exact else copy_piece)(media, part, piece.first, piece.frames)
        row |= {**made._asdict(), "bytes_out": part.stat().st_size}
        os.replace(part, target)
    except (DecodeError, av.FFmpegError, OSError, OverflowError) as error:
        part.unlink(missing_ok=True)
        if is_of_the_disk(error, out):
            raise
        # of an earlier start, from what was another piece or original
        target.unlink(missing_ok=True)
        row["problem"] = str(error)
    return row


def encode_piece(media: Media, path: Path, first: int, count: int) -> Cut:
    """As :func:`omnidali.curation.trim.encode_piece`, within limits of memory and time."""
    return Cut(*children.call(trim.encode_piece, media, path, first, count))


def copy_piece(media: Media, path: Path, first: int, count: int) -> Cut:
    """As :func:`omnidali.curation.trim.copy_piece`, within limits of memory and time."""
    return Cut(*children.call(trim.copy_piece, media, path, first, count))


def _made(piece: Piece, exact: bool) -> str:
    """Text that changes with anything that the file's bytes depend on, but for the original's."""
    return f"{EXACT if exact else 'packets'}, frames {piece.first} to {piece.first + piece.frames}"


def _write_lists(
    config: Config,
    out: Path,
    sources: dict[str, SourceConfig],
    wanted: dict[str, str],
    videos: dict[str, list[Video]],
    journal: dict[str, dict],
    class_names: list[str] | None,
) -> None:
    """The release's lists of what was made, and the config that names them."""
    cut_sources = {}
    for name, source in sources.items():
        rows = []
        for video in videos[name]:
            there = [piece for piece in video.pieces if journal[piece.path]["bytes_out"]]
            if there:
                positives = sorted(piece.number for piece in there if piece.positive)
                rows.append((video.folder, video.label, video.count, positives, video.removed))
        write_parts(out / f"{name}.json", rows)
        cut_sources[name] = replace(
            source,
            root=str(out / name),
            list=str(out / f"{name}.json"),
            format="parts_json",
            pattern=None,
            labels=None,
            pieces="positive" if wanted[name] == "positive" else source.pieces,
        )
    write_config(out, config, cut_sources, class_names)


def _write_reports(out: Path, rows: list[dict], exact: bool) -> None:
    table: list[Sequence[object]] = [_COLUMNS]
    for row in rows:
        numbers = [
            f"{row[key]:.3f}" if key in row else "" for key in ("start", "seconds", "early", "late")
        ]
        table.append(
            [
                row["source"],
                row["path"],
                row["video"],
                row["index"],
                row["shows_class"],
                row["how"],
                *numbers,
                row.get("frames", ""),
                row.get("replaced", ""),
                row["problem"],
            ]
        )
    write_whole(out / CUTS, table_lines(table))
    how = (
        f"encoded anew ({EXACT}), each with exactly the frames of its piece"
        if exact
        else "copied packet by packet, each from the keyframe at or before its piece's begin on"
    )
    lines = [
        "# Pieces of long videos",
        "",
        f"The files are {how}; they have no audio. {CUTS} has a line for each.",
        "",
        "| source | videos | pieces | failed | hours | GB | begin early, mean s | at most s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["source"] for row in rows):
        mine = [row for row in rows if row["source"] == name]
        made = [row for row in mine if row["bytes_out"]]
        early = [row["early"] for row in made] or [0.0]
        lines.append(
            f"| {for_markdown(name)} | {len({row['video'] for row in mine}):,} | {len(mine):,} |"
            f" {len(mine) - len(made):,} | {sum(row['seconds'] for row in made) / 3600:.2f} |"
            f" {sum(row['bytes_out'] for row in made) / 1e9:.2f} |"
            f" {sum(early) / len(early):.2f} | {max(early):.2f} |"
        )
    problems = Counter((row["video"], row["problem"]) for row in rows if row["problem"])
    if problems:
        lines += [
            "",
            "## Failed",
            "",
            *(
                f"- {for_markdown(video)}: {for_markdown(problem)} ({count} pieces)"
                for (video, problem), count in problems.most_common()
            ),
        ]
    write_whole(out / REPORT, "\n".join(lines) + "\n")
