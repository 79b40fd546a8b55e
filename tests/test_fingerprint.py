"""Which changes of a config a resume refuses, in what words, and which it lets through. Every field
is in the table.
"""

import dataclasses
import io
import json
import shutil
import tarfile
import typing
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
import torch

from helpers.program_runs import CONFIG
from omnidali.config.load import load_config
from omnidali.config.schema import ClipConfig, Config, MediaConfig, SourceConfig, ViewsConfig
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.data import open_data, open_loader
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.fingerprint import find_differences
from omnidali.planning.plan import EvaluationPlan
from omnidali.testing.numbered_media import write_video

CLIPS = "sources.clips={kind: video, root: clips}"  # class folders
LONG = "sources.clips={kind: untrimmed, root: clips, window_seconds: 0.4, weight: 2}"
FRAMES = "sources.clips={kind: frames, root: folders, list: folders.txt, pattern: 'a_{:03}.jpg'}"
NAMED = "sources.clips={kind: video, root: ids, list: ids.csv, format: kinetics_csv, pattern: '{id}.mp4'}"
WARP = "sources.photos={kind: image, root: photos, list: photos.txt, inflate: warp, motion: motion.json}"
BATCHES = [
    "sources.clips={kind: video, root: clips, list: clips.txt, batch: 4}",
    "train.batch=null",
    "sources.photos={kind: image, root: photos, list: photos.txt, batch: 2}",
]
TURNS = [*BATCHES, "train.step_mode=alternating", "train.ratio=[1,1]", "optimizer.accumulate=1"]
POWER = "sources.photos={kind: image, root: photos, list: photos.txt, resample: {power: 0.2}}"
CLIPPED = "sources.photos={kind: image, root: photos, list: photos.txt, resample: {clipped: 2}}"
PARTS = "sources.clips={kind: untrimmed, root: parts, list: parts.txt}"
WIDE = "sources.clips={kind: video, root: wide}"
TARS = "sources.photos={kind: image, root: shards, tars: '0.tar'}"

