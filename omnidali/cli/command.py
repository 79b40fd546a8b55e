"""Commands as values, and the program that they make up."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Option = tuple[str, dict[str, Any]]  # name and keyword arguments of argparse's add_argument


def option(name: str, **settings: Any) -> Option:
    """An option ``--name``, with settings of argparse's ``add_argument``."""
    return name, settings


def destination(found: Option) -> str:
    """The attribute of parsed options that has the value of an option."""
    name, settings = found
    return settings.get("dest") or name.removeprefix("--").replace("-", "_")


def is_required(found: Option) -> bool:
    """Whether a command does not run without an option."""
    return bool(found[1].get("required"))


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
        one_of: options of which exactly one is given.
        has_settings: whether it takes ``key.path=value``, as ``overrides`` of the options.
        paths: what it takes besides options and settings, as ``paths`` of the options; one word,
            such as VIDEO, for the help. Empty: nothing.
        examples: command lines after the name of the program.
    """

    name: str
    summary: str
    run: Callable[[argparse.Namespace], int | None]
    options: Sequence[Option] = ()
    one_of: Sequence[Option] = ()
    has_settings: bool = False
    paths: str = ""
    examples: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program with a verb for each thing that it does.

    Attributes:
        name: as it is typed.
        usage: what is typed after it.
        description: one line.
        stories: what users want, and the commands for it.
        closing: the end of its help.
    """

    name: str
    usage: str
    description: str
    stories: Mapping[str, Sequence[Command]]
    closing: Sequence[str] = ()

    @property
    def commands(self) -> list[Command]:
        """All commands, in the order of the help."""
        return [command for commands in self.stories.values() for command in commands]

    def find(self, words: Sequence[str]) -> Command | None:
        """The command whose name the words begin with; None if there is none."""
        for command in self.commands:
            parts = command.name.split()
            if list(words[: len(parts)]) == parts:
                return command
        return None
