"""From YAML and the command line to a checked :class:`~omnidali.config.schema.Config`, and back.

Precedence: defaults < ``base`` files < the file < ``key.path=value``. All mistakes are reported at
once.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from omnidali.config.schema import Config
from omnidali.config.validate import find_mistakes
from omnidali.errors import ConfigError, UserError
from omnidali.utils.text_files import is_text

MAX_TEXT = 1 << 18  # characters of a config file: 2,000 sources; PyYAML takes 5 s for them
MAX_VALUES = 100_000  # of a config, counted with what aliases stand for
MAX_BASES = 100  # files that a config is built on, counted as often as they are named
MAX_NUMBER = (1 << 63) - 1


class _StrictLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys in silence; here a repeated key is an error."""

    def construct_mapping(self, node, deep=False):
        seen = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise UserError(
                    f"{node.start_mark.name}, line {key_node.start_mark.line + 1}",
                    f"every key once (first on line {seen[key]})",
                    f"{key!r} again",
                    "Remove one of them.",
                )
            seen[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, name: str) -> object:
    """Parse YAML text; ``name`` is used in errors.

    Raises:
        UserError: for what is no YAML, for tags that would make objects, and for more than a config
            can hold: text, aliases that multiply, levels, digits.
    """
    if len(text) > MAX_TEXT:
        raise UserError(
            name, f"at most {MAX_TEXT:,} characters", "more", "Check that the right file is named."
        )
    try:
        loader = _StrictLoader(text)
        loader.name = name
        node = loader.get_single_node()
        _check_aliases(node, name)
        return None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}, line {mark.line + 1}" if mark else name
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise UserError(where, "YAML", problem[:200], "Correct the syntax.") from None
    except TypeError as error:
        raise UserError(name, "plain keys", str(error), "Use text as keys.") from None
    except RecursionError:
        raise UserError(
            name, "settings of a few levels", "hundreds of levels", "Remove the brackets."
        ) from None
    except UserError:
        raise
    except ValueError as error:  # a date that is none, a number of thousands of digits
        raise UserError(
            name,
            "YAML",
            str(error).splitlines()[0][:200],
            "Put the value in quotes, or correct it.",
        ) from None


def _check_aliases(root: yaml.Node | None, name: str) -> None:
    """Refuse aliases that contain themselves, or that multiply: ten lines can stand for a billion
    values.
    """
    sizes: dict[int, int | None] = {}  # None: being counted
    waiting = [] if root is None else [root]
    while waiting:
        node = waiting[-1]
        below = (
            []
            if isinstance(node, yaml.ScalarNode)
            else [
                part
                for item in node.value
                for part in (item if isinstance(item, tuple) else (item,))
            ]
        )
        if id(node) not in sizes:
            sizes[id(node)] = None
            if any(sizes.get(id(part), 0) is None for part in below):
                raise UserError(
                    f"{name}, line {node.start_mark.line + 1}",
                    "values that end",
                    "an alias of what it stands in",
                    "Remove the alias.",
                )
            waiting += [part for part in below if id(part) not in sizes]
            continue
        waiting.pop()
        if sizes[id(node)] is None:
            sizes[id(node)] = 1 + sum(sizes[id(part)] for part in below)
            if sizes[id(node)] > MAX_VALUES:
                raise UserError(
                    f"{name}, line {node.start_mark.line + 1}",
                    f"at most {MAX_VALUES:,} values",
                    "more, by aliases of aliases",
                    "Write the values out, or remove the aliases.",
                )


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read, merge and check a config file.

    Args:
        path: YAML file. Its optional key ``base`` names another file (relative to this one) to
            build on, or a list of files, of which later ones win.
        overrides: ``key.path=value`` texts; the value is YAML.

    Raises:
        ConfigError: with every mistake of the file and the overrides.
        UserError: if a file cannot be read or is no YAML.
    """
    values = _read_with_base(Path(path), (), itertools.count())
    errors: list[UserError] = []
    for text in overrides:
        try:
            _override(values, text)
        except UserError as error:
            errors.append(error)
    config = _build(Config, values, "", errors)
    # what lies above a mistake may only be its consequence
    told = [f"{error.where}." for error in errors]
    errors += [
        error
        for error in find_mistakes(config)
        if not any(where.startswith(f"{error.where}.") for where in told)
    ]
    if errors:
        raise ConfigError(errors)
    return config


def config_files(path: str | Path) -> list[Path]:
    """The files that :func:`load_config` reads for ``path``, which it has found to be good."""
    base = parse_yaml(Path(path).read_text(encoding="utf-8"), str(path)).get("base") or []
    bases = base if isinstance(base, list) else [base]
    return [
        Path(path),
        *(file for name in bases for file in config_files(Path(path).parent / name)),
    ]


def dump_config(config: Config) -> str:
    """The resolved config as YAML that :func:`load_config` reads back to an equal value."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)