# field: [(settings before, the change, what the refusal says)]; these change the order, or what
# stands in it
ORDER = {
    "seed": [([], "seed=1", "seed: 0 became 1")],
    "classes": [
        (
            [CLIPS, "classes=names.txt"],
            "classes=swapped.txt",
            "sources.clips has its samples in another order, or",
        )
    ],
    "sources": [
        (
            [],
            "sources.shorts={kind: video, root: shorts, list: shorts.txt}",
            "sources.shorts is new",
        )
    ],
    "clip.clip_len": [([], "clip.clip_len=2", "clip.clip_len: 1 became 2")],
    "clip.frame_interval": [([], "clip.frame_interval=2", "clip.frame_interval: 1 became 2")],
    "clip.num_clips": [([], "clip.num_clips=3", "clip.num_clips: 2 became 3")],
    "clip.size": [([], "clip.size=40", "clip.size: 32 became 40")],
    "clip.crop": [([], "clip.crop=center", "clip.crop: random_resized became center")],
    "clip.area": [([], "clip.area=[0.5,1]", "clip.area: [0.08, 1.0] became [0.5, 1.0]")],
    "clip.flip": [([], "clip.flip=0.25", "clip.flip: 0.5 became 0.25")],
    "train.batch": [([], "train.batch=8", "train.batch (slots of a step): 6 became 8")],
    "train.step_mode": [
        (
            BATCHES,
            "train.step_mode=alternating optimizer.accumulate=1",
            "train.ratio: none became [1, 1]",
        )
    ],
    "train.ratio": [(TURNS, "train.ratio=[2,1]", "train.ratio: [1, 1] became [2, 1]")],
    "train.mixup": [
        ([], "train.mixup=cross", "train.mixup and mixup_alpha: none became [cross, 0.2]")
    ],
    "train.mixup_alpha": [
        (["train.mixup=intra"], "train.mixup_alpha=0.4", "[intra, 0.2] became [intra, 0.4]")
    ],
    "sources.*.kind": [
        (
            [CLIPS],
            LONG.replace("weight: 2", "weight: 1"),
            "sources.clips.kind: video became untrimmed",
        )
    ],
    "sources.*.root": [
        ([CLIPS], "sources.clips.root=other", "sources.clips had 9 samples and has 4, as its list")
    ],
    "sources.*.list": [
        ([], "sources.photos.list=fewer.txt", "sources.photos had 14 samples and has 10"),
        ([], "sources.photos.list=reversed.txt", "sources.photos has its samples in another order"),
        (
            [],
            "sources.photos.list=relabelled.txt",
            "sources.photos has other labels, with other numbers",
        ),
        ([], "sources.photos.list=renamed.txt", "sources.photos has other paths in its list"),
        ([PARTS], "sources.clips.list=parts2.txt", "sources.clips has other paths in its list"),
    ],
    "sources.*.format": [
        (
            [
                NAMED.replace("kinetics_csv", "path_label").replace("ids.csv", "plain.txt"),
                "classes=names.txt",
            ],
            NAMED,
            "sources.clips had 3 samples and has 2",
        )
    ],
    "sources.*.tars": [
        ([TARS], "sources.photos.tars='*.tar'", "sources.photos had 2 samples and has 4")
    ],
    "sources.*.pattern": [
        (
            [FRAMES],
            "sources.clips.pattern='b_{:03}.jpg'",
            "sources.clips.pattern: a_{:03}.jpg became b_{:03}",
        ),
        (
            [NAMED, "classes=names.txt"],
            "sources.clips.pattern='{id}.mkv'",
            "sources.clips had 2 samples and has 1",
        ),
    ],
    "sources.*.pixel_aspect": [
        (
            [WIDE],
            "sources.clips.pixel_aspect=apply",
            "sources.clips has files of other sizes or lengths",
        )
    ],
    "sources.*.labels": [
        (
            ["sources.photos.labels=same.txt"],
            "sources.photos.labels=map.txt",
            "sources.photos has other labels",
        )
    ],
    "sources.*.window_seconds": [
        (
            [LONG],
            "sources.clips.window_seconds=0.8",
            "sources.clips had 34 pieces and has 18, as its list or window_seconds changed",
        )
    ],
    "sources.*.pieces": [
        (
            [LONG],
            "sources.clips.pieces=one_positive_rest_negative",
            "pieces: positive became one_positive",
        )
    ],
    "sources.*.weight": [([], "sources.photos.weight=2", "sources.photos.weight: 1.0 became 2.0")],
    "sources.*.batch": [(BATCHES, "sources.photos.batch=4", "sources.photos.batch: 2 became 4")],
    "sources.*.resample": [([], CLIPPED, "sources.photos.resample: none became clipped 2")],
    "sources.*.resample.power": [
        ([POWER], "sources.photos.resample.power=0.5", "resample.power: 0.2 became 0.5")
    ],
    "sources.*.resample.clipped": [
        ([CLIPPED], "sources.photos.resample.clipped=3", "resample.clipped: 2 became 3")
    ],
    "sources.*.fraction": [
        (
            [],
            "sources.photos.fraction=0.5",
            "sources.photos: all samples became fraction 0.5 of seed 0",
        )
    ],
    "sources.*.hold_out": [
        (
            [],
            "sources.photos.hold_out=[1,2]",
            "sources.photos: all samples became without part 1 of 2",
        ),
        (
            ["sources.photos.hold_out=[1,2]"],
            "sources.photos.hold_out=[2,2]",
            "without part 1 of 2 became without part 2 of 2",
        ),
    ],
    "sources.*.inflate": [
        ([], "sources.photos.inflate=still", "sources.photos.inflate: single became still")
    ],
    "sources.*.motion": [([WARP], "sources.photos.motion=null", "sources.photos.motion: ")],
    "sources.*.motion_per_class": [
        ([WARP], "sources.photos.motion_per_class=true", "sources.photos.motion: ")
    ],
}

