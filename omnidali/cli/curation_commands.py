"""``filter`` and ``dedup``: commands that write lists of the items that are worth training on."""

import argparse
import math
from typing import TYPE_CHECKING

from omnidali.cli.command import Command, option
from omnidali.cli.options import (
    CONFIG,
    config_option,
    load_config_apart_from_output,
    require,
    reserve_output,
    sources_option,
    training_command,
)
from omnidali.distributed.failure_monitor import reporting_to_peers
from omnidali.errors import UserError
from omnidali.utils.untrusted_text import say

if TYPE_CHECKING:
    from omnidali.curation.dedup.duplicates import DedupSettings
    from omnidali.curation.filter.rules import Rules


_FILTER_OPTIONS = (
    config_option("its `clip` and `evaluation.test` are used for the teacher"),
    option(
        "--checkpoint",
        required=True,
        nargs="+",
        metavar="FILE",
        help="the teacher: a checkpoint, or a run folder for its best.pt; the probabilities of"
        " several are averaged",
    ),
    option("--out", required=True, help="folder for lists, report and config.yaml"),
    sources_option("all but the first, the target"),
    option(
        "--score-only", action="store_true", help="keep the scores in the catalog, write no lists"
    ),
    option(
        "--rule",
        nargs="+",
        choices=("threshold", "topk", "quantile"),
        default=["threshold"],
        help="rules, all of which an item must pass (default: threshold)",
    ),
    option(
        "--threshold",
        type=float,
        metavar="P",
        help="threshold: least probability of the item's class (default: 0.5)",
    ),
    option(
        "--top",
        type=int,
        help="topk: the item's class is among the TOP most probable ones (default: 1)",
    ),
    option(
        "--keep",
        type=float,
        metavar="SHARE",
        help="quantile: share of each class that is kept, the most probable items, rounded up and"
        " with ties (default: 0.6)",
    ),
    option(
        "--relabel",
        action="store_true",
        help="give an item that fails its best other class, if that passes; for strong teachers,"
        " never for pieces of long videos",
    ),
    option(
        "--window",
        type=float,
        metavar="SECONDS",
        help="length of the pieces that whole long videos are cut into, where dedup has not cut"
        " them (default: 1 for a 2D teacher, else window_seconds of the source)",
    ),
    option(
        "--keep-negatives", action="store_true", help="keep long videos without a positive piece"
    ),
)


def _filter(options: argparse.Namespace) -> None:
    from omnidali.curation.filter.filter import filter_sources
    from omnidali.distributed.devices import take_device
    from omnidali.distributed.ranks import end_process_group, start_process_group

    rules = rules_from(options)
    ranks = start_process_group()
    config = load_config_apart_from_output(options, *options.checkpoint)
    ranks = take_device(ranks, config.device)
    with reporting_to_peers():
        filter_sources(
            config,
            options.checkpoint,
            out=options.out,
            names=options.sources,
            rules=rules,
            window=options.window,
            score_only=options.score_only,
            keep_negatives=options.keep_negatives,
            ranks=ranks,
            take=reserve_output("filter", options, ranks),
        )
    end_process_group()

    if ranks.is_main and options.score_only:
        say(
            f"the scores are in {config.catalog_path}: filter without --score-only makes lists of"
            " them"
        )
    elif ranks.is_main:
        say(f"report in {options.out}/report.md", f"train on it: {training_command(options.out)}")


def rules_from(options: argparse.Namespace) -> "Rules":
    """The rules that the options of ``filter`` ask for.

    Raises:
        UserError: for an option out of its range, or without the rule that it is for.
    """
    from omnidali.curation.filter.rules import Rules

    rule_of = {"threshold": "threshold", "top": "topk", "keep": "quantile"}
    asked = {name: getattr(options, name) for name in rule_of if getattr(options, name) is not None}
    require(asked.get("top", 1) >= 1, "--top", "1 or more", options.top)
    for name, value in asked.items():
        if name != "top":
            require(0 < value <= 1, f"--{name}", "a number above 0 and at most 1", f"{value:g}")
        rule = rule_of[name]
        if rule not in options.rule:
            raise UserError(
                f"--{name}",
                f"--rule {rule} with it",
                f"--rule {' '.join(options.rule)}",
                f"Add {rule} to --rule, or leave --{name} out.",
            )
    _check_window(options.window)
    return Rules(tuple(dict.fromkeys(options.rule)), relabel=options.relabel, **asked)


