"""Mistakes that the types of a config do not show: ranges, and settings that exclude each other."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping

from omnidali.config.patterns import has_number
from omnidali.config.schema import Config
from omnidali.config.setting import range_of
from omnidali.config.sources import RESERVED, MediaConfig, SourceConfig
from omnidali.config.validate_network import find_network_mistakes
from omnidali.config.validate_training import find_training_mistakes
from omnidali.errors import UserError


def find_mistakes(config: Config) -> Iterator[UserError]:
    """Yield every number out of its range, and every group of settings that exclude each other."""
    yield from range_mistakes(config)
    yield from _source_mistakes(config)
    yield from find_network_mistakes(config.model)
    yield from find_training_mistakes(config)
    yield from _evaluation_mistakes(config)


def range_mistakes(config: object, where: str = "") -> Iterator[UserError]:
    """Compare every number below a dataclass, or a mapping of them, with the range of its field."""
    if isinstance(config, Mapping):
        for name, source in config.items():
            yield from range_mistakes(source, f"{where}{name}.")
    elif dataclasses.is_dataclass(config):
        for name, hint in typing.get_type_hints(type(config), include_extras=True).items():
            value = getattr(config, name)
            yield from range_mistakes(value, f"{where}{name}.")

            allowed = range_of(hint)
            if allowed and isinstance(value, Mapping):
                for key, number in value.items():
                    if number not in allowed:
                        place = f"{where}{name}.{key}"
                        yield UserError(place, str(allowed), f"{number:g}", "Correct the value.")
                continue
            numbers = value if isinstance(value, tuple) else (value,)
            if allowed and value is not None and any(number not in allowed for number in numbers):
                shown = list(value) if isinstance(value, tuple) else f"{value:g}"
                yield UserError(f"{where}{name}", str(allowed), str(shown), "Correct the value.")


def _source_mistakes(config: Config) -> Iterator[UserError]:
    if not config.sources:
        yield UserError(
            "sources",
            "at least one training source",
            "none",
            "Add one, such as `k400: {kind: video}`.",
        )

    for name, source in config.sources.items():
        where = f"sources.{name}"
        if name in RESERVED:
            yield UserError(
                where, "another name", f"{name}, which reports use", "Rename the source."
            )
        yield from _media_mistakes(where, source)
        yield from _inflation_mistakes(where, source)
        yield from _sampling_mistakes(where, source, config)


def _media_mistakes(where: str, source: MediaConfig) -> Iterator[UserError]:
    """Mistakes in lists, tars, formats, patterns and pieces, which must fit each other."""
    kind = source.media_kind

    if source.tars and source.list:
        yield UserError(f"{where}.tars", "either tars or a list", "both", "Remove one of them.")
    if source.tars and not kind.fits_tars:
        yield UserError(
            f"{where}.tars", "tars of images or videos", f"kind {kind}", "Use a list or folders."
        )
    is_unlabelled = source.format == "paths" and source.tars
    if source.format != "auto" and not source.list and not is_unlabelled:
        yield UserError(
            f"{where}.format",
            "a list that has the format",
            "no list",
            "Add list, or remove format.",
        )

    if kind.is_folder and source.pattern is not None and not has_number(source.pattern):
        yield UserError(
            f"{where}.pattern",
            "a pattern with one number",
            repr(source.pattern),
            "The reference uses img_{:05}.jpg.",
        )
    if source.pieces != "positive" and not kind.has_pieces:
        yield UserError(f"{where}.pieces", "kind: untrimmed", f"kind {kind}", "Remove pieces.")


def _inflation_mistakes(where: str, source: SourceConfig) -> Iterator[UserError]:
    if source.inflate != "single" and not source.media_kind.is_still:
        yield UserError(
            f"{where}.inflate", "a source of images", f"kind {source.kind}", "Remove inflate."
        )
    if source.inflate != "warp" and (source.motion or source.motion_per_class):
        yield UserError(
            f"{where}.motion",
            "inflate: warp, which uses it",
            f"inflate: {source.inflate}",
            "Remove motion, or change inflate.",
        )


def _sampling_mistakes(where: str, source: SourceConfig, config: Config) -> Iterator[UserError]:
    """Mistakes in the choice of samples and pieces of a source."""
    clip = config.clip
    if source.pieces == "one_positive_rest_negative" and (clip.clip_len > 1 or clip.num_clips < 2):
        yield UserError(
            f"{where}.pieces",
            "TSN's segments (clip.clip_len 1, clip.num_clips 2 or more)",
            f"{clip.num_clips} clips of {clip.clip_len} frames",
            "Use pieces: positive.",
        )

    if source.hold_out is not None and not 1 <= source.hold_out[0] <= source.hold_out[1] >= 2:
        yield UserError(
            f"{where}.hold_out",
            "[part, parts], with two parts or more and the first being 1",
            str(list(source.hold_out)),
            "Write, for example, [1, 3].",
        )

    resample = source.resample
    if resample is not None and (resample.power is None) == (resample.clipped is None):
        yield UserError(
            f"{where}.resample",
            "exactly one of power and clipped",
            "neither" if resample.power is None else "both",
            "Write, for example, {power: 0.2}.",
        )


def _evaluation_mistakes(config: Config) -> Iterator[UserError]:
    evaluation = config.evaluation
    for name, views in (("validation", evaluation.validation), ("test", evaluation.test)):
        if views.size > views.short_side:
            yield UserError(
                f"evaluation.{name}.size",
                f"at most short_side ({views.short_side})",
                str(views.size),
                "Raise short_side or lower size.",
            )

    if evaluation.source is not None:
        yield from _media_mistakes("evaluation.source", evaluation.source)
        if evaluation.source.media_kind.has_pieces:
            yield UserError(
                "evaluation.source.kind",
                "video, image or frames",
                evaluation.source.kind,
                "Evaluate on trimmed videos.",
            )
