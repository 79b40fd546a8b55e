"""The search for duplicates of one source, shared among ranks."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from omnidali.config.sources import EVALUATION, MediaConfig
from omnidali.curation.dedup.compared_items import ComparedItems
from omnidali.curation.dedup.duplicates import HASH, BestPairs, SourceDuplicates, just_below
from omnidali.curation.dedup.frame_cache import DONE, UNREADABLE, FrameCache
from omnidali.curation.dedup.nearest import (
    Similarity,
    SimilarPairs,
    best_frame_of_items,
    best_matches,
)
from omnidali.curation.dedup.perceptual_hash import hamming_distances
from omnidali.curation.exact_duplicates import DIGEST_BYTES, file_digest, read_files
from omnidali.distributed.ranks import Ranks
from omnidali.utils.untrusted_text import say


@dataclass
class SearchedSource:
    """A source with everything that is known of its files and frames.

    Attributes:
        name: of the source.
        config: its settings.
        items: to compare.
        digests: of the items' files, one for each item.
        caches: of the items' frames, by kind.
    """

    name: str
    config: MediaConfig
    items: ComparedItems
    digests: FrameCache
    caches: dict[str, FrameCache] = field(default_factory=dict)

    def known_digests(self) -> Iterator[tuple[int, bytes]]:
        """Yield each item with the digest of its file, where that is known."""
        for item in np.flatnonzero(self.digests.done == DONE).tolist():
            yield item, self.digests.values[item].tobytes()


class Criterion(NamedTuple):
    """How frames are compared, and the least similarity of duplicates."""

    similarity: Similarity
    threshold: float


def digest_files(
    sources: Mapping[str, SearchedSource], ranks: Ranks, within: bool, hang_seconds: float
) -> None:
    """Digest the files that may equal another one, as that has the same size.

    Args:
        sources: by name, ``evaluation`` among them.
        ranks: all of them call this; each reads its share.
        within: whether files of one source are compared, too.
        hang_seconds: without a byte, after which a file is not compared.
    """
    training = [source.items.sizes for name, source in sources.items() if name != EVALUATION]
    held_out = [sources[EVALUATION].items.sizes] if EVALUATION in sources else []
    for name, source in sources.items():
        # A folder of frames has no bytes of its own.
        if source.config.media_kind.is_folder:
            continue

        sizes = source.items.sizes
        others = training if name == EVALUATION else held_out
        wanted = np.isin(sizes, np.concatenate([np.zeros(0, np.int64), *others]))
        if within and name != EVALUATION:
            _, firsts = np.unique(source.items.table.records, return_index=True)
            values, counts = np.unique(sizes[firsts], return_counts=True)
            wanted |= np.isin(sizes, values[counts > 1])

        _digest_share(source, wanted, ranks, hang_seconds)


def _digest_share(
    source: SearchedSource, wanted: np.ndarray, ranks: Ranks, hang_seconds: float
) -> None:
    """Digest this rank's share of the files of items; returns once all ranks are done.

    Args:
        source: of the items.
        wanted: bool (n,), the items; those with a digest are left out.
        ranks: all of them call this.
        hang_seconds: without a byte, after which a file is given up.
    """
    items = source.items
    todo = ranks.on_main(lambda: np.flatnonzero(wanted & (source.digests.done != DONE)))
    # The pieces of one video share a file, which is read once.
    todo = todo[np.argsort(items.table.records[todo], kind="stable")]
    _, starts = np.unique(items.table.records[todo], return_index=True)
    share = np.split(todo, starts)[1 + ranks.rank :: ranks.world]
    media = (items.media(int(pieces[0])) for pieces in share)

    with closing(read_files(file_digest, media, ranks.threads, hang_seconds)) as digests:
        bar = tqdm(
            digests,
            total=len(share),
            desc=f"bytes {source.name}",
            unit="file",
            file=sys.stderr,
            leave=False,
            disable=None if ranks.is_main else True,
        )
        for pieces, (digest, reason) in zip(share, bar, strict=True):
            if digest is None:
                file = items.media(int(pieces[0]))
                say(
                    f"{source.name}: {file.path} is not compared by its bytes: {reason}", error=True
                )
            value = np.frombuffer(digest or bytes(DIGEST_BYTES), np.uint8)
            source.digests.put(
                pieces,
                np.full(len(pieces), digest is not None),
                np.tile(value, (len(pieces), 1)),
            )
    source.digests.flush()
    ranks.barrier()


def search_source(
    source: SearchedSource,
    held_out: SearchedSource | None,
    criteria: Mapping[str, Criterion],
    within: bool,
    ranks: Ranks,
) -> SourceDuplicates:
    """Find the duplicates of a source.

    Args:
        source: all of its caches are filled.
        held_out: the validation items; None if there are none.
        criteria: by kind, in the order in which they count.
        within: whether to compare items of the source with each other, too.
        ranks: all of them call this.

    Returns:
        The duplicates; they are complete on the main rank alone.
    """
    found = SourceDuplicates(
        source.name, source.items, held_out.items if held_out is not None else None
    )
    if held_out is not None:
        ranks.on_main(lambda: found.add_equal(*_equal_items(source, held_out)))
        for kind, criterion in criteria.items():
            _compare_frames(found, source, held_out, kind, criterion, ranks)
    has_no_frames = source.caches[HASH].done != DONE
    found.unreadable = int((has_no_frames | (source.digests.done == UNREADABLE)).sum())
    if within:
        _compare_within(found, source, criteria, ranks)
    return found


def _equal_items(source: SearchedSource, held_out: SearchedSource) -> tuple[np.ndarray, np.ndarray]:
    """Items with the bytes of a validation item, and the first such item: int64 (n,) twice."""
    first_with: dict[bytes, int] = {}
    for item, digest in held_out.known_digests():
        first_with.setdefault(digest, item)
    pairs = [
        (item, first_with[digest])
        for item, digest in source.known_digests()
        if digest in first_with
    ]
    items, others = np.array(pairs, np.int64).reshape(-1, 2).T
    return items, others


def _compare_frames(
    found: SourceDuplicates,
    source: SearchedSource,
    held_out: SearchedSource,
    kind: str,
    criterion: Criterion,
    ranks: Ranks,
) -> None:
    """Compare all frames of a source with those of the validation items."""
    mine = source.caches[kind]
    theirs = held_out.caches[kind]
    if ranks.is_main:
        say(f"{kind} {source.name}: {len(mine.values):,} x {len(theirs.values):,} frames")
    parts = ranks.gather(_best_pairs(mine, theirs, criterion, ranks))

    def add() -> None:
        pairs = BestPairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        bits = hamming_distances(
            source.caches[HASH].values[pairs.frames],
            held_out.caches[HASH].values[pairs.of_frames],
        )
        found.add_similar(kind, pairs, bits, criterion.threshold)

    ranks.on_main(add)


def _best_pairs(
    mine: FrameCache, theirs: FrameCache, criterion: Criterion, ranks: Ranks
) -> BestPairs:
    """The best pair of frames of every item in this rank's share."""
    shares = np.linspace(0, len(mine.items), ranks.world + 1).astype(int)
    starts = mine.items.starts[shares[ranks.rank] : shares[ranks.rank + 1] + 1]
    best, places = best_matches(
        mine.values[starts[0] : starts[-1]],
        theirs.values,
        criterion.similarity,
        least=just_below(criterion.threshold),
    )
    top = best_frame_of_items(best, starts - starts[0])
    return BestPairs(best[top], top + starts[0], places[top])


