"""The grammar of a verb's arguments: options, settings ``key.path=value`` and paths, in any order.

An argument ``key=value`` is a setting, the key being letters, digits, dots and underscores, and in
the name of a source anything but a slash. It is something else directly after an option that takes
a value, and after ``--``. What is neither option nor setting is a path, where a verb takes paths:
``./a=b.mp4`` for a name that looks like a setting.
"""

import argparse
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from omnidali.cli.command import Command, Option, destination, is_required
from omnidali.cli.mistakes import explain_missing, explain_unknown, reword
from omnidali.errors import ConfigError, UserError
from omnidali.utils.text_files import is_text

_SETTING = re.compile(r"([A-Za-z0-9_.]+|sources\.[^=/]+)=")
_SETTINGS_HELP = """\
Settings of the config stand between the options or after them. Each is written
key.path=value, such as train.batch=64; `omnidali help settings` lists all."""


class Parser(argparse.ArgumentParser):
    """Argparse's parser, whose errors are those of this program."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.color = False  # from Python 3.14 on its help has colours, which would be escaped

    def error(self, message: str) -> NoReturn:
        raise ConfigError([reword(message, self.prog)])


def make_parser(command: Command, program: str) -> Parser:
    """The parser of a command's options, which also knows its help.

    Args:
        command: of the program.
        program: its name.
    """
    prog = f"{program} {command.name}"
    epilog = [_SETTINGS_HELP] if command.has_settings else []
    if command.examples:
        epilog.append("\n  ".join(["examples:", *command.examples]))
    parser = Parser(
        prog=prog,
        usage=_usage(command, prog),
        description=f"{command.summary[0].upper()}{command.summary[1:]}.",
        epilog="\n\n".join(epilog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )

    if command.one_of:
        group = parser.add_argument_group("one of these")
        _add_options(group.add_mutually_exclusive_group(), command.one_of)
    for title, is_needed in (("required options", True), ("options", False)):
        options = [found for found in command.options if is_required(found) == is_needed]
        _add_options(parser.add_argument_group(title), options)
    return parser


def _add_options(parser: argparse._ActionsContainer, options: Iterable[Option]) -> None:
    for name, settings in options:
        # what is missing is reported with the other mistakes
        parser.add_argument(name, **{**settings, "required": False})


def _usage(command: Command, prog: str) -> str:
    words = [prog]
    if command.one_of:
        words.append(f"({' | '.join(map(_shown, command.one_of))})")
    words += [_shown(found) for found in command.options if is_required(found)]
    if not all(map(is_required, command.options)):
        words.append("[options]")
    if command.has_settings:
        words.append("[key.path=value ...]")
    if command.paths:
        words.append(f"[{command.paths} ...]")
    wrapped = textwrap.fill(
        f"usage: {' '.join(words)}", 80, subsequent_indent=" " * 11, break_on_hyphens=False
    )
    return wrapped.removeprefix("usage: ")


def _shown(found: Option) -> str:
    """An option and its value as the usage shows them."""
    name, settings = found
    value = settings.get("metavar") or destination(found).upper()
    return f"{name} {value}{' ...' if settings.get('nargs') == '+' else ''}"


def parse_options(command: Command, program: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse what follows a verb.

    Args:
        command: the verb's.
        program: its name.
        arguments: after the verb.

    Returns:
        The options; with ``overrides``, the settings in their order, and ``paths``, if the command
        takes them.

    Raises:
        ConfigError: with every argument that the command does not take, and what it lacks.
    """
    prog = f"{program} {command.name}"
    end = arguments.index("--") if "--" in arguments else len(arguments)
    settings, rest = split_settings(command, arguments[:end])
    _check_words(arguments, settings, command, prog=prog)
    options, unknown = make_parser(command, program).parse_known_args(rest)

    paths = arguments[end + 1 :]
    if command.paths:
        options.paths = [*(text for text in unknown if not text.startswith("-")), *paths]
        unknown = [text for text in unknown if text.startswith("-")]
    errors = explain_unknown(unknown, command, prog)
    if paths and not command.paths:
        got = f"-- {' '.join(paths)}"
        errors.append(UserError(prog, "nothing after --", got, "Leave the -- out."))
    errors += explain_missing(options, command, prog)
    if errors:
        raise ConfigError(errors)
    if command.has_settings:
        options.overrides = settings
    return options


def _check_words(
    arguments: Sequence[str], settings: Sequence[str], command: Command, *, prog: str
) -> None:
    """Refuse arguments that configs and catalogs cannot hold, and settings without a config."""
    errors = [
        UserError(
            prog,
            "arguments in UTF-8",
            f"{text}, a name that is not",
            "Rename the file or folder, or make a link to it that has another name.",
        )
        for text in arguments
        if not is_text(text)
    ]
    if settings and not command.has_settings:
        advice = "Leave it out."
        if command.paths:
            advice = f"Write ./{settings[0]} for a file of this name."
        errors.append(UserError(prog, "no settings, as it has no config", settings[0], advice))
    if errors:
        raise ConfigError(errors)


def split_settings(command: Command, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments into settings and others."""
    takes_value = {
        name for name, settings in (*command.options, *command.one_of) if "action" not in settings
    }
    settings: list[str] = []
    rest: list[str] = []
    for before, text in zip(["", *arguments], arguments, strict=False):
        if _SETTING.match(text) and before not in takes_value:
            settings.append(text)
        else:
            rest.append(text)
    return settings, rest
