"""Plain values, as YAML gives them, to the dataclasses of the schema, and back.

A value that does not fit its type becomes a mistake in a list; the rest is converted all the same.
"""

import dataclasses
import datetime
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from omnidali.config.reference import find_settings
from omnidali.config.setting import OneOrMore, describe_type
from omnidali.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

# of settings that are text or a truth value; a command line has these words without YAML
_TRUTH: dict[object, bool] = {True: True, False: False, "true": True, "false": False}
_VALUES = {
    str: "the text",
    bool: "the truth value",
    list: "the list",
    datetime.date: "the date",
    datetime.datetime: "the time",
}


def build_config(
    kind: type[T], values: object, errors: list[UserError], where: str = ""
) -> T | None:
    """The dataclass ``kind`` with plain values.

    Args:
        kind: a class of the schema.
        values: a mapping from the names of its fields; a field that is absent has its default.
        errors: gets every mistake; the setting keeps its default.
        where: key of the dataclass in the config.

    Returns:
        None if the values are no mapping, or a field without a default is missing.
    """
    if not isinstance(values, dict):
        errors.append(
            UserError(where or "config", "keys and values", _show(values), _write_below(where))
        )
        return None
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}

    arguments = {}
    for key, value in values.items():
        path = f"{where}.{_short(key)}" if where else _short(key)
        if key not in fields:
            errors.append(
                UserError(
                    path,
                    f"one of {', '.join(fields)}",
                    f"the unknown key '{_short(key)}'",
                    _did_you_mean(key, list(fields), otherwise=_name_elsewhere(_short(key))),
                )
            )
            continue
        before = len(errors)
        converted = _convert(value, hints[key], path, errors)
        # Settings with a mistake inside are kept without it.
        if converted is not None or len(errors) == before:
            arguments[key] = converted

    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    errors += [
        UserError(f"{where}.{name}", describe_type(hints[name]), "nothing", "Add it.")
        for name in required
        if name not in values
    ]
    return kind(**arguments) if arguments.keys() >= set(required) else None


def _write_below(where: str) -> str:
    """How to write the settings of a group."""
    if not where:
        return "Indent settings under keys."
    return f"Indent its settings under it; on a command line write {where}.KEY=VALUE."


def config_to_dict(config: "DataclassInstance") -> dict[str, object]:
    """A config as dicts, lists and numbers, which YAML and JSON can hold."""
    return {
        field.name: _to_plain(getattr(config, field.name)) for field in dataclasses.fields(config)
    }


def _to_plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return config_to_dict(value)
    if isinstance(value, Mapping):
        return {key: _to_plain(item) for key, item in value.items()}
    return [_to_plain(item) for item in value] if isinstance(value, tuple) else value


