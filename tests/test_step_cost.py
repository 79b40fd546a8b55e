"""The cost of a step: the frames that the plan gives it, and the operations of the network."""

import random

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import SMALL
from omnidali.config.load import load_config
from omnidali.config.model_settings import ModelConfig
from omnidali.distributed.ranks import Ranks
from omnidali.loading.data import open_data
from omnidali.loading.open_loader import make_plan
from omnidali.models.build import build_model
from omnidali.training.step_cost import OPERATIONS, frames_of_step, measure_step

MIXES = {
    "weights": ["train.batch=4"],
    "batches": ["sources.clips={kind: video, root: clips, list: clips.txt, batch: 2}"],
    "in turn": [
        "sources.clips={kind: video, root: clips, list: clips.txt, batch: 2}",
        "train.step_mode=alternating",
        "train.ratio=[3, 1]",
    ],
    "inflated images": ["train.batch=4", "sources.photos.inflate=still"],
}


@pytest.mark.parametrize("mix", MIXES)
def test_frames_of_a_step_are_those_of_the_plan(media_root, tmp_path, mix):
    (tmp_path / "c.yaml").write_text(SMALL + "train: {steps: 12}\n")
    settings = [f"data_root={media_root}", f"run_dir={tmp_path}", "clip.clip_len=3", *MIXES[mix]]
    if mix in ("batches", "in turn"):
        settings.append("sources.photos={kind: image, root: photos, list: photos.txt, batch: 5}")
    config = load_config(tmp_path / "c.yaml", settings)
    plan = make_plan(config, open_data(config))
    frames = [
        len(samples.frames) * samples.frames.shape[1] * samples.repeat
        for step in range(12)
        for samples in plan(step)
    ]
    assert frames_of_step(config) == pytest.approx(sum(frames) / 12)


@pytest.mark.parametrize(
    "name, depth", [(name, d) for name in OPERATIONS for d in OPERATIONS[name]]
)
def test_operations_are_those_of_the_network(name, depth):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_model(ModelConfig(name=name, depth=depth), 1, 8).eval()(
            torch.empty(1, 3, 8, 224, 224)
        )
    counted = counter.get_total_flops() / (8 * 224 * 224)
    assert OPERATIONS[name][depth] == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize("name", ["tsn", "slowonly"])
def test_measuring_changes_nothing(tmp_path, name, monkeypatch):
    (tmp_path / "c.yaml").write_text(SMALL + "train: {batch: 6, steps: 4}\n")
    config = load_config(tmp_path / "c.yaml", [f"model.name={name}"])

    def state():
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())

    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    before = state()
    assert measure_step(config, Ranks(core_sharers=10_000)) > 0
    assert state() == before
    assert threads == [1, torch.get_num_threads()]
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
