"""``lint``, ``info`` and ``preview``: commands that show what data are like and change nothing."""

import argparse
import json

from omnidali.cli.command import Command, option
from omnidali.cli.options import (
    CONFIG,
    CONFIG_HELP,
    load_config_apart_from_output,
    require,
    reserve_output,
    sources_option,
)
from omnidali.config.load import load_config
from omnidali.errors import UserError
from omnidali.utils.untrusted_text import say


def _lint(options: argparse.Namespace) -> int:
    from omnidali.curation.lint.lint import lint
    from omnidali.distributed.ranks import Ranks

    if options.sample is not None:
        require(options.sample >= 1, "--sample", "1 or more", options.sample)
        if not options.decode:
            raise UserError("--sample", "--decode beside it", "--sample alone", "Add --decode.")

    config = load_config_apart_from_output(options)
    errors = lint(
        config,
        options.out,
        names=options.sources,
        decodes=options.decode,
        sample=options.sample,
        take=reserve_output("lint", options, Ranks()),
    )
    return 1 if errors else 0


def _info(options: argparse.Namespace) -> None:
    from omnidali.curation.lint.info import describe_catalog, format_catalog

    if (options.config is None) == (options.catalog is None):
        raise UserError(
            "omnidali info",
            "--config or --catalog",
            "nothing" if options.config is None else "both",
            "`omnidali info --help` has an example.",
        )

    if options.config is not None:
        config = load_config(options.config, options.overrides)
        found = describe_catalog(config.catalog_path, config)
    else:
        if options.overrides:
            raise UserError(
                options.overrides[0],
                "--config, whose settings it would change",
                "--catalog",
                "Leave it out, or give --config instead.",
            )
        found = describe_catalog(options.catalog)
    text = json.dumps(found, indent=2) if options.json else format_catalog(found)
    say(*text.split("\n"))


def _preview(options: argparse.Namespace) -> None:
    from omnidali.curation.preview import preview
    from omnidali.distributed.ranks import Ranks

    require(options.samples >= 1, "--samples", "1 or more", options.samples)
    require(options.step >= 0, "--step", "0 or more", options.step)
    preview(
        load_config_apart_from_output(options),
        options.out,
        names=options.sources,
        count=options.samples,
        step=options.step,
        take=reserve_output("preview", options, Ranks()),
    )


LINT = Command(
    name="lint",
    summary="look for mistakes in lists and media",
    run=_lint,
    has_settings=True,
    options=(
        CONFIG,
        option(
            "--decode",
            action="store_true",
            help="also decode whole files, report those that differ from their headers, and"
            " note them in the catalog; a stopped run whose frames have other numbers now is"
            " refused",
        ),
        option(
            "--sample",
            type=int,
            metavar="N",
            help="decode at most N files of each source, evenly spread (default: all)",
        ),
        option(
            "--out",
            metavar="DIR",
            help="folder for the report (default: lint in the run folder)",
        ),
        sources_option("all"),
    ),
    examples=(
        "omnidali lint --config tsn_omni data_root=/data/OmniSource",
        "omnidali lint --config small_set --decode --sample 200 data_root=media",
    ),
)
INFO = Command(
    name="info",
    summary="show what a catalog holds, as it is",
    run=_info,
    has_settings=True,
    options=(
        option("--config", help=f"{CONFIG_HELP}, for the catalog of its run folder"),
        option(
            "--catalog", metavar="FILE", help="instead of --config: catalog.sqlite of a run folder"
        ),
        option("--json", action="store_true", help="print JSON, for programs"),
    ),
    examples=(
        "omnidali info --config tsn_omni",
        "omnidali info --catalog runs/tsn_omni/catalog.sqlite --json",
    ),
)
PREVIEW = Command(
    name="preview",
    summary="draw the clips that a training gets",
    run=_preview,
    has_settings=True,
    options=(
        CONFIG,
        option(
            "--out",
            metavar="DIR",
            help="folder for the images (default: preview in the run folder)",
        ),
        sources_option("those of the training"),
        option("--samples", type=int, default=24, help="clips of a source (default: %(default)s)"),
        option(
            "--step",
            type=int,
            default=0,
            help="first step of the training (default: %(default)s)",
        ),
    ),
    examples=("omnidali preview --config slowonly_omni data_root=/data/OmniSource",),
)
