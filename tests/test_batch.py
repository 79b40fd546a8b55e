"""ClipBatch and StepBatch: what they refuse, and how they print."""

import pytest
import torch

from omnidali.loading.batch import ClipBatch, StepBatch


def test_clip_batch_checks_shapes_and_types():
    fine = {
        "labels": torch.zeros(2, dtype=torch.int64),
        "source": torch.zeros(2, dtype=torch.int64),
        "record": torch.zeros(2, dtype=torch.int64),
        "slot": torch.zeros(2, dtype=torch.int64),
        "valid": torch.ones(2, dtype=torch.bool),
    }
    batch = ClipBatch(torch.zeros(2, 4, 8, 6, 3).permute(0, 4, 1, 2, 3), **fine)
    assert repr(StepBatch(7, (batch,))) == "StepBatch(7: ClipBatch(2x3x4x8x6 float32 on cpu))"
    with pytest.raises(ValueError, match="an image needs a time axis"):
        ClipBatch(torch.zeros(2, 3, 8, 6), **fine)
    with pytest.raises(ValueError, match="channels-last in memory"):
        ClipBatch(torch.zeros(2, 3, 4, 8, 6), **fine)
    with pytest.raises(ValueError, match="normalised"):
        ClipBatch(torch.zeros(2, 3, 4, 8, 6, dtype=torch.uint8), **fine)
    with pytest.raises(ValueError, match=r"labels must be \(2,\) torch.int64"):
        ClipBatch(
            torch.zeros(2, 4, 8, 6, 3).permute(0, 4, 1, 2, 3), **{**fine, "labels": torch.zeros(2)}
        )
