"""The report of a search for duplicates: a CSV of each source, report.md, and images of pairs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from omnidali.catalog.database.listed_items import read_items
from omnidali.catalog.database.source_table import SourceTable
from omnidali.curation.dedup.compared_items import ComparedItems
from omnidali.curation.dedup.duplicates import (
    BYTES,
    FEATURES,
    HASH,
    KINDS,
    MAX_PAIRS,
    DedupSettings,
    SourceDuplicates,
)
from omnidali.curation.dedup.features import CROP_AREA, Whitening
from omnidali.curation.dedup.perceptual_hash import MAX_DISTANCE
from omnidali.curation.table_sample import evenly_spread
from omnidali.decoding.decoders import decode_thumbnail
from omnidali.loading.clip_images import captioned, tile
from omnidali.planning.crops import centered
from omnidali.utils.atomic_write import table_lines, write_whole
from omnidali.utils.plots import write_png
from omnidali.utils.untrusted_text import for_image, for_markdown

_COLUMNS = ("path", "label", "frame", "of", "of_frame", "against", "kind", "distance", "similarity")
_SIDE = 144  # of a frame in an image, pixels
_CAPTION_LENGTH = 32  # characters of a path in an image
_MAX_NEAR = 8  # similarities of items that stay in the report


def write_dedup_report(
    out: Path,
    *,
    catalog: str,
    sources: Sequence[SourceDuplicates],
    settings: DedupSettings,
    thresholds: Mapping[str, float],
    whitening: Whitening | None,
    class_names: Sequence[str],
) -> None:
    """Write ``<source>_duplicates.csv``, report.md and pictures/.

    Args:
        out: folder that gets them.
        catalog: its file.
        sources: the duplicates of each.
        settings: of the search.
        thresholds: least similarity of duplicates, by kind.
        whitening: of the features; None if there was no network.
        class_names: in label order.

    Raises:
        OSError: if a file cannot be written.
    """
    for found in sources:
        rows = _csv_rows(catalog, found, class_names)
        write_whole(out / f"{found.name}_duplicates.csv", table_lines(rows))
        _write_pair_images(out / "pictures", found)
    lines = _report(sources, settings, thresholds, whitening)
    write_whole(out / "report.md", (f"{line}\n" for line in lines))


def _csv_rows(
    catalog: str, found: SourceDuplicates, class_names: Sequence[str]
) -> Iterator[Sequence[object]]:
    yield _COLUMNS
    items = found.items
    theirs = found.theirs
    paths = _paths_by_record(catalog, items.table)
    their_paths = _paths_by_record(catalog, theirs.table) if theirs is not None else {}

    dropped = np.flatnonzero(found.dropped)
    order = np.lexsort((dropped, -found.similarity[dropped], found.kept[dropped] >= 0))
    for item in dropped[order].tolist():
        kept = int(found.kept[item])
        of = int(found.of[item])
        if kept >= 0:
            other = (paths[int(items.table.records[kept])], items.frame(of), found.name)
        else:
            assert theirs is not None  # one of these is the other item
            record = int(theirs.table.records[theirs.of_frames[of]])
            other = (their_paths[record], theirs.frame(of), "evaluation")
        bits = int(found.bits[item])
        yield [
            paths[int(items.table.records[item])],
            "; ".join(class_names[label] for label in items.table.labels_at(item)),
            items.frame(int(found.mine[item])),
            *other,
            str(found.kinds[item]),
            bits if bits >= 0 else "",
            f"{found.similarity[item]:.4f}",
        ]


def _paths_by_record(catalog: str, table: SourceTable) -> dict[int, str]:
    return {item.record: item.path for item in read_items(catalog, table.name)}


def _report(
    sources: Sequence[SourceDuplicates],
    settings: DedupSettings,
    thresholds: Mapping[str, float],
    whitening: Whitening | None,
) -> list[str]:
    lines = [
        "# Duplicates",
        "",
        *_count_table(sources, list(thresholds)),
        "",
        "An item is an image, a video, or a piece of a long video. It counts under the first kind"
        " that found it: bytes, then hash, then features. Unreadable items were compared with"
        " nothing and stay in the lists.",
        "",
        *_method_section(settings, thresholds, whitening),
        "",
        *_near_section(sources),
    ]

    if whitening is not None:
        lines += ["", *_threshold_section(sources, thresholds[FEATURES])]
    if any(found.items.table.kind.has_pieces for found in sources):
        lines += [
            "",
            "All pieces of long videos were looked at. The new lists name duplicates under"
            " `removed_clip_inds`: no training and no filter takes them. A list of pieces by their"
            " seconds has no place for that: `pieces: one_positive_rest_negative` may draw what"
            " lies between the pieces that are left.",
        ]
    return lines


def _count_table(sources: Sequence[SourceDuplicates], compared: Sequence[str]) -> list[str]:
    kinds = [BYTES, *compared]
    titles = ["source", "items", "unreadable", "kept", *(f"by {kind}" for kind in kinds)]
    lines = [
        f"| {' | '.join(titles)} | within it |",
        f"|---{'|---:' * len(titles)}|",
    ]

    for found in sources:
        of_validation = found.kinds[found.kept < 0]
        counts = [
            len(found.items),
            found.unreadable,
            int((~found.dropped).sum()),
            *(int((of_validation == kind).sum()) for kind in kinds),
            int((found.kept >= 0).sum()),
        ]
        columns = [for_markdown(found.name), *(f"{count:,}" for count in counts)]
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def _method_section(
    settings: DedupSettings,
    thresholds: Mapping[str, float],
    whitening: Whitening | None,
) -> list[str]:
    lines = [
        "## How duplicates are found",
        "",
        f"- Frames: about {settings.rate:g} a second of every video, at most 96 of an item; the"
        " middle square.",
        "- bytes: the whole files are equal.",
        f"- hash: the 64-bit hashes differ in at most {settings.distance} bits (default"
        f" {MAX_DISTANCE}), and the thumbnails of 8 x 8 pixels in colour differ by at most half of"
        f" their contrast (similarity {thresholds[HASH]:g} or more; 1 is equal).",
    ]
    if whitening is None:
        return lines

    threshold = "as given by --threshold"
    if settings.threshold is None:
        least, most = CROP_AREA
        threshold = (
            f"the mean cosine of two random crops ({least:.0%} to {most:.0%} of the area) of one"
            " frame, over the middle frames of the validation items"
        )
    return [
        *lines,
        f"- features: the cosine of whitened features is at least"
        f" {thresholds[FEATURES]:.4f}, {threshold}.",
        f"- Whitening: fitted on {whitening.frames:,} frames of all sources, evenly spread, to"
        f" {whitening.matrix.shape[1]} directions; its covariance was shrunk by"
        f" {whitening.shrinkage:.4f} towards equal variances (Ledoit and Wolf).",
    ]


def _near_section(sources: Sequence[SourceDuplicates]) -> list[str]:
    lines = [
        "## Just below",
        "",
        "The images in pictures/ show pairs to look at: dropped ones, by falling similarity, and"
        " those that are just not similar enough.",
        "",
        "| source | kind | similarity of the nearest that stay |",
        "|---|---|---|",
    ]
    for found in sources:
        for kind, near in found.near.items():
            values = [f"{value:.3f}" for value in near.similarity[:_MAX_NEAR]]
            lines.append(f"| {for_markdown(found.name)} | {kind} | {', '.join(values) or 'none'} |")
    return lines


def _threshold_section(sources: Sequence[SourceDuplicates], threshold: float) -> list[str]:
    levels = sorted({threshold, *np.linspace(0.2, 0.9, 8).round(1).tolist()})
    lines = [
        "## Another threshold",
        "",
        "How many items another --threshold would find by features:",
        "",
        f"| source | {' | '.join(f'{level:.4g}' for level in levels)} |",
        f"|---{'|---:' * len(levels)}|",
    ]
    for found in sources:
        if FEATURES in found.best:
            counts = [f"{int((found.best[FEATURES] >= level).sum()):,}" for level in levels]
            lines.append(f"| {for_markdown(found.name)} | {' | '.join(counts)} |")
    return lines


def _write_pair_images(folder: Path, found: SourceDuplicates) -> None:
    """Write images of the pairs that were dropped, and of those just not similar enough.

    Raises:
        OSError: if one cannot be written.
    """
    for kind in KINDS:  # those of an earlier search
        for which in ("dropped", "within", "just_below"):
            (folder / f"{found.name}_{kind}_{which}.png").unlink(missing_ok=True)

    dropped = np.flatnonzero(found.dropped)
    is_within = found.kept >= 0
    for kind in KINDS:
        for which, others in (("dropped", found.theirs), ("within", found.items)):
            chosen = (found.kinds[dropped] == kind) & (is_within[dropped] == (which == "within"))
            items = dropped[chosen]
            if not len(items) or others is None:
                continue
            # Evenly over the whole range, with the least similar ones, which show mistakes.
            items = items[np.argsort(-found.similarity[items], kind="stable")]
            items = items[evenly_spread(len(items), MAX_PAIRS)]
            _write_pairs(
                folder / f"{found.name}_{kind}_{which}.png",
                (found.items, found.mine[items]),
                (others, found.of[items]),
                found.similarity[items],
            )

    for kind, near in found.near.items():
        if len(near.frames) and found.theirs is not None:
            _write_pairs(
                folder / f"{found.name}_{kind}_just_below.png",
                (found.items, near.frames),
                (found.theirs, near.of_frames),
                near.similarity,
            )


def _write_pairs(
    path: Path,
    ours: tuple[ComparedItems, np.ndarray],
    theirs: tuple[ComparedItems, np.ndarray],
    similarity: np.ndarray,
) -> None:
    """Write frames of ours, each beside its counterpart, with their similarity."""
    our_items, our_frames = ours
    their_items, their_frames = theirs
    cells = []
    for mine, their, value in zip(
        our_frames.tolist(), their_frames.tolist(), similarity, strict=True
    ):
        pair = np.hstack([_thumbnail(our_items, mine), _thumbnail(their_items, their)])
        file = our_items.media(int(our_items.of_frames[mine])).path
        name = "/".join(file.split("/")[-2:])[-_CAPTION_LENGTH:]
        cells.append(captioned(pair, for_image(f"{value:.3f} {name}")))
    write_png(path, tile(cells, 1))


def _thumbnail(items: ComparedItems, place: int) -> np.ndarray:
    """The middle square of a frame, uint8 (side, side, 3); grey if it does not decode any more."""
    item = int(items.of_frames[place])
    table = items.table
    box = centered(table.widths[[item]], table.heights[[item]], _SIDE, _SIDE)[0]
    return decode_thumbnail(table.kind, items.media(item), items.frame(place), box, _SIDE)
