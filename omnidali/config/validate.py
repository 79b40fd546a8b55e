"""Mistakes that the types of a config do not show: ranges, and settings that exclude each other."""

from __future__ import annotations

from collections.abc import Iterator

from omnidali.config.schema import RESERVED, Config, MediaConfig, has_number, is_wide
from omnidali.errors import UserError


def find_mistakes(config: Config) -> Iterator[UserError]:
    """Yield what the types alone cannot see: ranges, and settings that exclude each other."""
    if not config.sources:
        yield UserError(
            "sources",
            "at least one training source",
            "none",
            "Add one, such as `k400: {kind: video}`.",
        )
    for name, source in config.sources.items():
        yield from _media_mistakes(f"sources.{name}", source)
        if source.kind != "image" and source.inflate != "single":
            yield UserError(
                f"sources.{name}.inflate",
                "a source of images",
                f"kind {source.kind}",
                "Remove inflate.",
            )
        if source.inflate != "warp" and (source.motion or source.motion_per_class):
            yield UserError(
                f"sources.{name}.motion",
                "inflate: warp, which uses it",
                f"inflate: {source.inflate}",
                "Remove motion, or change inflate.",
            )
        if source.pieces == "one_positive_rest_negative" and (
            config.clip.clip_len > 1 or config.clip.num_clips < 2
        ):
            yield UserError(
                f"sources.{name}.pieces",
                "TSN's segments (clip.clip_len 1, clip.num_clips 2 or more)",
                f"{config.clip.num_clips} clips of {config.clip.clip_len} frames",
                "Use pieces: positive.",
            )
        if name in RESERVED:
            yield UserError(
                f"sources.{name}",
                "another name",
                f"{name}, which reports use",
                "Rename the source.",
            )
        if not 0 < source.weight < float("inf"):
            yield UserError(
                f"sources.{name}.weight",
                "a number above 0",
                f"{source.weight:g}",
                "Leave the source out to switch it off.",
            )
        if not 0 <= source.loss_weight < float("inf"):
            yield UserError(
                f"sources.{name}.loss_weight",
                "0 or more",
                f"{source.loss_weight:g}",
                "Correct the value.",
            )
        if not 0 < source.fraction <= 1:
            yield UserError(
                f"sources.{name}.fraction",
                "a share above 0 and at most 1",
                f"{source.fraction:g}",
                "Leave the source out to switch it off.",
            )
        if source.hold_out is not None and not 1 <= source.hold_out[0] <= source.hold_out[1] >= 2:
            yield UserError(
                f"sources.{name}.hold_out",
                "[part, parts], with two parts or more and the first being 1",
                str(list(source.hold_out)),
                "Write, for example, [1, 3].",
            )
        if source.resample is not None:
            power, clipped = source.resample.power, source.resample.clipped
            if (power is None) == (clipped is None):
                yield UserError(
                    f"sources.{name}.resample",
                    "exactly one of power and clipped",
                    "neither" if power is None else "both",
                    "Write, for example, {power: 0.2}.",
                )
            elif not 0 <= (power or 0) <= 1 or (clipped is not None and clipped < 1):
                yield UserError(
                    f"sources.{name}.resample",
                    "a power from 0 to 1, or clipped of 1 or more",
                    f"{power if clipped is None else clipped:g}",
                    "The paper's best power is 0.2.",
                )
    if not 0 <= config.loader.cpu_share <= 1:
        yield UserError(
            "loader.cpu_share",
            "a share from 0 to 1",
            f"{config.loader.cpu_share:g}",
            "Correct the value.",
        )
    if not 0 <= config.loader.max_bad_ratio <= 1:
        yield UserError(
            "loader.max_bad_ratio",
            "a share from 0 to 1",
            f"{config.loader.max_bad_ratio:g}",
            "Correct the value.",
        )
    for key in ("checkpoint_minutes", "final_save_minutes"):
        minutes = getattr(config.train, key)
        if not 0 <= minutes < float("inf"):
            yield UserError(
                f"train.{key}", "0 minutes or more", f"{minutes:g}", "Correct the value."
            )
    yield from _mix_mistakes(config)
    parted = [
        name
        for name, source in config.sources.items()
        if source.kind == "image" and source.inflate == "single"
    ]
    if config.model.sync_norm and (
        config.model.norm != "shared" or (config.model.name == "slowonly" and parted)
    ):
        # norms that wait for each other must run equally often on every rank, also where one lacks
        # a source
        yield UserError(
            "model.sync_norm",
            "norm: shared, and for slowonly no image as a single frame",
            f"norm: {config.model.norm}"
            + (f", {', '.join(parted)} as single frames" if parted else ""),
            "Switch it off, or inflate the images.",
        )
    positive = {
        f"sources.{name}.batch": source.batch for name, source in config.sources.items()
    } | {
        "clip.clip_len": config.clip.clip_len,
        "clip.frame_interval": config.clip.frame_interval,
        "clip.num_clips": config.clip.num_clips,
        "clip.size": config.clip.size,
        "train.batch": config.train.batch,
        "train.epochs": config.train.epochs,
        "train.steps": config.train.steps,
        "optimizer.lr": config.optimizer.lr,
        "optimizer.accumulate": config.optimizer.accumulate,
        "optimizer.clip_grad_norm": config.optimizer.clip_grad_norm,
        "evaluation.every_steps": config.evaluation.every_steps,
        "train.log_every": config.train.log_every,
        "train.checkpoint_every": config.train.checkpoint_every,
        "train.keep_every": config.train.keep_every,
        "loader.prefetch": config.loader.prefetch,
        "loader.max_bad_in_a_row": config.loader.max_bad_in_a_row,
        "loader.hang_seconds": config.loader.hang_seconds,
        "loader.stall_seconds": config.loader.stall_seconds,
        "evaluation.batch": config.evaluation.batch,
        "evaluation.every_epochs": config.evaluation.every_epochs,
    }
    for protocol in ("validation", "test"):
        views = getattr(config.evaluation, protocol)
        for key in ("num_clips", "size", "short_side"):
            positive[f"evaluation.{protocol}.{key}"] = getattr(views, key)
        if views.size > views.short_side:
            yield UserError(
                f"evaluation.{protocol}.size",
                f"at most short_side ({views.short_side})",
                str(views.size),
                "Raise short_side or lower size.",
            )
    for where, value in positive.items():
        if value is not None and not 0 < value < float("inf"):
            yield UserError(where, "a number above 0", f"{value:g}", "Correct the value.")
    not_negative = {
        "optimizer.momentum": config.optimizer.momentum,
        "loader.threads": config.loader.threads,
        "optimizer.weight_decay": config.optimizer.weight_decay,
        "seed": config.seed,
        "optimizer.warmup_epochs": config.optimizer.warmup_epochs,
    }
    for where, value in not_negative.items():
        if not 0 <= value < float("inf"):
            yield UserError(where, "0 or more", f"{value:g}", "Correct the value.")
    shares = {"clip.flip": config.clip.flip, "model.dropout": config.model.dropout}
    if config.train.ema is not None:
        shares["train.ema"] = config.train.ema
    for where, value in shares.items():
        if not 0 <= value <= 1:
            yield UserError(where, "a number from 0 to 1", f"{value:g}", "Correct the value.")
    if not 0 < config.clip.area[0] <= config.clip.area[1] <= 1:
        yield UserError(
            "clip.area",
            "two shares with 0 < smallest <= largest <= 1",
            str(list(config.clip.area)),
            "The reference uses [0.08, 1.0].",
        )
    if (config.train.epochs is None) == (config.train.steps is None):
        yield UserError(
            "train",
            "exactly one of epochs and steps",
            "neither" if config.train.steps is None else "both",
            "Set one and remove the other.",
        )
    if config.batches is None and 0 < config.batch < len(config.sources):
        yield UserError(
            "train.batch",
            f"at least one slot for each of the {len(config.sources)} sources",
            str(config.batch),
            "Raise the batch or remove sources.",
        )
    if config.evaluation.source is not None:
        yield from _media_mistakes("evaluation.source", config.evaluation.source)
        if config.evaluation.source.kind == "untrimmed":
            yield UserError(
                "evaluation.source.kind",
                "video, image or frames",
                "untrimmed",
                "Evaluate on trimmed videos.",
            )


