"""The command ``omnidali``."""

from __future__ import annotations

import os
import sys

from omnidali.command_line import Parser, use_utf8
from omnidali.commands import bench, curation, training
from omnidali.errors import exit_with_advice


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; exit code 2 for the user's mistakes."""
    if arguments is None:
        use_utf8()
    parser = Parser(prog="omnidali", description="Video recognition from web photos and videos.")
    commands = parser.add_subparsers(dest="command", required=True)
    for group in (training, curation, bench):
        group.add_to(commands)
    options = parser.parse_args(arguments)
    return exit_with_advice(lambda: options.story(options), rank=int(os.environ.get("RANK", 0)))


if __name__ == "__main__":
    sys.exit(main())
