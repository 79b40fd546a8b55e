"""Remove from training sources what shows validation items, and what shows the same as another item
of its source.

An item is a photo, a video, or a piece of a long video. Three ways find duplicates, each of which
is enough: equal bytes; a perceptual hash with a thumbnail (:mod:`omnidali.curation.dedup.perceptual_hash`); and
with a checkpoint the cosine of whitened features (:mod:`omnidali.curation.dedup.features`). An item's
likeness is the best over its frames against all frames of the validation items.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from tqdm import tqdm

from omnidali.catalog.database.listed_items import flatten
from omnidali.catalog.database.store import CatalogReader, SourceTable
from omnidali.config.schema import EVALUATION, Config, MediaConfig, key_of
from omnidali.curation.dedup import perceptual_hash as hashes
from omnidali.curation.dedup.dedup_report import (
    BYTES,
    FEATURES,
    HASH,
    Outcome,
    just_below,
    write_outcome,
)
from omnidali.curation.dedup.exact_duplicates import FileReaders, digest_of
from omnidali.curation.dedup.features import (
    SAMPLE,
    FeatureLikeness,
    ImageNetwork,
    Whitening,
    fit_whitening,
    load_network,
)
from omnidali.curation.dedup.frame_cache import DONE, UNREADABLE, Items, Kept, fill, find_items
from omnidali.curation.dedup.nearest import Measure, Pairs, best_matches, best_of_items
from omnidali.curation.dedup.perceptual_hash import HashLikeness
from omnidali.curation.list_writer import check_list, write_config, write_list
from omnidali.curation.source_selection import choose_crawled
from omnidali.curation.windows import check_window, in_pieces
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.data import Data, open_data
from omnidali.models.precision import make_autocast
from omnidali.utils.atomic_write import writing_to
from omnidali.utils.untrusted_text import for_shell, say

REFUSED = "refused"  # folder in the results for the report of a start that leaves nothing
CALIBRATED_ON = 2000  # validation items at most, one frame of each


@dataclass(frozen=True)
class Settings:
    """How duplicates are told.

    Attributes:
        threshold: cosine of whitened features; None: measured. distance: bits between hashes.
        rate: frames of a video to look at, a second. within: whether to look inside the sources,
            too.
        window: seconds of the pieces that whole long videos are cut into; None: as their sources
            say.
    """

    threshold: float | None = None
    distance: int = hashes.DISTANCE
    rate: float = 8.0
    within: bool = False
    window: float | None = None


@dataclass
class _Source:
    """One source with everything that is kept of its frames."""

    name: str
    config: MediaConfig
    items: Items
    digests: Kept
    kept: dict[str, Kept] = field(default_factory=dict)


def dedup(
    config: Config,
    out: str | Path,
    ranks: Ranks,
    checkpoint: str | None = None,
    names: Collection[str] = (),
    settings: Settings = Settings(),
    take: Callable[[], None] = lambda: None,
) -> list[Outcome] | None:
    """Find duplicates; write what is left as lists and OUT/config.yaml, and a report.

    Args:
        names: of the training sources; none: all but the first, the target.
        take: called on all ranks before anything but the catalog is written, once everything was
            checked that can be.

    Returns:
        What was found of every source, on the main rank.

    Raises:
        UserError: for unknown sources, no validation items, a window that no source takes, a source
            of which nothing is left, or a full disk.
    """
    out = Path(os.path.abspath(out))
    names = choose_crawled(config, names, training=True)
    against = config.evaluation.source is not None
    if not against and not settings.within:
        raise UserError(
            "evaluation.source",
            "validation items to compare with",
            "nothing",
            "Add it to the config, or look for duplicates inside the sources alone with --within.",
        )
    configs: dict[str, MediaConfig] = {name: config.sources[name] for name in names}
    check_window(settings.window, configs, config.data_root)
    # all pieces: they have numbers; faults are named in `out`: the run folder may be that of a
    # training
    everything = {
        name: in_pieces(source, config.data_root, settings.window)
        for name, source in configs.items()
        if source.kind == "untrimmed"
    }
    here = replace(
        config,
        catalog=config.catalog_path,
        run_dir=str(out),
        sources=MappingProxyType({**config.sources, **everything}),
    )
    data = open_data(here, ranks)
    network = load_network(checkpoint, ranks.device) if checkpoint else None
    if against:
        configs[EVALUATION] = config.evaluation.source
    reader, tables, found_items, sources = CatalogReader(here.catalog), {}, {}, {}
    for name in configs:
        table = reader.table(name)  # with what `fraction` leaves out
        tables[name] = flatten(here.catalog, table) if name in everything else table
        # also pieces that do not show their class: a filter may find that they do
        items = found_items[name] = find_items(here.catalog, tables[name], settings.rate)
        if not items.shown.any():
            raise UserError(
                key_of(name),
                "pieces that show their class",
                "none",
                "Correct the list, or leave the source out with --sources.",
            )
    take()
    for name, items in found_items.items():
        digests = Kept(
            out / "kept" / name / BYTES,
            replace(items, counts=np.ones(len(items), np.int64)),
            16,
            np.uint8,
            ranks,
        )
        sources[name] = _Source(name, configs[name], items, digests)
    _compute(sources, here, network, out, ranks, settings.within)
    measures: dict[str, tuple[Measure, float]] = {
        HASH: (HashLikeness(settings.distance), hashes.LEAST)
    }
    whitening = None
    if network is not None:
        whitening = ranks.on_main(
            lambda: fit_whitening(_sample([one.kept[FEATURES] for one in sources.values()]))
        )
        likeness = FeatureLikeness(whitening, ranks.device)
        threshold = settings.threshold
        if threshold is None:
            threshold = _calibrate(
                sources.get(EVALUATION) or next(iter(sources.values())),
                network,
                likeness,
                here,
                out,
                ranks,
            )
        measures[FEATURES] = (likeness, threshold)
    theirs, outcomes = sources.pop(EVALUATION, None), []
    for source in sources.values():
        outcome = Outcome(source.name, source.items, theirs and theirs.items)
        if theirs is not None:
            ranks.on_main(lambda: outcome.add_bytes(*_equal_bytes(source, theirs)))
            for kind, (measure, least) in measures.items():
                found = _search(
                    source.kept[kind],
                    theirs.kept[kind],
                    measure,
                    just_below(least),
                    ranks,
                    f"{kind} {source.name}",
                )
                ranks.on_main(
                    lambda: outcome.add(kind, *found, least, _bits(source, theirs, found))
                )
        outcome.unreadable = int(
            ((source.kept[HASH].done != DONE) | (source.digests.done == UNREADABLE)).sum()
        )
        if settings.within:
            dropped = ranks.on_main(lambda: outcome.dropped)
            within = _within(source, measures, ranks, dropped)
            ranks.on_main(lambda: outcome.add_within(*within))
        outcomes.append(outcome)
    lengths = {
        name: replace(configs[name], window_seconds=source.window_seconds)
        for name, source in everything.items()
    }
    ranks.on_main(
        lambda: _finish(
            config,
            out,
            outcomes,
            {**configs, **lengths},
            tables,
            data,
            settings,
            measures,
            whitening,
        )
    )
    return outcomes if ranks.is_main else None


def _compute(
    sources: dict[str, _Source],
    config: Config,
    network: ImageNetwork | None,
    out: Path,
    ranks: Ranks,
    within: bool,
) -> None:
    """Fill everything that is kept of frames."""
    _digest_files(sources, ranks, within, config.loader.hang_seconds)
    exact = make_autocast("fp32", ranks.device)
    for source in sources.values():
        folder = out / "kept" / source.name
        kept = source.kept[HASH] = Kept(
            folder / f"{HASH}-{hashes.VERSION}", source.items, hashes.WIDTH, np.uint8, ranks
        )
        fill(
            kept,
            source.config,
            hashes.sketch_frames,
            hashes.pack_sketches,
            hashes.SIDE,
            config,
            ranks,
            exact,
            f"hash {source.name}",
        )
    for source in sources.values() if network is not None else ():
        size = config.evaluation.test.size
        kept = source.kept[FEATURES] = Kept(
            out / "kept" / source.name / f"{FEATURES}-{network.digest}-{size}",
            source.items,
            network.width,
            np.float16,
            ranks,
        )
        fill(
            kept,
            source.config,
            network,
            lambda rows: _halves(rows, network.width),
            size,
            config,
            ranks,
            make_autocast(config.train.precision, ranks.device),
            f"features {source.name}",
        )


def _halves(outputs: np.ndarray, width: int) -> np.ndarray:
    """Features (n, T * width) as they are kept: float16 (n * T, width)."""
    return np.clip(outputs.reshape(-1, width), -65504, 65504).astype(np.float16)


def _digest_files(
    sources: dict[str, _Source], ranks: Ranks, within: bool, hang_seconds: float
) -> None:
    """Digests of the files whose size another file has, too: only those can be equal."""
    theirs = sources[EVALUATION].items.sizes if EVALUATION in sources else np.zeros(0, np.int64)
    ours = np.concatenate([one.items.sizes for name, one in sources.items() if name != EVALUATION])
    for name, source in sources.items():
        sizes = source.items.sizes
        # pieces of one video have one file, which is read once
        records = source.items.table.records
        _, firsts = np.unique(records, return_index=True)
        wanted = np.isin(sizes, ours if name == EVALUATION else theirs)
        if within and name != EVALUATION:
            values, counts = np.unique(sizes[firsts], return_counts=True)
            wanted |= np.isin(sizes, values[counts > 1])
        if source.config.kind == "frames":  # a folder has no bytes of its own
            wanted[:] = False
        todo = ranks.on_main(lambda: np.flatnonzero(wanted & (source.digests.done != DONE)))
        todo = todo[np.argsort(records[todo], kind="stable")]
        _, starts = np.unique(records[todo], return_index=True)
        starts = np.append(starts, len(todo))
        mine = np.arange(len(starts) - 1)[ranks.rank :: ranks.world]
        with (
            closing(FileReaders(ranks.threads, hang_seconds)) as readers,
            tqdm(
                total=len(mine),
                desc=f"bytes {name}",
                unit="file",
                file=sys.stderr,
                leave=False,
                disable=None if ranks.is_main else True,
            ) as bar,
        ):
            for first in range(0, len(mine), 256):
                files = mine[first : first + 256]
                media = [source.items.media(item) for item in todo[starts[files]].tolist()]
                found = []
                for one, (value, reason) in zip(media, readers.map(digest_of, media)):
                    found.append(value)
                    if value is None:
                        say(
                            f"{name}: {one.path} is not compared by its bytes: {reason}", error=True
                        )
                values = np.frombuffer(
                    b"".join(value or bytes(16) for value in found), np.uint8
                ).reshape(-1, 16)
                counts = starts[files + 1] - starts[files]
                places = np.concatenate([todo[starts[file] : starts[file + 1]] for file in files])
                read = np.repeat([value is not None for value in found], counts)
                source.digests.put(places, read, np.repeat(values, counts, axis=0))
                bar.update(len(files))
        source.digests.flush()
        ranks.meet()


def _equal_bytes(source: _Source, theirs: _Source) -> tuple[np.ndarray, np.ndarray]:
    """Items with the bytes of a validation item, and these: int64 (n,) twice."""
    known = {value: item for item, value in reversed(list(_digests(theirs)))}
    pairs = [(item, known[value]) for item, value in _digests(source) if value in known]
    return tuple(np.array(pairs, np.int64).reshape(-1, 2).T)


def _digests(source: _Source):
    for item in np.flatnonzero(source.digests.done == DONE).tolist():
        yield item, source.digests.values[item].tobytes()


def _search(
    mine: Kept, theirs: Kept, measure: Measure, least: float, ranks: Ranks, title: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every item the likeness of its best pair of frames, and their places in the two sources,
    from the likeness ``least`` on; on the main rank.
    """
    share = np.linspace(0, len(mine.items), ranks.world + 1).astype(int)[
        ranks.rank : ranks.rank + 2
    ]
    starts = mine.items.starts[share[0] : share[1] + 1]
    queries = mine.values[starts[0] : starts[-1]]
    if ranks.is_main:
        say(f"{title}: {len(mine.values):,} x {len(theirs.values):,} frames")
    best, places = best_matches(queries, theirs.values, measure, least=least)
    top = best_of_items(best, starts - starts[0])
    parts = ranks.gather((best[top], top + starts[0], places[top]))
    return tuple(map(np.concatenate, zip(*parts))) if parts else ()