def _media_mistakes(where: str, source: MediaConfig) -> Iterator[UserError]:
    if source.tars and source.list:
        yield UserError(f"{where}.tars", "either tars or a list", "both", "Remove one of them.")
    if source.tars and source.kind not in ("image", "video"):
        yield UserError(
            f"{where}.tars",
            "tars of images or videos",
            f"kind {source.kind}",
            "Use a list or folders.",
        )
    if source.format != "auto" and not source.list:
        yield UserError(
            f"{where}.format",
            "a list that has the format",
            "no list",
            "Add list, or remove format.",
        )
    if not 0 < source.window_seconds < float("inf"):
        yield UserError(
            f"{where}.window_seconds",
            "a number above 0",
            f"{source.window_seconds:g}",
            "The reference uses 10.",
        )
    if source.pattern is not None and is_wide(source.pattern):
        yield UserError(
            f"{where}.pattern",
            "numbers of a few digits",
            repr(source.pattern)[:200],
            "Correct the pattern.",
        )
    elif source.kind == "frames" and source.pattern is not None and not has_number(source.pattern):
        yield UserError(
            f"{where}.pattern",
            "a pattern with one number",
            repr(source.pattern),
            "The reference uses img_{:05}.jpg.",
        )
    if source.kind != "untrimmed" and source.pieces != "positive":
        yield UserError(
            f"{where}.pieces", "kind: untrimmed", f"kind {source.kind}", "Remove pieces."
        )


