"""``transcode``, ``advise`` and ``motion``: commands that prepare media for a training."""

import argparse

from omnidali.cli.command import Command, option
from omnidali.cli.options import (
    CONFIG,
    require,
    sources_option,
    training_command,
)
from omnidali.config.load import load_config
from omnidali.errors import UserError
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


def _estimate_motion(options: argparse.Namespace) -> None:
    from omnidali.processes.isolated_process import start_isolated

    # the child starts while this process still imports
    start_isolated(0, "omnidali.curation.motion_estimate")
    from omnidali.curation.motion_estimate import check_motion_file, estimate_motion, write_motion
    from omnidali.distributed.ranks import Ranks
    from omnidali.loading.data import open_data

    config = load_config(options.config, options.overrides)
    if options.interval is not None:
        require(options.interval >= 1, "--interval", "1 or more", options.interval)
    require(options.videos >= 1, "--videos", "1 or more", options.videos)
    check_motion_file(options.out)

    data = open_data(config)
    videos = {table.name: table for table in data.tables if not table.kind.is_still}
    name = options.source or data.tables[0].name
    if name not in videos:
        raise UserError(
            "--source", f"a source of videos ({', '.join(videos)})", name, "Name another one."
        )

    values = estimate_motion(
        videos[name],
        options.interval or config.clip.frame_interval,
        options.videos,
        seed=config.seed,
        names=data.class_names,
        threads=Ranks().threads,
    )
    write_motion(options.out, values)
    say(
        f"{values['all']['pairs']} pairs of frames in {values['videos']} videos,"
        f" {len(values['classes'])} classes with a distribution of their own: {options.out}"
    )


TRANSCODE = Command(
    name="transcode",
    summary="make a copy of a config's media that decodes fast",
    run=_transcode,
    has_settings=True,
    options=(
        CONFIG,
        option(
            "--out",
            required=True,
            help="folder for the copy and its config.yaml; a second start goes on",
        ),
        option(
            "--recipe",
            choices=("fast", "access", "small", "intra"),
            default="fast",
            help="fast: any frame decodes fast; access: the same in fewer bytes, with B-frames;"
            " small: fewest bytes; intra: keyframes only"
            " (default: %(default)s)",
        ),
        sources_option("all"),
        option(
            "--short-side",
            type=int,
            default=256,
            help="pixels; nothing is enlarged; sides of videos become multiples of 16 where that"
            " stretches the picture by 1/32 or less (default: %(default)s)",
        ),
        option(
            "--workers", type=int, default=0, help="files at a time (default: as many as cores)"
        ),
    ),
    examples=("omnidali transcode --config tsn_omni --out /data/copy --short-side 320",),
)
ADVISE = Command(
    name="advise",
    summary="measure what decoding costs, and what a copy would gain",
    run=_advise,
    has_settings=True,
    options=(
        CONFIG,
        option(
            "--sample",
            type=int,
            default=12,
            help="files of a source to measure (default: %(default)s)",
        ),
    ),
    examples=("omnidali advise --config tsn_omni data_root=/data/OmniSource --sample 24",),
)
MOTION_ESTIMATE = Command(
    name="motion estimate",
    summary="measure camera motion in videos, for `inflate: warp`",
    run=_estimate_motion,
    has_settings=True,
    options=(
        CONFIG,
        option("--source", help="source to look at (default: the first one, the target)"),
        option(
            "--interval",
            type=int,
            help="frames between those of a pair (default: clip.frame_interval)",
        ),
        option(
            "--videos",
            type=int,
            default=1000,
            help="videos to look at (default: %(default)s)",
        ),
        option("--out", required=True, help="JSON file to write, for `motion:` of a source"),
    ),
    examples=("omnidali motion estimate --config tsn_omni --out motion.json",),
)