# field: [(settings before, the change)]; the order stays
HARMLESS = {
    "data_root": [([], "data_root={copy}")],
    "run_dir": [([], "run_dir=elsewhere")],
    "catalog": [([], "catalog={tmp}/other.sqlite")],
    **{
        name: [([], f"{name}={value}")]
        for name, value in {
            "model.name": "slowonly",
            "model.depth": 34,
            "model.dropout": 0.1,
            "model.pretrained": "w.pth",
            "model.pretrained_head": "fresh",
            "model.norm": "target_only",
            "model.sync_norm": "true",
            "model.channels_last": "false",
            "optimizer.lr": 0.5,
            "optimizer.momentum": 0.5,
            "optimizer.weight_decay": 0.5,
            "optimizer.nesterov": "true",
            "optimizer.clip_grad_norm": 1.0,
            "optimizer.schedule": "cosine",
            "optimizer.milestones": "[1.0]",
            "optimizer.warmup_epochs": 3,
            "optimizer.accumulate": 1,
            "train.epochs": "5 train.steps=null",
            "train.steps": 99,
            "train.precision": "bf16",
            "train.compile": "true",
            "train.ema": "null",
            "train.log_every": 7,
            "train.checkpoint_every": 7,
            "train.keep_every": 7,
            "train.checkpoint_minutes": 7,
            "train.final_save_minutes": 7,
            "loader.threads": 3,
            "loader.prefetch": 5,
            "loader.max_bad_ratio": 0.5,
            "loader.max_bad_in_a_row": 3,
            "loader.hang_seconds": 5,
            "loader.stall_seconds": 5,
            "sources.*.loss_weight": 3,
            "sources.*.group": "web",
            "evaluation.source": "null",
            "evaluation.batch": 3,
            "evaluation.every_epochs": 3,
            "evaluation.every_steps": 3,
            "evaluation.validation.num_clips": 1,
            "evaluation.validation.crops": "three",
            "evaluation.validation.size": 24,
            "evaluation.validation.short_side": 48,
            "evaluation.validation.average": "prob",
            "evaluation.test.num_clips": 1,
            "evaluation.test.crops": "ten",
            "evaluation.test.size": 24,
            "evaluation.test.short_side": 48,
            "evaluation.test.average": "prob",
        }.items()
    },
    "sources.*.root": [([], "sources.photos.root={copy}/photos")],
    "sources.*.list": [([], "sources.photos.list={copy}/photos.txt")],
}

# the order stays, but other decoders give slightly other pixels, which the resume says
HYBRID = "sources.photos={kind: image, root: photos, list: photos.txt, decode: hybrid}"
PIXELS = {
    "sources.*.decode": [
        (
            [],
            "sources.photos.decode=dali",
            "by nvImageCodec and OpenCV on the CPU; now photos: jpeg by DALI on the CPU",
        )
    ],
    "loader.cpu_share": [
        (
            [HYBRID],
            "loader.cpu_share=0.5",
            "of every 100 slots, 25 by nvImageCodec and OpenCV on the CPU",
        )
    ],
}