def _mix_mistakes(config: Config) -> Iterator[UserError]:
    """Batches, step mode, ratio and mixup, which must fit each other."""
    train, given = config.train, [source.batch is not None for source in config.sources.values()]
    if any(given) and not all(given):
        missing = [name for name, source in config.sources.items() if source.batch is None]
        yield UserError(
            "sources",
            "batch for all sources or for none",
            f"none for {', '.join(missing)}",
            "Add the missing ones, or use weights.",
        )
    if all(given) and given and train.batch is not None:
        yield UserError(
            "train.batch", "nothing, as every source has its batch", str(train.batch), "Remove it."
        )
    if all(given) and any(source.weight != 1 for source in config.sources.values()):
        yield UserError("sources", "either weights or batches", "both", "Remove the weights.")
    if train.step_mode == "alternating":
        if not all(given):
            yield UserError(
                "train.step_mode",
                "a batch for every source, as each batch is a step",
                "none",
                "Add batch to the sources, or use step_mode: summed.",
            )
        if train.mixup == "cross":
            yield UserError(
                "train.mixup",
                "intra, as an alternating step holds one source",
                "cross",
                "Use step_mode: summed for cross-dataset mixup.",
            )
        if config.optimizer.accumulate > 1:
            yield UserError(
                "optimizer.accumulate",
                "1, as every batch is a step of its own",
                str(config.optimizer.accumulate),
                "Raise the batches instead.",
            )
    elif train.ratio is not None:
        yield UserError(
            "train.ratio", "step_mode: alternating", "summed", "Remove ratio, or change step_mode."
        )
    if train.ratio is not None:
        if len(train.ratio) != len(config.sources):
            yield UserError(
                "train.ratio",
                f"one number for each of the {len(config.sources)} sources",
                str(list(train.ratio)),
                "The target's comes first, as in [2, 1, 1, 1].",
            )
        if any(number < 1 for number in train.ratio):
            yield UserError(
                "train.ratio",
                "numbers of 1 or more",
                str(list(train.ratio)),
                "Leave a source out to switch it off.",
            )
    if not 0 < train.mixup_alpha < float("inf"):
        yield UserError(
            "train.mixup_alpha",
            "a number above 0",
            f"{train.mixup_alpha:g}",
            "Use mixup: none instead.",
        )
