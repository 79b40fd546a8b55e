"""Remove duplicates of validation items, and of each other, from training sources.

An item is an image, a video, or a piece of a long video. Three methods find duplicates, and each
one is enough: equal bytes; a perceptual hash with a thumbnail
(:mod:`omnidali.curation.dedup.perceptual_hash`); and with a checkpoint the cosine of whitened
features (:mod:`omnidali.curation.dedup.features`). The similarity of an item is the highest one of
its frames with any frame of the validation items.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

import numpy as np

from omnidali.catalog.database.listed_items import flatten
from omnidali.catalog.database.reader import CatalogReader
from omnidali.config.schema import Config
from omnidali.config.sources import EVALUATION, SourceConfig, key_of
from omnidali.curation.dedup import perceptual_hash
from omnidali.curation.dedup.compared_items import ComparedItems, find_compared_items
from omnidali.curation.dedup.dedup_report import write_dedup_report
from omnidali.curation.dedup.duplicates import (
    BYTES,
    DEFAULT_SETTINGS,
    FEATURES,
    HASH,
    DedupSettings,
    SourceDuplicates,
)
from omnidali.curation.dedup.features import (
    FeatureSimilarity,
    ImageNetwork,
    Whitening,
    fit_whitening,
    load_image_network,
    measure_threshold,
    pack_features,
    sample_features,
)
from omnidali.curation.dedup.frame_cache import FrameCache, fill_cache
from omnidali.curation.dedup.perceptual_hash import HashSimilarity
from omnidali.curation.dedup.search import Criterion, SearchedSource, digest_files, search_source
from omnidali.curation.exact_duplicates import DIGEST_BYTES
from omnidali.curation.list_writer import check_list_paths, write_config, write_list
from omnidali.curation.source_selection import (
    check_window,
    choose_crawled,
    with_all_pieces,
)
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.data import Data, open_data
from omnidali.utils.atomic_write import writing_to
from omnidali.utils.untrusted_text import for_shell, say

_REFUSED = "refused"  # folder for the report of a start that leaves nothing of a source
_CACHES = "kept"  # folder of the frame caches


def dedup(
    config: Config,
    out: str | Path,
    ranks: Ranks,
    checkpoint: str | None = None,
    names: Collection[str] = (),
    settings: DedupSettings = DEFAULT_SETTINGS,
    take: Callable[[], None] = lambda: None,
) -> list[SourceDuplicates] | None:
    """Find duplicates; write lists of the remaining items, OUT/config.yaml, and a report.

    Args:
        config: names the sources and the validation items.
        out: folder for the results; a second start continues from its caches.
        ranks: all of them call this.
        checkpoint: an image network for features; None: bytes and hashes alone.
        names: of the training sources; none: all but the first, the target.
        settings: what counts as a duplicate.
        take: called on all ranks after all checks, before anything but the catalog is written.

    Returns:
        The duplicates of every source, on the main rank.

    Raises:
        UserError: for unknown sources, no validation items, a window that no source takes, a source
            of which nothing is left, or a full disk.
    """
    out = Path(os.path.abspath(out))
    names = choose_crawled(config, names, training=True)
    listed = {name: config.sources[name] for name in names}
    _check_settings(config, settings, listed)

    # All pieces of long videos are compared, as the list that is written numbers all of them.
    several = config.multi_label
    searched = {
        name: with_all_pieces(source, config.data_root, settings.window, multi_label=several)
        for name, source in listed.items()
    }
    searching = _search_config(config, out, searched)
    network = load_image_network(checkpoint, ranks.device) if checkpoint else None
    data = open_data(searching, ranks)
    items = _find_items(searching, names, settings.rate)
    take()

    found, thresholds, whitening = _search(
        searching, items, network, out / _CACHES, ranks, settings
    )
    for name, source in searched.items():
        listed[name] = replace(listed[name], window_seconds=source.window_seconds)
    report = partial(
        write_dedup_report,
        catalog=config.catalog_path,
        sources=found,
        settings=settings,
        thresholds=thresholds,
        whitening=whitening,
        class_names=data.class_names,
    )
    ranks.on_main(lambda: _write_results(config, out, found, listed, data, report))
    return found if ranks.is_main else None


def _search_config(config: Config, out: Path, searched: Mapping[str, SourceConfig]) -> Config:
    """The config to search with; its quarantine is in ``out``, not in a training's run folder."""
    return replace(
        config,
        catalog=config.catalog_path,
        run_dir=str(out),
        sources=MappingProxyType({**config.sources, **searched}),
    )


def _check_settings(
    config: Config, settings: DedupSettings, sources: Mapping[str, SourceConfig]
) -> None:
    """Refuse a search that would compare nothing, and a window that no source takes."""
    if config.evaluation.source is None and not settings.within:
        raise UserError(
            "evaluation.source",
            "validation items to compare with",
            "nothing",
            "Add it to the config, or look for duplicates inside the sources alone with --within.",
        )
    check_window(settings.window, sources, config.data_root, multi_label=config.multi_label)


def _find_items(config: Config, names: Sequence[str], rate: float) -> dict[str, ComparedItems]:
    """The items of the named sources, and of the evaluation if there is one.

    Raises:
        UserError: for a source without pieces that show their class.
    """
    catalog = config.catalog_path
    reader = CatalogReader(catalog)
    is_evaluated = config.evaluation.source is not None

    found = {}
    for name in [*names, EVALUATION] if is_evaluated else names:
        table = reader.table(name)  # with the items that `fraction` leaves out
        if name != EVALUATION and table.kind.has_pieces:
            table = flatten(catalog, table)
        # Pieces without their class are compared, too: a filter may find that they show it.
        found[name] = find_compared_items(catalog, table, rate)
        if not found[name].shown.any():
            raise UserError(
                key_of(name),
                "pieces that show their class",
                "none",
                "Correct the list, or leave the source out with --sources.",
            )
    return found


