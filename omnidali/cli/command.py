"""Subcommands as values, and the parser of a program that has some."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from omnidali.cli.arguments import Parser


class Option(NamedTuple):
    """An option of a command; made by :func:`option`.

    Attributes:
        name: such as ``--out``, or that of a positional argument.
        settings: keyword arguments of argparse's ``add_argument``.
    """

    name: str
    settings: dict[str, Any]


def option(name: str, **settings: Any) -> Option:
    """An option with the settings of argparse's ``add_argument``."""
    return Option(name, settings)


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
        subcommands: further words, instead of ``options`` and ``run``.
    """

    name: str
    summary: str
    options: Sequence[Option] = ()
    run: Callable[[argparse.Namespace], int | None] | None = None
    one_of: Sequence[Option] = ()
    subcommands: Sequence[Command] = ()


def parse_command(
    program: str, description: str, commands: Sequence[Command], arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Parse the arguments of a program with subcommands.

    Args:
        program: the program's name in its help.
        description: one line for its ``--help``.
        commands: in the order of the ``--help``.
        arguments: of the command line; None for those of this process.

    Returns:
        The options of the chosen command, and its ``run``.
    """
    parser = Parser(prog=program, description=description)
    _add_commands(parser, commands)
    return parser.parse_args(arguments)


def _add_commands(parser: argparse.ArgumentParser, commands: Sequence[Command]) -> None:
    subparsers = parser.add_subparsers(dest="command", required=True)
    for command in commands:
        subparser = subparsers.add_parser(command.name, help=command.summary)
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