def _bits(source: _Source, theirs: _Source, found: tuple) -> np.ndarray:
    """Bits between the hashes of the pairs of frames of :func:`_search`."""
    return hashes.distance_of(
        source.kept[HASH].values[found[1]], theirs.kept[HASH].values[found[2]]
    )


def _within(
    source: _Source, measures: dict[str, tuple[Measure, float]], ranks: Ranks, dropped: np.ndarray
) -> tuple[list[np.ndarray], dict[str, Pairs]]:
    """Items of equal bytes, and pairs that are alike by kind; on the main rank."""
    items, equal, alike = source.items, {}, {}
    if ranks.is_main:
        firsts = np.zeros(len(items)) if items.table.firsts is None else items.table.firsts
        for item, value in _digests(source):
            if not dropped[item]:
                equal.setdefault((value, int(firsts[item])), []).append(item)
    for kind, (measure, least) in measures.items():
        mine = Pairs()
        mine.add_above(
            source.kept[kind].values,
            items.of_frames,
            items.rows,
            measure,
            least,
            dropped,
            ranks.rank,
            ranks.world,
        )
        alike[kind] = Pairs()
        for found in ranks.gather(mine.found):
            alike[kind].add(found)
    return [np.array(group) for group in equal.values() if len(group) > 1], alike


