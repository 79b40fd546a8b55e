"""The schema of a run: frozen dataclasses with defaults, one line of meaning and unit for each field.

YAML gives the values (:mod:`omnidali.settings`). Counts such as the number of classes come from
the data and never stand here.
"""

from __future__ import annotations

import operator
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
    """Where media lie, how they are listed, and who decodes them."""

    kind: Literal["video", "image", "untrimmed", "frames"]  # files, long videos in pieces, folders of frames
    root: str = "."  # folder that the list's paths start from; relative to data_root
    list: str | None = None  # list file, relative to data_root; none: class folders under root, or tars
    format: Literal["auto", "path_label", "slowfast_csv", "kinetics_csv", "video_ids", "rawframes", "rawframes_offset",
                    "parts", "parts_json", "pieces"] = "auto"  # of the list; auto: told from its first lines
    tars: str | None = None  # WebDataset tars under root instead of a list: "*.tar", "train-{000..099}.tar"
    pattern: str | None = None  # file names, by format: "{id}.mp4", frames "img_{:05}.jpg", parts "part_{}.mp4"
    labels: str | None = None  # label map that the list's labels go through, relative to data_root
    window_seconds: float = 10.0  # untrimmed: length of the pieces that a whole file is cut into
    pieces: Literal["positive", "one_positive_rest_negative", "all"] = "positive"  # untrimmed: which ones make a clip
    decode: Literal["auto", "cpu", "dali"] = "auto"  # who decodes: auto = DALI where there is a GPU that can


@dataclass(frozen=True, kw_only=True)
class ResampleConfig:
    """How often the classes of a source are drawn (OmniSource, class imbalance); exactly one of the two."""

    power: float | None = None  # a class of n samples gets a share in proportion to n**power
    clipped: int | None = None  # a class gives at most this many samples an epoch, others each epoch


@dataclass(frozen=True, kw_only=True)
class SourceConfig(MediaConfig):
    """A training source: its media, how much of the batch they fill, and what becomes of them."""

    weight: float = 1.0  # share of the slots, relative to the other sources' weights
    batch: int | None = None  # slots of one step on all ranks instead of a weight; for all sources or none
    loss_weight: float = 1.0  # factor of its samples' losses
    group: str | None = None  # sources of one group are switched on together by `omnidali ablate`
    resample: ResampleConfig | None = None  # class balance; none: every sample equally often
    fraction: float = 1.0  # share of each class's samples that is used at all, chosen by the seed
    inflate: Literal["single", "still", "translate_random", "translate_constant",
                     "warp"] = "single"  # an image as one frame, repeated, or seen by a moving camera
    motion: str | None = None  # warp: file of `omnidali motion estimate`, relative to data_root; none: the shipped one
    motion_per_class: bool = False  # warp: each class its own distribution, where the file has it


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
    pretrained: str | None = None  # weights to start from: ours, mmaction2, torchvision, timm; .pth or .safetensors
    pretrained_head: Literal["keep", "fresh"] = "keep"  # fresh: the classifier starts anew, as for other classes
    norm: Literal["shared", "target_only"] = "shared"  # whose samples move the running statistics of batch norms
    sync_norm: bool = False  # batch norms share their statistics among all ranks (GPUs only)
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

    batch: int | None = None  # slots of one step on all ranks together; none: 96, or the sum of the sources' batches
    step_mode: Literal["summed", "alternating"] = "summed"  # one step on all sources, or one a source's batch
    ratio: tuple[int, ...] | None = None  # alternating: [2, 1, 1]: for two target batches one of each other source
    mixup: Literal["none", "intra", "cross"] = "none"  # partners: none, both of the target, or of any source
    mixup_alpha: float = 0.2  # of mixup's Beta(alpha, alpha)
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
    def batches(self) -> tuple[int, ...] | None:
        """The sources' batches where they are given, else None."""
        sizes = tuple(source.batch for source in self.sources.values())
        return None if None in sizes else sizes

    @property
    def batch(self) -> int:
        """Slots of one step on all ranks; the mean of the steps where they alternate."""
        if self.batches is None:
            return self.train.batch or 96
        if self.train.step_mode == "summed":
            return sum(self.batches)
        ratio = self.train.ratio or (1,) * len(self.batches)
        return round(sum(map(operator.mul, ratio, self.batches)) / sum(ratio))

    @property
    def catalog_path(self) -> str:
        """Where the catalog lies: ``catalog``, else inside the run folder."""
        return self.catalog or f"{self.run_dir}/catalog.sqlite"


