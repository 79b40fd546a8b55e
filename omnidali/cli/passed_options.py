"""Options that ``curate`` passes on to ``filter`` and ``dedup``, checked before anything runs.

The parsers of those commands check them: otherwise those commands would refuse them hours later.
"""

import argparse
import contextlib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace

from omnidali.cli.arguments import parse_options
from omnidali.cli.command import Command, option
from omnidali.cli.curation_commands import DEDUP, FILTER, dedup_settings_from, rules_from
from omnidali.config.schema import Config
from omnidali.curation.source_selection import check_window, choose_crawled
from omnidali.errors import UserError

# reasons against the options that cannot be passed on, after "no --NAME"
_SET_BY_CURATE = ", which curate sets itself"
_NOT_FOR_FILTER = {
    "config": _SET_BY_CURATE,
    "checkpoint": _SET_BY_CURATE,
    "out": _SET_BY_CURATE,
    "score_only": ", as the students need the lists",
    "window": ", as dedup cuts the long videos before",
}
_NOT_FOR_DEDUP = {"config": _SET_BY_CURATE, "out": _SET_BY_CURATE}
_FREE = "loader."  # settings that change neither a network nor a figure


def check_filter(text: str, config: Config) -> list[str]:
    """The options of ``--filter`` as words.

    Raises:
        UserError: naming --filter.
    """
    words, options = _parse(FILTER, text, _NOT_FOR_FILTER)
    with _naming("--filter"):
        rules_from(options)
        # filtering the evaluation source would change the figures
        choose_crawled(config, options.sources, training=True)
    return words


def check_dedup(text: str, config: Config, windowed: Config) -> tuple[list[str], str | None]:
    """The options of ``--dedup`` as words, and its checkpoint, which is read once to check it.

    Args:
        text: the options as they were given.
        config: of ``curate``.
        windowed: the config as dedup gets it, with the windows of long videos.

    Raises:
        UserError: naming --dedup.
    """
    words, options = _parse(DEDUP, text, _NOT_FOR_DEDUP)
    with _naming("--dedup"):
        settings = dedup_settings_from(options)
        names = choose_crawled(config, options.sources, training=True)
        sources = {name: windowed.sources[name] for name in names}
        check_window(settings.window, sources, config.data_root, multi_label=config.multi_label)
        if options.checkpoint:
            import torch

            from omnidali.curation.dedup.features import load_image_network

            load_image_network(options.checkpoint, torch.device("cpu"))
    return words, options.checkpoint


def _parse(
    command: Command, text: str, forbidden: Mapping[str, str]
) -> tuple[list[str], argparse.Namespace]:
    """The words of ``text``, and the options that the command's parser finds in them.

    Args:
        command: that they are for.
        text: the options, quoted as for a shell.
        forbidden: the reasons against options, by their names in the result.
    """
    where = f"--{command.name}"
    # parsed all the same, so that the reason against one can be given
    relaxed = [
        option(known.name, **{**known.keywords, "required": False, "default": None})
        if known.destination in forbidden
        else known
        for known in command.options
    ]
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(
            where,
            f"options of `omnidali {command.name}`, quoted as for a shell",
            f"{text} ({error})",
            "Correct the quotes.",
        ) from None
    with _naming(where):
        options = parse_options(replace(command, options=relaxed), "omnidali", words)

    for name, reason in forbidden.items():
        if getattr(options, name):
            advice = "Give it to --dedup." if name == "window" else "Leave it out."
            raise UserError(where, f"no --{name.replace('_', '-')}{reason}", text, advice)
    for setting in options.overrides:
        if not setting.startswith(_FREE):
            raise UserError(
                where,
                f"settings of {_FREE}* alone, as all networks of the run share the other settings",
                setting,
                "Give it to curate itself.",
            )
    return words, options


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put the name of the option of ``curate`` before what errors name."""
    try:
        yield
    except UserError as error:
        error.args = ("\n".join(f"{name}, {line}" for line in str(error).split("\n")),)
        raise