def _sample(kept: list[Kept]) -> np.ndarray:
    """Features of frames of all sources, evenly spread, each source with the same share at most:
    float32 (n, D).
    """
    share = SAMPLE // len(kept)
    return np.concatenate(
        [
            np.asarray(
                one.values[
                    np.unique(
                        np.linspace(0, len(one.values) - 1, min(share, len(one.values))).astype(
                            np.int64
                        )
                    )
                ],
                np.float32,
            )
            for one in kept
        ]
    )


def _calibrate(
    source: _Source,
    network: ImageNetwork,
    likeness: FeatureLikeness,
    config: Config,
    out: Path,
    ranks: Ranks,
) -> float:
    """The mean cosine of two random crops of one frame, over the middle frames of up to 2000 items."""
    rows = np.unique(
        np.linspace(0, len(source.items) - 1, min(CALIBRATED_ON, len(source.items))).astype(
            np.int64
        )
    )
    items = replace(source.items.take(rows, "calibration"), counts=np.ones(len(rows), np.int64))
    size = config.evaluation.test.size
    kept = Kept(
        out / "kept" / source.name / f"crops-{network.digest}-{size}",
        items,
        2 * network.width,
        np.float16,
        ranks,
    )
    fill(
        kept,
        source.config,
        network.of_crops,
        lambda rows: _halves(rows, 2 * network.width),
        size,
        config,
        ranks,
        make_autocast(config.train.precision, ranks.device),
        "crops of one frame",
    )

    def mean() -> float:
        pairs = np.asarray(kept.values[kept.done == DONE], np.float32)
        one, other = (
            likeness.prepare(pairs[:, part])
            for part in (slice(0, network.width), slice(network.width, None))
        )
        cosines = (one * other).sum(dim=1)[one.any(dim=1) & other.any(dim=1)]
        if not len(cosines):
            raise UserError(
                "--threshold",
                "frames to measure it with",
                f"none that can be used in {source.name}",
                "Give a number.",
            )
        return float(cosines.mean())

    return ranks.on_main(mean)