def _compare_within(
    found: SourceDuplicates,
    source: SearchedSource,
    criteria: Mapping[str, Criterion],
    ranks: Ranks,
) -> None:
    """Compare the items of a source that stay so far with each other."""
    dropped = ranks.on_main(lambda: found.dropped)
    similar = {}

    for kind, criterion in criteria.items():
        mine = SimilarPairs()
        mine.add_above(
            source.caches[kind].values,
            items=source.items.of_frames,
            groups=source.items.rows,
            similarity=criterion.similarity,
            least=criterion.threshold,
            dropped=dropped,
            rank=ranks.rank,
            world=ranks.world,
        )
        similar[kind] = SimilarPairs()
        for pairs in ranks.gather(mine.found):
            similar[kind].add(pairs)

    ranks.on_main(lambda: found.add_within(_equal_groups(source, dropped), similar))


def _equal_groups(source: SearchedSource, dropped: np.ndarray) -> list[np.ndarray]:
    """Groups of items that stay so far and have equal bytes."""
    table = source.items.table
    firsts = np.zeros(len(source.items)) if table.firsts is None else table.firsts
    groups: dict[tuple[bytes, int], list[int]] = {}
    for item, digest in source.known_digests():
        if not dropped[item]:
            groups.setdefault((digest, int(firsts[item])), []).append(item)
    return [np.array(group) for group in groups.values() if len(group) > 1]
