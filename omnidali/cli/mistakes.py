"""Mistakes on a command line, in the four parts of every error."""

import argparse
import difflib
import itertools
import re
from collections.abc import Sequence

from omnidali.cli.command import Command, Program
from omnidali.config.files import shipped_names
from omnidali.config.reference import all_settings, find_settings, suggest_keys
from omnidali.errors import UserError

# argparse's texts, and what is said instead: where, what was expected, what came
_REWORDED = (
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
    return [
        UserError(prog, option.name, "nothing", f"`{prog} --help` has an example.")
        for option in command.options
        if option.is_required and getattr(options, option.destination) is None
    ]


def _guess(text: str, values: Sequence[str], command: Command) -> list[str]:
    """What an argument, and the values after it, may have been meant as."""
    key, _, value = text.lstrip("-").partition("=")
    names = [option.name for option in command.options]
    guesses = []
    if text == "--set":  # as before version 0.2
        return [f"{command.name} ... {' '.join(values) or 'key.path=value'}, without --set"]
    if text.startswith("-"):
        begun = [name for name in names if name.startswith(f"--{key}")]
        guesses += begun or difflib.get_close_matches(f"--{key}", names, n=1, cutoff=0.75)
    setting = _nearest_setting(key) if command.has_settings else None
    if setting:
        guesses.append(f"{setting}={value or ' '.join(values) or 'VALUE'}")
    elif "--config" in names and (text in shipped_names() or text.endswith((".yaml", ".yml"))):
        guesses.append(f"--config {text}")
    return guesses


def _nearest_setting(key: str) -> str | None:
    """The key of the setting that a text comes close to."""
    if any(setting.key == key for setting in find_settings(key)):
        return key
    groups = {setting.key for setting in all_settings() if setting.is_group}
    return next((close for close in suggest_keys(key) if close not in groups), None)


def explain_verb(words: Sequence[str], program: Program) -> UserError:
    """The error for a command line that begins with no verb."""
    names = [command.name for command in program.commands]
    advice = f"`{program.name} --help` lists them."
    close = _begun(words[0], names) or difflib.get_close_matches(words[0], names, n=1)
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


def explain_topic(topic: Sequence[str], program: Program) -> UserError:
    """The error for a topic that there is no help for.

    Args:
        topic: of the help, one word or more.
        program: whose help it is.
    """
    text = " ".join(topic)
    key, _, _ = text.partition("=")
    names = [*(command.name for command in program.commands), "settings", "configs", "weights"]
    help_command = f"{program.name} help"

    advice = f"`{help_command}` lists the verbs."
    # a word such as motion begins a verb, and is the last part of a key as well
    close = _begun(text, names)
    keys = [key] if find_settings(key) else []
    if not close and not keys:
        close = difflib.get_close_matches(text, names, n=1)
        keys = list(suggest_keys(key, 1))
    if close:
        advice = f"Did you mean {' or '.join(close)}?"
    elif keys:
        advice = f"For a setting: {help_command} settings {keys[0]}"
    return UserError(help_command, "a verb, `settings`, `configs` or `weights`", text, advice)


def _begun(text: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith(text)]
