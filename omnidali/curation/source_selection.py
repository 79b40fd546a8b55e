"""The sources that a command works on."""

from __future__ import annotations

from collections.abc import Collection

from omnidali.config.schema import EVALUATION, Config, MediaConfig, key_of
from omnidali.errors import UserError


def all_sources(config: Config) -> dict[str, MediaConfig]:
    """The training sources in the config's order, then the held-out one where there is one."""
    sources: dict[str, MediaConfig] = dict(config.sources)
    if config.evaluation.source is not None:
        sources[EVALUATION] = config.evaluation.source
    return sources


def choose_sources(config: Config, names: Collection[str], training: bool = False) -> list[str]:
    """The names of the chosen sources in the config's order, each once.

    Args:
        config: names the sources.
        names: chosen ones; none: all.
        training: whether only training sources can be chosen.

    Raises:
        UserError: for a name that the config does not have.
    """
    sources = config.sources if training else all_sources(config)
    for name in names:
        if name not in sources:
            expected = f"some of {'the training sources ' if training else ''}{', '.join(sources)}"
            raise UserError("--sources", expected, name, "Correct the name.")
    return [name for name in sources if name in names or not names]


def choose_crawled(
    config: Config, names: Collection[str], training: bool = False, lists: bool = True
) -> list[str]:
    """The names of the chosen sources, for commands that remove items from crawled sources.

    Args:
        config: names the sources.
        names: chosen ones; none: all training sources but the first, the target.
        training: whether only training sources can be chosen.
        lists: whether the command writes lists.

    Raises:
        UserError: for an unknown name, if there is no such source, and for tars, as a list cannot
            name all of their members.
    """
    chosen = choose_sources(config, names, training) if names else list(config.sources)[1:]
    if not chosen:
        raise UserError(
            "--sources",
            "a source besides the target",
            "none in the config",
            "Add it to the config, or name the target itself.",
        )

    sources = all_sources(config)
    for name in chosen:
        if lists and sources[name].tars:
            raise UserError(
                key_of(name),
                "a source with a list or class folders",
                f"the tars {sources[name].tars}",
                "Unpack the tars, or leave the source out with --sources.",
            )
    return chosen


def files_of(source: MediaConfig) -> dict[str, str]:
    """The files that a source names, by their settings."""
    files = {key: getattr(source, key, None) for key in ("list", "labels", "motion")}
    return {key: path for key, path in files.items() if path}
