"""Weights of SlowOnly-18 and -34 from before 0.2, in whose late blocks one kernel spanned time."""

import re

import pytest
import torch

from helpers.running import run
from omnidali.cli import main as cli
from omnidali.errors import UserError
from omnidali.models.checkpoint_file import load_weights
from omnidali.models.pretrained import lengthen_kernels, load_pretrained
from omnidali.models.recognizers import TSN, SlowOnly
from omnidali.models.resnet import ConvBN
from omnidali.models.weights import read_weights

LATE = re.compile(r"backbone\.layer[34]\.\d+\.conv2\.conv\.weight")


def old_network(depth):
    """SlowOnly as 0.1 had it."""
    torch.manual_seed(0)
    model = SlowOnly(depth, 3, 0.0, 4)
    for stage in (model.backbone.layer3, model.backbone.layer4):
        for block in stage:
            width = block.conv2.conv.out_channels
            block.conv2 = ConvBN(width, width, kernel=3, dims=3, relu=False)
            torch.nn.init.constant_(block.last_norm.weight, 0.5)
    return model.eval()


def test_old_weights_compute_the_same_in_the_present_network(tmp_path, capsys):
    old = old_network(18)
    torch.save({"state_dict": old.state_dict()}, tmp_path / "old.pt")
    clips = torch.randn(2, 3, 4, 48, 64)
    note = "4 kernels from before 0.2 got zeros"

    evaluated = SlowOnly(18, 3, 0.0, 4).eval()
    load_weights(evaluated, read_weights(tmp_path / "old.pt"), "old.pt")
    assert f"old.pt: {note}" in capsys.readouterr().err
    started = SlowOnly(18, 3, 0.0, 4).eval()
    report = load_pretrained(started, tmp_path / "old.pt")
    assert note in str(report) and not report.missing and not report.wrong
    assert set(report.lengthened) == set(filter(LATE.fullmatch, old.state_dict()))

    with torch.inference_mode():
        wanted = old(clips)
        assert wanted.std() > 1e-3
        for model in (evaluated, started):
            assert torch.allclose(model(clips), wanted, rtol=1e-5, atol=1e-6)


def test_run_with_old_weights_is_not_resumed():
    """Its network has more weights now, and its optimizer has momentum for fewer."""
    state = {"state_dict": old_network(18).state_dict()}
    with pytest.raises(UserError, match="Finish the run with OmniDALI 0.1, or .*model.pretrained"):
        load_weights(SlowOnly(18, 3, 0.0, 4), state, "resume", resumes=True)
    load_weights(SlowOnly(18, 3, 0.0, 4), {"state_dict": SlowOnly(18, 3, 0.0, 4).state_dict()}, "x")


def test_resume_of_an_old_run_is_refused(options, tmp_path):
    options = [*options, "model.name=slowonly", "clip.clip_len=2", "clip.num_clips=1"]
    assert run(*options, "train.steps=2")[0] == 0
    path = tmp_path / "run/checkpoints/last.pt"
    state = torch.load(path, weights_only=True)
    for name in filter(LATE.fullmatch, list(state["state_dict"])):
        state["state_dict"][name] = state["state_dict"][name][:, :, 1:2].clone()
    state.pop("digest")
    torch.save(state, path)
    code, _, error = run(*options, "train.steps=4", "auto")
    assert code == 2 and "one from before 0.2, when the second looked at one" in error


def test_export_of_old_weights_is_of_the_present_network(tmp_path):
    torch.save({"state_dict": old_network(18).state_dict()}, tmp_path / "old.pt")
    out = tmp_path / "new.pth"
    assert cli.main(["export", "--checkpoint", str(tmp_path / "old.pt"), "--out", str(out)]) == 0
    SlowOnly(18, 3, 0.0, 4).load_state_dict(read_weights(out)["state_dict"], strict=True)


@pytest.mark.parametrize("depth, kernels", [(18, 4), (34, 9)])
def test_shapes_become_those_of_the_present_network(depth, kernels):
    with torch.device("meta"):
        old, present = old_network(depth).state_dict(), SlowOnly(depth, 3, 0.0, 4).state_dict()
    after, names = lengthen_kernels(old)
    assert len(names) == kernels
    assert {name: after[name].shape for name in after} == {
        name: present[name].shape for name in present
    }


@pytest.mark.parametrize(
    "make",
    [lambda: TSN(18, 3, 0.0), lambda: SlowOnly(18, 3, 0.0, 4), lambda: SlowOnly(50, 3, 0, 4)],
)
def test_other_weights_stay_as_they_are(make):
    with torch.device("meta"):
        weights = make().state_dict()
    after, names = lengthen_kernels(weights)
    assert not names and all(after[name] is weights[name] for name in weights)