_DEDUP_OPTIONS = (
    CONFIG,
    option(
        "--out",
        required=True,
        help="folder for lists, config.yaml and report; a second start goes on",
    ),
    sources_option("all but the first, the target", evaluation=False),
    option(
        "--checkpoint",
        metavar="FILE",
        help="image network for features: a checkpoint, weights of a ResNet, or a run folder"
        " (default: bytes and hashes alone)",
    ),
    option(
        "--threshold",
        default="auto",
        metavar="X",
        help="cosine of features from which on two frames are duplicates; auto: that of two crops"
        " of one frame (default: %(default)s)",
    ),
    option(
        "--hash-distance",
        type=int,
        default=18,
        metavar="BITS",
        help="most bits, of 64, in which the hashes of duplicates differ (default: %(default)s)",
    ),
    option(
        "--fps",
        type=float,
        default=8.0,
        help="frames to look at in a second of video (default: %(default)s)",
    ),
    option(
        "--window",
        type=float,
        metavar="SECONDS",
        help="length of the pieces that whole long videos are cut into, also in the config that is"
        " written (default: window_seconds of the source; 1 is for a 2D teacher)",
    ),
    option(
        "--within",
        action="store_true",
        help="also keep only one of the near-duplicates within a source",
    ),
)


def _dedup(options: argparse.Namespace) -> None:
    from omnidali.curation.dedup.dedup import dedup
    from omnidali.distributed.devices import take_device
    from omnidali.distributed.ranks import end_process_group, start_process_group

    settings = dedup_settings_from(options)
    ranks = start_process_group()
    config = load_config_apart_from_output(options, options.checkpoint)
    ranks = take_device(ranks, config.device)
    with reporting_to_peers():
        dedup(
            config,
            options.out,
            ranks=ranks,
            checkpoint=options.checkpoint,
            names=options.sources,
            settings=settings,
            take=reserve_output("dedup", options, ranks),
        )
    end_process_group()


def dedup_settings_from(options: argparse.Namespace) -> "DedupSettings":
    """What the options of ``dedup`` count as a duplicate.

    Raises:
        UserError: for an option out of its range, or a threshold without a network.
    """
    from omnidali.curation.dedup.duplicates import DedupSettings

    threshold = None
    if options.threshold != "auto":
        threshold = _cosine(options.threshold)
        if not options.checkpoint:
            raise UserError(
                "--threshold",
                "--checkpoint with it, whose features it is for",
                "none",
                "Add a network, or use --hash-distance.",
            )
    distance = options.hash_distance
    require(0 <= distance <= 64, "--hash-distance", "0 to 64", distance)
    require(0 < options.fps <= 1000, "--fps", "more than 0, and up to 1000", options.fps)
    _check_window(options.window)
    return DedupSettings(
        threshold=threshold,
        distance=distance,
        rate=options.fps,
        within=options.within,
        window=options.window,
    )


def _cosine(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    require(-1 < value <= 1, "--threshold", "auto, or a number above -1 and up to 1", text)
    return value


def _check_window(seconds: float | None) -> None:
    if seconds is not None:
        require(0 < seconds < math.inf, "--window", "seconds above 0", f"{seconds:g}")


FILTER = Command(
    name="filter",
    summary="keep what a teacher agrees with, of crawled sources",
    run=_filter,
    options=_FILTER_OPTIONS,
    has_settings=True,
    examples=(
        "omnidali filter --config demo_crawl --checkpoint runs/target --out kept",
        "omnidali filter --config demo_crawl --checkpoint a.pt b.pt --out kept seed=1",
    ),
)
DEDUP = Command(
    name="dedup",
    summary="drop copies of evaluation items, and near-duplicates",
    run=_dedup,
    options=_DEDUP_OPTIONS,
    has_settings=True,
    examples=(
        "omnidali dedup --config demo_crawl --out unique --within data_root=crawl",
        "torchrun --nproc-per-node 8 -m omnidali dedup --config demo_crawl --out unique",
    ),
)
