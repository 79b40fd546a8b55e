"""Options that `curate` passes on to `filter` and `dedup`: what can be wrong with them is told at
the start.

They are parsed by the parsers of those commands, which would refuse them hours later themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Iterator, Mapping
from typing import NoReturn

from omnidali.cli import data_commands as curation
from omnidali.cli.arguments import Parser
from omnidali.config.schema import Config
from omnidali.errors import UserError

_SET_BY_CURATE = {"config": "", "checkpoint": "", "out": ""}
_FOR_FILTER = {
    **_SET_BY_CURATE,
    "score_only": ", as the students need the lists",
    "window": ", as dedup cuts the long videos before",
}
_FOR_DEDUP = {"config": "", "out": ""}
_ADVICE = {"window": "Give it to --dedup.", "score_only": "Leave it out."}
_FREE = "loader."  # settings that change neither a network nor a figure


class _Asking(Parser):
    """A parser that raises its errors, and has no --help, which would end the program."""

    def __init__(self, **settings):
        super().__init__(**{**settings, "add_help": False})

    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, message)


def check_filter(text: str, config: Config) -> list[str]:
    """The options of --filter as words.

    Raises:
        UserError: naming --filter.
    """
    words, options = _parse("--filter", "filter", text, _FOR_FILTER)
    with _told_of("--filter"):
        curation.rules_of(options)
        from omnidali.curation.source_selection import choose_crawled

        # filtering the evaluation would change the figures
        choose_crawled(config, options.sources, training=True)
    return words


def check_dedup(text: str, config: Config, long_videos: Config) -> tuple[list[str], str | None]:
    """The options of --dedup as words, and its checkpoint, which is read once to see whether it can
    be used.

    Args:
        long_videos: the config as dedup gets it, with the windows of long videos.

    Raises:
        UserError: naming --dedup.
    """
    words, options = _parse("--dedup", "dedup", text, _FOR_DEDUP)
    with _told_of("--dedup"):
        settings = curation.settings_of(options)
        from omnidali.curation.source_selection import choose_crawled
        from omnidali.curation.windows import check_window

        names = choose_crawled(config, options.sources, training=True)
        check_window(
            settings.window, {name: long_videos.sources[name] for name in names}, config.data_root
        )
        if options.checkpoint:
            import torch

            from omnidali.curation.dedup.features import load_network

            load_network(options.checkpoint, torch.device("cpu"))
    return words, options.checkpoint


def _parse(
    option: str, command: str, text: str, taken: Mapping[str, str]
) -> tuple[list[str], argparse.Namespace]:
    """The words of ``text``, and what the command's parser makes of them.

    Args:
        taken: why an option may not be given, after "no --NAME", by its name in the result.
    """
    parser = _Asking(prog="omnidali").add_subparsers(dest="command", parser_class=_Asking)
    curation.add_to(parser)
    asking = parser.choices[command]
    for action in asking._actions:
        if action.dest in taken:
            action.required, action.default = False, None
    try:
        words = shlex.split(text)
        options = asking.parse_args(words)
    except (ValueError, argparse.ArgumentError) as error:
        raise UserError(
            option,
            f"options of `omnidali {command}`, quoted as for a shell",
            f"{text} ({error})",
            f"Correct them; `omnidali {command} --help` names all.",
        ) from None

    for name, why in taken.items():
        if getattr(options, name):
            advice = _ADVICE.get(name, "Leave it out.")
            raise UserError(
                option,
                f"no --{name.replace('_', '-')}{why or ', which curate sets itself'}",
                text,
                advice,
            )
    for setting in options.overrides:
        if not setting.startswith(_FREE):
            raise UserError(
                option,
                f"--set of {_FREE}* alone, as all networks of the road share the other settings",
                setting,
                "Give it to curate's own --set.",
            )
    return words, options


@contextlib.contextmanager
def _told_of(option: str) -> Iterator[None]:
    """Name the option that an error's own option was passed on with."""
    try:
        yield
    except UserError as error:
        error.args = (f"{option}, {error}",)
        raise
