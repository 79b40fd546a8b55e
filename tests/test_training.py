"""Averages and meters, against tables and plain lines."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omnidali.distributed.ranks import Ranks
from omnidali.evaluation.accuracy import measure_accuracy
from omnidali.loading.stats import SourceStats
from omnidali.training.console import step_line
from omnidali.training.ema import Ema
from omnidali.training.gc_control import closing_loader
from omnidali.training.meters import SourceMeter


def test_ema_follows_the_model():
    model = torch.nn.BatchNorm1d(2)
    ema = Ema(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.running_mean.fill_(7.0)
    ema.update(model)
    assert torch.allclose(ema.average.weight, torch.tensor([1.1, 1.1]))
    assert (ema.average.running_mean == 7).all() and not ema.average.weight.requires_grad


def test_meter_by_source():
    meter = SourceMeter(["k", "web"], Ranks())
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    for _ in range(2):
        meter.add(
            torch.tensor([1.0, 2.0, 3.0]), logits, torch.tensor([0, 0, 0]), torch.tensor([0, 0, 1])
        )
    stats = {
        name: SourceStats(0, 0.0, 0.0, 0.0, 0.5, 0.5, substituted, 2 * substituted, 1, 0)
        for name, substituted in (("web", 3), ("k", 4))
    }
    assert meter.read(stats) == {
        "all": {
            "loss": 2.0,
            "top1": pytest.approx(200 / 3),
            "clips": 6,
            "substituted": 7,
            "replaced_frames": 14,
        },
        "k": {"loss": 1.5, "top1": 50.0, "clips": 4, "substituted": 4, "replaced_frames": 8},
        "web": {"loss": 3.0, "top1": 100.0, "clips": 2, "substituted": 3, "replaced_frames": 6},
    }
    assert meter.read(stats)["all"]["clips"] == 0


def test_step_line_is_that_of_the_readme():
    sources = {
        "all": {"loss": 3.4119, "top1": 31.2, "substituted": 5},
        "k400": {"top1": 35.0},
        "web": {"top1": 20.1},
    }
    throughput = {
        "bad_files": {"k400": 0, "web": 3},
        "left_to_cpu": {"k400": 0, "web": 0},
        "clips_per_second": 1842.3,
        "wait_percent": 2.1,
        "wait_percent_by_source": {"k400": 1.8, "web": 0.3},
        "mix_percent": {"k400": 66.7, "web": 33.3},
        "memory_gib": 14.2,
        "eta_seconds": 18720,
    }
    line = step_line(1200, 90000, sources=sources, throughput=throughput, lr=0.01)
    assert line == (
        "step 1200/90000 1.3% | loss 3.412 | top1 31.2 (k400 35.0, web 20.1) | lr 0.01"
        " | 1,842 clips/s | wait 2.1% (k400 1.8, web 0.3) | mix 66.7/33.3"
        " | bad files: web 3, 5 clips substituted | 14.2 GiB | eta 5h12m"
    )
    throughput["left_to_cpu"]["web"] = 2
    line = step_line(1200, 90000, sources=sources, throughput=throughput, lr=0.01)
    assert " clips substituted | left to the CPU: web 2 files | 14.2 GiB" in line


@given(st.integers(1, 60), st.integers(2, 9), st.integers(0, 10**6))
def test_accuracy_equals_plain_sorting(items, classes, seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=(items, classes)), rng.integers(0, classes, items)
    accuracy = measure_accuracy(scores, labels)
    first = [sorted(range(classes), key=lambda c: -row[c]) for row in scores]
    assert accuracy.top1 == sum(
        order[0] == label for order, label in zip(first, labels, strict=True)
    )
    assert accuracy.top5 == sum(
        label in order[:5] for order, label in zip(first, labels, strict=True)
    )
    assert accuracy.confusion.sum() == items and np.trace(accuracy.confusion) == accuracy.top1
    by_class = [
        np.mean([first[i][0] == c for i in range(items) if labels[i] == c])
        for c in range(classes)
        if (labels == c).any()
    ]
    assert accuracy.mean_class == pytest.approx(np.mean(by_class))


def test_equal_scores_count_as_wrong():
    for scores in (np.zeros((4, 3)), np.array([[0, 1, np.nan]] * 4)):
        assert measure_accuracy(scores, np.array([0, 2, 2, 0])).top1 == 0


def test_items_without_a_score_are_counted_apart():
    accuracy = measure_accuracy(np.array([[0.0, 1], [np.nan] * 2, [1, 0]]), np.array([1, 1, 1]))
    assert (accuracy.items, accuracy.top1, accuracy.unreadable) == (2, 1, 1)
    assert accuracy.class_items.tolist() == [0, 2] and accuracy.confusion.sum() == 2


def test_error_of_closing_does_not_hide_an_earlier_one(capsys):
    class Breaks:
        def close(self):
            raise OSError("second")

    with pytest.raises(KeyError, match="first"), closing_loader(Breaks()):
        raise KeyError("first")
    assert "while the loader was closed: second" in capsys.readouterr().err
    with pytest.raises(OSError, match="second"), closing_loader(Breaks()):
        pass