def fields_of(schema=Config, above=""):
    """The paths of all settings; a * stands for the name of a source."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        path, kind = f"{above}{field.name}", hints[field.name]
        options = [
            part for part in (kind, *typing.get_args(kind)) if dataclasses.is_dataclass(part)
        ]
        if field.name == "sources" and schema is Config:
            yield path
            yield from fields_of(SourceConfig, "sources.*.")
        elif options == [MediaConfig]:  # of the evaluation: another plan
            yield path
        elif options:
            if type(None) in typing.get_args(kind):
                yield path
            yield from fields_of(options[0], f"{path}.")
        else:
            yield path


def test_every_field_is_in_a_table():
    known, fields = ORDER.keys() | HARMLESS.keys() | PIXELS.keys(), set(fields_of())
    assert {"sources.*.resample.power", "evaluation.source", "seed", "sources.*.kind"} <= fields
    assert not fields - known, (
        "say here whether a new setting changes the order, and put it into the fingerprint if so"
    )
    assert not known - fields


@pytest.fixture(scope="module")
def root(media_root, tmp_path_factory):
    """The shared media with more lists, maps, folders of frames and tars."""
    root = tmp_path_factory.mktemp("more") / "data"
    shutil.copytree(media_root, root)
    lines = (root / "photos.txt").read_text().splitlines()
    texts = {
        "fewer.txt": lines[:10],
        "reversed.txt": lines[::-1],
        "relabelled.txt": [*lines[:-1], "13.jpg 0"],
        "renamed.txt": ["copy.jpg 0", *lines[1:]],
        "names.txt": [f"class {n}" for n in range(4)],
        "swapped.txt": ["class 0", "class 2", "class 1", "class 3"],
        "same.txt": [f"{n} {n}" for n in range(4)],
        "map.txt": ["0 0", "1 0", "2 2", "3 3"],
        "folders.txt": ["f 0", "g 1"],
        "parts.txt": ["v 0 5 0 1 4"],
        "parts2.txt": ["v 0 5 0 2 4"],
        "plain.txt": ["video 0.mp4 0", "video 4.mp4 0", "video 8.mp4 0"],
        "ids.csv": [
            "label,youtube_id,time_start,time_end,split",
            "class 0,video 0,0,10,train",
            "class 0,video 4,0,10,train",
        ],
    }
    for name, rows in texts.items():
        (root / name).write_text("\n".join(rows) + "\n")
    shutil.copy(root / "photos" / "0.jpg", root / "photos" / "copy.jpg")
    shutil.copytree(root / "clips" / "class 0", root / "ids")
    shutil.copy(root / "ids" / "video 0.mp4", root / "ids" / "video 0.mkv")
    for number in range(4):
        write_video(
            root / "wide" / f"class {number}" / "0.mp4",
            number,
            frames=20,
            width=72,
            height=64,
            pixel_aspect=Fraction(4, 3),
            options={"preset": "ultrafast"},
        )
    (root / "parts" / "v").mkdir(parents=True)
    for number in range(5):
        shutil.copy(root / "ids" / "video 0.mp4", root / "parts" / "v" / f"part_{number}.mp4")
    for number in range(4):
        target = root / "other" / f"class {number}"
        target.mkdir(parents=True)
        shutil.copy(root / "clips" / f"class {number}" / f"video {number}.mp4", target)
    for folder in "fg":
        (root / "folders" / folder).mkdir(parents=True)
        for kind in "ab":
            for number in range(1, 7):
                shutil.copy(
                    root / "photos" / f"{number + 6 * (kind == 'b')}.jpg",
                    root / "folders" / folder / f"{kind}_{number:03}.jpg",
                )
    (root / "shards").mkdir()
    for number in range(2):
        with tarfile.open(root / "shards" / f"{number}.tar", "w") as tar:
            for place in range(2):
                for ending, data in (
                    ("jpg", (root / "photos" / f"{place}.jpg").read_bytes()),
                    ("cls", b"%d" % place),
                ):
                    member = tarfile.TarInfo(f"{number}{place}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    one = {"mean": [0.0] * 8, "covariance": (np.eye(8) * 1e-4).tolist()}
    two = {"mean": [0.01] * 8, "covariance": (np.eye(8) * 1e-4).tolist()}
    (root / "motion.json").write_text(json.dumps({"all": one, "classes": {"0": two}}))
    return root


@pytest.fixture(scope="module")
def make(root, tmp_path_factory):
    """A loader of CONFIG with changes, as a start of train.py opens it; catalogs are kept from call
    to call.
    """
    folder = tmp_path_factory.mktemp("configs")
    (folder / "c.yaml").write_text(CONFIG)

    def make(settings, ranks=Ranks(), **options):
        texts = [
            part.replace("*", "photos", 1) if part.startswith("sources.*") else part
            for text in settings
            for part in (
                text.split(" ") if "{kind" not in text and "=" in text.partition(" ")[2] else [text]
            )
        ]
        config = load_config(
            folder / "c.yaml", [f"data_root={root}", f"catalog={folder}/catalog.sqlite", *texts]
        )
        return open_loader(config, open_data(config, ranks), ranks, **options)

    return make


def state_of(make, settings):
    with make(settings) as loader:
        return loader.state_dict()


def cases(table):
    return [
        pytest.param(*case, id=f"{field}-{number}")
        for field, found in table.items()
        for number, case in enumerate(found)
    ]


@pytest.mark.parametrize("before, change, told", cases(ORDER))
def test_what_changes_the_order_is_refused(make, before, change, told):
    state = state_of(make, before)
    with make(before) as same:
        assert same.load_state_dict(state) == []
    with make([*before, change]) as loader, pytest.raises(UserError) as caught:
        loader.load_state_dict(state)
    message = str(caught.value)
    assert told in message and "Restore the old settings and lists" in message
    assert "None" not in message and "content" not in message and "holds" not in message


@pytest.mark.parametrize("before, change", cases(HARMLESS))
def test_what_keeps_the_order_goes_on(make, root, tmp_path, before, change):
    if "{copy}" in change:
        shutil.copytree(root, tmp_path / "moved", symlinks=True)
    state = state_of(make, before)
    with make([*before, change.format(copy=tmp_path / "moved", tmp=tmp_path)]) as loader:
        assert loader.load_state_dict(state) == []


@pytest.mark.parametrize("before, change, told", cases(PIXELS))
def test_what_changes_pixels_is_said(make, before, change, told):
    state = state_of(make, before)
    with make([*before, change]) as loader:
        (line,) = loader.load_state_dict(state)
    assert (
        line.startswith("same order, but slightly other pixels from here on: photos: jpeg by ")
        and told in line
    )


def test_another_device_is_said(make):
    with make([]) as loader:
        state = loader.state_dict()
        loader.device = torch.device("cuda")  # a machine with a GPU decodes there
        assert len(loader.load_state_dict(state)) == 2


def test_other_ranks_go_on(make):
    with make([]) as one, make([], rank=1, world=3) as other:
        assert other.load_state_dict(one.state_dict()) == []


def test_every_difference_is_told_at_once(make):
    state = state_of(make, [])
    with make(["seed=3", "clip.size=40", "sources.photos.list=fewer.txt"]) as loader:
        with pytest.raises(
            UserError,
            match="seed: 0 became 3; clip.size: 32 became 40; sources.photos had 14 samples and",
        ):
            loader.load_state_dict(state)


def test_a_file_that_is_gone_is_told(make, root, tmp_path):
    state = state_of(make, [])
    shutil.copytree(root, tmp_path / "moved")
    (tmp_path / "moved" / "photos" / "3.jpg").unlink()
    with (
        make([f"data_root={tmp_path / 'moved'}"]) as loader,
        pytest.raises(
            UserError,
            match="sources.photos had 14 samples and has 13, as its list changed, or files came",
        ),
    ):
        loader.load_state_dict(state)


def test_checkpoints_from_before_these_words_go_on(make):
    """They have the fingerprint, but neither what it stands for nor who decoded."""

    def old(plan):
        return {
            name: {key: value for key, value in source.items() if key != "holds"}
            for name, source in plan["sources"].items()
        }

    state = state_of(make, [])
    state = {"step": 3, "plan": {**state["plan"], "sources": old(state["plan"])}}
    with make([]) as loader:
        assert loader.load_state_dict(state) == [] and loader.next_step == 3
    with (
        make(["sources.photos.list=fewer.txt"]) as loader,
        pytest.raises(
            UserError,
            match="sources.photos: its list, labels or files changed; it has 10 samples now",
        ),
    ):
        loader.load_state_dict(state)


def test_evaluations_go_on_with_as_many_ranks_alone(tables):
    """Which items a step of an evaluation holds depends on the number of ranks."""
    plan = EvaluationPlan(tables[1], ClipConfig(), ViewsConfig(), 2)
    source = [SourceConfig(kind="image")]
    with (
        FusionIterator(plan, source, world=2) as one,
        FusionIterator(plan, source, world=2, rank=1) as same,
        FusionIterator(plan, source) as other,
    ):
        state = one.state_dict()
        assert same.load_state_dict(state) == []
        with pytest.raises(UserError, match="ranks: 2 became 1"):
            other.load_state_dict(state)


def test_equal_plans_do_not_differ(make):
    with make([]) as loader:
        plan = loader.plan.fingerprint()
    assert isinstance(plan, Mapping) and find_differences(plan, plan) == []
