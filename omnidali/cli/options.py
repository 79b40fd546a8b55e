"""Options that mean the same in several commands, and what commands do with them first."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omnidali.cli.command import Option, option
from omnidali.config.files import find_config
from omnidali.config.load import load_config
from omnidali.config.schema import Config
from omnidali.curation.copies.copy_layout import keep_clear
from omnidali.curation.output_folder import OWNER, check_free, take_folder
from omnidali.errors import UserError
from omnidali.utils.untrusted_text import for_shell

if TYPE_CHECKING:
    from omnidali.distributed.ranks import Ranks


CONFIG_HELP = "YAML file, or the name of a shipped config"
CONFIG = option("--config", required=True, help=CONFIG_HELP)
RANKS = option(
    "--ranks",
    type=int,
    help="processes of each program that it runs (default: one for each GPU, as far as the batch"
    " can be shared out; 1 without a GPU)",
)


def config_option(remark: str) -> Option:
    """``--config`` with what the command expects of the file."""
    return option("--config", required=True, help=f"{CONFIG_HELP}; {remark}")


def sources_option(default: str, evaluation: bool = True) -> Option:
    """``--sources``.

    Args:
        default: the sources that the command takes if none is named, in words.
        evaluation: whether the evaluation source can be named, too.
    """
    remark = "; `evaluation` is the evaluation source" if evaluation else ""
    return option(
        "--sources",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"only these{remark} (default: {default})",
    )


def out_option(default: str) -> Option:
    """``--out`` of a command that trains several networks."""
    return option("--out", default=default, help="folder for everything (default: %(default)s)")


def seeds_option(default: Sequence[int]) -> Option:
    """``--seeds`` of a command that trains with several."""
    shown = " ".join(map(str, default))
    return option(
        "--seeds",
        type=int,
        nargs="+",
        default=list(default),
        help=f"train everything once with each (default: {shown})",
    )


def require(met: bool, name: str, expected: str, got: object) -> None:
    """Raise UserError for an option whose value does not meet a condition."""
    if not met:
        raise UserError(name, expected, str(got), "Correct the value.")


def load_config_apart_from_output(options: argparse.Namespace, *checkpoints: str | None) -> Config:
    """Load ``--config`` with the settings, and refuse an ``--out`` that holds what a command reads.

    Args:
        options: with ``config``, ``overrides`` and ``out``.
        checkpoints: more files or run folders that the command reads.

    Raises:
        UserError: for mistakes in the config, or naming --out.
    """
    config = load_config(options.config, options.overrides)
    if options.out:
        keep_clear(options.out, options.config, config, *checkpoints)
    return config


def reserve_output(
    command: str, options: argparse.Namespace, ranks: "Ranks", earlier: str = OWNER
) -> Callable[[], None]:
    """Check that ``--out`` is free for a command, and return the function that takes it.

    All ranks call both. Without ``--out`` nothing is taken.

    Args:
        command: the name that is left in the folder.
        options: with ``config`` and ``out``.
        ranks: the processes of the job.
        earlier: a file by which folders of older versions are known, see
            :func:`~omnidali.curation.output_folder.check_free`.

    Raises:
        UserError: naming --out.
    """
    if not options.out:
        return lambda: None

    config = find_config(options.config)
    ranks.on_main(lambda: check_free(options.out, command, config, earlier))
    return lambda: ranks.on_main(lambda: take_folder(options.out, command, config, earlier))


def training_command(out: str | Path) -> str:
    """The command that trains with the config in an output folder, as a shell takes it."""
    return for_shell("omnidali", "train", "--config", Path(out, "config.yaml"))
