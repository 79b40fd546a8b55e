"""What decoding costs on a sample of one's own sources, and which training copy would help most."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from omnidali.catalog.database.store import Media, SourceTable
from omnidali.catalog.file_span import FileSpan
from omnidali.catalog.probing.probe import (
    probe_frames,
    probe_image,
    probe_video,
    unpack_numbers,
)
from omnidali.config.schema import ClipConfig, Config, SourceConfig
from omnidali.curation.copies.copy_gain import compare_rates, plan_of
from omnidali.curation.copies.copy_quality import decoding_cost
from omnidali.curation.copies.encode import RECIPES, encode_photo, encode_video
from omnidali.errors import DecodeError, UserError
from omnidali.loading.data import open_data
from omnidali.planning.frame_sampling import frames_decoded
from omnidali.processes import child_pool as children
from omnidali.utils.untrusted_text import for_markdown, say

_LONGEST = 450  # frames of a file that are looked at
_SECONDS = 10.0  # of the loader for one source
_STEPS = 8  # of the plan whose decoding is counted
_WORTH = 1.15  # times as fast: less is within what measuring twice gives
_NEAR = 0.9  # of the fastest copy's speed: those above it compete by bytes
_HEAD = (
    "source",
    "as",
    "codec",
    "pixels",
    "GOP",
    "open ms",
    "decode ms/frame",
    "decoded per frame used",
    "clips/s",
    "times as fast",
    "bytes",
)


@dataclass(frozen=True)
class _Files:
    """Stands in for the catalog: media of a sample by record."""

    known: dict[int, Media]

    def media(self, record: int, stretches: bool = False) -> Media:
        return self.known[record]


def advise(config: Config, sample: int = 12, short_side: int = 256) -> list[dict]:
    """Measure every training source as it is and as each copy; prints a table and one sentence a
    source.

    Args:
        sample: files of a source.

    Raises:
        UserError: if no file of a source's sample can be decoded, or the temporary folder cannot be
            written.
    """
    data = open_data(config)
    say(*data.summary)
    rows, advice = [], []
    for table, source in zip(data.tables, config.sources.values()):
        try:
            with tempfile.TemporaryDirectory() as folder:
                forms = _copies(_sample(table, sample), Path(folder), short_side)
                rates = compare_rates(
                    [form for form, _ in forms.values()], source, config, _SECONDS
                )
                measured = [
                    {
                        "source": table.name,
                        "as": name,
                        **_costs(form, source, config.clip),
                        "rate": rate,
                        "bytes": size,
                    }
                    for (name, (form, size)), rate in zip(forms.items(), rates)
                ]
        except OSError as error:
            raise UserError(
                tempfile.gettempdir(),
                "a folder for copies of the sample",
                str(error),
                "Make room, or set TMPDIR to another folder.",
            ) from None
        rows += measured
        advice.append(advise_on(table.name, measured))
    say("", f"| {' | '.join(_HEAD)} |", f"|{'---|' * len(_HEAD)}")
    originals = {row["source"]: row for row in rows if row["as"] == "original"}
    for row in rows:
        say(_line(row, originals[row["source"]]))
    say("", *advice)
    return rows


def advise_on(name: str, rows: list[dict]) -> str:
    """One sentence from the rows of a source, the original's first: the fastest copy, and the
    smallest that helps.
    """
    original, *copies = rows
    best = max(row["rate"] for row in copies)
    if best < _WORTH * original["rate"]:
        return f"`{name}`: no copy would help; the best is {best / original['rate']:.2f} times as fast."
    fastest = min(
        (row for row in copies if row["rate"] >= _NEAR * best), key=lambda row: row["bytes"]
    )
    smallest = min(
        (row for row in copies if row["rate"] >= _WORTH * original["rate"]),
        key=lambda row: row["bytes"],
    )

    def gain(row: dict) -> str:
        faster, larger = (row[key] / original[key] for key in ("rate", "bytes"))
        return f"{faster:.1f} times as fast for {larger:.2f} times the bytes"

    recipe = "" if fastest["as"] == "copy" else f" --recipe {fastest['as']}"
    other = f", `--recipe {smallest['as']}` {gain(smallest)}" if smallest is not fastest else ""
    return f"`{name}`: `omnidali transcode{recipe}` would make it {gain(fastest)}{other}."


def _sample(table: SourceTable, count: int) -> SourceTable:
    """Evenly spread rows as if each were one piece at the beginning of its file, of at most
    ``_LONGEST`` frames.
    """
    rows = np.unique(np.linspace(0, len(table) - 1, count).astype(np.int64))
    pieces = rows if table.starts is None else table.starts[rows]
    taken = {name: getattr(table, name)[rows] for name in ("labels", "widths", "heights")}
    taken |= {name: getattr(table, name)[pieces] for name in ("records", "frames", "codecs")}
    taken["frames"] = np.minimum(taken["frames"], _LONGEST)
    return replace(table, **taken, firsts=None, starts=None, positives=None)


def _copies(
    sample: SourceTable, folder: Path, short_side: int
) -> dict[str, tuple[SourceTable, float]]:
    """The sample as it is and as every copy that would differ, with its bytes, without the files
    that fail.
    """
    originals = {int(record): sample.media(record) for record in sample.records}
    recipes = RECIPES if sample.kind in ("video", "untrimmed") else {"copy": None}
    copies: dict[str, dict[int, Media]] = {name: {} for name in recipes}
    for record, media in tqdm(
        originals.items(), desc=f"copies of {sample.name}", unit="file", disable=None
    ):
        for name, recipe in recipes.items():
            try:
                copies[name][record] = _copy(
                    media, folder / f"{name}-{record}", recipe, short_side, sample.kind
                )
            except DecodeError as reason:
                say(f"{media.path} is left out: {reason}", error=True)
                break
    good = set.intersection(*map(set, copies.values()))
    if not good:
        raise UserError(
            f"sources.{sample.name}",
            "a file that can be decoded",
            f"none among {len(originals)}",
            "Look at its files, or take a larger --sample.",
        )
    kept = sample.take(np.flatnonzero(np.isin(sample.records, list(good))), "sample")
    return {
        name: (_table(kept, files), sum(map(_bytes, (files[record] for record in good))))
        for name, files in {"original": originals, **copies}.items()
    }


def _copy(media: Media, path: Path, recipe, short_side: int, kind: str) -> Media:
    if kind == "frames":
        path.mkdir()
        for number in range(min(media.frames, _LONGEST)):
            image = media.frame(number)
            children.call(encode_photo, image, path / os.path.basename(image.path), short_side)
        probe = probe_frames(FileSpan(str(path)), media.container)
    elif kind == "image":
        children.call(encode_photo, media, path, short_side)
        probe = probe_image(FileSpan(str(path)))
    else:
        children.call(encode_video, media, path, recipe, short_side, _LONGEST)
        probe = probe_video(FileSpan(str(path)))
    return Media.of(str(path), FileSpan(str(path)), probe)


def _table(sample: SourceTable, files: dict[int, Media]) -> SourceTable:
    """The sample's rows, of these files."""
    media = [files[record] for record in sample.records.tolist()]
    codecs = tuple(sorted({one.codec for one in media}))
    return replace(
        sample,
        widths=np.array([one.width for one in media], np.uint16),
        heights=np.array([one.height for one in media], np.uint16),
        codec_names=codecs,
        codecs=np.array([codecs.index(one.codec) for one in media], np.uint8),
        _reader=_Files(files),
    )


