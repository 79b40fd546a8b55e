"""Commands as values, and the program that they make up."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """An option of a command.

    Attributes:
        name: with its dashes.
        keywords: the keyword arguments of argparse's ``add_argument``.
    """

    name: str
    keywords: Mapping[str, Any]

    @property
    def destination(self) -> str:
        """The attribute of parsed options that has its value."""
        return self.keywords.get("dest") or self.name.removeprefix("--").replace("-", "_")

    @property
    def is_required(self) -> bool:
        """Whether the command does not run without it."""
        return bool(self.keywords.get("required"))

    @property
    def takes_value(self) -> bool:
        """Whether what follows it is its value."""
        return self.keywords.get("action") in (None, "append")


def option(name: str, **keywords: Any) -> Option:
    """The option ``name`` with the keyword arguments of argparse's ``add_argument``."""
    return Option(name, keywords)


@dataclass(frozen=True, kw_only=True)
class Command:
    """One verb of a program.

    A ``run`` imports what it needs when it is called: DALI and torch take seconds to load, which
    ``--help`` shall not.

    Attributes:
        name: the verb; may be two words.
        summary: one line for the program's help.
        run: does the work with the parsed options; returns the exit code, None for 0.
        options: in the order of the command's help.
        has_settings: whether it takes ``key.path=value``, as ``overrides`` of the options.
        operands: what it takes besides options and settings, as ``operands`` of the options; one
            word, such as VIDEO, for the help. Empty: nothing.
        takes_any_name: whether operands may be names that are not UTF-8.
        examples: command lines after the name of the program.
    """

    name: str
    summary: str
    run: Callable[[argparse.Namespace], int | None]
    options: Sequence[Option] = ()
    has_settings: bool = False
    operands: str = ""
    takes_any_name: bool = False
    examples: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program with a verb for each thing that it does.

    Attributes:
        name: as it is typed.
        usage: what is typed after it.
        description: one line.
        groups: commands by what users want.
        closing: the end of its help.
    """

    name: str
    usage: str
    description: str
    groups: Mapping[str, Sequence[Command]]
    closing: Sequence[str] = ()

    @property
    def commands(self) -> list[Command]:
        """All commands, in the order of the help."""
        return [command for commands in self.groups.values() for command in commands]

    def find(self, words: Sequence[str]) -> Command | None:
        """The command whose name the words begin with; None if there is none."""
        for command in self.commands:
            parts = command.name.split()
            if list(words[: len(parts)]) == parts:
                return command
        return None
