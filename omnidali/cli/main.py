"""The command ``omnidali``."""

from __future__ import annotations

import os
import sys

from omnidali.cli import data_commands as curation
from omnidali.cli import train_commands as training
from omnidali.cli.arguments import Parser, use_utf8
from omnidali.cli.error_report import run_reporting_errors


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; exit code 2 for the user's mistakes."""
    if arguments is None:
        use_utf8()
    parser = Parser(prog="omnidali", description="Video recognition from web photos and videos.")
    commands = parser.add_subparsers(dest="command", required=True)
    for group in (training, curation):
        group.add_to(commands)
    options = parser.parse_args(arguments)
    return run_reporting_errors(lambda: options.story(options), rank=int(os.environ.get("RANK", 0)))


if __name__ == "__main__":
    sys.exit(main())