def find_changes(
    old: Mapping[str, object], new: Mapping[str, object], where: str = ""
) -> list[str]:
    """A line for each setting of two plain configs that differs; keys that one of them lacks are
    left out.

    >>> find_changes(
    ...     {"model": {"dropout": 0.4, "depth": 50}}, {"model": {"dropout": 0.5, "depth": 50}}
    ... )
    ['model.dropout: 0.4 became 0.5']
    """
    lines = []
    for key in (key for key in new if key in old):
        name = f"{where}.{key}" if where else key
        if isinstance(old[key], Mapping) and isinstance(new[key], Mapping):
            lines += find_changes(old[key], new[key], name)
        elif old[key] != new[key]:
            lines.append(f"{name}: {_show_plain(old[key])} became {_show_plain(new[key])}")
    return lines


def _show_plain(value: object) -> str:
    return "none" if value is None else str(value)


def to_plain(value: object) -> object:
    """Dataclasses, mappings and tuples as dicts and lists."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return value


def _read_with_base(path: Path, above: tuple[Path, ...], reads: Iterator[int]) -> dict:
    count = next(reads)
    if count > MAX_BASES:
        raise UserError(
            f"{path}: base", f"at most {MAX_BASES} config files", "more", "Name each base once."
        )
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_TEXT + 1)
    except (OSError, ValueError) as error:
        raise UserError(
            str(path),
            "a readable config file",
            str(getattr(error, "strerror", error)),
            "Check the path.",
        ) from None
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise UserError(
            str(path),
            "keys and values",
            type(values).__name__,
            "See configs/demo.yaml for an example.",
        )
    base = values.pop("base", None)
    if base is None:
        return values
    bases = base if isinstance(base, list) else [base]
    if path.resolve() in above or not all(isinstance(name, str) for name in bases):
        raise UserError(f"{path}: base", "other config files", str(base), "Remove the circle.")
    merged: object = {}
    for name in bases:
        merged = _merge(
            merged, _read_with_base(path.parent / name, (*above, path.resolve()), reads)
        )
    return _merge(merged, values)


def _merge(below: object, above: object) -> object:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    merged = dict(below)
    for key, value in above.items():
        merged[key] = _merge(below.get(key), value)
    return merged


def _override(values: dict, text: str) -> None:
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(
            f"override {text!r}", "key.path=value", text, "Write, for example, train.batch=64."
        )
    place = values
    for part in parts[:-1]:
        if not isinstance(place.get(part), dict):
            place[part] = {}
        place = place[part]
    if not is_text(text):
        raise UserError(
            f"override {key}",
            "text in UTF-8",
            f"{value}, a name that is not",
            "Rename the file or folder, or make a link to it that has another name.",
        )
    place[parts[-1]] = parse_yaml(value, f"override {key}")


def _build(kind: type, values: object, where: str, errors: list[UserError]) -> object:
    """Make the dataclass ``kind``; mistakes go to ``errors`` and leave the default in place."""
    if not isinstance(values, dict):
        errors.append(
            UserError(
                where or "config", "keys and values", _show(values), "Indent its settings under it."
            )
        )
        return None
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    arguments = {}
    for key, value in values.items():
        path = f"{where}.{_short(key)}" if where else _short(key)
        if key not in fields:
            shown = _short(key)
            close = difflib.get_close_matches(shown, fields, n=1)
            advice = f"Did you mean '{close[0]}'?" if close else "Remove it."
            errors.append(
                UserError(path, f"one of {', '.join(fields)}", f"the unknown key '{shown}'", advice)
            )
            continue
        before = len(errors)
        converted = _convert(value, hints[key], path, errors)
        # settings with a mistake inside are kept without it
        if converted is not None or len(errors) == before:
            arguments[key] = converted
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in arguments:
            if name not in values:
                errors.append(
                    UserError(f"{where}.{name}", _describe(hints[name]), "nothing", "Add it.")
                )
            return None
    return kind(**arguments)


def _convert(value: object, hint: object, where: str, errors: list[UserError]) -> object:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None or (value == "none" and str not in inner):
            return None
        return _convert(
            value, next(item for item in inner if item is not type(None)), where, errors
        )
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where, errors)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            errors.append(
                UserError(
                    where, "names with settings under them", _show(value), "Indent them under it."
                )
            )
            return None
        for name in value:
            if not _short(name).isprintable():  # it becomes a part of files' names and of tags
                errors.append(
                    UserError(
                        where,
                        "printable names",
                        repr(_short(name)),
                        "Remove the control characters.",
                    )
                )
        built = {
            _short(name): _convert(item, inner[1], f"{where}.{_short(name)}", errors)
            for name, item in value.items()
        }
        return types.MappingProxyType(
            {name: item for name, item in built.items() if item is not None}
        )
    if origin is tuple:
        open_ended = len(inner) == 2 and inner[1] is Ellipsis
        if not isinstance(value, (list, tuple)) or not (open_ended or len(value) == len(inner)):
            errors.append(UserError(where, _describe(hint), _show(value), "Write it as [a, b]."))
            return None
        items = tuple(
            _convert(item, inner[0 if open_ended else i], f"{where}[{i}]", errors)
            for i, item in enumerate(value)
        )
        return None if None in items else items
    fits = (
        (value in inner and type(value) in {type(item) for item in inner})
        if origin is typing.Literal
        else (
            isinstance(value, (int, float)) and not isinstance(value, bool)
            if hint is float
            else isinstance(value, int) and not isinstance(value, bool)
            if hint is int
            else isinstance(value, hint)
        )
    )
    if not fits:
        errors.append(UserError(where, _describe(hint), _show(value), _advise(value, hint, inner)))
        return None
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        errors.append(
            UserError(
                where, f"a number of at most {MAX_NUMBER:,}", _show(value), "Correct the value."
            )
        )
        return None
    if isinstance(value, str) and not value.isprintable():
        errors.append(
            UserError(where, "printable text", _show(value), "Remove the control characters.")
        )
        return None
    return float(value) if hint is float else value


def _describe(hint: object) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(item) for item in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("nothing" if item is type(None) else _describe(item) for item in inner)
    if origin is tuple:
        return "a list of numbers" if inner[-1] is Ellipsis else f"a list of {len(inner)} numbers"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(
        hint, "settings"
    )


def _show(value: object) -> str:
    names = {
        str: "the text",
        bool: "the truth value",
        dict: "settings",
        list: "the list",
        type(None): "nothing",
    }
    if value is None or isinstance(value, dict):
        return names[type(value)]
    return f"{names.get(type(value), 'the number')} {_short(value if isinstance(value, int) else repr(value))}"


def _short(value: object) -> str:
    # Python writes no number of thousands of digits
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        return f"of {value.bit_length():,} bits"
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _advise(value: object, hint: object, choices: tuple) -> str:
    if hint is float and isinstance(value, str):
        try:
            return f"YAML reads this as text; write {_as_decimal(float(value))}."
        except ValueError:
            pass
    if isinstance(value, bool) and choices:
        return "YAML reads on, off, yes and no as truth values; put the word in quotes."
    close = difflib.get_close_matches(_short(value), [str(item) for item in choices], n=1)
    return f"Did you mean '{close[0]}'?" if close else "Correct the value."


def _as_decimal(number: float) -> str:
    """A spelling that YAML 1.1 reads as a number: 1e-3 needs a dot before the exponent."""
    text = f"{number:.12f}".rstrip("0")
    return (
        (text + "0" if text.endswith(".") else text)
        if float(text) == number
        else yaml.safe_dump(number).split()[0]
    )
