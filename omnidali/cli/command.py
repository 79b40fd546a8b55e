"""Command lines: subcommands as values, and a parser that accepts any file name in UTF-8."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from omnidali.utils.text_files import is_text
from omnidali.utils.untrusted_text import for_terminal

Option = tuple[str, dict[str, Any]]  # name and keyword arguments of argparse's add_argument
_SETTING = re.compile(r"[A-Za-z0-9_.]+=")


def option(name: str, **settings: Any) -> Option:
    """An option: ``--name``, or a positional argument, with settings of ``add_argument``."""
    return name, settings


@dataclass(frozen=True)
class Command:
    """One subcommand of a program.

    A ``run`` imports what it needs when it is called: DALI and torch take seconds to load, which
    ``--help`` shall not.

    Attributes:
        name: the word on the command line.
        summary: one line for the program's ``--help``.
        options: in the order of the command's ``--help``.
        run: does the work with the parsed options; returns the exit code, None for 0.
        one_of: options of which exactly one is given.
        has_settings: whether it takes ``key.path=value``, as ``overrides`` of the options.
        subcommands: further words, instead of ``options`` and ``run``.
    """

    name: str
    summary: str
    options: Sequence[Option] = ()
    run: Callable[[argparse.Namespace], int | None] | None = None
    one_of: Sequence[Option] = ()
    has_settings: bool = False
    subcommands: Sequence["Command"] = ()


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


class Parser(argparse.ArgumentParser):
    """A parser that takes settings of the config anywhere between the options.

    An argument ``key=value``, the key being letters, digits, dots and underscores, is a setting,
    unless it stands directly after an option that takes a value, or after ``--``. They become
    ``overrides`` of the result.

    Arguments that are not UTF-8 are refused, as configs and catalogs cannot hold them. Errors quote
    the arguments with control characters escaped: a shell may have made them of file names.

    Args:
        has_settings: whether there are settings to take.
        **options: of argparse's parser.
    """

    def __init__(self, has_settings: bool = False, **options: Any):
        super().__init__(allow_abbrev=False, **options)
        self._has_settings = has_settings

    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        args = sys.argv[1:] if args is None else list(args)
        for text in args:
            if not is_text(text):
                self.error(
                    f"{for_terminal(text)}: this name is not UTF-8. Rename the file or folder, or"
                    " make a link to it that has another name"
                )
        if not self._has_settings:
            return super().parse_known_args(args, namespace)

        settings, rest = self._split_settings(args)
        found, unknown = super().parse_known_args(rest, namespace)
        found.overrides = settings
        return found, unknown

    def _split_settings(self, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
        """Split arguments into settings and others."""
        settings: list[str] = []
        rest: list[str] = []
        is_value = False  # of the option before
        for place, text in enumerate(arguments):
            if text == "--":
                rest += arguments[place:]
                break
            if _SETTING.match(text) and not is_value:
                settings.append(text)
            else:
                rest.append(text)
            action = self._option_string_actions.get(text)
            is_value = action is not None and action.nargs != 0
        return settings, rest

    def error(self, message: str) -> NoReturn:
        super().error(for_terminal(message, None))


def parse_command(
    program: str, description: str, commands: Sequence[Command], arguments: Sequence[str]
) -> argparse.Namespace:
    """Parse the arguments of a program with subcommands.

    Args:
        program: the program's name in its help.
        description: one line for its ``--help``.
        commands: in the order of the ``--help``.
        arguments: of the command line.

    Returns:
        The options of the chosen command, and its ``run``.
    """
    parser = Parser(prog=program, description=description)
    _add_commands(parser, commands)
    return parser.parse_args(arguments)


def _add_commands(parser: argparse.ArgumentParser, commands: Sequence[Command]) -> None:
    subparsers = parser.add_subparsers(dest="command", required=True)
    for command in commands:
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            has_settings=command.has_settings,
        )
        if command.subcommands:
            _add_commands(subparser, command.subcommands)
            continue
        if command.one_of:
            add_options(subparser.add_mutually_exclusive_group(required=True), command.one_of)
        add_options(subparser, command.options)
        subparser.set_defaults(run=command.run)


def add_options(parser: argparse._ActionsContainer, options: Iterable[Option]) -> None:
    """Add options to a parser, or to a group of its arguments."""
    for name, settings in options:
        parser.add_argument(name, **settings)
