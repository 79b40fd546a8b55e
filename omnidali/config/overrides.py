"""Settings on a command line: ``key.path=value`` texts, and the values that they change."""

import dataclasses
import difflib
import itertools
import types
import typing
from collections.abc import Iterator, Mapping, Sequence

from omnidali.config.schema import Config
from omnidali.config.strict_yaml import parse_yaml
from omnidali.errors import UserError
from omnidali.utils.text_files import is_text

_NULL = ("", "~", "null", "Null", "NULL")  # as YAML writes it


def apply_override(values: dict, text: str) -> None:
    """Change plain values of a config by a text of the command line.

    A setting whose value is text takes it as it is, without YAML's quotes; they may stand around
    it. Other values are YAML. Null clears a setting.

    Args:
        values: of the whole config; they are changed.
        text: ``key.path=value``.

    Raises:
        UserError: if there is no key, the value is no YAML, or a source to be cleared is unknown.

    >>> values = {"sources": {"web": {"kind": "video"}}}
    >>> apply_override(values, "sources.web.pattern={id}.mp4")
    >>> apply_override(values, "clip.area=[0.5, 1]")
    >>> values
    {'sources': {'web': {'kind': 'video', 'pattern': '{id}.mp4'}}, 'clip': {'area': [0.5, 1]}}
    """
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
            f"{value}, which is not",
            "Rename the file or folder, or make a link to it that has another name.",
        )

    place = values
    *above, last = parts
    for part in above:
        if not isinstance(place.get(part), dict):
            place[part] = {}
        place = place[part]

    parsed = _parse_text(value) if _takes_text(parts) else parse_yaml(value, f"override {key}")
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


def find_expanded(overrides: Sequence[str]) -> Iterator[UserError]:
    """Find settings that a shell has multiplied: of ``train-{00..99}.tar`` it makes 100 arguments.

    A later setting wins over an earlier one, so 99 of 100 files would be lost without a word. A key
    that is repeated on purpose is not repeated side by side with another text.

    Args:
        overrides: all ``key.path=value`` texts, in their order.
    """
    for key, group in itertools.groupby(overrides, lambda text: text.partition("=")[0]):
        found = list(dict.fromkeys(text.partition("=")[2] for text in group))
        if len(found) > 1 and key.rpartition(".")[2] in ("list", "tars", "pattern"):
            yield UserError(
                key,
                "one value",
                f"{len(found)}, from {found[0]} to {found[-1]}, as a shell makes of"
                " {...} without quotes",
                f"Put the argument in single quotes: '{key}=...'",
            )


def _parse_text(value: str) -> str | None:
    """The value of a setting that is text."""
    value = value.strip()
    if value in _NULL:
        return None
    if value[0] in "\"'":
        try:
            quoted = parse_yaml(value, "override")
        except UserError:  # a name that begins with a quote
            return value
        return quoted if isinstance(quoted, str) else value
    return value


def _takes_text(parts: Sequence[str]) -> bool:
    """Whether a setting is text, or one of some texts; False for an unknown one."""
    hint: typing.Any = Config
    for part in parts:
        kinds = _kinds(hint)
        group = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        if group is not None:
            hint = typing.get_type_hints(group).get(part)
        elif typing.get_origin(hint) is Mapping:
            hint = typing.get_args(hint)[1]
        else:
            return False
    return any(kind is str for kind in _kinds(hint))


def _kinds(hint: typing.Any) -> Sequence[typing.Any]:
    """The types that a hint stands for, also those of its choices."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return [kind for inner in typing.get_args(hint) for kind in _kinds(inner)]
    if origin is typing.Literal:
        return list(map(type, typing.get_args(hint)))
    return [hint]


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
