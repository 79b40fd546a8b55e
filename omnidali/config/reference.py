"""Every setting of a config with its meaning, range and default, as the schema defines them."""

import dataclasses
import difflib
import functools
import json
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from omnidali.config.schema import Config
from omnidali.config.setting import describe_type

ANY_SOURCE = "NAME"  # in keys, for the name of a source


@dataclass(frozen=True)
class SettingHelp:
    """A setting, or a group of settings.

    Attributes:
        key: such as ``train.precision`` or ``sources.NAME.weight``.
        meaning: one line.
        expects: its values, in words.
        unit: of its numbers; may be empty.
        default: in YAML, on one line; None for a group, and where a config has to set it.
        is_group: whether there are settings under it; one with a default may also be null.
    """

    key: str
    meaning: str
    expects: str
    unit: str
    default: str | None
    is_group: bool


@functools.cache
def all_settings() -> tuple[SettingHelp, ...]:
    """All settings and groups, in the order of the schema; each group stands before its settings.

    >>> [setting.default for setting in all_settings() if setting.key == "clip.area"]
    ['[0.08, 1.0]']
    """
    return tuple(_settings_of(Config, ""))


def _settings_of(schema: type, above: str) -> Iterator[SettingHelp]:
    hints = typing.get_type_hints(schema, include_extras=True)
    for field in dataclasses.fields(schema):
        hint = hints[field.name]
        group = _schema_in(hint)
        setting = SettingHelp(
            above + field.name,
            field.metadata["meaning"],
            describe_type(hint),
            field.metadata["unit"],
            default=_default_of(field, is_group=group is not None),
            is_group=group is not None,
        )
        yield setting

        if group is not None:
            is_mapping = typing.get_origin(hint) is Mapping
            yield from _settings_of(
                group, f"{setting.key}.{ANY_SOURCE}." if is_mapping else f"{setting.key}."
            )


def _schema_in(hint: object) -> type | None:
    """The class of the schema in a type hint; None if there is none."""
    for part in (hint, *typing.get_args(hint)):
        if isinstance(part, type) and dataclasses.is_dataclass(part):
            return part
    return None


def _default_of(field: dataclasses.Field, is_group: bool) -> str | None:
    if not is_group and field.default_factory is not dataclasses.MISSING:
        return "{}"  # names of the user's
    if field.default is dataclasses.MISSING or dataclasses.is_dataclass(field.default):
        return None
    if isinstance(field.default, str):
        return field.default
    # YAML takes 1e-08 for text
    return re.sub(r"\b(?<!\.)(\d+)e", r"\1.0e", json.dumps(field.default))


def find_settings(key: str) -> list[SettingHelp]:
    """The settings that a key means: one, a group with all under it, or the last part of several.

    Args:
        key: with the name of any source, which the result has, too.

    Returns:
        None of them, if the key means nothing.

    >>> [setting.key for setting in find_settings("sources.web.weight")]
    ['sources.web.weight']
    >>> [setting.key for setting in find_settings("milestones")]
    ['optimizer.milestones']
    """
    known, source = _without_source(key)
    found = [
        setting
        for setting in all_settings()
        if setting.key == known or setting.key.startswith(f"{known}.")
    ]
    found = found or [setting for setting in all_settings() if f".{known}." in f".{setting.key}."]
    return [replace(setting, key=_with_source(setting.key, source)) for setting in found]


def _without_source(key: str) -> tuple[str, str | None]:
    """A key with NAME instead of the name of a source, and that name if it has one.

    A name may hold dots. It ends before the first part that is a setting of sources, or else
    before the first one that is like one.

    >>> _without_source("sources.my.web.weight"), _without_source("sources.my.web.wieght")
    (('sources.NAME.weight', 'my.web'), ('sources.NAME.wieght', 'my.web'))
    """
    first, *parts = key.split(".")
    if first != "sources" or not parts:
        return key, None

    known = _source_settings()
    ends = [
        end
        for cutoff in (1.0, 0.75)
        for end in range(1, len(parts))
        if difflib.get_close_matches(parts[end], known, n=1, cutoff=cutoff)
    ]
    end = ends[0] if ends else 1
    return ".".join((first, ANY_SOURCE, *parts[end:])), ".".join(parts[:end])


def _source_settings() -> list[str]:
    """The parts of keys that follow the name of a source."""
    above = f"sources.{ANY_SOURCE}."
    keys = [setting.key for setting in all_settings() if setting.key.startswith(above)]
    return [key.removeprefix(above) for key in keys]


def _with_source(key: str, source: str | None) -> str:
    place = f"sources.{ANY_SOURCE}"
    return key.replace(place, f"sources.{source}", 1) if source is not None else key


def suggest_keys(text: str, most: int = 3) -> Sequence[str]:
    """The keys that are most like a wrong one, best first.

    Words that differ in case, dashes and dots alone are alike, and so are last parts.

    >>> suggest_keys("train-steps", 1), suggest_keys("batch", 1)
    (['train.steps'], ['train.batch'])
    """
    text, source = _without_source(text)
    words: dict[str, str] = {}
    # of equal last parts the first one counts, and that of a source last: train.batch
    in_source = [setting for setting in all_settings() if setting.key.startswith("sources.")]
    others = [setting for setting in all_settings() if setting not in in_source]
    for setting in reversed([*others, *in_source]):
        words[_letters(setting.key.rpartition(".")[2])] = setting.key
    for setting in all_settings():
        words[_letters(setting.key)] = setting.key
    close = difflib.get_close_matches(_letters(text), words, n=most, cutoff=0.75)
    return [_with_source(key, source) for key in dict.fromkeys(words[word] for word in close)]


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
