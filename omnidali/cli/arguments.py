"""The grammar of a verb's arguments: options, settings and operands, in any order.

An argument ``key=value`` is a setting of the config. The key is letters, digits, dots and
underscores; the name of a source in it may have any character but a slash. Directly after an option
that takes a value, such an argument is that value. The rest are operands, and so is everything
after ``--``: a file whose name looks like a setting is written ``./a=b.mp4``.
"""

import argparse
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from omnidali.cli.command import Command, Option
from omnidali.cli.mistakes import explain_missing, explain_unknown, reword
from omnidali.errors import ConfigError, UserError
from omnidali.utils.text_files import is_text

_SETTING = re.compile(r"([A-Za-z0-9_.]+|sources\.[^=/]+)=")
_SETTINGS_HELP = """\
Settings of the config stand between the options or after them. Each is written
key.path=value, such as train.batch=64; `omnidali help settings` lists all."""


class Parser(argparse.ArgumentParser):
    """Argparse's parser, whose errors are those of this program."""

    def __init__(self, **keywords: Any):
        super().__init__(**keywords)
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

    groups = {
        True: parser.add_argument_group("required options"),
        False: parser.add_argument_group("options"),
    }
    for option in command.options:
        # what is missing is reported with the other mistakes
        keywords = {**option.keywords, "required": False}
        groups[option.is_required].add_argument(option.name, **keywords)
    return parser


def _usage(command: Command, prog: str) -> str:
    words = [prog]
    words += [_shown(option) for option in command.options if option.is_required]
    if not all(option.is_required for option in command.options):
        words.append("[options]")
    if command.has_settings:
        words.append("[key.path=value ...]")
    if command.operands:
        words.append(f"[{command.operands} ...]")
    wrapped = textwrap.fill(
        f"usage: {' '.join(words)}", 80, subsequent_indent=" " * 11, break_on_hyphens=False
    )
    return wrapped.removeprefix("usage: ")


def _shown(option: Option) -> str:
    """An option and its value as the usage shows them."""
    value = option.keywords.get("metavar") or option.destination.upper()
    return f"{option.name} {value}{' ...' if option.keywords.get('nargs') == '+' else ''}"


def parse_options(command: Command, program: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse what follows a verb.

    Args:
        command: the verb's.
        program: its name.
        arguments: after the verb.

    Returns:
        The options; with ``overrides``, the settings in their order, and ``operands``, if the
        command takes them.

    Raises:
        ConfigError: with every argument that the command does not take, and what it lacks.
    """
    prog = f"{program} {command.name}"
    end = arguments.index("--") if "--" in arguments else len(arguments)
    settings, rest = _split_settings(command, arguments[:end])
    _check_words(arguments, settings, command, prog=prog)
    options, unknown = make_parser(command, program).parse_known_args(rest)

    after_dashes = arguments[end + 1 :]
    if command.operands:
        options.operands = [text for text in unknown if not text.startswith("-")]
        options.operands += after_dashes
        unknown = [text for text in unknown if text.startswith("-")]
    errors = explain_unknown(unknown, command, prog)
    if after_dashes and not command.operands:
        got = f"-- {' '.join(after_dashes)}"
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
            f"{text}, which is not",
            "Rename the file or folder, or make a link to it that has another name.",
        )
        for text in arguments
        if not (is_text(text) or (command.takes_any_name and not text.startswith("-")))
    ]
    if settings and not command.has_settings:
        expected = "no settings, as it has no config"
        errors.append(UserError(prog, expected, settings[0], "Leave it out."))
    if errors:
        raise ConfigError(errors)


def _split_settings(command: Command, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments into settings and others."""
    if command.operands and not command.has_settings:
        return [], list(arguments)  # what looks like a setting is an operand
    takes_value = {option.name for option in command.options if option.takes_value}
    settings: list[str] = []
    rest: list[str] = []
    for before, text in zip(["", *arguments], arguments, strict=False):
        if _SETTING.match(text) and before not in takes_value:
            settings.append(text)
        else:
            rest.append(text)
    return settings, rest
