"""``transcode`` and ``advise``: commands about copies of the media that decode faster."""

from __future__ import annotations

import argparse

from omnidali.cli.command import Command, option
from omnidali.cli.options import (
    CONFIG,
    SET,
    require,
    sources_option,
    training_command,
)
from omnidali.config.load import load_config
from omnidali.utils.untrusted_text import say


def _transcode(options: argparse.Namespace) -> None:
    from omnidali.processes.isolated_process import start_isolated

    require(options.short_side >= 16, "--short-side", "16 or more", options.short_side)
    require(options.workers >= 0, "--workers", "0 or more", options.workers)
    # the children start while this process still imports
    start_isolated(options.workers, "omnidali.curation.copies.encode")
    from omnidali.curation.copies.copy_gain import write_summary
    from omnidali.curation.copies.transcode import transcode

    config = load_config(options.config, options.overrides)
    copied = transcode(
        config,
        options.out,
        recipe=options.recipe,
        names=options.sources,
        short_side=options.short_side,
        workers=options.workers,
    )
    write_summary(config, copied)
    say(f"train on it: {training_command(copied.layout.out)}")


def _advise(options: argparse.Namespace) -> None:
    from omnidali.curation.copies.advise import advise

    require(options.sample >= 1, "--sample", "1 or more", options.sample)
    advise(load_config(options.config, options.overrides), options.sample)


COMMANDS = (
    Command(
        "transcode",
        "make a copy of a config's media that decodes fast",
        run=_transcode,
        options=(
            CONFIG,
            option(
                "--out",
                required=True,
                help="folder for the copy and its config.yaml; a second start goes on",
            ),
            option(
                "--recipe",
                choices=("fast", "small", "intra"),
                default="fast",
                help="fast: any frame decodes fast; small: fewer bytes; intra: keyframes only"
                " (default: %(default)s)",
            ),
            sources_option("all"),
            option(
                "--short-side",
                type=int,
                default=256,
                help="pixels; nothing is enlarged (default: %(default)s)",
            ),
            option(
                "--workers", type=int, default=0, help="files at a time (default: as many as cores)"
            ),
            SET,
        ),
    ),
    Command(
        "advise",
        "measure what decoding your sources costs, and which copy would help most",
        run=_advise,
        options=(
            CONFIG,
            option(
                "--sample",
                type=int,
                default=12,
                help="files of a source to measure (default: %(default)s)",
            ),
            SET,
        ),
    ),
)
