"""Scores of items: exact on any number of ranks, and equal to plain restatements."""

import numpy as np
import pytest
import torch

from conftest import SOURCES
from omnidali.config.schema import ClipConfig, Config, EvaluationConfig, LoaderConfig, ViewsConfig
from omnidali.distributed.ranks import Ranks
from omnidali.evaluation.score import score_items
from omnidali.loading.fusion import FusionIterator
from omnidali.models.precision import make_autocast
from omnidali.models.recognizers import TSN, SlowOnly
from omnidali.planning.evaluation_plan import EvaluationPlan


def make_config(views, clip, batch=4):
    return Config(
        clip=clip,
        evaluation=EvaluationConfig(test=views, batch=batch),
        loader=LoaderConfig(threads=2),
    )


@pytest.mark.parametrize("average", ["score", "prob"])
def test_scores_are_the_mean_over_views(tables, average):
    torch.manual_seed(0)
    views = ViewsConfig(num_clips=2, crops="three", size=32, short_side=40, average=average)
    clip = ClipConfig(clip_len=4, frame_interval=2)
    model = SlowOnly(18, 4, 0.3, 4)
    config = make_config(views, clip)
    scores = score_items(
        model,
        tables[0],
        source=SOURCES["clips"],
        views=views,
        config=config,
        ranks=Ranks(),
        autocast=make_autocast("fp32", torch.device("cpu")),
    )
    assert model.training and scores.shape == (9, 4)
    model.eval()
    with (
        FusionIterator(EvaluationPlan(tables[0], clip, views, 1), [SOURCES["clips"]]) as batches,
        torch.no_grad(),
    ):
        for item, batch in enumerate(batches):
            rows = []
            for crop in batch.groups[0].clips:  # (3, 8, 32, 32): two clips of four frames
                for part in (crop[:, :4], crop[:, 4:]):
                    logits = model(part[None])[0].double()
                    rows.append(logits.softmax(0) if average == "prob" else logits)
            assert np.allclose(scores[item], torch.stack(rows).mean(0), atol=1e-5)


def test_tsn_averages_features_of_all_frames_and_crops(tables):
    torch.manual_seed(0)
    views, clip = ViewsConfig(num_clips=5, crops="three", size=32, short_side=40), ClipConfig()
    model = TSN(18, 4, 0.3).eval()
    scores = score_items(
        model,
        tables[0],
        source=SOURCES["clips"],
        views=views,
        config=make_config(views, clip),
        ranks=Ranks(),
        autocast=make_autocast("fp32", torch.device("cpu")),
    )
    with (
        FusionIterator(EvaluationPlan(tables[0], clip, views, 1), [SOURCES["clips"]]) as batches,
        torch.no_grad(),
    ):
        for item, batch in enumerate(batches):
            frames = batch.groups[0].clips.transpose(1, 2).flatten(0, 1)  # 15 frames
            features = model.backbone(frames).mean(dim=(2, 3)).mean(dim=0)
            assert np.allclose(scores[item], model.cls_head.fc_cls(features), atol=1e-5)
