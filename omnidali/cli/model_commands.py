"""``train`` and ``evaluate``: commands that make and judge a model."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from omnidali.cli.command import Command, option
from omnidali.cli.options import CONFIG, require
from omnidali.config.load import dump_config, load_config
from omnidali.distributed.failure_monitor import reporting_to_peers
from omnidali.utils import streams
from omnidali.utils.untrusted_text import say

# of a dry run, in its last line, for programs
_SPEED = ("steps", "seconds_per_step", "clips_per_second", "wait_percent", "eta_seconds")


def _train(options: argparse.Namespace) -> None:
    if options.dry_run is not None:
        require(options.dry_run >= 1, "--dry-run", "1 step or more", options.dry_run)
    if options.print_config:
        say(*dump_config(load_config(options.config, options.overrides)).splitlines())
        return

    from omnidali.distributed.devices import take_device
    from omnidali.distributed.ranks import end_process_group, start_process_group
    from omnidali.training.train import train

    streams.drop_unread_output()
    # first, so that a mistake in one machine's copy of the config ends all ranks
    ranks = start_process_group()
    config = load_config(options.config, options.overrides)
    ranks = take_device(ranks, config.device)
    figures = train(config, ranks, resume=options.resume, dry_run=options.dry_run)
    end_process_group()
    if options.dry_run and figures and ranks.is_main:
        say(json.dumps({name: figures[name] for name in _SPEED}))


def _evaluate(options: argparse.Namespace) -> None:
    from omnidali.distributed.devices import take_device
    from omnidali.distributed.ranks import end_process_group, start_process_group
    from omnidali.evaluation.evaluate import evaluate, reports_folder

    ranks = start_process_group()
    config = load_config(options.config, options.overrides)
    ranks = take_device(ranks, config.device)
    with reporting_to_peers():
        result = evaluate(config, ranks, checkpoint=options.checkpoint, protocol=options.protocol)
    end_process_group()
    if ranks.is_main:
        _print_result(result, reports_folder(config, options.protocol))


def _print_result(result: Mapping[str, object], folder: Path) -> None:
    from omnidali.loading.open_loader import QUARANTINE

    views = f"{result['num_clips']:>4} x {result['crops']:<6}"
    if "mAP" in result:
        say(f"{'views':>12}  {'mAP':>7}  {'top-1 hit':>9}  {'classes':>7}  {'labels':>7}")
        say(
            f"{views} {result['mAP']:>7.2f}  {result['top1']:>9.2f}  {result['classes']:>7}"
            f"  {result['labels']:>7} of {result['items']} items"
        )
    else:
        say(f"{'views':>12}  {'top-1':>7}  {'top-5':>7}  {'mean class':>10}  {'correct':>11}")
        say(
            f"{views} {result['top1']:>7.2f}"
            f"  {result['top5']:>7.2f}  {result['mean_class']:>10.2f}"
            f"  {result['correct']:>5}/{result['items']}"
        )
    if result["unreadable"]:
        say(
            f"{result['unreadable']} items could not be decoded and are not counted,"
            f" see {QUARANTINE}"
        )
    say(f"reports in {folder}")
    say(json.dumps(result))


TRAIN = Command(
    name="train",
    summary="train TSN or SlowOnly jointly on videos and photos",
    run=_train,
    has_settings=True,
    options=(
        CONFIG,
        option(
            "--resume",
            default="none",
            metavar="auto|none|PATH",
            help="auto: go on where run_dir stopped, if it holds a run;"
            " PATH: a checkpoint or run folder",
        ),
        option(
            "--dry-run",
            type=int,
            metavar="N",
            help="train N steps and write nothing but the catalog",
        ),
        option("--print-config", action="store_true", help="print the resolved config and stop"),
    ),
    examples=(
        "omnidali train --config small_set data_root=media --dry-run 5",
        "torchrun --nproc-per-node 8 -m omnidali train --config tsn_omni --resume auto",
    ),
)
EVALUATE = Command(
    name="evaluate",
    summary="evaluate a checkpoint on held-out data",
    run=_evaluate,
    has_settings=True,
    options=(
        CONFIG,
        option(
            "--checkpoint",
            help="checkpoint, run folder for its best.pt, exported folder, or a name of `omnidali"
            " help weights` (default: run_dir)",
        ),
        option(
            "--protocol",
            choices=("test", "validation"),
            default="test",
            help="which views of the config: evaluation.test or evaluation.validation"
            " (default: %(default)s)",
        ),
    ),
    examples=(
        "omnidali evaluate --config tsn_omni evaluation.test.crops=three",
        "torchrun --nproc-per-node 8 -m omnidali evaluate --config tsn_omni",
    ),
)
