"""The command ``omnidali``."""

import argparse
import os
import sys
from collections.abc import Sequence

from omnidali.cli import (
    curation_commands,
    inspect_commands,
    media_commands,
    model_commands,
    train_commands,
)
from omnidali.cli.command import parse_command, use_utf8
from omnidali.cli.error_report import run_reporting_errors
from omnidali.processes.launch import ProgramFailedError
from omnidali.utils.untrusted_text import say

COMMANDS = (
    *model_commands.COMMANDS,
    *train_commands.COMMANDS,
    *inspect_commands.COMMANDS,
    *curation_commands.COMMANDS,
    *media_commands.COMMANDS,
)


def main(arguments: Sequence[str] | None = None, verb: str | None = None) -> int:
    """Run one command; returns the exit code, 2 for the user's mistakes.

    Args:
        arguments: of the command line; None for those of this process.
        verb: the command, for programs that are one; None: the first of the arguments.
    """
    if arguments is None:
        use_utf8()
        arguments = sys.argv[1:]
    if verb is not None:
        arguments = [verb, *arguments]
    options = parse_command(
        "omnidali", "Video recognition from web images and videos.", COMMANDS, arguments
    )
    return run_reporting_errors(lambda: run_command(options), rank=int(os.environ.get("RANK", 0)))


def run_command(options: argparse.Namespace) -> int | None:
    """Run the chosen command; if a program that it runs fails, return that one's exit code."""
    try:
        return options.run(options)
    except ProgramFailedError as failure:
        say(failure, error=True)
        return failure.code


if __name__ == "__main__":
    sys.exit(main())