def _convert(value: object, hint: typing.Any, where: str, errors: list[UserError]) -> object:
    """``value`` as the type ``hint``; None for nothing and for a mistake, which ``errors`` gets."""
    origin = typing.get_origin(hint)
    inner = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None or (value == "none" and str not in inner):
            return None
        if bool in inner and isinstance(value, (bool, str)) and value in _TRUTH:
            return _TRUTH[value]
        if bool in inner and not isinstance(value, str):
            advice = "Correct the value."
            errors.append(UserError(where, describe_type(hint), _show(value), advice))
            return None
        present = next(item for item in inner if item is not type(None))
        return _convert(value, present, where, errors)

    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build_config(hint, value, errors, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _convert_mapping(value, inner[1], where, errors)
    if origin is tuple:
        return _convert_tuple(value, hint, where, errors)

    if not _fits(value, hint):
        errors.append(
            UserError(where, describe_type(hint), _show(value), _advise(value, hint, inner, where))
        )
        return None
    if isinstance(value, str) and not value.isprintable():
        errors.append(
            UserError(where, "printable text", _show(value), "Remove the control characters.")
        )
        return None
    return float(value) if hint is float and isinstance(value, int) else value


def _convert_mapping(
    value: object, hint: object, where: str, errors: list[UserError]
) -> Mapping[str, object] | None:
    if value is None and not dataclasses.is_dataclass(hint):  # null clears names of the user's
        value = {}
    if not isinstance(value, dict):
        errors.append(
            UserError(
                where, "names with settings under them", _show(value), "Indent them under it."
            )
        )
        return None

    if hint is object:  # plain values of any kind, nulls included
        return types.MappingProxyType({str(key): item for key, item in value.items()})
    built = {}
    for key, item in value.items():
        name = _short(key)
        if not name.isprintable():  # it becomes a part of files' names and of tags
            errors.append(
                UserError(where, "printable names", repr(name), "Remove the control characters.")
            )
        built[name] = _convert(item, hint, f"{where}.{name}", errors)
    return types.MappingProxyType({name: item for name, item in built.items() if item is not None})


def _convert_tuple(
    value: object, hint: object, where: str, errors: list[UserError]
) -> tuple[object, ...] | None:
    inner = typing.get_args(hint)
    is_open_ended = inner[-1] is Ellipsis
    if hint == OneOrMore and (value is None or isinstance(value, str)):
        value = [value] if value else []
    if not isinstance(value, (list, tuple)) or not (is_open_ended or len(value) == len(inner)):
        errors.append(UserError(where, describe_type(hint), _show(value), "Write it as [a, b]."))
        return None

    hints = (inner[0],) * len(value) if is_open_ended else inner
    items = tuple(
        _convert(item, item_hint, f"{where}[{place}]", errors)
        for place, (item, item_hint) in enumerate(zip(value, hints, strict=True))
    )
    return None if None in items else items


def _fits(value: object, hint: typing.Any) -> bool:
    """Whether a plain value is of a simple type; a truth value is no number."""
    if typing.get_origin(hint) is typing.Literal:
        return any(value == item and type(value) is type(item) for item in typing.get_args(hint))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _show(value: object) -> str:
    """A plain value with the word for its type."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "settings"
    text = repr(value) if isinstance(value, (str, list, float)) else str(value)
    return f"{_VALUES.get(type(value), 'the number')} {_short(text)}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _advise(value: object, hint: object, choices: Sequence[object], where: str) -> str:
    if hint is float and isinstance(value, str):
        return "YAML reads this as text; write numbers as 0.001 or 1.0e-3."
    if hint is str and isinstance(value, bool):
        return f"YAML reads on, off, yes and no as truth values; write {_quoted(where, 'yes')}."
    if hint is str and value is not None:
        return f"If it is text, put it in quotes: {_quoted(where, _as_yaml(value))}"
    if isinstance(value, bool) and choices:
        return "YAML reads on, off, yes and no as truth values; put the word in quotes."
    return _did_you_mean(value, choices, "Correct the value.")


def _quoted(where: str, text: str) -> str:
    """A setting of text as it stands in a file."""
    return f'{where.rpartition(".")[2]}: "{_short(text)}"'


def _as_yaml(value: object) -> str:
    """A plain value as it may have been written: YAML takes ``{id}`` for a mapping.

    What a mapping holds is left out.
    """
    if isinstance(value, (dict, list)):
        inside = ["..." if isinstance(item, (dict, list)) else str(item) for item in value]
        return f"[{', '.join(inside)}]" if isinstance(value, list) else f"{{{', '.join(inside)}}}"
    return str(value)


def _name_elsewhere(key: str) -> str:
    """Advice for an unknown key, which may be the name of a setting of another group."""
    found = find_settings(key)
    return f"Did you mean '{found[0].key}'?" if found else "Remove it."


def _did_you_mean(value: object, choices: Sequence[object], otherwise: str) -> str:
    close = difflib.get_close_matches(_short(value), map(str, choices), n=1)
    return f"Did you mean '{close[0]}'?" if close else otherwise
