"""How a program starts: the encoding of names, and what its first arguments ask for."""

import argparse
import os
import sys
from collections.abc import Sequence

from omnidali.cli.arguments import parse_options
from omnidali.cli.command import Program
from omnidali.cli.help_texts import program_help, topic_help
from omnidali.cli.mistakes import explain_verb
from omnidali.errors import ConfigError
from omnidali.utils.untrusted_text import say

_HELP = ("-h", "--help")


def use_utf8() -> None:
    """Restart this program in Python's UTF-8 mode if file names are not UTF-8 to it.

    In other encodings, such as that of LC_ALL=C with PYTHONUTF8=0, the file names in lists would
    not be found.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONUTF8": "1"})

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def parse_command(program: Program, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of a program.

    Args:
        program: whose commands they name.
        arguments: of the command line.

    Returns:
        The options of the chosen command, and its ``run``, which prints the help if that is asked
        for.

    Raises:
        ConfigError: for an unknown command, and with every argument that the command does not take.
    """
    if not arguments or arguments[0] in _HELP:
        return _printing(program_help(program))
    command = program.find(arguments)
    if command is None:
        raise ConfigError([explain_verb(arguments, program)])

    rest = arguments[len(command.name.split()) :]
    before_dashes = rest[: rest.index("--")] if "--" in rest else rest
    if any(text in _HELP for text in before_dashes):
        return _printing(topic_help(program, command.name.split()))
    options = parse_options(command, program.name, rest)
    options.run = command.run
    return options


def _printing(text: str) -> argparse.Namespace:
    """Options that print a text, on one of several ranks."""
    is_main = os.environ.get("RANK", "0") == "0"
    return argparse.Namespace(run=lambda _: say(*text.split("\n")) if is_main else None)
