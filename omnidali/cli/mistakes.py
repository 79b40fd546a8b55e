"""Mistakes on a command line, in the four parts of every error."""

import argparse
import difflib
import itertools
import re
from collections.abc import Sequence

from omnidali.cli.command import Command, Option, Program, destination, is_required
from omnidali.config.files import shipped_configs
from omnidali.config.reference import all_settings, find_settings, suggest_keys
from omnidali.errors import UserError

# argparse's texts, and what is said instead: where, what was expected, what came
_REWORDED = (
    (r"argument (\S+): not allowed with argument (\S+)", r"\1", r"no \2 beside it", "both"),
    (r"argument (\S+): ignored explicit argument '?(.*?)'?", r"\1", "no value", r"\2"),
    (r"argument (\S+): expected one argument", r"\1", "a value after it", "none"),
    (r"argument (\S+): expected at least one argument", r"\1", "values after it", "none"),
    (r"argument (\S+): expected (\d+) arguments", r"\1", r"\2 values after it", "fewer"),
    (r"argument (\S+): invalid int value: '?(.*?)'?", r"\1", "a whole number", r"\2"),
    (r"argument (\S+): invalid float value: '?(.*?)'?", r"\1", "a number", r"\2"),
    (
        r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.+)\)",
        r"\1",
        r"one of \3",
        r"\2",
    ),
)


def reword(message: str, prog: str) -> UserError:
    """The error for what argparse reports.

    Args:
        message: of argparse.
        prog: the program and its verb.
    """
    advice = f"`{prog} --help` shows what it takes."
    for pattern, *parts in _REWORDED:
        match = re.fullmatch(pattern, message, re.DOTALL)
        if match:
            where, expected, got = map(match.expand, parts)
            return UserError(where, expected.replace("'", ""), got, advice)
    return UserError(prog, "other options", message, advice)


def explain_unknown(words: Sequence[str], command: Command, prog: str) -> list[UserError]:
    """The errors for arguments that a command does not take.

    Args:
        words: the arguments; one that follows an unknown option may be its value.
        command: of the program.
        prog: the program and its verb.
    """
    groups: list[list[str]] = []
    for word in words:
        is_value = groups and groups[-1][0].startswith("-") and not word.startswith("-")
        if is_value and len(groups[-1]) == 1:
            groups[-1].append(word)
        else:
            groups.append([word])

    expected = "options and settings key.path=value" if command.has_settings else "options"
    errors = []
    for first, *values in groups:
        guesses = _guess(first, values, command)
        advice = f"`{prog} --help` shows what it takes."
        if guesses:
            advice = f"Did you mean {' or '.join(guesses)}?"
        elif "=" in first and not first.startswith("-") and command.has_settings:
            advice = "The key of a setting is letters, digits, dots and underscores."
        errors.append(UserError(prog, expected, " ".join([first, *values]), advice))
    return errors


def explain_missing(options: argparse.Namespace, command: Command, prog: str) -> list[UserError]:
    """The errors for options that a command needs and does not have.

    Args:
        options: that it has.
        command: of the program.
        prog: the program and its verb.
    """
    needed: list[Sequence[Option]] = [[found] for found in command.options if is_required(found)]
    if command.one_of:
        needed.append(command.one_of)
    return [
        UserError(
            prog,
            " or ".join(name for name, _ in choice),
            "nothing",
            f"`{prog} --help` has an example.",
        )
        for choice in needed
        if all(getattr(options, destination(found)) is None for found in choice)
    ]


def _guess(text: str, values: Sequence[str], command: Command) -> list[str]:
    """What an argument, and the values after it, may have been meant as."""
    key, _, value = text.lstrip("-").partition("=")
    names = [name for name, _ in (*command.options, *command.one_of)]
    guesses = []
    if text.startswith("-"):
        begun = [name for name in names if name.startswith(f"--{key}")]
        guesses += begun or difflib.get_close_matches(f"--{key}", names, n=1, cutoff=0.75)
    setting = _nearest_setting(key) if command.has_settings else None
    if setting:
        guesses.append(f"{setting}={value or ' '.join(values) or 'VALUE'}")
    elif "--config" in names and (text in shipped_configs() or text.endswith((".yaml", ".yml"))):
        guesses.append(f"--config {text}")
    return guesses


def _nearest_setting(key: str) -> str | None:
    """The key of the setting that a text comes close to."""
    if any(found.key == key for found in find_settings(key)):
        return key
    groups = {setting.key for setting in all_settings() if setting.is_group}
    return next((found for found in suggest_keys(key) if found not in groups), None)


def explain_verb(words: Sequence[str], program: Program) -> UserError:
    """The error for a command line that begins with no verb."""
    names = [command.name for command in program.commands]
    advice = f"`{program.name} --help` lists them."
    if not words:
        return UserError(program.name, "a verb", "nothing", advice)

    begun = [name for name in names if name.startswith(words[0])]
    close = begun or difflib.get_close_matches(words[0], names, n=1)
    later = [
        word
        for before, word in itertools.pairwise(words)
        if word in names and not before.startswith("-")
    ]
    if close:
        advice = f"Did you mean {' or '.join(close)}?"
    elif later:
        advice = f"The verb comes first: {program.name} {later[0]} {words[0]} ..."
    return UserError(program.name, "a verb", words[0], advice)
