"""The duplicates of one source: which items go, for which others, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from omnidali.curation.dedup.compared_items import ComparedItems
from omnidali.curation.dedup.nearest import SimilarPairs
from omnidali.curation.dedup.perceptual_hash import MAX_DISTANCE

BYTES, HASH, FEATURES = KINDS = ("bytes", "hash", "features")
MAX_PAIRS = 24  # that a report shows of one kind


@dataclass(frozen=True)
class DedupSettings:
    """What counts as a duplicate.

    Attributes:
        threshold: least cosine of whitened features; None: measured.
        distance: bits in which the hashes of duplicates may differ.
        rate: frames of a video to look at, a second.
        within: whether to compare the items of a source with each other, too.
        window: seconds of the pieces that whole long videos are cut into; None: as their sources
            say.
    """

    threshold: float | None = None
    distance: int = MAX_DISTANCE
    rate: float = 8.0
    within: bool = False
    window: float | None = None


DEFAULT_SETTINGS = DedupSettings()


class BestPairs(NamedTuple):
    """The most similar pairs of frames of items.

    Attributes:
        similarity: float32 (n,).
        frames: int64 (n,), places of the items' frames in their source.
        of_frames: int64 (n,), places of the other frames among those of the validation items.
    """

    similarity: np.ndarray
    frames: np.ndarray
    of_frames: np.ndarray


def just_below(threshold: float) -> float:
    """The similarity from which on items are worth a look, though they are no duplicates."""
    return threshold - abs(threshold) / 2


class SourceDuplicates:
    """The duplicates found in one source.

    Args:
        name: of the source.
        items: of the source.
        theirs: the validation items; None if there are none.

    Attributes:
        unreadable: number of items that were compared with nothing.
        kinds: U8 (n,), what found the item: bytes, hash or features; empty for items that stay.
        mine: int64 (n,), place of the item's frame of the most similar pair.
        of: int64 (n,), place of the other frame: among the validation items' or, where ``kept``
            says so, among the source's own.
        similarity: float32 (n,), of that pair.
        bits: int64 (n,), in which the hashes of the pair differ; -1 where none were compared.
        kept: int64 (n,), item of the same source that is kept instead; -1 for duplicates of
            validation items.
        best: by kind, every item's similarity to the validation items.
        near: by kind, the pairs of items that are just not similar enough (:func:`just_below`),
            the nearest first.
    """

    def __init__(self, name: str, items: ComparedItems, theirs: ComparedItems | None):
        self.name = name
        self.items = items
        self.theirs = theirs
        self.unreadable = 0
        count = len(items)
        self.kinds = np.full(count, "", "U8")
        self.mine = np.full(count, -1, np.int64)
        self.of = np.full(count, -1, np.int64)
        self.similarity = np.full(count, np.nan, np.float32)
        self.bits = np.full(count, -1, np.int64)
        self.kept = np.full(count, -1, np.int64)
        self.best: dict[str, np.ndarray] = {}
        self.near: dict[str, BestPairs] = {}

    @property
    def dropped(self) -> np.ndarray:
        """bool (n,): items that go."""
        return self.kinds != ""

    @property
    def left(self) -> np.ndarray:
        """bool (n,): items that stay and show their class."""
        return self.items.shown & ~self.dropped

    def add_equal(self, items: np.ndarray, others: np.ndarray) -> None:
        """Drop items with the bytes of validation items: int64 (n,) of both."""
        assert self.theirs is not None
        frames = self.items.starts[items]
        self._drop(items, BYTES, frames, self.theirs.starts[others], similarity=1.0, bits=0)

    def add_similar(self, kind: str, pairs: BestPairs, bits: np.ndarray, threshold: float) -> None:
        """Drop items whose best pair of frames has a similarity of at least ``threshold``.

        Args:
            kind: of the comparison.
            pairs: of all items.
            bits: int64 (n,), in which the hashes of the pairs differ.
            threshold: similarity of duplicates.
        """
        self.best[kind] = pairs.similarity
        found = np.flatnonzero(pairs.similarity >= threshold)
        self._drop(
            found,
            kind,
            pairs.frames[found],
            pairs.of_frames[found],
            similarity=pairs.similarity[found],
            bits=bits[found],
        )

        near = np.flatnonzero(
            (pairs.similarity < threshold) & (pairs.similarity >= just_below(threshold))
        )
        near = near[np.argsort(-pairs.similarity[near], kind="stable")][:MAX_PAIRS]
        self.near[kind] = BestPairs(*(column[near] for column in pairs))

    def add_within(self, equal: Sequence[np.ndarray], similar: Mapping[str, SimilarPairs]) -> None:
        """Drop items that are similar to others of the source.

        Items with the most pixels stay, of equal ones the first, and items similar to one that
        stays go. So no item goes because it is similar to a third one alone. A piece that shows its
        class stays rather than one that does not.

        Args:
            equal: groups of items with equal bytes.
            similar: by kind, in the order in which they count.
        """
        items = self.items
        count = len(items)
        pixels = items.table.widths.astype(np.int64) * items.table.heights
        worth = np.where(items.shown, pixels, 0)
        twins = {item: group for group in equal for item in group.tolist()}
        both_sides = {kind: pairs.from_both_sides(count) for kind, pairs in similar.items()}

        is_candidate = np.zeros(count, bool)
        is_candidate[list(twins)] = True
        for pairs, _ in both_sides.values():
            is_candidate[pairs["item"]] = True
        candidates = np.flatnonzero(is_candidate)

        for item in candidates[np.argsort(-worth[candidates], kind="stable")].tolist():
            if self.kinds[item]:
                continue
            others = twins.get(item, np.zeros(0, np.int64))
            others = others[items.rows[others] != items.rows[item]]
            self._drop(
                others, BYTES, items.starts[others], items.starts[item], similarity=1.0, kept=item
            )
            for kind, (pairs, starts) in both_sides.items():
                near = pairs[starts[item] : starts[item + 1]]
                self._drop(
                    near["other_item"],
                    kind,
                    near["other_frame"],
                    near["frame"],
                    similarity=near["similarity"],
                    kept=item,
                )

    def _drop(
        self,
        items: np.ndarray,
        kind: str,
        frames: np.ndarray,
        of_frames: np.ndarray | np.integer,
        *,
        similarity: np.ndarray | float,
        bits: np.ndarray | int = -1,
        kept: int = -1,
    ) -> None:
        """Drop items that stay so far. The values are those of each item, or one of all."""
        is_new = self.kinds[items] == ""
        new = items[is_new]
        self.kinds[new] = kind
        self.kept[new] = kept
        for column, values in (
            (self.mine, frames),
            (self.of, of_frames),
            (self.similarity, similarity),
            (self.bits, bits),
        ):
            column[new] = np.broadcast_to(values, len(items))[is_new]

    def __str__(self) -> str:
        dropped = int(self.dropped.sum())
        within = int((self.kept >= 0).sum())
        total = len(self.items)
        return (
            f"{self.name}: {total - dropped:,} of {total:,} kept; dropped {dropped - within:,} like"
            f" validation items, {within:,} like others of the source"
        )
