"""From YAML and the command line to a checked :class:`~omnidali.config.schema.Config`, and back.

Precedence: defaults < ``base`` files < the file < ``key.path=value``. All mistakes are reported at
once.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from omnidali.config.convert import build_config, config_to_dict
from omnidali.config.files import find_config
from omnidali.config.schema import Config
from omnidali.config.validate import find_mistakes
from omnidali.errors import ConfigError, UserError, start_of
from omnidali.utils.text_files import is_text

_MAX_NUMBER = (1 << 63) - 1


class _StrictLoader(yaml.SafeLoader):
    """YAML without repeated keys, of which PyYAML keeps the last in silence, and huge numbers."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[object, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if key in lines:
                raise UserError(
                    f"{self.name}, line {line}",
                    f"every key once (first on line {lines[key]})",
                    f"{key!r} again",
                    "Remove one of them.",
                )
            lines[key] = line
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = super().construct_yaml_int(node)
        if abs(number) > _MAX_NUMBER:
            raise UserError(
                f"{self.name}, line {node.start_mark.line + 1}",
                f"whole numbers of at most {_MAX_NUMBER:,}",
                f"{node.value[:20]}...",
                "Correct the value.",
            )
        return number


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)


def parse_yaml(text: str, name: str) -> object:
    """Parse YAML text.

    Args:
        text: YAML of plain values.
        name: of the text, for errors.

    Raises:
        UserError: for broken YAML, tags that would make objects, and numbers beyond 64 bits.
    """
    try:
        loader = _StrictLoader(text)
        loader.name = name
        return loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}, line {mark.line + 1}" if mark else name
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise UserError(where, "YAML", problem[:200], "Correct the syntax.") from None
    except UserError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        # Such as a list as a key, a date that does not exist, or hundreds of levels.
        problem = str(error).splitlines()[0][:200]
        raise UserError(name, "YAML", problem, "Put the value in quotes, or correct it.") from None


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read, merge and check a config file.

    Args:
        path: YAML file, or the name of a shipped config. Its optional key ``base`` names another
            one to build on, a file relative to this one or a shipped config, or a list of them,
            of which later ones win.
        overrides: ``key.path=value`` texts; the value is YAML.

    Raises:
        ConfigError: with every mistake of the file and the overrides.
        UserError: if a file cannot be read or is no YAML.
    """
    _, values = _read_with_base(find_config(path), ())
    errors: list[UserError] = []
    for text in overrides:
        try:
            _override(values, text)
        except UserError as error:
            errors.append(error)
    config = build_config(Config, values, errors)
    assert config is not None  # all fields of a Config have defaults

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
        overrides: ``key.path=value`` texts; the value is YAML.
    """
    values = config_to_dict(config)
    for text in overrides:
        _override(values, text)
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
        if isinstance(before, Mapping) and isinstance(after, Mapping):
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


def _override(values: dict, text: str) -> None:
    key, equals, value = text.partition("=")
    parts = _split_key(key.strip(), values.get("sources"))
    if not equals or not all(parts):
        raise UserError(
            f"override {text!r}", "key.path=value", text, "Write, for example, train.batch=64."
        )
    if not is_text(text):
        raise UserError(
            f"override {key}",
            "text in UTF-8",
            f"{value}, a name that is not",
            "Rename the file or folder, or make a link to it that has another name.",
        )

    place = values
    *above, last = parts
    for part in above:
        if not isinstance(place.get(part), dict):
            place[part] = {}
        place = place[part]

    parsed = parse_yaml(value, f"override {key}")
    if parsed is None and above == ["sources"] and last not in place:
        close = difflib.get_close_matches(last, map(str, place), n=1)
        raise UserError(
            key,
            f"a source of the config ({', '.join(map(str, place))})",
            last,
            f"Did you mean sources.{close[0]}=null?" if close else "Leave it out.",
        )
    if parsed is None and isinstance(place.get(last), dict):
        del place[last]
    else:
        place[last] = parsed


def _split_key(key: str, sources: object) -> list[str]:
    """The parts of a key; the name of a source, which is one of them, may hold dots."""
    named = [
        name
        for name in (sources if isinstance(sources, dict) else ())
        if f"{key}.".startswith(f"sources.{name}.")
    ]
    if not named:
        return key.split(".")
    name = max(named, key=lambda name: len(str(name)))
    rest = key.removeprefix(f"sources.{name}").removeprefix(".")
    return ["sources", name, *(rest.split(".") if rest else ())]
