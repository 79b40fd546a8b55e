"""Commands of several trainings: ``demo``, ``ablate`` and ``curate``."""

import argparse
from dataclasses import replace

from omnidali.cli.command import Command, option
from omnidali.cli.options import (
    RANKS,
    config_option,
    load_config_apart_from_output,
    out_option,
    require,
    reserve_output,
    seeds_option,
)
from omnidali.utils.untrusted_text import say


def _demo(options: argparse.Namespace) -> None:
    from omnidali.demo.run_demo import run_demo
    from omnidali.demo.world import make_world

    if options.only_data:
        say(f"making the demo world in {options.only_data}, which takes a minute")
        say(make_world(options.only_data, options.seed))
    else:
        run_demo(options.out, options.seed, overrides=options.overrides)


def _ablate(options: argparse.Namespace) -> None:
    from omnidali.distributed.ranks import Ranks
    from omnidali.experiments.ablate import ablate
    from omnidali.experiments.training_runs import choose_ranks

    config = load_config_apart_from_output(options)
    shares = options.fractions
    are_shares = all(0 < share <= 1 for share in shares) and len(set(shares)) == len(shares)
    require(are_shares, "--fractions", "shares above 0 and at most 1, each once", shares)
    ablate(
        options.config,
        options.overrides,
        out=options.out,
        seeds=options.seeds,
        fractions=shares,
        ranks=choose_ranks(config, options.ranks),
        take=reserve_output("ablate", options, Ranks(), earlier="runs"),
    )


def _curate(options: argparse.Namespace) -> None:
    from omnidali.cli.passed_options import check_dedup, check_filter
    from omnidali.curation.copies.copy_layout import keep_clear
    from omnidali.distributed.ranks import Ranks
    from omnidali.experiments.curate import CurationOptions, check_options, curate, in_windows
    from omnidali.experiments.training_runs import choose_ranks

    config = load_config_apart_from_output(options)
    take = reserve_output("curate", options, Ranks())
    asked = CurationOptions(
        seeds=options.seeds,
        rounds=options.rounds,
        ranks=choose_ranks(config, options.ranks),
        together=options.together,
        folds=options.folds,
    )
    check_options(config, asked)
    filter_words = check_filter(options.filter_options, config)
    dedup_words, network = check_dedup(options.dedup_options, config, in_windows(config))
    keep_clear(options.out, options.config, config, network)
    asked = replace(asked, filter_words=filter_words, dedup_words=dedup_words)
    curate(options.config, options.overrides, out=options.out, options=asked, take=take)


DEMO = Command(
    name="demo",
    summary="make small data, train and evaluate; needs no GPU",
    run=_demo,
    has_settings=True,
    options=(
        out_option("omnidali-demo"),
        option(
            "--seed",
            type=int,
            default=0,
            help="seed of the world and the training (default: %(default)s)",
        ),
        option("--only-data", metavar="DIR", help="only make the demo world, in DIR"),
    ),
    examples=(
        "omnidali demo",
        "omnidali demo --out try --seed 1 train.steps=60",
    ),
)
ABLATE = Command(
    name="ablate",
    summary="train with and without each group of sources, and compare",
    run=_ablate,
    has_settings=True,
    options=(
        config_option("its first source is the target"),
        out_option("ablation"),
        seeds_option([0, 1, 2]),
        option(
            "--fractions",
            type=float,
            nargs="+",
            default=[1.0],
            metavar="SHARE",
            help="shares of the target's labels to compare at (default: all labels)",
        ),
        RANKS,
    ),
    examples=("omnidali ablate --config demo_omni --seeds 0 1 2 data_root=world",),
)
CURATE = Command(
    name="curate",
    summary="train a teacher, dedup and filter a crawl, train a student",
    run=_curate,
    has_settings=True,
    options=(
        config_option("its first source is the target, the others are the crawl"),
        out_option("curation"),
        seeds_option([0]),
        option(
            "--rounds",
            type=int,
            default=1,
            help="rounds of filter and student; a student is the teacher of the next round"
            " (default: %(default)s)",
        ),
        option(
            "--together",
            action="store_true",
            help="average the scores of all networks trained so far, also of the one trained on"
            " everything; with --folds, of the K students instead of the student beside them"
            " (default: only the last student scores, at first the target's network)",
        ),
        option(
            "--folds",
            type=int,
            default=1,
            metavar="K",
            help="let K more students score the crawl for the next round, each the part that it"
            " was not trained on (default: the student scores all)",
        ),
        RANKS,
        option(
            "--filter",
            dest="filter_options",
            default="",
            metavar="OPTIONS",
            help="more options of `omnidali filter`, in quotes",
        ),
        option(
            "--dedup",
            dest="dedup_options",
            default="",
            metavar="OPTIONS",
            help="more options of `omnidali dedup`, in quotes",
        ),
    ),
    examples=("omnidali curate --config demo_crawl data_root=world --filter '--rule topk'",),
)
