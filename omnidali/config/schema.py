"""The schema of a run: frozen dataclasses with defaults.

The type of each field holds the range of its numbers, its metadata the meaning and the unit
(:mod:`omnidali.config.setting`), so that programs can check and print them. YAML gives the values
(:mod:`omnidali.config.load`). Counts that come from the data, as of classes, are not settings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from omnidali.config.model_settings import ModelConfig
from omnidali.config.setting import (
    Count,
    Natural,
    OneOrMore,
    Positive,
    PositiveShare,
    Share,
    setting,
)
from omnidali.config.sources import EVALUATION, MediaConfig, SourceConfig
from omnidali.config.train_settings import OptimizerConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Which frames make a clip, and how they are cropped for training.

    TSN's segments are ``num_clips`` clips of one frame; dense clips have more frames.
    """

    clip_len: Count = setting(1, "frames in one clip (1 for TSN)")
    frame_interval: Count = setting(1, "distance of neighbouring frames of a clip", unit="frames")
    num_clips: Count = setting(8, "clips of a sample in training (TSN: segments)")
    size: Count = setting(224, "side of the training crop after scaling", unit="pixels")
    crop: Literal["random_resized", "multi_scale", "center"] = setting(
        "random_resized", "kind of the training crop"
    )
    area: tuple[PositiveShare, PositiveShare] = setting(
        (0.08, 1.0), "random_resized: smallest and largest share of the image's area"
    )
    flip: Share = setting(0.5, "probability of a horizontal flip")


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """The views of one item in an evaluation."""

    num_clips: Count = setting(8, "clips of a video, evenly spaced")
    positions: Literal["centered", "ends"] = setting(
        "centered",
        "clips of several frames in the middle of equal parts, as mmaction2 0.x has them; ends:"
        " from the first frame to the last, as mmaction2 1.x and, but for rounding, PySlowFast",
    )
    crops: Literal["center", "three", "ten"] = setting("center", "crops of every clip")
    size: Count = setting(256, "side of the crop", unit="pixels")
    short_side: Count = setting(
        256, "short side to which the image counts as scaled before it is cropped", unit="pixels"
    )
    average: Literal["score", "prob"] = setting(
        "score", "mean over views of logits or of probabilities (TSN: a crop's frames)"
    )

    @property
    def identity(self) -> dict[str, object]:
        """The settings that tell views apart.

        What was kept before there were ``positions`` had them centered, and stays valid.
        """
        values = vars(self).copy()
        if self.positions == "centered":
            del values["positions"]
        return values


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is evaluated, when, and with which views."""

    source: MediaConfig | None = setting(None, "labelled data that training never sees")
    batch: Count = setting(8, "items of one rank in one forward pass")
    every_epochs: Positive = setting(
        1.0, "distance of evaluations in training", unit="epochs of the target source"
    )
    every_steps: Count | None = setting(
        None, "distance of evaluations, instead of every_epochs", unit="steps"
    )
    validation: ViewsConfig = setting(ViewsConfig(), "the views during training")
    test: ViewsConfig = setting(ViewsConfig(), "the views of `omnidali evaluate`")


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How clips are made ready ahead of the training step, and how many files may fail."""

    threads: Natural = setting(
        0, "decoding threads of one rank; 0: the cores divided by the ranks of this machine"
    )
    prefetch: Count = setting(2, "steps made ready ahead")
    cpu_share: Share = setting(
        0.25,
        "decode: hybrid: share of the slots on the CPU; `python -m benchmarks decode` measures it",
    )
    max_bad_ratio: Share = setting(
        0.01,
        "share of a source's files that may fail before the run stops, ten at least; 0: none may",
    )
    max_bad_in_a_row: Count = setting(
        64, "clips that may fail in a row before the run stops; those of one file count once"
    )
    hang_seconds: Positive = setting(
        60.0,
        "a file that is still being read or decoded after this time counts as failed",
        unit="seconds",
    )
    stall_seconds: Positive = setting(
        120.0,
        "time without a batch after which source, files in flight and rank are reported",
        unit="seconds",
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. ``sources`` keeps its order; the first one is the target that counts epochs."""

    data_root: str = setting(
        ".", "folder in which lists and roots start; relative to the current folder"
    )
    run_dir: str = setting(
        "runs/run", "folder for what the run writes; relative to the current folder"
    )
    catalog: str | None = setting(
        None,
        "SQLite file of the media, relative to the current folder; null: catalog.sqlite in run_dir",
    )
    classes: str | None = setting(
        None, "file of class names in label order, or numbered; relative to data_root"
    )
    multi_label: bool = setting(
        False,
        "an item may have several labels: each class is trained and scored for itself (sigmoid,"
        " binary cross-entropy, mAP)",
    )
    seed: Natural = setting(0, "seed of the plan and of the initial weights")
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto", "where networks run and clips go; auto: a GPU for each rank, where there are GPUs"
    )
    sources: Mapping[str, SourceConfig] = field(
        default_factory=lambda: MappingProxyType({}),
        metadata={"meaning": "training sources by name", "unit": ""},
    )
    logger: OneOrMore = setting(
        (),
        "where figures go, too: csv (metrics.csv), or package.module:factory, which gets the Config"
        " and returns an omnidali.Logger; one or a list",
    )
    clip: ClipConfig = setting(ClipConfig(), "frames and crops of a training clip")
    model: ModelConfig = setting(ModelConfig(), "the network")
    optimizer: OptimizerConfig = setting(
        OptimizerConfig(), "the optimizer, what it moves, and its schedule"
    )
    train: TrainConfig = setting(TrainConfig(), "length, steps and checkpoints")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), "what is evaluated, and when")
    loader: LoaderConfig = setting(LoaderConfig(), "decoding ahead of the step")

    @property
    def all_sources(self) -> dict[str, MediaConfig]:
        """The training sources by name, the target first, and the held-out one as EVALUATION."""
        held_out = self.evaluation.source
        return {**self.sources, **({EVALUATION: held_out} if held_out is not None else {})}

    @property
    def shown_source(self) -> MediaConfig | None:
        """The held-out source, else the target: its items are shown as a prediction shows them."""
        return self.evaluation.source or next(iter(self.sources.values()), None)

    @property
    def batches(self) -> tuple[int, ...] | None:
        """The batches of the sources if all have one, else None."""
        sizes = [source.batch for source in self.sources.values() if source.batch is not None]
        return tuple(sizes) if len(sizes) == len(self.sources) else None

    @property
    def batch(self) -> int:
        """Slots of one step on all sources and all ranks."""
        return sum(self.batches) if self.batches is not None else self.train.batch or 96

    @property
    def catalog_path(self) -> str:
        """Where the catalog lies: ``catalog``, else inside the run folder."""
        return self.catalog or f"{self.run_dir}/catalog.sqlite"
