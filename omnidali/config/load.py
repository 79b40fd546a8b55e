"""From YAML and the command line to a checked :class:`~omnidali.config.schema.Config`, and back.

Precedence: defaults < ``base`` files < the file < ``key.path=value``. All mistakes are reported at
once.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from omnidali.config.convert import build_config, config_to_dict
from omnidali.config.files import find_config
from omnidali.config.network_sizes import drop_null_sizes, with_network_sizes
from omnidali.config.overrides import apply_override, find_expanded
from omnidali.config.schema import Config
from omnidali.config.strict_yaml import parse_yaml
from omnidali.config.validate import find_mistakes
from omnidali.errors import ConfigError, UserError, start_of

# settings that are compared as a whole, as a name in them may come or go
_FREE_NAMES = ("optimizer.lr_factors", "model.options")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read, merge and check a config file.

    Args:
        path: YAML file, or the name of a shipped config. Its optional key ``base`` names another
            one to build on, a file relative to this one or a shipped config, or a list of them,
            of which later ones win.
        overrides: ``key.path=value`` texts, as :func:`~omnidali.config.overrides.apply_override`
            takes them.

    Raises:
        ConfigError: with every mistake of the file and the overrides.
        UserError: if a file cannot be read or is no YAML.
    """
    _, values = _read_with_base(find_config(path), ())
    errors = list(find_expanded(overrides))
    for text in overrides:
        try:
            apply_override(values, text)
        except UserError as error:
            errors.append(error)
    drop_null_sizes(values)
    config = build_config(Config, values, errors)
    assert config is not None  # all fields of a Config have defaults
    config = with_network_sizes(config, values, errors)

    # A mistake about the settings above another mistake may only be its consequence.
    reported = [f"{error.where}." for error in errors]
    errors += [
        error
        for error in find_mistakes(config)
        if not any(where.startswith(f"{error.where}.") for where in reported)
    ]
    if errors:
        raise ConfigError(errors)
    return config


def with_settings(config: Config, overrides: Sequence[str]) -> Config:
    """A config with some settings changed, which are known to be good.

    Args:
        config: stays as it is.
        overrides: ``key.path=value`` texts.
    """
    values = config_to_dict(config)
    for text in overrides:
        apply_override(values, text)
    changed = build_config(Config, values, [])
    assert changed is not None  # all fields of a Config have defaults
    return changed


def config_files(path: str | Path) -> list[Path]:
    """The files that :func:`load_config` reads for ``path``, a good config, itself first."""
    files, _ = _read_with_base(find_config(path), ())
    return files


def dump_config(config: Config) -> str:
    """The resolved config as YAML that :func:`load_config` reads back to an equal value."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True)


def find_changes(
    old: Mapping[str, object], new: Mapping[str, object], where: str = ""
) -> list[str]:
    """A line for each setting of two plain configs that differs.

    Keys that one of them lacks are left out.

    >>> find_changes(
    ...     {"model": {"dropout": 0.4, "depth": 50}}, {"model": {"dropout": 0.5, "depth": 50}}
    ... )
    ['model.dropout: 0.4 became 0.5']
    """
    lines = []
    for key, after in new.items():
        name = f"{where}.{key}" if where else key
        before = old.get(key, after)
        is_group = name not in _FREE_NAMES
        if is_group and isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += find_changes(before, after, name)
        elif before != after:
            lines.append(f"{name}: {_show_plain(before)} became {_show_plain(after)}")
    return lines


def _show_plain(value: object) -> str:
    return "none" if value is None else str(value)


def _read(path: Path) -> dict:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(
            str(path),
            "a readable config file",
            f"{getattr(error, 'strerror', error)}{start_of(path)}",
            "Check the file and its permissions.",
        ) from None

    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise UserError(
            str(path),
            "keys and values",
            type(values).__name__,
            "Write settings, one a line; `omnidali help settings` lists all.",
        )
    return values


def _read_with_base(path: Path, above: tuple[Path, ...]) -> tuple[list[Path], dict]:
    """The file and those that it builds on, and their merged values.

    Args:
        path: of the file.
        above: the files that build on it.
    """
    values = _read(path)
    base = values.pop("base", None)
    if base is None:
        base = []
    bases = base if isinstance(base, list) else [base]
    if path.resolve() in above or not all(isinstance(name, str) for name in bases):
        raise UserError(f"{path}: base", "other config files", str(base), "Remove the circle.")

    files = [path]
    merged: dict = {}
    for name in bases:
        more, below = _read_with_base(find_config(name, path), (*above, path.resolve()))
        files += more
        merged = _merge(merged, below)
    return files, _merge(merged, values)


def _merge(below: dict, above: dict) -> dict:
    """The values of two files, of which ``above`` wins; its null clears settings ``below``."""
    cleared = [
        key for key, value in above.items() if value is None and isinstance(below.get(key), dict)
    ]
    in_both = {
        key: _merge(below[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    merged = {**below, **above, **in_both}
    return {key: value for key, value in merged.items() if key not in cleared}
