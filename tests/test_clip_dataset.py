"""ClipDataset: the clips of FusionIterator's plans, in any process and any order."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, DistributedSampler

from omnidali import ClipDataset, FusionIterator, load_config, open_data
from omnidali.catalog.database.label_sets import LabelSets
from omnidali.errors import UnreadableItemError, UserError
from omnidali.loading.open_loader import make_plan
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.planning.resampling import RowOrder

CONFIG = """
sources:
  clips: {kind: video, root: clips, list: clips.txt, weight: 2}
  photos: {kind: image, root: photos, list: photos.txt, weight: 3, inflate: warp}
  shorts: {kind: video, root: shorts, list: shorts.txt, weight: 1}
clip: {clip_len: 2, frame_interval: 3, num_clips: 1, size: 32}
train: {batch: 12, steps: 4}
evaluation:
  source: {kind: video, root: shorts, list: shorts.txt}
  validation: {num_clips: 1, size: 48, short_side: 64}
  test: {num_clips: 3, size: 48, short_side: 64, crops: three}
"""


def load(folder, media_root):
    (folder / "c.yaml").write_text(CONFIG)
    return load_config(folder / "c.yaml", [f"data_root={media_root}", f"run_dir={folder / 'run'}"])


@pytest.fixture(scope="module")
def config(media_root, tmp_path_factory):
    return load(tmp_path_factory.mktemp("dataset"), media_root)


@pytest.fixture(scope="module")
def data(config):
    return open_data(config)


def same(one, other):
    """Whether two items are the same, bit for bit."""
    return torch.equal(one[0], other[0]) and one[1] == other[1]


def test_training_clips_are_those_of_a_loader(config, data, monkeypatch):
    """With a loader that takes the rows in their order."""
    monkeypatch.setattr(RowOrder, "__call__", lambda order, draws: draws % order.epoch)
    datasets = [ClipDataset(config, name, data=data) for name in config.sources]
    seen = set()

    with FusionIterator(make_plan(config, data), list(config.sources.values()), end=4) as batches:
        for batch in batches:
            (group,) = batch.groups
            place = 0
            for number, samples in enumerate(batch.samples):
                for draw in samples.draws.tolist():
                    epoch, row = divmod(draw, len(datasets[number]))
                    datasets[number].set_epoch(epoch)
                    mine = datasets[number][row]
                    assert same(mine, (group.clips[place], int(group.labels[place])))
                    assert mine[0].shape == (3, 2, 32, 32) and mine[0].is_contiguous()
                    seen.add((number, epoch))
                    place += 1
    assert {(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)} <= seen


@pytest.mark.parametrize("sampling, views", [("validation", 1), ("test", 3)])
def test_evaluated_clips_are_those_of_a_loader(config, data, sampling, views):
    plan = EvaluationPlan(
        data.evaluation,
        config.clip,
        getattr(config.evaluation, sampling),
        batch=len(data.evaluation),
    )
    with FusionIterator(plan, [config.evaluation.source]) as batches:
        (group,) = next(batches).groups
    dataset = ClipDataset(config, "evaluation", sampling=sampling, data=data)
    for row, (clips, label) in enumerate(dataset):
        theirs = group.clips[views * row : views * (row + 1)]
        assert torch.equal(clips, theirs if views > 1 else theirs[0])
        assert label == int(group.labels[views * row])
    assert row == len(dataset) - 1
    assert ClipDataset(config, "evaluation", data=data).sampling == "validation"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_give_the_same_clips_in_every_epoch(config, data, method):
    """Also where the main process has used the decoders before, as a forked process cannot."""
    parts = [ClipDataset(config, name, data=data) for name in ("clips", "photos")]
    dataset = ConcatDataset(parts)
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=method,
        timeout=300,
    )
    kept = []
    for epoch in range(2):
        for part in parts:
            part.set_epoch(epoch)
        expected = [dataset[place] for place in range(len(dataset))]
        shown = list(loader)
        assert len(shown) == len(expected) and all(map(same, shown, expected))
        kept.append(torch.stack([clips for clips, _ in expected]))
    assert not torch.equal(*kept)


def test_batches_of_distributed_samplers_share_the_items(config, data):
    dataset = ClipDataset(config, "clips", data=data)
    labels = []
    for rank in range(2):
        sampler = DistributedSampler(dataset, num_replicas=2, rank=rank, drop_last=True)
        for clips, batch_labels in DataLoader(dataset, batch_size=2, sampler=sampler):
            assert clips.shape == (2, 3, 2, 32, 32) and batch_labels.dtype == torch.int64
            labels += batch_labels.tolist()
    assert len(labels) == 8


def test_dataset_knows_its_items(config, data, media_root):
    dataset = ClipDataset(config, "photos", data=data)
    assert len(dataset) == 14 and dataset.labels.tolist() == [row % 4 for row in range(14)]
    assert dataset.path(-1) == str(media_root / "photos" / "13.jpg")
    assert same(dataset[-1], dataset[13]) and same(dataset[np.int64(13)], dataset[13])
    assert repr(dataset) == "ClipDataset(photos, 14 items, sampling train, epoch 0)"
    for index in (14, -15):
        with pytest.raises(IndexError, match=f"item {index} of 14 in photos"):
            dataset[index]


@pytest.mark.parametrize(
    "source, sampling, said",
    [
        (
            "clip",
            None,
            r"one of clips, photos, shorts, evaluation, got 'clip'\. Did you mean 'clips'",
        ),
        ("clips", "tests", r"one of train, validation, test, got 'tests'"),
        ("evaluation", "train", r"one of validation, test, got 'train'"),
    ],
)
def test_unknown_names_are_refused(config, data, source, sampling, said):
    with pytest.raises(UserError, match=said):
        ClipDataset(config, source, sampling=sampling, data=data)


@pytest.mark.parametrize("epoch", [-1, 1 << 31])
def test_epoch_that_is_none_is_refused(config, data, epoch):
    dataset = ClipDataset(config, "clips", data=data)
    with pytest.raises(UserError, match="set_epoch: expected a number from 0 to 2,147,483,647"):
        dataset.set_epoch(epoch)
    with pytest.raises(TypeError):
        dataset.set_epoch(0.5)
    dataset.set_epoch((1 << 31) - 1)
    assert dataset[0][0].shape == (3, 2, 32, 32)


def test_data_without_the_source_are_refused(config):
    held_out = open_data(config, training=False)
    assert len(ClipDataset(config, "evaluation", data=held_out)) == 5
    with pytest.raises(UserError, match=r"ClipDataset\.data: expected data of the config with"):
        ClipDataset(config, "clips", data=held_out)


def test_items_with_several_labels_have_them_all(config, data):
    clips, *others = data.tables
    sets = LabelSets.of_rows([(0, 2)] * len(clips))
    several = dataclasses.replace(clips, label_sets=sets)
    dataset = ClipDataset(
        config, "clips", data=dataclasses.replace(data, tables=(several, *others))
    )
    assert dataset[1][1].tolist() == [1, 0, 1, 0] and dataset[1][1].dtype == torch.float32


def test_long_videos_are_drawn_in_pieces_and_not_seen_whole(config, data):
    clips, *others = data.tables
    pieces = np.arange(len(clips) + 1)
    long = dataclasses.replace(clips, starts=pieces, positives=np.ones(len(clips), np.int32))
    data = dataclasses.replace(data, tables=(long, *others))
    assert ClipDataset(config, "clips", data=data)[0][0].shape == (3, 2, 32, 32)
    with pytest.raises(UserError, match="expected items that are seen whole, for sampling 'test'"):
        ClipDataset(config, "clips", sampling="test", data=data)


@pytest.fixture
def broken(media_root, tmp_path):
    """A world of its own, whose first photo and first short video break after the probe."""
    shutil.copytree(media_root, tmp_path / "media")
    config = load(tmp_path, tmp_path / "media")
    data = open_data(config)
    for name in ("photos/0.jpg", "shorts/0.webm"):
        (tmp_path / "media" / name).write_bytes(b"\xff\xd8 nothing")
    return config, data


def test_broken_file_is_replaced_as_planned_in_a_training(broken, caplog):
    config, data = broken
    dataset = ClipDataset(config, "photos", data=data)
    clips, label = dataset[0]
    assert label == 0  # of the same class
    assert same((clips, label), dataset[0])
    assert caplog.text.count("photos: quarantined") == 1 and "0.jpg" in caplog.text

    planned = dataset._plan(0, 0)
    substitute = dataset._plan.substitute(planned, 0, 1)
    assert substitute.rows[0] != 0
    plan = make_plan(config, data)
    theirs = plan.substitute(planned, 0, 1)
    assert theirs.rows.tolist() == substitute.rows.tolist()
    assert theirs.boxes.tolist() == substitute.boxes.tolist()


def test_broken_file_is_an_error_in_an_evaluation(broken):
    config, data = broken
    dataset = ClipDataset(config, "evaluation", data=data)
    with pytest.raises(UserError, match=r"shorts/0\.webm: expected a file that decodes") as caught:
        dataset[0]
    assert "one that does not: " in str(caught.value)
    with pytest.raises(UnreadableItemError) as told:  # by a worker
        list(DataLoader(dataset, batch_size=None, num_workers=1))
    assert str(told.value) == str(caught.value)
    assert dataset[1][0].shape == (3, 2, 48, 48)
