"""The changes of a config that a resume refuses, in what words, and those that it accepts."""

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
from helpers.setting_changes import HARMLESS, ORDER, PIXELS
from omnidali.config.load import load_config
from omnidali.config.schema import ClipConfig, Config, ViewsConfig
from omnidali.config.sources import MediaConfig, SourceConfig
from omnidali.distributed.ranks import Ranks
from omnidali.errors import UserError
from omnidali.loading.data import open_data
from omnidali.loading.fusion import FusionIterator
from omnidali.loading.open_loader import open_loader
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.planning.fingerprint import find_differences
from omnidali.testing.numbered_media import write_video


def fields_of(schema=Config, above=""):
    """The paths of all settings; the name of a source is *."""
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


def test_every_setting_is_in_a_table():
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
        "linked.txt": [*lines, "linked.jpg 0"],
        "class 0_test_split1.txt": ["video 0.mp4 1", "video 4.mp4 2", "video 8.mp4 1"],
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
    (root / "photos/linked.jpg").symlink_to(root / "spare.jpg")
    shutil.copy(root / "photos/0.jpg", root / "spare.jpg")
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
    """A loader of CONFIG with changes, as a start opens it; catalogs are kept from call
    to call.
    """
    folder = tmp_path_factory.mktemp("configs")
    (folder / "c.yaml").write_text(CONFIG)

    def make(settings, **options):
        ranks = Ranks()
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


@pytest.mark.parametrize("before, change, message", cases(ORDER))
def test_resume_refuses_change_of_order(make, before, change, message):
    state = state_of(make, before)
    with make(before) as same:
        assert same.load_state_dict(state) == []
    with make([*before, change]) as loader, pytest.raises(UserError) as caught:
        loader.load_state_dict(state)
    text = str(caught.value)
    assert message in text and "Restore the old settings and lists" in text
    assert "None" not in text and "content" not in text and "holds" not in text


@pytest.mark.parametrize("before, change", cases(HARMLESS))
def test_resume_accepts_harmless_change(make, root, tmp_path, before, change):
    if "{copy}" in change:
        shutil.copytree(root, tmp_path / "moved", symlinks=True)
    state = state_of(make, before)
    with make([*before, change.format(copy=tmp_path / "moved", tmp=tmp_path)]) as loader:
        assert loader.load_state_dict(state) == []


@pytest.mark.parametrize("before, change, message", cases(PIXELS))
def test_resume_reports_change_of_pixels(make, before, change, message):
    state = state_of(make, before)
    with make([*before, change]) as loader:
        (line,) = loader.load_state_dict(state)
    assert (
        line.startswith("same order, but slightly other pixels from here on: photos: jpeg by ")
        and message in line
    )


def test_resume_reports_another_device(make):
    with make([]) as loader:
        state = loader.state_dict()
        loader.device = torch.device("cuda")  # a machine with a GPU decodes there
        assert len(loader.load_state_dict(state)) == 2


def test_resume_accepts_other_ranks(make):
    with make([]) as one, make([], rank=1, world=3) as other:
        assert other.load_state_dict(one.state_dict()) == []


def test_all_differences_are_reported_at_once(make):
    state = state_of(make, [])
    with (
        make(["seed=3", "clip.size=40", "sources.photos.list=fewer.txt"]) as loader,
        pytest.raises(
            UserError,
            match="seed: 0 became 3; clip.size: 32 became 40; sources.photos had 14 samples and",
        ),
    ):
        loader.load_state_dict(state)


def test_missing_file_is_reported(make, root, tmp_path):
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


def test_checkpoint_without_contents_resumes(make):
    """An old one has the fingerprint, but neither its numbers nor the decoders."""

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


def test_evaluation_resumes_only_with_as_many_ranks(tables):
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
