"""The loggers that a config names: ``csv``, and factories of the user's own."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omnidali.config.schema import Config
from omnidali.errors import UserError
from omnidali.training.csv_log import CsvLog
from omnidali.training.loggers import Logger
from omnidali.utils.named_function import describe_error, is_function_name, load_function

CSV = "csv"
_WHERE = "logger"
_WRITTEN = ("metrics", "metrics.jsonl", "tensorboard", "tb", "pictures")


def load_factories(names: Sequence[str]) -> list[Callable[[Config], Any]]:
    """Import the factories that a config names. This runs their modules' code.

    Args:
        names: ``csv`` or ``package.module:factory``, each once.

    Raises:
        UserError: if one is unknown, named twice, not importable or not callable.
    """
    factories: list[Callable[[Config], Any]] = []
    for name in names:
        if names.count(name) > 1:
            raise UserError(_WHERE, "each name once", f"{name} twice", "Remove one of them.")
        if name == CSV:
            factories.append(lambda config: CsvLog(Path(config.run_dir)))
        elif is_function_name(name):
            factories.append(load_function(name, _WHERE))
        else:
            is_there = name.lower() in _WRITTEN
            advice = (
                "metrics.jsonl, TensorBoard and pictures are always written; leave it out."
                if is_there
                else "docs/loggers.md has the lines for wandb and mlflow, a module with a factory."
            )
            raise UserError(_WHERE, f"{CSV}, or package.module:factory", name, advice)
    return factories


def make_loggers(config: Config) -> list[Logger]:
    """The loggers that a config names, of which each factory is called with the config.

    If one fails, those before it are closed.

    Raises:
        UserError: as :func:`load_factories`, and if a factory fails or returns no Logger.
    """
    loggers: list[Logger] = []
    try:
        for name, factory in zip(config.logger, load_factories(config.logger), strict=True):
            loggers.append(_call(name, factory, config))
    except BaseException:
        for logger in loggers:
            logger.close()
        raise
    return loggers


def _call(name: str, factory: Callable[[Config], Any], config: Config) -> Logger:
    try:
        made = factory(config)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(
            _WHERE,
            "a factory that returns an omnidali.Logger",
            f"{name}, which ends with {describe_error(error)}",
            "Correct it, or leave it out by logger=null.",
        ) from error
    if not isinstance(made, Logger):
        raise UserError(
            _WHERE,
            "a factory that returns an omnidali.Logger",
            f"{name}, which returns a {type(made).__name__}",
            "Let its class be a subclass of omnidali.Logger, and return an object of it.",
        )
    return made
