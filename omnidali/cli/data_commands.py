"""Commands that look at data and make them fit for training; none of them changes the originals."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omnidali.cli.options import at_least, takes_config, takes_settings, takes_sources
from omnidali.distributed.failure_monitor import reporting_to_peers
from omnidali.errors import UserError
from omnidali.utils.untrusted_text import for_shell, say

if TYPE_CHECKING:
    from omnidali.curation.dedup.dedup import Settings
    from omnidali.curation.filter.rules import Rules
    from omnidali.distributed.ranks import Ranks


def add_to(commands: argparse._SubParsersAction) -> None:
    """Add the commands to the parser."""
    lint = commands.add_parser(
        "lint", help="look for what is wrong with a config's lists and media; changes none of them"
    )
    takes_config(lint)
    lint.add_argument(
        "--decode",
        action="store_true",
        help="decode whole files, too: names those that are not what"
        " their headers say, and writes that into the catalog, so that a stopped run over files whose"
        " frames have other numbers then is refused",
    )
    lint.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="decode N files of each source at most, evenly spread (default: all)",
    )
    lint.add_argument(
        "--out", metavar="DIR", help="folder for the report (default: lint in the run folder)"
    )
    takes_sources(lint, "all")
    takes_settings(lint)
    lint.set_defaults(story=_lint)

    info = commands.add_parser("info", help="what a catalog holds, as it is")
    which = info.add_mutually_exclusive_group(required=True)
    which.add_argument("--catalog", metavar="FILE", help="catalog.sqlite of a run folder")
    which.add_argument("--config", help="YAML file whose catalog is meant")
    info.add_argument("--json", action="store_true", help="for programs")
    takes_settings(info)
    info.set_defaults(story=_info)

    preview = commands.add_parser("preview", help="pictures of the clips that a training takes")
    takes_config(preview)
    preview.add_argument(
        "--out", metavar="DIR", help="folder for the pictures (default: preview in the run folder)"
    )
    takes_sources(preview, "those of the training")
    preview.add_argument(
        "--samples", type=int, default=24, help="clips of a source (default: %(default)s)"
    )
    preview.add_argument(
        "--step", type=int, default=0, help="of the training to begin with (default: %(default)s)"
    )
    takes_settings(preview)
    preview.set_defaults(story=_preview)

    sieve = commands.add_parser(
        "filter", help="score crawled sources with a teacher and keep what it agrees with"
    )
    takes_config(sieve, "`clip` and `evaluation.test` are the teacher's")
    sieve.add_argument(
        "--checkpoint",
        required=True,
        nargs="+",
        metavar="FILE",
        help="the teacher: checkpoint, or run"
        " folder for its best.pt; of several the probabilities are averaged",
    )
    sieve.add_argument("--out", required=True, help="folder for lists, report and config.yaml")
    takes_sources(sieve, "all but the first, the target")
    sieve.add_argument(
        "--score-only", action="store_true", help="keep the scores in the catalog and write no list"
    )
    sieve.add_argument(
        "--rule",
        nargs="+",
        choices=("threshold", "topk", "quantile"),
        default=["threshold"],
        help="what an item must pass, all of them (default: threshold)",
    )
    sieve.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="threshold: least probability of the item's class (default: 0.5)",
    )
    sieve.add_argument(
        "--top", type=int, help="topk: best classes that must hold the item's (default: 1)"
    )
    sieve.add_argument(
        "--keep",
        type=float,
        metavar="SHARE",
        help="quantile: share of each class that is kept, the"
        " most probable, rounded up, and what is as probable as the last of them (default: 0.6)",
    )
    sieve.add_argument(
        "--relabel",
        action="store_true",
        help="an item that fails takes the best other class if that"
        " passes: for strong teachers; never pieces of long videos",
    )
    sieve.add_argument(
        "--window",
        type=float,
        metavar="SECONDS",
        help="length of the pieces that whole long videos are"
        " cut into; behind dedup they are already (default: 1 for a 2D teacher, else window_seconds of"
        " the source)",
    )
    sieve.add_argument(
        "--keep-negatives", action="store_true", help="keep long videos without a positive piece"
    )
    takes_settings(sieve)
    sieve.set_defaults(story=_filter)

    dedup = commands.add_parser(
        "dedup", help="drop what shows validation items, and near-duplicates of a source"
    )
    takes_config(dedup)
    dedup.add_argument(
        "--out",
        required=True,
        help="folder for lists, config.yaml and report; a second start goes on",
    )
    takes_sources(dedup, "all but the first, the target", held_out=False)
    dedup.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="image network for features: a checkpoint, weights of a"
        " ResNet, or a run folder (default: bytes and hashes alone)",
    )
    dedup.add_argument(
        "--threshold",
        default="auto",
        metavar="X",
        help="cosine of features from which on two frames"
        " are one; auto: that of two crops of one frame (default: %(default)s)",
    )
    dedup.add_argument(
        "--hash-distance",
        type=int,
        default=18,
        metavar="BITS",
        help="of 64 in which the hashes of duplicates differ at most (default: %(default)s)",
    )
    dedup.add_argument(
        "--fps",
        type=float,
        default=8.0,
        help="frames of a second to look at (default: %(default)s)",
    )
    dedup.add_argument(
        "--window",
        type=float,
        metavar="SECONDS",
        help="length of the pieces that whole long videos are"
        " cut into, from now on (default: window_seconds of the source; 1 is for a 2D teacher)",
    )
    dedup.add_argument(
        "--within", action="store_true", help="also keep one alone of what is alike inside a source"
    )
    takes_settings(dedup)
    dedup.set_defaults(story=_dedup)

    cut = commands.add_parser(
        "cut", help="make a file of every piece of the long videos; training needs none"
    )
    takes_config(cut)
    cut.add_argument(
        "--out",
        required=True,
        help="folder for files, lists and config.yaml; a second start goes on",
    )
    takes_sources(cut, "all of kind untrimmed whose pieces are no files yet", held_out=False)
    cut.add_argument(
        "--pieces",
        choices=("positive", "all"),
        help="those that show their class, or all (default: what the source's own `pieces` uses)",
    )
    cut.add_argument(
        "--exact",
        action="store_true",
        help="encode anew, frame by frame (default: copy the packets from"
        " the keyframe before a piece on); audio is left out in either case",
    )
    cut.add_argument("--workers", type=int, default=0, help="files at a time (default: the cores)")
    takes_settings(cut)
    cut.set_defaults(story=_cut)

    copy = commands.add_parser(
        "transcode", help="make a copy of a config's media that decodes quickly"
    )
    takes_config(copy)
    copy.add_argument(
        "--out",
        required=True,
        help="folder for the copy and its config.yaml; a second start goes on",
    )
    copy.add_argument(
        "--recipe",
        choices=("fast", "small", "intra"),
        default="fast",
        help="fast: quick at any frame; small: fewer bytes; intra: keyframes only (default: %(default)s)",
    )
    takes_sources(copy, "all")
    copy.add_argument(
        "--short-side",
        type=int,
        default=256,
        help="pixels, never scaled up to (default: %(default)s)",
    )
    copy.add_argument("--workers", type=int, default=0, help="files at a time (default: the cores)")
    takes_settings(copy)
    copy.set_defaults(story=_transcode)

    advice = commands.add_parser(
        "advise", help="what decoding one's own sources costs, and which copy would help most"
    )
    takes_config(advice)
    advice.add_argument(
        "--sample", type=int, default=12, help="files of a source to measure (default: %(default)s)"
    )
    takes_settings(advice)
    advice.set_defaults(story=_advise)

    motion = commands.add_parser("motion", help="camera motion for inflate: warp").add_subparsers(
        dest="what", required=True
    )
    estimate = motion.add_parser(
        "estimate", help="mean and covariance of homographies between frames of videos"
    )
    takes_config(estimate)
    estimate.add_argument(
        "--source", help="its source to look at (default: the first one, the target)"
    )
    estimate.add_argument(
        "--interval", type=int, help="frames between those of a pair (default: clip.frame_interval)"
    )
    estimate.add_argument(
        "--videos", type=int, default=1000, help="how many to look at (default: %(default)s)"
    )
    estimate.add_argument(
        "--out", required=True, help="JSON file to write, for `motion:` of a source"
    )
    takes_settings(estimate)
    estimate.set_defaults(story=_estimate_motion)


# Each story imports what it needs: DALI and torch take seconds to load.


def _lint(options: argparse.Namespace) -> int:
    from omnidali.config.load import load_config
    from omnidali.curation.copies.copy_layout import keep_clear
    from omnidali.curation.lint.lint import lint
    from omnidali.distributed.ranks import Ranks

    if options.sample is not None:
        at_least(options.sample, 1, "--sample")
        if not options.decode:
            raise UserError("--sample", "--decode beside it", "--sample alone", "Add --decode.")
    config = load_config(options.config, options.overrides)
    if options.out:
        keep_clear(options.out, options.config, config)
    take = _taking("lint", options, Ranks())
    return (
        1 if lint(config, options.out, options.sources, options.decode, options.sample, take) else 0
    )


def _taking(command: str, options: argparse.Namespace, ranks: Ranks) -> Callable[[], None]:
    """What takes --out for a command, if it was given; that it may be taken is checked now. All
    ranks call both.

    Raises:
        UserError: naming --out.
    """
    from omnidali.curation.job_log import check_free, take_folder

    if not options.out:
        return lambda: None
    ranks.on_main(lambda: check_free(options.out, command, options.config))
    return lambda: ranks.on_main(lambda: take_folder(options.out, command, options.config))


def _info(options: argparse.Namespace) -> None:
    from omnidali.config.load import load_config
    from omnidali.curation.info import describe_catalog, show_catalog

    config = load_config(options.config, options.overrides) if options.config else None
    found = describe_catalog(options.catalog or config.catalog_path, config)
    say(*(json.dumps(found, indent=2) if options.json else show_catalog(found)).split("\n"))


def _preview(options: argparse.Namespace) -> None:
    from omnidali.config.load import load_config
    from omnidali.curation.copies.copy_layout import keep_clear
    from omnidali.curation.preview import preview
    from omnidali.distributed.ranks import Ranks

    at_least(options.samples, 1, "--samples")
    at_least(options.step, 0, "--step")
    config = load_config(options.config, options.overrides)
    if options.out:
        keep_clear(options.out, options.config, config)
    preview(
        config,
        options.out,
        options.sources,
        options.samples,
        options.step,
        _taking("preview", options, Ranks()),
    )


def _filter(options: argparse.Namespace) -> None:
    from omnidali.config.load import load_config
    from omnidali.curation.copies.copy_layout import keep_clear
    from omnidali.curation.filter.filter import Filtering, filter_sources
    from omnidali.distributed.ranks import end_ranks, start_ranks

    rules = rules_of(options)
    ranks = start_ranks()
    config = load_config(options.config, options.overrides)
    keep_clear(options.out, options.config, config, *options.checkpoint)
    with reporting_to_peers():
        take = _taking("filter", options, ranks)
        filter_sources(
            config,
            options.checkpoint,
            options.out,
            Filtering(
                tuple(options.sources),
                rules,
                options.window,
                options.score_only,
                options.keep_negatives,
            ),
            ranks,
            take,
        )
    end_ranks()
    if ranks.is_main and options.score_only:
        say(
            f"the scores are in {config.catalog_path}: filter without --score-only makes lists of them"
        )
    elif ranks.is_main:
        say(f"report in {options.out}/report.md", f"train on it: {_training_on(options.out)}")


def rules_of(options: argparse.Namespace) -> Rules:
    """What the options of `filter` ask of an item.

    Raises:
        UserError: for an option out of its range, or without the rule that it is for.
    """
    from omnidali.curation.filter.rules import Rules

    asked = {
        name: getattr(options, name)
        for name in ("threshold", "top", "keep")
        if getattr(options, name) is not None
    }
    at_least(asked.get("top", 1), 1, "--top")
    for name, rule in (("threshold", "threshold"), ("top", "topk"), ("keep", "quantile")):
        if name != "top" and not 0 < asked.get(name, 1) <= 1:
            raise UserError(
                f"--{name}",
                "a number above 0 and at most 1",
                f"{asked[name]:g}",
                "Correct the value.",
            )
        if name in asked and rule not in options.rule:
            raise UserError(
                f"--{name}",
                f"--rule {rule} with it",
                f"--rule {' '.join(options.rule)}",
                f"Add {rule} to --rule, or leave --{name} out.",
            )
    _check_window(options.window)
    return Rules(tuple(dict.fromkeys(options.rule)), relabel=options.relabel, **asked)


def _training_on(out: str | Path) -> str:
    return for_shell("train.py", "--config", Path(out, "config.yaml"))


def _check_window(seconds: float | None) -> None:
    if seconds is not None and not 0 < seconds < float("inf"):
        raise UserError("--window", "seconds above 0", f"{seconds:g}", "Correct the value.")


def _dedup(options: argparse.Namespace) -> None:
    from omnidali.config.load import load_config
    from omnidali.curation.copies.copy_layout import keep_clear
    from omnidali.curation.dedup.dedup import dedup
    from omnidali.distributed.ranks import end_ranks, start_ranks

    settings = settings_of(options)
    config, ranks = load_config(options.config, options.overrides), start_ranks()
    keep_clear(options.out, options.config, config, options.checkpoint)
    with reporting_to_peers():
        take = _taking("dedup", options, ranks)
        dedup(config, options.out, ranks, options.checkpoint, options.sources, settings, take)
    end_ranks()


def settings_of(options: argparse.Namespace) -> Settings:
    """How the options of `dedup` tell duplicates.

    Raises:
        UserError: for an option out of its range, or a threshold without a network.
    """
    from omnidali.curation.dedup.dedup import Settings

    try:
        threshold = None if options.threshold == "auto" else float(options.threshold)
    except ValueError:
        threshold = 2.0
    if threshold is not None and not -1 < threshold <= 1:
        raise UserError(
            "--threshold",
            "auto, or a number above -1 and up to 1",
            options.threshold,
            "Correct the value.",
        )
    if threshold is not None and not options.checkpoint:
        raise UserError(
            "--threshold",
            "--checkpoint with it, whose features it is for",
            "none",
            "Add a network, or use --hash-distance.",
        )
    if not 0 <= options.hash_distance <= 64:
        raise UserError(
            "--hash-distance", "0 to 64", str(options.hash_distance), "Correct the value."
        )
    if not 0 < options.fps <= 1000:
        raise UserError(
            "--fps", "more than 0, and up to 1000", str(options.fps), "Correct the value."
        )
    _check_window(options.window)
    return Settings(threshold, options.hash_distance, options.fps, options.within, options.window)


def _cut(options: argparse.Namespace) -> int:
    from omnidali.processes import child_pool as children

    at_least(options.workers, 0, "--workers")
    children.start_ahead(options.workers, "omnidali.curation.trim")
    from omnidali.config.load import load_config
    from omnidali.curation.copies.copy_layout import keep_clear
    from omnidali.curation.cut import CUTS, REPORT, cut

    config = load_config(options.config, options.overrides)
    keep_clear(options.out, options.config, config)
    done = cut(config, options.out, options.sources, options.pieces, options.exact, options.workers)
    for row in done.failed if done.stops else done.failed[:10]:
        say(f"failed: {row['video']}, piece {row['index']}: {row['problem']}", error=True)
    early = [row["early"] for row in done.rows if row["bytes_out"]]
    if max(early) > 0:
        say(
            f"files begin {sum(early) / len(early):.1f} s before their pieces in the mean, {max(early):.1f} s at"
            " most, where keyframes lie; --exact begins with the pieces"
        )
    say(
        f"{len(done.rows) - len(done.failed):,} pieces cut, {len(done.failed):,} failed: {done.out / CUTS},"
        f" {done.out / REPORT}",
        f"train on them: {_training_on(done.out)}",
    )
    return 1 if done.stops else 0


def _transcode(options: argparse.Namespace) -> None:
    from omnidali.processes import child_pool as children

    at_least(options.short_side, 16, "--short-side")
    at_least(options.workers, 0, "--workers")
    children.start_ahead(options.workers, "omnidali.curation.copies.encode")
    from omnidali.config.load import load_config
    from omnidali.curation.copies.copy_gain import write_summary
    from omnidali.curation.copies.transcode import transcode

    config = load_config(options.config, options.overrides)
    copied = transcode(
        config, options.out, options.recipe, options.sources, options.short_side, options.workers
    )
    write_summary(config, copied)
    say(f"train on it: {_training_on(copied.layout.out)}")


def _advise(options: argparse.Namespace) -> None:
    from omnidali.config.load import load_config
    from omnidali.curation.copies.advise import advise

    at_least(options.sample, 1, "--sample")
    advise(load_config(options.config, options.overrides), options.sample)


def _estimate_motion(options: argparse.Namespace) -> None:
    from omnidali.processes import child_pool as children

    children.start_ahead(0, "omnidali.curation.motion_estimate")
    from omnidali.config.load import load_config
    from omnidali.curation.motion_estimate import check_motion_file, estimate_motion, write_motion
    from omnidali.distributed.ranks import Ranks
    from omnidali.loading.data import open_data

    config = load_config(options.config, options.overrides)
    if options.interval is not None:
        at_least(options.interval, 1, "--interval")
    at_least(options.videos, 1, "--videos")
    check_motion_file(options.out)
    data = open_data(config)
    tables = {table.name: table for table in data.tables}
    name = options.source or next(iter(tables))
    if name not in tables or tables[name].kind == "image":
        videos = ", ".join(table.name for table in data.tables if table.kind != "image")
        raise UserError("--source", f"a source of videos ({videos})", name, "Name another one.")
    values = estimate_motion(
        tables[name],
        options.interval or config.clip.frame_interval,
        options.videos,
        config.seed,
        data.class_names,
        Ranks().threads,
    )
    write_motion(options.out, values)
    say(
        f"{values['all']['pairs']} pairs of frames in {values['videos']} videos, {len(values['classes'])} classes"
        f" with a distribution of their own: {options.out}"
    )
