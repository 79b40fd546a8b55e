"""The schema of a run: frozen dataclasses with defaults, one line of meaning and unit for each
field.

YAML gives the values (:mod:`omnidali.config.load`). Counts such as the number of classes come from
the data and never stand here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from omnidali.media_kind import MediaKind

Mapped = Mapping[str, "SourceConfig"]
EVALUATION = "evaluation"  # name of the held-out source in the catalog
# names that the catalog and written files give to other things
RESERVED = (EVALUATION, "all", "classes")


def key_of(name: str) -> str:
    """The config key of a source of the catalog."""
    return "evaluation.source" if name == EVALUATION else f"sources.{name}"


def is_wide(pattern: str) -> bool:
    """Whether a pattern of file names asks for thousands of characters, as img_{:09999}.jpg does."""
    return re.search(r"\{[^}]*[0-9]{4}", pattern) is not None


def has_number(pattern: str) -> bool:
    """Whether a pattern of file names, such as img_{:05}.jpg, gives every number another name."""
    try:
        return not is_wide(pattern) and pattern.format(1) != pattern.format(2)
    except (IndexError, KeyError, ValueError, AttributeError):
        return False


@dataclass(frozen=True, kw_only=True)
class MediaConfig:
    """Where media lie, how they are listed, and who decodes them."""

    # files, long videos in pieces, folders of frames
    kind: Literal["video", "image", "untrimmed", "frames"]
    root: str = "."  # folder that the list's paths start from; relative to data_root
    # list file, relative to data_root; none: class folders under root, or tars
    list: str | None = None
    format: Literal[
        "auto",
        "path_label",
        "slowfast_csv",
        "kinetics_csv",
        "video_ids",
        "rawframes",
        "rawframes_offset",
        # of the list; auto: told from its first lines
        "parts",
        "parts_json",
        "pieces",
    ] = "auto"
    # WebDataset tars under root instead of a list: "*.tar", "train-{000..099}.tar"
    tars: str | None = None
    # file names, by format: "{id}.mp4", frames "img_{:05}.jpg", parts "part_{}.mp4"
    pattern: str | None = None
    labels: str | None = None  # label map that the list's labels go through, relative to data_root
    window_seconds: float = 10.0  # untrimmed: length of the pieces that a whole file is cut into
    # untrimmed: which ones make a clip
    pieces: Literal["positive", "one_positive_rest_negative", "all"] = "positive"
    # auto = DALI where a GPU can; hybrid = both share
    decode: Literal["auto", "cpu", "dali", "hybrid"] = "auto"
    # videos whose pixels are not square: as stored, or stretched
    pixel_aspect: Literal["ignore", "apply"] = "ignore"

    @property
    def media_kind(self) -> MediaKind:
        """``kind`` with its facts."""
        return MediaKind(self.kind)

    @property
    def media_kind(self) -> MediaKind:
        """The facts of ``kind``."""
        return MediaKind(self.kind)


@dataclass(frozen=True, kw_only=True)
class ResampleConfig:
    """How often the classes of a source are drawn (OmniSource, class imbalance); exactly one of the
    two.
    """

    power: float | None = None  # a class of n samples gets a share in proportion to n**power
    # a class gives at most this many samples an epoch, others each epoch
    clipped: int | None = None


@dataclass(frozen=True, kw_only=True)
class SourceConfig(MediaConfig):
    """A training source: its media, how much of the batch they fill, and what becomes of them."""

    weight: float = 1.0  # share of the slots, relative to the other sources' weights
    # slots of one step on all ranks instead of a weight; for all sources or none
    batch: int | None = None
    loss_weight: float = 1.0  # factor of its samples' losses
    group: str | None = None  # sources of one group are switched on together by `omnidali ablate`
    resample: ResampleConfig | None = None  # class balance; none: every sample equally often
    fraction: float = 1.0  # share of each class's samples that is used at all, chosen by the seed
    # [1, 3]: training never sees the first of three parts of the files
    hold_out: tuple[int, int] | None = None
    inflate: Literal[
        "single",
        "still",
        "translate_random",
        "translate_constant",
        # an image as one frame, repeated, or seen by a moving camera
        "warp",
    ] = "single"
    # warp: file of `omnidali motion estimate`, relative to data_root; none: the shipped one
    motion: str | None = None
    motion_per_class: bool = False  # warp: each class its own distribution, where the file has it


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Which frames make a clip and how they are cropped for training (method: TSN segments or dense
    clips).
    """

    clip_len: int = 1  # frames in one clip (1 for TSN)
    frame_interval: int = 1  # distance of neighbouring frames of a clip, in frames
    num_clips: int = 8  # clips of a sample in training (TSN: segments)
    size: int = 224  # side of the training crop after scaling, pixels
    # kind of the training crop
    crop: Literal["random_resized", "multi_scale", "center"] = "random_resized"
    # random_resized: smallest and largest share of the picture's area
    area: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5  # probability of a horizontal flip


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """The views of one item in an evaluation."""

    num_clips: int = 8  # clips of a video, evenly spaced
    crops: Literal["center", "three", "ten"] = "center"  # crops of every clip
    size: int = 256  # side of the crop, pixels
    # the picture counts as scaled to this short side before it is cropped, pixels
    short_side: int = 256
    # mean over views of logits or of probabilities (TSN: a crop's frames)
    average: Literal["score", "prob"] = "score"


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
    # weights to start from: ours, mmaction2, torchvision, timm; .pth or .safetensors
    pretrained: str | None = None
    # fresh: the classifier starts anew, as for other classes
    pretrained_head: Literal["keep", "fresh"] = "keep"
    # whose samples move the running statistics of batch norms
    norm: Literal["shared", "target_only"] = "shared"
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

    # slots of one step on all ranks together; none: 96, or the sum of the sources' batches
    batch: int | None = None
    # one step on all sources, or one a source's batch
    step_mode: Literal["summed", "alternating"] = "summed"
    # alternating: [2, 1, 1]: for two target batches one of each other source
    ratio: tuple[int, ...] | None = None
    # partners: none, both of the target, or of any source
    mixup: Literal["none", "intra", "cross"] = "none"
    mixup_alpha: float = 0.2  # of mixup's Beta(alpha, alpha)
    # length in passes over the target source (exactly one of epochs and steps)
    epochs: float | None = None
    steps: int | None = None  # length in steps
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # autocast dtype
    compile: bool = False  # torch.compile the model
    ema: float | None = None  # decay of an averaged copy of the weights, which is evaluated instead
    log_every: int = 20  # steps between console lines
    checkpoint_every: int = 1000  # steps between last.pt; also written before every evaluation
    checkpoint_minutes: float = 15.0  # time between last.pt, whatever the steps; 0: by steps alone
    # for which the last save is tried again where it fails, as on a full disk
    final_save_minutes: float = 10.0
    keep_every: int | None = None  # steps between checkpoints that are kept as step-N.pt


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How clips are made ready ahead of the training step."""

    # decoding threads of one rank; 0: the cores divided by the ranks of this machine
    threads: int = 0
    prefetch: int = 2  # steps made ready ahead
    # of the slots of sources with decode: hybrid; `python -m benchmarks decode` measures the best
    cpu_share: float = 0.25
    # share of a source's files that may fail before the run stops; ten may in any case, or
    max_bad_ratio: float = 0.01
    # none where this is 0
    # clips that may fail in a row, those of one file counted once, before the run stops
    max_bad_in_a_row: int = 64
    # after which a file that is still being read or decoded counts as failed
    hang_seconds: float = 60.0
    # without a batch after which source, files in flight and rank are told
    stall_seconds: float = 120.0


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. ``sources`` keeps its order; the first one is the target that counts epochs."""

    data_root: str = "."  # folder that all lists and roots start from
    run_dir: str = "runs/run"  # folder for everything the run writes
    catalog: str | None = None  # SQLite file of the probed media; none: catalog.sqlite in run_dir
    classes: str | None = None  # text file of class names, one a line, relative to data_root
    seed: int = 0  # of the plan and the weights
    # training sources by name
    sources: Mapped = field(default_factory=lambda: MappingProxyType({}))
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
        """Slots of one step on all sources and all ranks."""
        return sum(self.batches) if self.batches is not None else self.train.batch or 96

    @property
    def catalog_path(self) -> str:
        """Where the catalog lies: ``catalog``, else inside the run folder."""
        return self.catalog or f"{self.run_dir}/catalog.sqlite"