def _search(
    config: Config,
    items: Mapping[str, ComparedItems],
    network: ImageNetwork | None,
    folder: Path,
    ranks: Ranks,
    settings: DedupSettings,
) -> tuple[list[SourceDuplicates], dict[str, float], Whitening | None]:
    """Compute the hashes and features, and compare them.

    Args:
        config: how files are read.
        items: of the sources, by name.
        network: for features; None: bytes and hashes alone.
        folder: of the caches.
        ranks: all of them call this.
        settings: what counts as a duplicate.

    Returns:
        The duplicates of each source, the least similarity of duplicates by kind, and the
        whitening of features, None without a network.
    """
    configs = config.all_sources
    sources = {}
    for name, compared in items.items():
        digests = FrameCache(
            folder / name / BYTES, compared.with_one_frame(), DIGEST_BYTES, np.uint8, ranks=ranks
        )
        sources[name] = SearchedSource(name, configs[name], compared, digests)
    digest_files(sources, ranks, settings.within, config.loader.hang_seconds)
    for source in sources.values():
        _compute_hashes(source, config, folder, ranks)

    criteria = {HASH: Criterion(HashSimilarity(settings.distance), perceptual_hash.MIN_SIMILARITY)}
    whitening = None
    if network is not None:
        for source in sources.values():
            _compute_features(source, network, config, folder, ranks)
        caches = [source.caches[FEATURES] for source in sources.values()]
        whitening = ranks.on_main(lambda: fit_whitening(sample_features(caches)))
        cosine = FeatureSimilarity(whitening, ranks.device)
        threshold = settings.threshold
        if threshold is None:
            measured = sources.get(EVALUATION) or next(iter(sources.values()))
            threshold = measure_threshold(
                measured, network, cosine, config=config, out=folder / measured.name, ranks=ranks
            )
        criteria[FEATURES] = Criterion(cosine, threshold)

    held_out = sources.pop(EVALUATION, None)
    found = [
        search_source(source, held_out, criteria, settings.within, ranks)
        for source in sources.values()
    ]
    thresholds = {kind: criterion.threshold for kind, criterion in criteria.items()}
    return found, thresholds, whitening


def _compute_hashes(source: SearchedSource, config: Config, folder: Path, ranks: Ranks) -> None:
    source.caches[HASH] = fill_cache(
        folder / source.name / f"{HASH}-{perceptual_hash.SKETCH_VERSION}",
        source.items,
        source.config,
        width=perceptual_hash.SKETCH_BYTES,
        dtype=np.uint8,
        network=perceptual_hash.sketch_frames,
        pack=perceptual_hash.pack_sketches,
        size=perceptual_hash.FRAME_SIDE,
        precision="fp32",
        title=f"hash {source.name}",
        config=config,
        ranks=ranks,
    )


def _compute_features(
    source: SearchedSource, network: ImageNetwork, config: Config, folder: Path, ranks: Ranks
) -> None:
    size = config.evaluation.test.size
    source.caches[FEATURES] = fill_cache(
        folder / source.name / f"{FEATURES}-{network.digest}-{size}",
        source.items,
        source.config,
        width=network.width,
        dtype=np.float16,
        network=network.features,
        pack=partial(pack_features, width=network.width),
        size=size,
        precision=config.train.precision,
        title=f"features {source.name}",
        config=config,
        ranks=ranks,
    )


def _refuse_empty(
    duplicates: SourceDuplicates, out: Path, write_report: Callable[[Path], None]
) -> NoReturn:
    """Raise UserError for a source of which nothing is left, with a report."""
    # In a folder of its own: the files of an earlier start belong together and stay.
    refused = out / _REFUSED
    write_report(refused)
    raise UserError(
        key_of(duplicates.name),
        "items that are not in the validation set",
        f"{int(duplicates.items.shown.sum()):,} of which all are duplicates",
        "Check that evaluation.source is another set, choose a higher --threshold"
        f" (both: see {refused / 'report.md'}), or leave the source out with"
        " --sources.",
    )


def _write_results(
    config: Config,
    out: Path,
    found: Sequence[SourceDuplicates],
    listed: Mapping[str, SourceConfig],
    data: Data,
    write_report: Callable[[Path], None],
) -> None:
    """Write the report, the lists and the config; print what was kept and dropped.

    Raises:
        UserError: for a source of which nothing is left, a path that no list can hold, or a full
            disk.
    """
    catalog = config.catalog_path
    with writing_to(out):
        for duplicates in found:
            if not duplicates.left.any():
                _refuse_empty(duplicates, out, write_report)
        for duplicates in found:
            name = duplicates.name
            check_list_paths(
                catalog, name, listed[name], duplicates.left, multi_label=config.multi_label
            )

        # The config of an earlier start would name lists that this report does not describe.
        (out / "config.yaml").unlink(missing_ok=True)
        write_report(out)
        written = {}
        for duplicates in found:
            name = duplicates.name
            # A training on all pieces also takes videos that never show their class.
            takes_all = listed[name].pieces == "all"
            written[name], _ = write_list(
                out / "lists",
                catalog,
                name,
                listed[name],
                duplicates.left,
                duplicates.items.table.labels,
                stays=~duplicates.dropped if takes_all else None,
                removed=duplicates.dropped,
                first_label=data.first_label,
                names=data.listed_names,
                label_sets=duplicates.items.table.label_sets,
            )
        names = data.class_names if data.named else None
        write_config(out, config, written, names, first_label=data.first_label)

    say(*found)
    training = for_shell("omnidali", "train", "--config", out / "config.yaml")
    say(f"report: {out / 'report.md'}", f"train on what is left: {training}")
