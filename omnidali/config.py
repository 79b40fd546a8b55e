"""The schema of a run: frozen dataclasses with defaults, one line of meaning and unit for each field.

YAML gives the values (:mod:`omnidali.settings`). Counts such as the number of classes come from
the data and never stand here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from omnidali.errors import UserError

Mapped = Mapping[str, "SourceConfig"]
EVALUATION = "evaluation"  # name of the held-out source in the catalog
RESERVED = (EVALUATION, "all")  # names that the catalog and the reports give to other things


def key_of(name: str) -> str:
    """The config key of a source of the catalog."""
    return "evaluation.source" if name == EVALUATION else f"sources.{name}"


@dataclass(frozen=True, kw_only=True)
class MediaConfig:
    """Where media lie and who decodes them."""

    kind: Literal["video", "image"]  # what the files are
    root: str = "."  # folder that the list's paths start from; relative to data_root
    list: str | None = None  # text file of `path label` lines, relative to data_root; none: class folders under root
    decode: Literal["auto", "cpu", "dali"] = "auto"  # who decodes: auto = DALI where there is a GPU that can


@dataclass(frozen=True, kw_only=True)
class SourceConfig(MediaConfig):
    """A training source: its media, and how much of the batch they fill."""

    weight: float = 1.0  # share of the slots, relative to the other sources' weights
    inflate: Literal["single", "still"] = "single"  # an image as one frame, or repeated to the clip's length


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Which frames make a clip and how they are cropped for training (method: TSN segments or dense clips)."""

    clip_len: int = 1  # frames in one clip (1 for TSN)
    frame_interval: int = 1  # distance of neighbouring frames of a clip, in frames
    num_clips: int = 8  # clips of a sample in training (TSN: segments)
    size: int = 224  # side of the training crop after scaling, pixels
    crop: Literal["random_resized", "multi_scale", "center"] = "random_resized"  # kind of the training crop
    area: tuple[float, float] = (0.08, 1.0)  # random_resized: smallest and largest share of the picture's area
    flip: float = 0.5  # probability of a horizontal flip


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """The views of one item in an evaluation."""

    num_clips: int = 8  # clips of a video, evenly spaced
    crops: Literal["center", "three", "ten"] = "center"  # crops of every clip
    size: int = 256  # side of the crop, pixels
    short_side: int = 256  # the picture counts as scaled to this short side before it is cropped, pixels
    average: Literal["score", "prob"] = "score"  # mean over views of logits or of probabilities (TSN: a crop's frames)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is evaluated, when, and with which views."""

    source: MediaConfig | None = None  # labelled data that training never sees
    batch: int = 8  # items of one rank in one forward pass
    every_epochs: float = 1.0  # distance of evaluations in training, in epochs of the target source
    every_steps: int | None = None  # the same in steps, instead of every_epochs
    validation: ViewsConfig = field(default_factory=ViewsConfig)  # the views during training
    test: ViewsConfig = field(default_factory=ViewsConfig)  # the views of evaluate.py


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network (TSN: Recognizer2D with average consensus; SlowOnly: 3D ResNet, inflated 3x1x1)."""

    name: Literal["tsn", "slowonly"] = "tsn"  # kind of network
    depth: Literal[18, 34, 50, 101] = 50  # layers of the ResNet
    dropout: float = 0.4  # before the last layer
    pretrained: str | None = None  # checkpoint of ours to start from; a classifier of another size is left out
    channels_last: bool = True  # memory format of weights and activations


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """SGD and its schedule."""

    lr: float = 0.01  # learning rate after the warm-up, for the whole global batch
    momentum: float = 0.9  # of SGD
    weight_decay: float = 1e-4  # L2, on all weights
    nesterov: bool = False  # Nesterov momentum
    clip_grad_norm: float | None = 40.0  # largest gradient norm; none: no clipping
    schedule: Literal["step", "cosine"] = "step"  # how the learning rate falls
    milestones: tuple[float, ...] = (40.0, 80.0)  # step: epochs at which it is multiplied by 0.1
    warmup_epochs: float = 0.0  # linear rise from a tenth of lr, in epochs
    accumulate: int = 1  # batches whose gradients make one optimizer step


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The length and the machinery of a run."""

    batch: int = 96  # slots of one step on all ranks together
    epochs: float | None = None  # length in passes over the target source (exactly one of epochs and steps)
    steps: int | None = None  # length in steps
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # autocast dtype
    compile: bool = False  # torch.compile the model
    ema: float | None = None  # decay of an averaged copy of the weights, which is evaluated instead
    log_every: int = 20  # steps between console lines
    checkpoint_every: int = 1000  # steps between last.pt; also written after every evaluation
    keep_every: int | None = None  # steps between checkpoints that are kept as step-N.pt


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How clips are made ready ahead of the training step."""

    threads: int = 0  # decoding threads of one rank; 0: the cores divided by the ranks of this machine
    prefetch: int = 2  # steps made ready ahead


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. ``sources`` keeps its order; the first one is the target that counts epochs."""

    data_root: str = "."  # folder that all lists and roots start from
    run_dir: str = "runs/run"  # folder for everything the run writes
    catalog: str | None = None  # SQLite file of the probed media; none: catalog.sqlite in run_dir
    classes: str | None = None  # text file of class names, one a line, relative to data_root
    seed: int = 0  # of the plan and the weights
    sources: Mapped = field(default_factory=lambda: MappingProxyType({}))  # training sources by name
    clip: ClipConfig = field(default_factory=ClipConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    @property
    def catalog_path(self) -> str:
        """Where the catalog lies: ``catalog``, else inside the run folder."""
        return self.catalog or f"{self.run_dir}/catalog.sqlite"


def find_mistakes(config: Config) -> Iterator[UserError]:
    """Yield what the types alone cannot see: ranges, and settings that exclude each other."""
    if not config.sources:
        yield UserError("sources", "at least one training source", "none", "Add one, such as `k400: {kind: video}`.")
    for name, source in config.sources.items():
        if source.kind == "video" and source.inflate != "single":
            yield UserError(f"sources.{name}.inflate", "a source of images", "videos", "Remove inflate.")
        if name in RESERVED:
            yield UserError(f"sources.{name}", "another name", f"{name}, which reports use", "Rename the source.")
        if not 0 < source.weight < float("inf"):
            yield UserError(f"sources.{name}.weight", "a number above 0", f"{source.weight:g}",
                            "Leave the source out to switch it off.")
    positive = {
        "clip.clip_len": config.clip.clip_len, "clip.frame_interval": config.clip.frame_interval,
        "clip.num_clips": config.clip.num_clips, "clip.size": config.clip.size, "train.batch": config.train.batch,
        "train.epochs": config.train.epochs, "train.steps": config.train.steps, "optimizer.lr": config.optimizer.lr,
        "optimizer.accumulate": config.optimizer.accumulate,
        "optimizer.clip_grad_norm": config.optimizer.clip_grad_norm,
        "evaluation.every_steps": config.evaluation.every_steps,
        "train.log_every": config.train.log_every, "train.checkpoint_every": config.train.checkpoint_every,
        "train.keep_every": config.train.keep_every, "loader.prefetch": config.loader.prefetch,
        "evaluation.batch": config.evaluation.batch, "evaluation.every_epochs": config.evaluation.every_epochs,
    }
    for protocol in ("validation", "test"):
        views = getattr(config.evaluation, protocol)
        for key in ("num_clips", "size", "short_side"):
            positive[f"evaluation.{protocol}.{key}"] = getattr(views, key)
        if views.size > views.short_side:
            yield UserError(f"evaluation.{protocol}.size", f"at most short_side ({views.short_side})", str(views.size),
                            "Raise short_side or lower size.")
    for where, value in positive.items():
        if value is not None and not 0 < value < float("inf"):
            yield UserError(where, "a number above 0", f"{value:g}", "Correct the value.")
    not_negative = {"optimizer.momentum": config.optimizer.momentum, "loader.threads": config.loader.threads,
                    "optimizer.weight_decay": config.optimizer.weight_decay, "seed": config.seed,
                    "optimizer.warmup_epochs": config.optimizer.warmup_epochs}
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
        yield UserError("clip.area", "two shares with 0 < smallest <= largest <= 1", str(list(config.clip.area)),
                        "The reference uses [0.08, 1.0].")
    if (config.train.epochs is None) == (config.train.steps is None):
        yield UserError("train", "exactly one of epochs and steps",
                        "neither" if config.train.steps is None else "both", "Set one and remove the other.")
    if 0 < config.train.batch < len(config.sources):
        yield UserError("train.batch", f"at least one slot for each of the {len(config.sources)} sources",
                        str(config.train.batch), "Raise the batch or remove sources.")
