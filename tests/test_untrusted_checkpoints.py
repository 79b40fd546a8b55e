"""Untrusted checkpoints: no code runs, and no memory is taken for what they claim."""

import json
import os
import shutil
import struct
import zipfile

import pytest
import torch

from helpers.small_builds import write
from omnidali.errors import UserError
from omnidali.models.checkpoint_file import load_checkpoint
from omnidali.models.weights import best_weights, read_weights


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w')",)


def test_checkpoints_run_no_code(tmp_path):
    """Training from weights, resuming, evaluating and exporting all use these two functions."""
    marker = tmp_path / "marker"
    import pickle

    for name, data in (
        ("evil.pth", None),
        ("raw.pt", pickle.dumps(Evil(marker))),
        ("evil.safetensors", pickle.dumps(Evil(marker))),
    ):
        if data is None:
            torch.save(
                {"state_dict": {"a": torch.zeros(2)}, "epoch": Evil(marker)}, tmp_path / name
            )
        else:
            write(tmp_path / name, data)
        for read in (read_weights, load_checkpoint):
            with pytest.raises(UserError, match="can be read safely"):
                read(tmp_path / name)
    shutil.copytree(tmp_path, tmp_path / "run/checkpoints", ignore=shutil.ignore_patterns("run"))
    os.rename(tmp_path / "run/checkpoints/evil.pth", tmp_path / "run/checkpoints/last.pt")
    with pytest.raises(UserError):
        load_checkpoint(tmp_path / "run")
    assert not marker.exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)  # the control
    assert marker.exists()


def test_checkpoints_that_claim_terabytes_are_refused(tmp_path):
    claim = torch.zeros(1).expand(1 << 40)
    states = {
        "claim": {"a": claim},
        "number": {"a": 3},
        "name": {1: torch.zeros(2)},
        "meta": {"a": torch.zeros(9, device="meta")},
        "sparse": {"a": torch.zeros(9).to_sparse()},
        "complex": {"a": torch.zeros(9, dtype=torch.complex64)},
    }
    for name, state in states.items():
        torch.save({"state_dict": state}, tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match="expected weights by name|can be read safely"):
            read_weights(tmp_path / f"{name}.pth")
    torch.save({"state_dict": {"a": torch.zeros(1 << 22)}}, tmp_path / "big.pth")
    with (
        zipfile.ZipFile(tmp_path / "big.pth") as full,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in full.infolist():
            packed.writestr(entry.filename, full.read(entry))
    with pytest.raises(UserError, match="entries of 16,.* bytes in a file of"):
        read_weights(tmp_path / "bomb.pth")
    lie = json.dumps(
        {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    ).encode()
    for data in (
        struct.pack("<Q", len(lie)) + lie,
        struct.pack("<Q", 1 << 62) + b"{}",
        b"\xff" * 8,
        struct.pack("<Q", 50_000) + b"[" * 50_000,
    ):
        with pytest.raises(UserError, match="can be read safely"):
            read_weights(write(tmp_path / "x.safetensors", data))
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(UserError, match="got no regular file"):
        read_weights(tmp_path / "pipe.pth")


PLAIN = {"a.weight": torch.zeros(2), "a.bias": torch.zeros(2)}


@pytest.mark.parametrize(
    "ema",
    [
        *(torch.zeros(3), [1], "x", 0.99, {}, {"decay": 0.99}, {"decay": torch.tensor(0.99)}),
        *({"module": PLAIN}, {"a.weight": torch.ones(2)}, {**PLAIN, "n_averaged": torch.ones(())}),
    ],
)
def test_averages_count_only_with_the_names_of_the_weights(tmp_path, ema):
    torch.save({"state_dict": PLAIN, "ema": ema}, tmp_path / "a.pth")
    assert best_weights(read_weights(tmp_path / "a.pth")).keys() == PLAIN.keys()
    average = {name: value + 1 for name, value in PLAIN.items()}
    torch.save({"state_dict": PLAIN, "ema": average}, tmp_path / "a.pth")
    assert best_weights(read_weights(tmp_path / "a.pth"))["a.bias"].tolist() == [1, 1]


def test_checksum_is_compared_in_checkpoints_of_ours_alone(tmp_path):
    for digest in ("abc", 3, b"sha256:", torch.zeros(1)):
        torch.save({"state_dict": PLAIN, "digest": digest}, tmp_path / "a.pth")
        assert read_weights(tmp_path / "a.pth")["state_dict"].keys() == PLAIN.keys()
        ours = {"state_dict": PLAIN, "loader": {"step": 1}, "digest": digest}
        torch.save(ours, tmp_path / "a.pth")
        with pytest.raises(UserError, match="others than its checksum says"):
            read_weights(tmp_path / "a.pth")
    torch.save({"state_dict": PLAIN, "digest": "sha256:0"}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="others than its checksum says"):
        read_weights(tmp_path / "a.pth")
