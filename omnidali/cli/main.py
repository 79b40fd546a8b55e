"""The command ``omnidali``."""

import argparse
import os
import sys

from omnidali.cli import (
    curation_commands,
    inspect_commands,
    media_commands,
    train_commands,
)
from omnidali.cli.command import parse_command, use_utf8
from omnidali.cli.error_report import run_reporting_errors
from omnidali.processes.launch import ProgramFailedError
from omnidali.utils.untrusted_text import say

COMMANDS = (
    *train_commands.COMMANDS,
    *inspect_commands.COMMANDS,
    *curation_commands.COMMANDS,
    *media_commands.COMMANDS,
)


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; exit code 2 for the user's mistakes."""
    if arguments is None:
        use_utf8()
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