def find_mistakes(config: Config) -> Iterator[UserError]:
    """Yield what the types alone cannot see: ranges, and settings that exclude each other."""
    if not config.sources:
        yield UserError("sources", "at least one training source", "none", "Add one, such as `k400: {kind: video}`.")
    for name, source in config.sources.items():
        yield from _media_mistakes(f"sources.{name}", source)
        if source.kind != "image" and source.inflate != "single":
            yield UserError(f"sources.{name}.inflate", "a source of images", f"kind {source.kind}", "Remove inflate.")
        if source.pieces == "one_positive_rest_negative" and (config.clip.clip_len > 1 or config.clip.num_clips < 2):
            yield UserError(f"sources.{name}.pieces", "TSN's segments (clip.clip_len 1, clip.num_clips 2 or more)",
                            f"{config.clip.num_clips} clips of {config.clip.clip_len} frames", "Use pieces: positive.")
        if name in RESERVED:
            yield UserError(f"sources.{name}", "another name", f"{name}, which reports use", "Rename the source.")
        if not 0 < source.weight < float("inf"):
            yield UserError(f"sources.{name}.weight", "a number above 0", f"{source.weight:g}",
                            "Leave the source out to switch it off.")
        if not 0 <= source.loss_weight < float("inf"):
            yield UserError(f"sources.{name}.loss_weight", "0 or more", f"{source.loss_weight:g}", "Correct the value.")
        if not 0 < source.fraction <= 1:
            yield UserError(f"sources.{name}.fraction", "a share above 0 and at most 1", f"{source.fraction:g}",
                            "Leave the source out to switch it off.")
        if source.resample is not None:
            power, clipped = source.resample.power, source.resample.clipped
            if (power is None) == (clipped is None):
                yield UserError(f"sources.{name}.resample", "exactly one of power and clipped",
                                "neither" if power is None else "both", "Write, for example, {power: 0.2}.")
            elif not 0 <= (power or 0) <= 1 or (clipped is not None and clipped < 1):
                yield UserError(f"sources.{name}.resample", "a power from 0 to 1, or clipped of 1 or more",
                                f"{power if clipped is None else clipped:g}", "The paper's best power is 0.2.")
    yield from _mix_mistakes(config)
    parted = [name for name, source in config.sources.items() if source.kind == "image" and source.inflate == "single"]
    if config.model.sync_norm and (config.model.norm != "shared" or (config.model.name == "slowonly" and parted)):
        # norms that wait for each other must run equally often on every rank, also where one lacks a source
        yield UserError("model.sync_norm", "norm: shared, and for slowonly no image as a single frame",
                        f"norm: {config.model.norm}" + (f", {', '.join(parted)} as single frames" if parted else ""),
                        "Switch it off, or inflate the images.")
    positive = {f"sources.{name}.batch": source.batch for name, source in config.sources.items()} | {
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
    if config.batches is None and 0 < config.batch < len(config.sources):
        yield UserError("train.batch", f"at least one slot for each of the {len(config.sources)} sources",
                        str(config.batch), "Raise the batch or remove sources.")
    if config.evaluation.source is not None:
        yield from _media_mistakes("evaluation.source", config.evaluation.source)
        if config.evaluation.source.kind == "untrimmed":
            yield UserError("evaluation.source.kind", "video, image or frames", "untrimmed",
                            "Evaluate on trimmed videos.")


def _media_mistakes(where: str, source: MediaConfig) -> Iterator[UserError]:
    if source.tars and source.list:
        yield UserError(f"{where}.tars", "either tars or a list", "both", "Remove one of them.")
    if source.tars and source.kind not in ("image", "video"):
        yield UserError(f"{where}.tars", "tars of images or videos", f"kind {source.kind}", "Use a list or folders.")
    if source.format != "auto" and not source.list:
        yield UserError(f"{where}.format", "a list that has the format", "no list", "Add list, or remove format.")
    if not 0 < source.window_seconds < float("inf"):
        yield UserError(f"{where}.window_seconds", "a number above 0", f"{source.window_seconds:g}",
                        "The reference uses 10.")
    if source.kind == "frames" and source.pattern is not None:
        try:
            told = source.pattern.format(1) != source.pattern.format(2)
        except (IndexError, KeyError, ValueError, AttributeError):
            told = False
        if not told:
            yield UserError(f"{where}.pattern", "a pattern with one number", repr(source.pattern),
                            "The reference uses img_{:05}.jpg.")
    if source.kind != "untrimmed" and source.pieces != "positive":
        yield UserError(f"{where}.pieces", "kind: untrimmed", f"kind {source.kind}", "Remove pieces.")


def _mix_mistakes(config: Config) -> Iterator[UserError]:
    """Batches, step mode, ratio and mixup, which must fit each other."""
    train, given = config.train, [source.batch is not None for source in config.sources.values()]
    if any(given) and not all(given):
        missing = [name for name, source in config.sources.items() if source.batch is None]
        yield UserError("sources", "batch for all sources or for none", f"none for {', '.join(missing)}",
                        "Add the missing ones, or use weights.")
    if all(given) and given and train.batch is not None:
        yield UserError("train.batch", "nothing, as every source has its batch", str(train.batch), "Remove it.")
    if all(given) and any(source.weight != 1 for source in config.sources.values()):
        yield UserError("sources", "either weights or batches", "both", "Remove the weights.")
    if train.step_mode == "alternating":
        if not all(given):
            yield UserError("train.step_mode", "a batch for every source, as each batch is a step", "none",
                            "Add batch to the sources, or use step_mode: summed.")
        if train.mixup == "cross":
            yield UserError("train.mixup", "intra, as an alternating step holds one source", "cross",
                            "Use step_mode: summed for cross-dataset mixup.")
        if config.optimizer.accumulate > 1:
            yield UserError("optimizer.accumulate", "1, as every batch is a step of its own",
                            str(config.optimizer.accumulate), "Raise the batches instead.")
    elif train.ratio is not None:
        yield UserError("train.ratio", "step_mode: alternating", "summed", "Remove ratio, or change step_mode.")
    if train.ratio is not None:
        if len(train.ratio) != len(config.sources):
            yield UserError("train.ratio", f"one number for each of the {len(config.sources)} sources",
                            str(list(train.ratio)), "The target's comes first, as in [2, 1, 1, 1].")
        if any(number < 1 for number in train.ratio):
            yield UserError("train.ratio", "numbers of 1 or more", str(list(train.ratio)),
                            "Leave a source out to switch it off.")
    if not 0 < train.mixup_alpha < float("inf"):
        yield UserError("train.mixup_alpha", "a number above 0", f"{train.mixup_alpha:g}", "Use mixup: none instead.")
