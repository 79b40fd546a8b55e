"""Encoders leave the process scheduled as it was."""

import os

import pytest

from omnidali.testing.numbered_media import write_video
from omnidali.testing.usual_priority import keeping_priority


def test_scheduling_is_restored_after_an_error():
    usual = os.sched_getscheduler(0)
    with pytest.raises(ZeroDivisionError), keeping_priority():
        os.sched_setscheduler(os.getpid(), os.SCHED_BATCH, os.sched_param(0))
        assert os.sched_getscheduler(0) == os.SCHED_BATCH != usual
        raise ZeroDivisionError
    assert os.sched_getscheduler(0) == usual


def test_av1_encoder_does_not_make_the_process_a_real_time_one(tmp_path):
    """Without the precaution it does, if root runs it."""
    usual = os.sched_getscheduler(0)
    write_video(
        tmp_path / "a.mkv",
        1,
        frames=4,
        width=96,
        height=64,
        codec="libsvtav1",
        options={"crf": "40"},
    )
    assert os.sched_getscheduler(0) == usual