def _bytes(media: Media) -> float:
    """Of what the sample uses of a file."""
    count = min(media.frames, _LONGEST)
    if os.path.isdir(media.path):
        return sum(os.path.getsize(media.frame(number).path) for number in range(count))
    return (media.span.size or os.path.getsize(media.span.path)) * count / media.frames


def _costs(table: SourceTable, source: SourceConfig, clip: ClipConfig) -> dict[str, object]:
    """What decoding a source costs: medians over its files, and frames decoded for each that the
    plan uses.
    """
    media = [table.media(record) for record in table.records.tolist()]
    sizes = sorted((one.width, one.height) for one in media)
    costs = {
        "codec": ", ".join(table.codec_names),
        "pixels": "x".join(map(str, sizes[len(sizes) // 2])),
    }
    if table.kind in ("image", "frames"):
        times = [
            _cost(one if table.kind == "image" else one.frame(0), is_photo=True)[1] for one in media
        ]
        return {
            **costs,
            "gop": 1,
            "open_ms": 0.0,
            "frame_ms": float(np.median(times)),
            "amplification": 1.0,
        }
    keys = {
        record: unpack_numbers(one.keyframes) for record, one in zip(table.records.tolist(), media)
    }
    gops = np.concatenate(
        [np.diff(np.append(keys[record], one.frames)) for record, one in zip(keys, media)]
    )
    opening, decoding = np.median([_cost(one, is_photo=False) for one in media], axis=0)
    plan, decoded, used = (
        plan_of(table, replace(source, weight=1.0, batch=None, resample=None), clip, 0),
        0,
        0,
    )
    for step in range(_STEPS):
        (samples,) = plan(step)
        for piece, frames in zip(samples.pieces[:, 0], samples.frames):
            decoded += frames_decoded(frames, keys[int(table.records[piece])])
            used += len(frames)
    return {
        **costs,
        "gop": float(np.median(gops)),
        "open_ms": float(opening),
        "frame_ms": float(decoding),
        "amplification": decoded / used,
    }


def _cost(media: Media, is_photo: bool) -> list[float]:
    return children.call(decoding_cost, media, is_photo, min(media.frames, _LONGEST))


def _line(row: dict, original: dict) -> str:
    values = (
        row["source"],
        row["as"],
        row["codec"],
        row["pixels"],
        f"{row['gop']:g}",
        f"{row['open_ms']:.1f}",
        f"{row['frame_ms']:.2f}",
        f"{row['amplification']:.1f}",
        f"{row['rate']:.0f}",
        f"{row['rate'] / original['rate']:.2f}",
        f"{row['bytes'] / original['bytes']:.2f}",
    )
    return f"| {' | '.join(map(for_markdown, values))} |"
