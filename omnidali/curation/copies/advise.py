"""What decoding a config's own sources costs, and which training copy would help most."""

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from omnidali.catalog.database.media import Media
from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.folder_probe import probe_frames
from omnidali.catalog.probing.image_probe import probe_image
from omnidali.catalog.probing.packed_numbers import unpack_numbers
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.config.schema import ClipConfig, Config
from omnidali.config.sources import SourceConfig, key_of
from omnidali.curation.copies.copy_gain import compare_rates, decoding_cost
from omnidali.curation.copies.encode import ENCODERS, RECIPES
from omnidali.curation.table_sample import decoded_per_used, evenly_spread
from omnidali.errors import DecodeError, UserError
from omnidali.loading.data import open_data
from omnidali.media_kind import MediaKind
from omnidali.processes.isolated_process import call_isolated
from omnidali.utils.untrusted_text import for_markdown, say

_LONGEST = 450  # frames of a file that are looked at
_SECONDS = 10.0  # of the loader for one source
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
class _SampleReader:
    """Gives the media of a sample by record, as the catalog's reader does."""

    known: dict[int, Media]

    def media(self, record: int, stretches: bool = False) -> Media:
        return self.known[record]


def advise(config: Config, sample: int = 12, short_side: int = 256) -> list[dict]:
    """Measure every training source as it is and as each copy, and print a table with advice.

    Args:
        config: names the sources and their clips.
        sample: how many files of each source are measured.
        short_side: of the copies, pixels.

    Raises:
        UserError: if no file of a source's sample can be decoded, or the temporary folder cannot be
            written.
    """
    data = open_data(config)
    say(*data.summary)
    rows: list[dict] = []
    advice = []
    for table, source in zip(data.tables, config.sources.values(), strict=True):
        try:
            with tempfile.TemporaryDirectory() as folder:
                forms = _forms(_sample(table, sample), Path(folder), short_side)
                rates = compare_rates(
                    [form for form, _ in forms.values()],
                    source,
                    clip=config.clip,
                    threads=config.loader.threads,
                    seconds=_SECONDS,
                )
                measured = [
                    {
                        "source": table.name,
                        "as": name,
                        **_costs(form, source, config.clip),
                        "rate": rate,
                        "bytes": size,
                    }
                    for (name, (form, size)), rate in zip(forms.items(), rates, strict=True)
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
    """One sentence on the fastest copy of a source, and on the smallest that helps.

    Args:
        name: of the source.
        rows: the measurements; the original's is the first.
    """
    original, *copies = rows
    best = max(row["rate"] for row in copies)
    if best < _WORTH * original["rate"]:
        times = best / original["rate"]
        return f"`{name}`: no copy would help; the best is {times:.2f} times as fast."

    fast = [row for row in copies if row["rate"] >= _NEAR * best]
    useful = [row for row in copies if row["rate"] >= _WORTH * original["rate"]]
    fastest = min(fast, key=lambda row: row["bytes"])
    smallest = min(useful, key=lambda row: row["bytes"])

    def gain(row: dict) -> str:
        faster = row["rate"] / original["rate"]
        larger = row["bytes"] / original["bytes"]
        return f"{faster:.1f} times as fast for {larger:.2f} times the bytes"

    recipe = "" if fastest["as"] == "copy" else f" --recipe {fastest['as']}"
    other = f", `--recipe {smallest['as']}` {gain(smallest)}" if smallest is not fastest else ""
    return f"`{name}`: `omnidali transcode{recipe}` would make it {gain(fastest)}{other}."


def _sample(table: SourceTable, count: int) -> SourceTable:
    """Evenly spread rows, each as one piece of at most ``_LONGEST`` frames at its file's start."""
    rows = evenly_spread(len(table), count)
    pieces = rows if table.starts is None else table.starts[rows]
    return replace(
        table,
        labels=table.labels[rows],
        label_sets=None,
        widths=table.widths[rows],
        heights=table.heights[rows],
        records=table.records[pieces],
        frames=np.minimum(table.frames[pieces], _LONGEST),
        codecs=table.codecs[pieces],
        firsts=None,
        starts=None,
        positives=None,
    )


def _forms(
    sample: SourceTable, folder: Path, short_side: int
) -> dict[str, tuple[SourceTable, float]]:
    """The sample as it is and as every copy that would differ, with its bytes.

    Files that fail are left out of all of them.
    """
    originals = {int(record): sample.media(record) for record in sample.records}
    recipes = {"copy": RECIPES["fast"]} if sample.kind.has_images else RECIPES  # images need none
    forms: dict[str, dict[int, Media]] = {"original": originals, **{name: {} for name in recipes}}
    for record, media in tqdm(
        originals.items(), desc=f"copies of {sample.name}", unit="file", disable=None
    ):
        for name, recipe in recipes.items():
            path = folder / f"{name}-{record}"
            try:
                ENCODERS[sample.kind](media, path, recipe, short_side, _LONGEST)
                forms[name][record] = _probe(sample.kind, path, media)
            except DecodeError as reason:
                say(f"{media.path} is left out: {reason}", error=True)
                break

    good = set.intersection(*map(set, forms.values()))
    if not good:
        raise UserError(
            key_of(sample.name),
            "a file that can be decoded",
            f"none among {len(originals)}",
            "Look at its files, or take a larger --sample.",
        )
    kept = sample.take(np.flatnonzero(np.isin(sample.records, list(good))), "sample")
    return {
        name: (_table(kept, files), sum(_bytes(files[record]) for record in good))
        for name, files in forms.items()
    }


def _probe(kind: MediaKind, path: Path, original: Media) -> Media:
    span = FileSpan(str(path))
    if kind.is_folder:
        probe = probe_frames(span, original.container)
    else:
        probe = probe_image(span) if kind.is_still else probe_video(span)
    return Media.of(str(path), span, probe)


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
        _reader=_SampleReader(files),  # type: ignore[arg-type]  # all that is asked of it
    )


def _bytes(media: Media) -> float:
    """Of what the sample uses of a file."""
    count = min(media.frames, _LONGEST)
    if os.path.isdir(media.path):
        return sum(os.path.getsize(media.frame(number).path) for number in range(count))
    return (media.span.size or os.path.getsize(media.span.path)) * count / media.frames


def _costs(table: SourceTable, source: SourceConfig, clip: ClipConfig) -> dict[str, object]:
    """Medians over a source's files, and how many frames are decoded for each that is used."""
    media = [table.media(record) for record in table.records.tolist()]
    sizes = sorted((one.width, one.height) for one in media)
    costs: dict[str, object] = {
        "codec": ", ".join(table.codec_names),
        "pixels": "x".join(map(str, sizes[len(sizes) // 2])),
        "gop": 1,
        "amplification": 1.0,
    }
    if not table.kind.has_images:
        gops = [np.diff(np.append(unpack_numbers(one.keyframes), one.frames)) for one in media]
        costs["gop"] = float(np.median(np.concatenate(gops)))
        costs["amplification"] = decoded_per_used(table, source, clip, seed=0)

    times = [
        call_isolated(
            decoding_cost,
            one.frame(0) if table.kind.is_folder else one,
            table.kind.has_images,
            min(one.frames, _LONGEST),
        )
        for one in media
    ]
    costs["open_ms"], costs["frame_ms"] = np.median(np.array(times, float), axis=0).tolist()
    return costs


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
