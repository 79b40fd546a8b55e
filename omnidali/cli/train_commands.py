"""Commands that train: the demo, what sources are worth, the whole road from a crawl; and weights
for others.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable

from omnidali.cli.options import takes_config, takes_settings
from omnidali.utils.untrusted_text import say


def add_to(commands: argparse._SubParsersAction) -> None:
    """Add the commands to the parser."""
    demo = commands.add_parser(
        "demo", help="make a small world, train on it and evaluate; needs no download or GPU"
    )
    demo.add_argument(
        "--out", default="omnidali-demo", help="folder for everything (default: %(default)s)"
    )
    demo.add_argument(
        "--seed", type=int, default=0, help="of the world and the training (default: %(default)s)"
    )
    demo.add_argument("--only-data", metavar="DIR", help="only make the demo world, in DIR")
    demo.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="settings of configs/demo.yaml"
    )
    demo.set_defaults(story=_demo)

    ablate = commands.add_parser(
        "ablate", help="train with the target alone, with each group of sources, with all"
    )
    takes_config(ablate, "its first source is the target")
    ablate.add_argument(
        "--out", default="ablation", help="folder for everything (default: %(default)s)"
    )
    ablate.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run of everything for each"
    )
    ablate.add_argument(
        "--fractions",
        type=float,
        nargs="+",
        default=[1.0],
        metavar="SHARE",
        help="shares of the target's labels to compare at (default: all labels)",
    )
    ablate.add_argument(
        "--ranks", type=int, default=1, help="processes of a run (default: %(default)s)"
    )
    takes_settings(ablate)
    ablate.set_defaults(story=_ablate)

    curate = commands.add_parser(
        "curate", help="from a crawl to a student: teacher, dedup, filter, training, table"
    )
    takes_config(curate, "its first source is the target, the others are the crawl")
    curate.add_argument(
        "--out", default="curation", help="folder for everything (default: %(default)s)"
    )
    curate.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0],
        help="one run of everything for each (default: 0)",
    )
    curate.add_argument(
        "--rounds",
        type=int,
        default=1,
        help="of filter and student; a student is the next round's teacher (default: %(default)s)",
    )
    curate.add_argument(
        "--together",
        action="store_true",
        help="let the networks trained so far judge as one, also the"
        " one of everything; with --folds, the K instead of the student beside them (default: the last student alone; the first time, the target's network)",
    )
    curate.add_argument(
        "--folds",
        type=int,
        default=1,
        metavar="K",
        help="let K more students judge in the next round,"
        " each the part of the crawl that it was not trained on (default: the student judges all)",
    )
    curate.add_argument(
        "--ranks", type=int, default=1, help="processes of a program (default: %(default)s)"
    )
    curate.add_argument(
        "--filter",
        dest="filtering",
        default="",
        metavar="OPTIONS",
        help="more options of `omnidali filter`, in quotes",
    )
    curate.add_argument(
        "--dedup",
        dest="deduplicating",
        default="",
        metavar="OPTIONS",
        help="more options of `omnidali dedup`, in quotes",
    )
    takes_settings(curate)
    curate.set_defaults(story=_curate)

    export = commands.add_parser("export", help="write a checkpoint's weights for other programs")
    export.add_argument(
        "--checkpoint", required=True, help="checkpoint, or run folder for its best.pt"
    )
    export.add_argument(
        "--out",
        required=True,
        help="file to write: .pth as mmaction2 0.x reads it, or .safetensors",
    )
    export.set_defaults(story=_export)


# Each story imports what it needs: DALI and torch take seconds to load.


def _running_programs(
    story: Callable[[argparse.Namespace], None],
) -> Callable[[argparse.Namespace], int]:
    """A story that runs programs, and ends with a line and the code of one that fails."""

    @functools.wraps(story)
    def told(options: argparse.Namespace) -> int:
        from omnidali.processes.launch import ProgramFailedError

        try:
            story(options)
        except ProgramFailedError as failed:
            say(failed, error=True)
            return failed.code
        return 0

    return told


@_running_programs
def _demo(options: argparse.Namespace) -> None:
    from omnidali.demo.run_demo import run_demo
    from omnidali.demo.world import make_world

    if options.only_data:
        say(make_world(options.only_data, options.seed))
    else:
        run_demo(options.out, options.seed, options.overrides)


@_running_programs
def _ablate(options: argparse.Namespace) -> None:
    from omnidali.config.load import load_config
    from omnidali.curation.copies.copy_layout import keep_clear
    from omnidali.curation.job_log import check_free, take_folder
    from omnidali.experiments.ablate import ablate

    keep_clear(options.out, options.config, load_config(options.config, options.overrides))
    whose = (options.out, "ablate", options.config, "runs")
    check_free(*whose)
    ablate(
        options.config,
        options.overrides,
        options.out,
        options.seeds,
        options.fractions,
        options.ranks,
        take=lambda: take_folder(*whose),
    )


@_running_programs
def _curate(options: argparse.Namespace) -> None:
    from omnidali.cli.passed_options import check_dedup, check_filter
    from omnidali.config.load import load_config
    from omnidali.curation.copies.copy_layout import keep_clear
    from omnidali.curation.job_log import check_free, take_folder
    from omnidali.experiments.curate import check_road, curate, in_windows

    config = load_config(options.config, options.overrides)
    keep_clear(options.out, options.config, config)
    check_free(options.out, "curate", options.config)
    check_road(config, options.seeds, options.rounds, options.ranks, options.folds)
    filtering = check_filter(options.filtering, config)
    deduplicating, network = check_dedup(options.deduplicating, config, in_windows(config))
    keep_clear(options.out, options.config, config, network)
    curate(
        options.config,
        options.overrides,
        options.out,
        options.seeds,
        options.rounds,
        options.ranks,
        filtering,
        deduplicating,
        options.together,
        options.folds,
        take=lambda: take_folder(options.out, "curate", options.config),
    )


def _export(options: argparse.Namespace) -> None:
    from omnidali.models.checkpoint_file import load_checkpoint
    from omnidali.models.weights import best_weights, check_export, export_weights

    check_export(options.out, options.checkpoint)
    state = load_checkpoint(options.checkpoint, inside="best.pt")
    meta = {"CLASSES": list(state.get("classes") or []), **(state.get("model") or {})}
    if state.get("hold_out"):  # what `filter` has to know
        meta["hold_out"] = state["hold_out"]
    weights = best_weights(state)
    export_weights(weights, options.out, meta)
    say(f"{len(weights)} tensors{', averaged weights' if state.get('ema') else ''}: {options.out}")