def _finish(
    config: Config,
    out: Path,
    outcomes: list[Outcome],
    configs: dict[str, MediaConfig],
    tables: dict[str, SourceTable],
    data: Data,
    settings: Settings,
    measures: dict,
    whitening: Whitening | None,
) -> None:
    """Write everything, and say what was kept and dropped."""
    thresholds, new = {kind: least for kind, (_, least) in measures.items()}, {}
    with writing_to(out):
        for outcome in outcomes:
            if outcome.dropped[outcome.items.shown].all():
                # apart: lists, report and config of an earlier start stay as they are, and belong
                # together
                refused = out / REFUSED
                write_outcome(
                    refused,
                    config.catalog_path,
                    outcomes,
                    settings,
                    thresholds,
                    whitening,
                    data.class_names,
                )
                raise UserError(
                    key_of(outcome.name),
                    "items that are not in the validation set",
                    f"{int(outcome.items.shown.sum()):,} of which all are duplicates",
                    f"Check that evaluation.source is another set, choose a higher --threshold (both: see"
                    f" {refused / 'report.md'}), or leave the source out with --sources.",
                )
        for outcome in outcomes:
            check_list(
                config.catalog_path,
                outcome.name,
                configs[outcome.name],
                outcome.items.shown & ~outcome.dropped,
            )
        # of an earlier start, whose lists this report does not tell of
        (out / "config.yaml").unlink(missing_ok=True)
        write_outcome(
            out, config.catalog_path, outcomes, settings, thresholds, whitening, data.class_names
        )
        for outcome in outcomes:
            name = outcome.name
            kept = outcome.items.shown & ~outcome.dropped
            # such a training also takes videos that never show their class
            stays = ~outcome.dropped if configs[name].pieces == "all" else None
            new[name], _ = write_list(
                out / "lists",
                config.catalog_path,
                name,
                configs[name],
                kept,
                tables[name].labels,
                stays,
                removed=outcome.dropped,
            )
        write_config(out, config, new, data.class_names if data.named else None)
    for outcome in outcomes:
        say(outcome)
    training = for_shell("train.py", "--config", out / "config.yaml")
    say(f"report: {out / 'report.md'}", f"train on what is left: {training}")
