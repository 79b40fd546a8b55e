"""Features of frames: the search with a network, the measured threshold, and the whitening."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.dedup_world import config_of, make_dedup_world, rows_of
from omnidali.curation.dedup.dedup import dedup
from omnidali.curation.dedup.duplicates import DedupSettings
from omnidali.curation.dedup.features import FeatureSimilarity, fit_whitening
from omnidali.distributed.ranks import Ranks
from omnidali.models.recognizers import TSN


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_dedup_world(tmp_path_factory.mktemp("dedup"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A ResNet-18 with random weights under torchvision's names, as ImageNet weights come."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    state = TSN(18, 2, 0.0).state_dict()
    torch.save({"state_dict": state}, path)
    return path


def test_features_find_copies_and_are_computed_once(world, weights, tmp_path, monkeypatch):
    config = config_of(world, tmp_path / "run")

    def search(path=weights):
        dedup(
            config,
            tmp_path / "out",
            Ranks(),
            checkpoint=str(path),
            names=["images"],
            settings=DedupSettings(threshold=0.8, distance=0, rate=4.0),
        )
        return rows_of(tmp_path / "out", "images")

    first = search()
    assert {"larger.jpg", "smaller.jpg", "pressed.jpg"} <= set(first)
    assert "features" in {row["kind"] for row in first.values()}
    assert not any(name.startswith(("other", "black")) for name in first)
    seen = []

    def note_table(*_, table, **__):
        seen.append(len(table))
        return iter(())

    monkeypatch.setattr(
        "omnidali.curation.dedup.frame_cache.run_over",
        note_table,
    )
    assert search() == first and not seen  # nothing is computed again
    os.utime(world / "images/black.jpg", ns=(0, 10**18 + time.time_ns()))
    search()
    assert seen == [1, 1]  # hash and features of the changed file alone
    monkeypatch.undo()
    torch.manual_seed(2)
    torch.save({"state_dict": TSN(18, 2, 0.0).state_dict()}, tmp_path / "others.pth")
    search(tmp_path / "others.pth")
    # another network's are others
    assert len(list((tmp_path / "out/kept/images").glob("features-*"))) == 2


def test_measured_threshold_is_the_mean_cosine_of_two_crops(world, weights, tmp_path):
    config = config_of(world, tmp_path / "run")
    dedup(config, tmp_path / "out", Ranks(), checkpoint=str(weights), names=["clips"])
    kept = tmp_path / "out/kept"
    read = {
        name: [np.load(path) for path in sorted(kept.glob(f"{name}/values.npy"))]
        for name in ("clips/features-*", "evaluation/features-*", "evaluation/crops-*")
    }
    frames = np.concatenate([*read["clips/features-*"], *read["evaluation/features-*"]]).astype(
        np.float64
    )
    whitening = fit_whitening(frames)
    crops = read["evaluation/crops-*"][0].astype(np.float64)
    one, other = ((part - whitening.mean) @ whitening.matrix for part in np.split(crops, 2, axis=1))
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    told = re.search(r"is at least ([0-9.]+),", (tmp_path / "out/report.md").read_text())
    assert float(told[1]) == pytest.approx(cosines.mean(), abs=2e-4)
    assert not np.allclose(one, other) and cosines.mean() < 0.999


def test_whitening_matches_plain_numpy():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((4000, 6)) @ rng.standard_normal((6, 6)) + 3
    whitening = fit_whitening(features)
    white = (features - whitening.mean) @ whitening.matrix
    np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(6), atol=0.05)  # hardly shrunk
    # the estimate of Ledoit and Wolf, one sample at a time
    few = features[:20] - features[:20].mean(axis=0)
    sample = few.T @ few / 20
    level = np.trace(sample) / 6
    noise = sum(((np.outer(row, row) - sample) ** 2).sum() for row in few) / 20**2
    shrinkage = min(noise / ((sample - level * np.eye(6)) ** 2).sum(), 1)
    whitening = fit_whitening(features[:20])
    assert whitening.matrix.shape == (6, 5)  # one direction for every four frames
    assert whitening.shrinkage == pytest.approx(shrinkage, rel=1e-6)
    shrunk = (1 - shrinkage) * sample + shrinkage * level * np.eye(6)
    np.testing.assert_allclose(whitening.matrix.T @ shrunk @ whitening.matrix, np.eye(5), atol=1e-4)
    similarity = FeatureSimilarity(whitening)
    one, other = (
        similarity.prepare(features[:3]),
        similarity.prepare(np.vstack([features[5:7], np.zeros(6)])),
    )
    whitened = (features - whitening.mean) @ whitening.matrix
    expected = [
        [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in whitened[5:7]] + [0]
        for a in whitened[:3]
    ]
    np.testing.assert_allclose(similarity(one, other), expected, atol=1e-5)
