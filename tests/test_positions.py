"""Where the clips of an evaluation begin: centered as in mmaction2 0.x, or from end to end."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.plans import made_up_table
from omnidali.config.schema import ClipConfig, ViewsConfig
from omnidali.curation.lint.source_stats import find_short_rows
from omnidali.planning.evaluation_plan import EvaluationPlan
from omnidali.planning.fingerprint import find_differences
from omnidali.planning.frame_sampling import sample_test


def plain_ends(length, clip_len, *, interval, clips):
    """The first frames of the clips of one video, as mmaction2 1.2's SampleFrames states them."""
    if clip_len == 1:
        average = length / float(clips)
        return [int(k * average + average / 2.0) for k in range(clips)]
    room = max(length - ((clip_len - 1) * interval + 1), 0)
    if clips == 1:
        return [room // 2]
    return [round(k * (room / float(clips - 1))) for k in range(clips)]


@pytest.mark.parametrize("clip_len, interval", [(1, 1), (4, 16), (8, 8), (32, 2), (2, 1)])
@pytest.mark.parametrize("clips", [1, 2, 3, 10])
def test_clips_reach_from_end_to_end(clip_len, interval, clips):
    lengths = np.array([*range(1, 600), 2500, 100_000])
    frames = sample_test(lengths, clip_len, interval=interval, clips=clips, positions="ends")
    for length, row in zip(lengths.tolist(), frames, strict=True):
        inside = np.arange(clip_len) * interval
        firsts = plain_ends(length, clip_len, interval=interval, clips=clips)
        wanted = np.add.outer(firsts, inside) % length
        assert row.tolist() == wanted.ravel().tolist(), length
        span = (clip_len - 1) * interval + 1
        if clips > 1 and clip_len > 1 and length >= span:
            assert row[0] == 0 and row[-1] == length - 1


@pytest.mark.parametrize("clips", [1, 8, 25])
def test_single_frames_are_centered_at_either_setting(clips):
    lengths = np.arange(1, 600)
    ends = sample_test(lengths, 1, interval=1, clips=clips, positions="ends")
    assert np.array_equal(ends, sample_test(lengths, 1, interval=1, clips=clips))


def test_default_positions_change_no_identity_and_no_frame():
    """Scores and checkpoints from before there were positions stay valid."""
    views, clip = ViewsConfig(num_clips=10), ClipConfig(clip_len=8, frame_interval=8)
    assert views.identity == {
        "num_clips": 10,
        "crops": "center",
        "size": 256,
        "short_side": 256,
        "average": "score",
    }
    table = made_up_table(30)
    plan = EvaluationPlan(table, clip, views, 4)
    ends = EvaluationPlan(table, clip, replace(views, positions="ends"), 4)
    assert plan.fingerprint()["views"] == views.identity
    assert ends.fingerprint()["views"] == {**views.identity, "positions": "ends"}
    assert find_differences(plan.fingerprint(), ends.fingerprint()) == [
        "views.positions: none became ends"
    ]

    lengths = table.frames[:4]
    assert np.array_equal(plan(0)[0].frames, sample_test(lengths, 8, 8, 10))
    assert np.array_equal(ends(0)[0].frames, sample_test(lengths, 8, 8, 10, "ends"))
    assert not np.array_equal(plan(0)[0].frames, ends(0)[0].frames)


def test_lint_judges_the_clips_that_are_shown():
    """Two clips of 57 frames in a video of 60 begin alike in 0.x, and 3 frames apart in 1.x."""
    table, clip = made_up_table(1), ClipConfig(clip_len=8, frame_interval=8)
    table.frames[:] = 60
    views = ViewsConfig(num_clips=2)
    assert find_short_rows(table, clip, views).tolist() == [0]
    assert find_short_rows(table, clip, replace(views, positions="ends")).tolist() == []
