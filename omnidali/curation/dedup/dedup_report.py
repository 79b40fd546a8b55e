"""What a search for duplicates found: CSV, a report, and pictures of pairs for a person to judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from omnidali.catalog.database.listed_items import read_items
from omnidali.catalog.database.store import SourceTable
from omnidali.curation.dedup.features import CROP_AREA, Whitening
from omnidali.curation.dedup.frame_cache import Items
from omnidali.curation.dedup.nearest import Pairs
from omnidali.curation.dedup.perceptual_hash import DISTANCE
from omnidali.decoding.thumbnail import decode_still
from omnidali.loading.clip_images import captioned, tile
from omnidali.planning.crops import centered
from omnidali.utils.atomic_write import table_lines, write_whole
from omnidali.utils.plots import write_picture
from omnidali.utils.untrusted_text import for_markdown, for_picture

BYTES, HASH, FEATURES = KINDS = ("bytes", "hash", "features")
PAIRS = 24  # of a picture
_SIDE = 144  # of a frame in it, pixels
_COLUMNS = ("path", "label", "frame", "of", "of_frame", "against", "kind", "distance", "similarity")


def just_below(least: float) -> float:
    """Likeness from which on a person may want to look at what is no duplicate, given that of
    duplicates.
    """
    return least - abs(least) / 2


class Outcome:
    """What was found of one source.

    Args:
        name: of the source. items: of it. theirs: the validation items, None where there are none.

    Attributes:
        kinds: U8 (n,), what found the item: bytes, hash or features; empty for items that stay.
        mine, of: int64 (n,), places of the frames of the pair that is most alike, ``of`` among the
            validation items' or, where ``kept`` says so, among the source's own. alike: float32
            (n,), of that pair.
        bits: int64 (n,), by which their hashes differ; -1 where none were compared.
        kept: int64 (n,), item of the same source that is kept instead; -1 for duplicates of
            validation items.
        best: by kind, every item's likeness to the validation items.
        near: by kind, items that were just not alike enough (:func:`just_below`), the nearest
            first, with those places and likenesses.
    """

    def __init__(self, name: str, items: Items, theirs: Items | None):
        self.name, self.items, self.theirs, self.unreadable = name, items, theirs, 0
        count = len(items)
        self.kinds = np.full(count, "", "U8")
        self.mine, self.of, self.kept, self.bits = (np.full(count, -1, np.int64) for _ in range(4))
        self.alike = np.full(count, np.nan, np.float32)
        self.near: dict[str, tuple[np.ndarray, ...]] = {}
        self.best: dict[str, np.ndarray] = {}

    @property
    def dropped(self) -> np.ndarray:
        """bool (n,): items that go."""
        return self.kinds != ""

    def add_bytes(self, mine: np.ndarray, of: np.ndarray) -> None:
        """Items with the bytes of validation items."""
        self._drop(mine, BYTES, self.items.starts[mine], self.theirs.starts[of], 1.0, 0)

    def add(
        self,
        kind: str,
        alike: np.ndarray,
        mine: np.ndarray,
        of: np.ndarray,
        least: float,
        bits: np.ndarray,
    ) -> None:
        """Items by the likeness of their best pair of frames, from ``least`` on; arrays have a
        value an item.
        """
        self.best[kind] = alike
        found = np.flatnonzero(alike >= least)
        self._drop(found, kind, mine[found], of[found], alike[found], bits[found])
        below = np.flatnonzero((alike < least) & (alike >= just_below(least)))
        below = below[np.argsort(-alike[below], kind="stable")][:PAIRS]
        self.near[kind] = (below, mine[below], of[below], alike[below])

    def add_within(self, equal: Sequence[np.ndarray], alike: Mapping[str, Pairs]) -> None:
        """Items of one source that are alike: those with most pixels stay, of equal ones the first,
        and what is like one that stays goes. So nothing goes for an item that is only like a third
        one.

        A piece that shows its class stays rather than one that does not.

        Args:
            equal: items of equal bytes. alike: by kind, in the order in which an item counts under
                them.
        """
        table, count = self.items.table, len(self.items)
        worth = np.where(self.items.shown, table.widths.astype(np.int64) * table.heights, 0)
        around = {kind: pairs.around(count) for kind, pairs in alike.items()}
        twins = {item: group for group in equal for item in group.tolist()}
        paired = np.zeros(count, bool)
        paired[list(twins)] = True
        for pairs, _ in around.values():
            paired[pairs["one"]] = True
        candidates = np.flatnonzero(paired)
        for item in candidates[np.argsort(-worth[candidates], kind="stable")].tolist():
            if self.kinds[item]:
                continue
            others = twins.get(item, np.zeros(0, np.int64))
            others = others[self.items.rows[others] != self.items.rows[item]]
            self._drop(
                others, BYTES, self.items.starts[others], self.items.starts[item], 1.0, kept=item
            )
            for kind, (pairs, starts) in around.items():
                pairs = pairs[starts[item] : starts[item + 1]]  # seen from the item that stays
                self._drop(
                    pairs["other"], kind, pairs["of"], pairs["mine"], pairs["alike"], kept=item
                )

    def _drop(self, found: np.ndarray, kind: str, mine, of, alike, bits=-1, kept: int = -1) -> None:
        """Let items go that do not go yet; ``mine``, ``of``, ``alike``, ``bits``: a value of each,
        or one of all.
        """
        new = self.kinds[found] == ""
        gone = found[new]
        self.kinds[gone], self.kept[gone] = kind, kept
        self.mine[gone], self.of[gone], self.alike[gone], self.bits[gone] = (
            np.broadcast_to(values, len(found))[new] for values in (mine, of, alike, bits)
        )

    def __str__(self) -> str:
        gone = int(self.dropped.sum())
        within = int((self.kept >= 0).sum())
        return (
            f"{self.name}: {len(self.items) - gone:,} of {len(self.items):,} kept; dropped {gone - within:,} like"
            f" validation items, {within:,} like others of the source"
        )


def write_outcome(
    out: Path,
    catalog: str,
    outcomes: Sequence[Outcome],
    settings: object,
    thresholds: Mapping[str, float],
    whitening: Whitening | None,
    names: Sequence[str],
) -> None:
    """Write ``<source>_duplicates.csv``, report.md and pictures/.

    Args:
        settings: of :func:`~omnidali.curation.dedup.dedup.dedup`. thresholds: least likeness of
            duplicates, by kind.
        names: of the classes.

    Raises:
        OSError: if a file cannot be written.
    """
    for outcome in outcomes:
        write_whole(
            out / f"{outcome.name}_duplicates.csv", table_lines(_rows_of(catalog, outcome, names))
        )
        _write_pictures(out / "pictures", outcome)
    write_whole(out / "report.md", _report(outcomes, settings, thresholds, whitening))


def _paths(catalog: str, table: SourceTable) -> dict[int, str]:
    return {item.record: item.path for item in read_items(catalog, table.name)}


def _rows_of(catalog: str, outcome: Outcome, names: Sequence[str]) -> Iterator[Sequence[object]]:
    yield _COLUMNS
    items, theirs = outcome.items, outcome.theirs
    paths = _paths(catalog, items.table)
    their_paths = _paths(catalog, theirs.table) if theirs is not None else {}
    gone = np.flatnonzero(outcome.dropped)
    order = np.lexsort((gone, -outcome.alike[gone], outcome.kept[gone] >= 0))
    for item in gone[order].tolist():
        place, kind, twin = (
            int(outcome.mine[item]),
            str(outcome.kinds[item]),
            int(outcome.kept[item]),
        )
        if twin < 0:
            their = int(outcome.of[item])
            other = (
                their_paths[int(theirs.table.records[theirs.of_frames[their]])],
                theirs.frame(their),
                "evaluation",
            )
        else:
            other = (
                paths[int(items.table.records[twin])],
                items.frame(int(outcome.of[item])),
                outcome.name,
            )
        bits = int(outcome.bits[item])
        yield [
            paths[int(items.table.records[item])],
            names[items.table.labels[item]],
            items.frame(place),
            *other,
            kind,
            bits if bits >= 0 else "",
            f"{outcome.alike[item]:.4f}",
        ]


def _report(
    outcomes: Sequence[Outcome],
    settings,
    thresholds: Mapping[str, float],
    whitening: Whitening | None,
) -> str:
    kinds = [BYTES, *thresholds]
    lines = [
        "# Duplicates",
        "",
        f"| source | items | unreadable | kept | {' | '.join(f'by {kind}' for kind in kinds)} | within it |",
        f"|---{'|---:' * (len(kinds) + 4)}|",
    ]
    for outcome in outcomes:
        of_validation = outcome.dropped & (outcome.kept < 0)
        counts = [f"{int((outcome.kinds[of_validation] == kind).sum()):,}" for kind in kinds]
        columns = [
            f"{len(outcome.items):,}",
            f"{outcome.unreadable:,}",
            f"{int((~outcome.dropped).sum()):,}",
            *counts,
            f"{int((outcome.kept >= 0).sum()):,}",
        ]
        lines.append(f"| {for_markdown(outcome.name)} | {' | '.join(columns)} |")
    lines += [
        "",
        "An item counts under the first kind that found it: bytes, then hash, then features. Items are"
        " photos, videos, and pieces of long videos. Unreadable items were compared with nothing and stay in the"
        " lists.",
        "",
        "## How duplicates are told",
        "",
        f"- Frames: about {settings.rate:g} a second of every video, at most 96 of an item; the middle square.",
        "- bytes: the whole files are equal.",
        f"- hash: the 64-bit hashes differ in at most {settings.distance} bits (default {DISTANCE}), and the"
        " thumbnails of 8 x 8 pixels in colour differ by at most half of their contrast (similarity"
        f" {thresholds[HASH]:g} or more; 1 is equal).",
    ]
    if whitening is not None:
        how = (
            "as given by --threshold"
            if settings.threshold is not None
            else (
                f"the mean cosine of two random crops ({CROP_AREA[0]:.0%} to {CROP_AREA[1]:.0%} of the area) of one frame,"
                " over the middle frames of the validation items"
            )
        )
        lines += [
            f"- features: the cosine of whitened features is at least {thresholds[FEATURES]:.4f}, {how}.",
            f"- Whitening: fitted on {whitening.frames:,} frames of all sources, evenly spread, to"
            f" {whitening.matrix.shape[1]} directions; its covariance was shrunk by"
            f" {whitening.shrinkage:.4f} towards equal variances (Ledoit and Wolf).",
        ]
    lines += [
        "",
        "## Just below",
        "",
        "The pairs of pictures/ show what a person would want to look at: what was"
        " dropped, by falling similarity, and what was just not alike enough.",
        "",
        "| source | kind | similarity of the nearest that stay |",
        "|---|---|---|",
    ]
    for outcome in outcomes:
        for kind, (*_, alike) in outcome.near.items():
            nearest = ", ".join(f"{value:.3f}" for value in alike[:8]) or "none"
            lines.append(f"| {for_markdown(outcome.name)} | {kind} | {nearest} |")
    if whitening is not None:
        levels = sorted({thresholds[FEATURES], *np.linspace(0.2, 0.9, 8).round(1).tolist()})
        lines += [
            "",
            "## Another threshold",
            "",
            "How many items another --threshold would find by features:",
            "",
            f"| source | {' | '.join(f'{level:.4g}' for level in levels)} |",
            f"|---{'|---:' * len(levels)}|",
        ]
        lines += [
            f"| {for_markdown(outcome.name)} | "
            + " | ".join(f"{int((outcome.best[FEATURES] >= level).sum()):,}" for level in levels)
            + " |"
            for outcome in outcomes
            if FEATURES in outcome.best
        ]
    if any(outcome.items.table.kind == "untrimmed" for outcome in outcomes):
        lines += [
            "",
            "Of long videos all pieces were looked at. Duplicates stand under `removed_clip_inds` of the new"
            " list: no training and no filter takes them. A list of pieces by their seconds has no place for"
            " that: `pieces: one_positive_rest_negative` may draw what lies between those that are left.",
        ]
    return "\n".join(lines) + "\n"


def _write_pictures(folder: Path, outcome: Outcome) -> None:
    items, theirs = outcome.items, outcome.theirs
    gone = np.flatnonzero(outcome.dropped)
    for kind in KINDS:  # of an earlier search
        for which in ("dropped", "within", "just_below"):
            (folder / f"{outcome.name}_{kind}_{which}.png").unlink(missing_ok=True)
    for kind, within in sorted(
        {(str(outcome.kinds[item]), bool(outcome.kept[item] >= 0)) for item in gone.tolist()}
    ):
        mine = gone[(outcome.kinds[gone] == kind) & ((outcome.kept[gone] >= 0) == within)]
        # evenly over the whole range of similarity, and with the least alike: there mistakes show
        mine = mine[np.argsort(-outcome.alike[mine], kind="stable")]
        mine = mine[np.unique(np.linspace(0, len(mine) - 1, min(PAIRS, len(mine))).astype(int))]
        _write_pairs(
            folder / f"{outcome.name}_{kind}_{'within' if within else 'dropped'}.png",
            (items, outcome.mine[mine]),
            (items if within else theirs, outcome.of[mine]),
            outcome.alike[mine],
        )
    for kind, (_, mine, of, alike) in outcome.near.items():
        if len(mine):
            _write_pairs(
                folder / f"{outcome.name}_{kind}_just_below.png", (items, mine), (theirs, of), alike
            )


def _write_pairs(
    path: Path, ours: tuple[Items, np.ndarray], theirs: tuple[Items, np.ndarray], alike: np.ndarray
) -> None:
    """Frames of ours, each beside its counterpart, with their likeness."""
    cells = []
    for mine, their, value in zip(ours[1].tolist(), theirs[1].tolist(), alike):
        pair = np.hstack([_thumbnail(ours[0], mine), _thumbnail(theirs[0], their)])
        cells.append(captioned(pair, for_picture(f"{value:.3f} {_end_of_path(ours[0], mine)}")))
    write_picture(path, tile(cells, 1))


def _end_of_path(items: Items, place: int) -> str:
    """The end of the path of a frame's item, as long as a caption may be."""
    return "/".join(items.media(int(items.of_frames[place])).path.split("/")[-2:])[-32:]


def _thumbnail(items: Items, place: int) -> np.ndarray:
    """A frame's middle square, uint8 (side, side, 3); grey where it cannot be decoded any more."""
    item = int(items.of_frames[place])
    media, table = items.media(item), items.table
    box = centered(table.widths[[item]], table.heights[[item]], _SIDE, _SIDE)[0]
    return decode_still(table.kind, media, items.frame(place), box, _SIDE)
