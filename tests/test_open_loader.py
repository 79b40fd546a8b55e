"""open_loader in programs of others: data, ranks and device without a word about them."""

import multiprocessing

import pytest
import torch
import torch.distributed as dist

from helpers.batches import content
from omnidali import load_config, open_data, open_loader
from omnidali.distributed.ranks import joined_ranks
from omnidali.errors import UserError
from omnidali.loading import open_loader as module
from omnidali.loading.trial_outcome import NO_TRIAL

CONFIG = """
sources:
  clips: {kind: video, root: clips, list: clips.txt, weight: 2}
  photos: {kind: image, root: photos, list: photos.txt, weight: 1}
clip: {num_clips: 2, size: 32}
train: {batch: 6, steps: 3}
"""


@pytest.fixture
def config(media_root, tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG)
    return load_config(tmp_path / "c.yaml", [f"data_root={media_root}", f"run_dir={tmp_path}/run"])


def test_config_alone_opens_the_data(config):
    with open_loader(config) as one, open_loader(config, open_data(config)) as other:
        assert len(one) == 3 and (one.rank, one.world) == (0, 1)
        assert [content(batch) for batch in one] == [content(batch) for batch in other]


def take_part(config, store, rank, results):
    """What a program with a process group of its own does."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    with open_loader(config, threads=1) as batches:
        slots = [[group.slot.tolist() for group in batch.groups] for batch in batches]
    results.put((rank, batches.rank, batches.world, sum(sum(slots, []), [])))
    dist.destroy_process_group()


def test_ranks_are_those_of_the_process_group(config, tmp_path):
    """Both open the data at once; one of them probes."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [
        context.Process(target=take_part, args=(config, tmp_path / "store", rank, results))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    told = sorted(results.get(timeout=300) for _ in ranks)
    for process in ranks:
        process.join(300)
    assert [part[:3] for part in told] == [(0, 0, 2), (1, 1, 2)]
    assert sorted(told[0][3] + told[1][3]) == list(range(18))


def test_process_that_has_not_joined_its_peers_is_told_how(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="WORLD_SIZE: expected a process group") as caught:
        open_loader(config)
    assert "got none, but 4 processes. Call torch.distributed.init_process_group" in str(
        caught.value
    )
    # or it says itself which part is its own
    with open_loader(config, rank=1, world=2) as batches:
        assert (batches.rank, batches.world) == (1, 2)
    monkeypatch.delenv("WORLD_SIZE")
    assert (joined_ranks().rank, joined_ranks().world) == (0, 1)


@pytest.mark.parametrize(
    "options, said",
    [
        (
            {"rank": 3, "world": 2},
            "rank: expected a number from 0 to world - 1, got rank 3 of world 2",
        ),
        ({"rank": -1, "world": 2}, "got rank -1 of world 2"),
        ({"rank": 0, "world": 0}, "got rank 0 of world 0"),
        ({"rank": 0.5, "world": 2}, "got rank 0.5 of world 2"),
        ({"rank": 1, "world": 4}, "train.batch: expected a multiple of 4 for 4 ranks, got 6"),
        ({"rank": 1}, "open_loader: expected rank and world, or neither, got rank alone"),
        ({"world": 2}, "got world alone"),
        ({"end": -1}, "end: expected a number of steps, got -1"),
        ({"threads": -2, "prefetch": 0}, "loader.threads: .* got -2.*\nloader.prefetch: .* got 0"),
    ],
)
def test_options_that_no_loader_can_work_with_are_refused(config, options, said):
    with pytest.raises(UserError, match=said):
        open_loader(config, **options)


def test_trial_is_held_on_the_device_of_the_clips(config, monkeypatch):
    """The one that is asked for, and not this process's own."""
    devices = []

    def note(config, data, ranks):
        devices.append(ranks.device)
        return NO_TRIAL

    monkeypatch.setattr(module, "try_decoders", note)
    monkeypatch.setattr(module, "FusionIterator", lambda plan, sources, **options: options)
    assert open_loader(config, device="cuda:1")["device"] == "cuda:1"
    assert open_loader(config)["device"] == torch.device("cpu")
    assert devices == [torch.device("cuda:1"), torch.device("cpu")]
