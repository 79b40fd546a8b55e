"""The settings of a source: where media lie, how they are listed, and how training draws them."""

from dataclasses import dataclass, field
from typing import Literal

from omnidali.config.setting import Count, NotNegative, Positive, PositiveShare, Share, setting
from omnidali.media_kind import MediaKind

# The name of the held-out source in the catalog.
EVALUATION = "evaluation"
# Names that the catalog and reports give to other things.
RESERVED = (EVALUATION, "all", "classes")


def key_of(name: str) -> str:
    """The config key of a source of the catalog."""
    return "evaluation.source" if name == EVALUATION else f"sources.{name}"


@dataclass(frozen=True, kw_only=True)
class MediaConfig:
    """Where media lie, how they are listed, and which decoder reads them."""

    kind: Literal["video", "image", "untrimmed", "frames"] = field(
        metadata={
            "meaning": "videos, images, long videos in pieces, or folders of frames",
            "unit": "",
        }
    )
    root: str = setting(".", "folder in which the paths of the list start; relative to data_root")
    list: str | None = setting(
        None,
        "list file, or a pattern of several, relative to data_root; null: class folders, or tars",
    )
    format: Literal[
        "auto",
        "path_label",
        "paths",
        "slowfast_csv",
        "kinetics_csv",
        "video_ids",
        "rawframes",
        "rawframes_offset",
        "parts",
        "parts_json",
        "pieces",
        "ucf101",
        "hmdb51",
        "something_json",
        "something_csv",
    ] = setting(
        "auto",
        "of the list; auto: recognised from its first lines; paths, also of tars: without labels",
    )
    tars: str | None = setting(
        None, 'WebDataset tars under root instead of a list: "*.tar", "train-{000..099}.tar"'
    )
    pattern: str | None = setting(
        None, 'file names, by format: "{id}.mp4", frames "img_{:05}.jpg", parts "part_{}.mp4"'
    )
    labels: str | None = setting(None, "label map for the list's labels, relative to data_root")
    window_seconds: Positive = setting(
        10.0, "untrimmed: length of the pieces that a whole file is divided into", unit="seconds"
    )
    pieces: Literal["positive", "one_positive_rest_negative", "all"] = setting(
        "positive", "untrimmed: which pieces make a clip"
    )
    decode: Literal["auto", "cpu", "dali", "hybrid"] = setting(
        "auto", "the decoder; auto: DALI where a GPU can decode the media; hybrid: both share them"
    )
    pixel_aspect: Literal["ignore", "apply"] = setting(
        "ignore",
        "videos with pixels that are not square: ignore shows them as stored, apply stretches",
    )
    links: Literal["below", "follow"] = setting(
        "below", "symbolic links are followed where they end below root; follow: anywhere"
    )
    split: Literal["auto", "train", "test"] = setting(
        "auto", "part of an hmdb51 list; auto: test for the evaluation, train for other sources"
    )

    @property
    def follows_links(self) -> bool:
        """Whether links may lead out of the root."""
        return self.links == "follow"

    @property
    def media_kind(self) -> MediaKind:
        """``kind`` with its facts."""
        return MediaKind(self.kind)


@dataclass(frozen=True, kw_only=True)
class ResampleConfig:
    """How often the classes of a source are drawn (OmniSource, class imbalance); one of the two."""

    power: Share | None = setting(
        None, "a class of n samples gets a share in proportion to n**power; the paper's best is 0.2"
    )
    clipped: Count | None = setting(
        None, "a class gives at most this many samples an epoch, other ones in each epoch"
    )


@dataclass(frozen=True, kw_only=True)
class SourceConfig(MediaConfig):
    """A training source: its media, its share of the batch, and how its samples are used."""

    weight: Positive = setting(1.0, "share of the slots, relative to the other sources' weights")
    batch: Count | None = setting(
        None, "slots of one step on all ranks, instead of a weight; for all sources or none"
    )
    loss_weight: NotNegative = setting(1.0, "factor of the losses of its samples")
    group: str | None = setting(
        None, "sources of one group are switched on together by `omnidali ablate`"
    )
    resample: ResampleConfig | None = setting(None, "class balance; null: all samples alike")
    fraction: PositiveShare = setting(
        1.0, "share of each class's samples that is used at all, chosen by the seed"
    )
    hold_out: tuple[int, int] | None = setting(
        None, "[1, 3]: training never sees the first of three parts of the files"
    )
    inflate: Literal["single", "still", "translate_random", "translate_constant", "warp"] = setting(
        "single", "an image as one frame, repeated, or seen by a moving camera"
    )
    motion: str | None = setting(
        None,
        "warp: file of `omnidali motion estimate`, relative to data_root; null: the shipped one",
    )
    motion_per_class: bool = setting(
        False, "warp: each class has its own distribution, where the file has it"
    )

    @property
    def shows_single_frames(self) -> bool:
        """Whether its samples have one frame each, and no clip."""
        return self.media_kind.is_still and self.inflate == "single"
