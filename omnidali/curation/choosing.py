"""The sources that a command is asked to look at."""

from __future__ import annotations

from collections.abc import Collection

from omnidali.config import EVALUATION, Config, MediaConfig
from omnidali.errors import UserError


def all_sources(config: Config) -> dict[str, MediaConfig]:
    """The training sources in the config's order, and behind them the held-out one where there is one."""
    sources: dict[str, MediaConfig] = dict(config.sources)
    if config.evaluation.source is not None:
        sources[EVALUATION] = config.evaluation.source
    return sources


def choose_sources(config: Config, names: Collection[str]) -> list[str]:
    """The names in the config's order, each once; all for none.

    Raises:
        UserError: for a name that the config does not have.
    """
    sources = all_sources(config)
    for name in names:
        if name not in sources:
            raise UserError("--sources", f"some of {', '.join(sources)}", name, "Correct the name.")
    return [name for name in sources if name in names or not names]
