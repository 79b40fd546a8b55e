"""Networks, logits and test frames are those of mmaction2 1.2.0, where that is installed."""

import numpy as np
import pytest
import torch

from benchmarks.peer_pipelines import complete_mmaction2
from omnidali.models.recognizers import TSN, SlowOnly
from omnidali.models.resnet import LAYERS
from omnidali.models.weights import class_names, read_weights
from omnidali.planning.frame_sampling import sample_test

CLASSES = 7


@pytest.fixture(scope="module", autouse=True)
def mmaction2():
    complete_mmaction2()
    return pytest.importorskip("mmaction.models", exc_type=ImportError)


def theirs_like(kind, depth, mmaction2):
    """mmaction2's recogniser, as its configs of TSN and SlowOnly build it."""
    width = 2048 if LAYERS[depth][1] else 512
    if kind == "tsn":
        return mmaction2.Recognizer2D(
            backbone={"type": "ResNet", "depth": depth, "pretrained": None, "norm_eval": False},
            cls_head={"type": "TSNHead", "num_classes": CLASSES, "in_channels": width},
            data_preprocessor={"type": "ActionDataPreprocessor"},
        )
    return mmaction2.Recognizer3D(
        backbone={
            "type": "ResNet3dSlowOnly",
            "depth": depth,
            "pretrained": None,
            "lateral": False,
            "conv1_kernel": (1, 7, 7),
            "conv1_stride_t": 1,
            "pool1_stride_t": 1,
            "inflate": (0, 0, 1, 1),
            "norm_eval": False,
        },
        cls_head={"type": "I3DHead", "num_classes": CLASSES, "in_channels": width},
        data_preprocessor={"type": "ActionDataPreprocessor", "format_shape": "NCTHW"},
    )


def randomise(model):
    """Weights with which every layer matters: norms move and scale, also the last of a block."""
    torch.manual_seed(3)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.weight.uniform_(0.5, 1.0)
                module.bias.uniform_(-0.2, 0.2)
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.8, 1.2)


@pytest.mark.parametrize("depth", LAYERS)
@pytest.mark.parametrize("kind", ["tsn", "slowonly"])
def test_networks_and_logits_are_equal(mmaction2, kind, depth):
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmaction"):
        theirs = theirs_like(kind, depth, mmaction2).eval()
    ours = (TSN(depth, CLASSES, 0.5) if kind == "tsn" else SlowOnly(depth, CLASSES, 0.5, 4)).eval()
    randomise(theirs)
    shapes = [
        {name: tuple(value.shape) for name, value in model.state_dict().items()}
        for model in (theirs, ours)
    ]
    assert shapes[0] == shapes[1]
    theirs.load_state_dict(ours.state_dict(), strict=True)
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)

    clips = torch.randn(2, 3, 4, 64, 80)
    with torch.inference_mode():
        if kind == "tsn":
            frames = clips.transpose(1, 2).flatten(0, 1)
            wanted = theirs.cls_head(theirs.backbone(frames), num_segs=4)
        else:
            wanted = theirs.cls_head(theirs.backbone(clips))
        logits = ours(clips)
    assert wanted.std() > 1e-3  # the comparison below would hold for zeros
    assert torch.allclose(logits, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("clip_len, interval", [(1, 1), (1, 4), (4, 16), (8, 8), (32, 2), (2, 1)])
@pytest.mark.parametrize("clips", [1, 2, 3, 10, 25])
def test_frames_are_equal(mmaction2, clip_len, interval, clips):
    from mmaction.datasets.transforms import SampleFrames

    sample = SampleFrames(clip_len, interval, clips, test_mode=True)
    lengths = np.array([*range(1, 400), 1000, 99_999])
    frames = sample_test(lengths, clip_len, interval=interval, clips=clips, positions="ends")
    for length, ours in zip(lengths.tolist(), frames, strict=True):
        theirs = sample({"total_frames": length, "start_index": 0})["frame_inds"]
        assert ours.tolist() == theirs.tolist(), length


def test_snapshot_with_logs_of_mmengine_is_read(tmp_path):
    """As ``Runner.save_checkpoint`` writes it; HistoryBuffer pickles methods of its class, too."""
    from mmengine.logging import HistoryBuffer, MessageHub

    hub = MessageHub("snapshot")
    for loss in (2.0, 1.5):
        hub.update_scalar("train/loss", loss)
    hub.update_info("best_score", np.float64(0.5))
    assert isinstance(hub.state_dict()["log_scalars"]["train/loss"], HistoryBuffer)
    weights = TSN(18, CLASSES, 0.5).state_dict()
    state = {
        "meta": {"epoch": np.int64(2), "dataset_meta": {"classes": tuple("abcdefg")}},
        "state_dict": weights,
        "message_hub": hub.state_dict(),
    }
    torch.save(state, tmp_path / "epoch_2.pth")
    read = read_weights(tmp_path / "epoch_2.pth")
    assert read["meta"]["epoch"] == 2 and class_names(read) == list("abcdefg")
    assert read["message_hub"]["runtime_info"]["best_score"] == 0.5
    assert all(torch.equal(read["state_dict"][name], value) for name, value in weights.items())
