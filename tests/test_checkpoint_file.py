"""Checkpoint files: crashes while they are written, damage, and untrusted content."""

import os
import signal

import pytest
import torch

from helpers.running import (
    assert_same,
    damage_checkpoint,
    run,
    weights,
)
from helpers.warm_process import Process
from omnidali.errors import UserError
from omnidali.models.checkpoint_file import (
    load_checkpoint,
    load_newest,
    load_weights,
    save_checkpoint,
)
from omnidali.models.recognizers import TSN

STAGES = {
    "save": 2,
    "fsync 1": 2,
    "link 1": 2,
    "replace 1": 2,
    "replace 2": 2,
    "fsync 2": 3,
    "nothing": 3,
}


def test_kill_at_any_moment_of_a_save_leaves_a_good_checkpoint(warm, tmp_path):
    for process in [Process(warm, tmp_path / stage, "save", stage) for stage in STAGES]:
        assert process.wait() == (0 if process.folder.name == "nothing" else -signal.SIGKILL), (
            process.output
        )
    for stage, step in STAGES.items():
        assert load_newest(tmp_path / stage)[1]["loader"]["step"] == step, stage
        assert load_checkpoint(tmp_path / stage / "previous.pt")["loader"]["step"] in (1, 2)
    assert load_checkpoint(tmp_path / "nothing" / "previous.pt")["loader"]["step"] == 2


def test_save_without_hard_links_moves_the_old_file(tmp_path, monkeypatch):
    state = {"state_dict": {"w": torch.zeros(3)}, "loader": {"step": 1}}
    monkeypatch.setattr(
        os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "Operation not permitted"))
    )
    for step in (1, 2):
        state["loader"]["step"] = step
        save_checkpoint(tmp_path / "last.pt", state, tmp_path / "previous.pt")
    (tmp_path / "last.pt").unlink()  # a crash between the two renames
    path, state, line = load_newest(tmp_path)
    assert (
        state["loader"]["step"] == 1
        and line == f"last.pt is missing: going on from {path}, after step 1"
    )


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty"])
def test_damaged_checkpoints_are_passed_over(tmp_path, how):
    for name, step in (("last.pt", 30), ("previous.pt", 20), ("step-9.pt", 9), ("step-10.pt", 10)):
        save_checkpoint(
            tmp_path / "checkpoints" / name,
            {"state_dict": {"w": torch.zeros(9000)}, "loader": {"step": step}},
        )
    for name, step in (("last.pt", 20), ("previous.pt", 10), ("step-10.pt", 9)):
        damage_checkpoint(tmp_path / "checkpoints" / name, how)
        path, state, line = load_newest(tmp_path / "checkpoints")
        assert state["loader"]["step"] == step
        assert f"{name} is damaged (" in line and line.endswith(
            f"going on from {path}, after step {step}"
        )
        with pytest.raises(UserError, match="damaged"):
            load_checkpoint(tmp_path / "checkpoints" / name)
    damage_checkpoint(tmp_path / "checkpoints" / "step-9.pt", how)
    with pytest.raises(UserError) as caught:
        load_newest(tmp_path / "checkpoints")
    assert all(
        f"{name} is damaged" in str(caught.value)
        for name in ("last.pt", "previous.pt", "step-9.pt", "step-10.pt")
    )


def test_file_without_checksum_loads_with_a_warning(tmp_path, capsys):
    torch.save({"state_dict": {"w": torch.zeros(3)}, "loader": {"step": 1}}, tmp_path / "last.pt")
    assert load_newest(tmp_path)[1]["loader"]["step"] == 1
    assert "last.pt was saved without a checksum" in capsys.readouterr().err


def test_resume_uses_previous_checkpoint_if_last_is_damaged(options, tmp_path):
    run(*options, "train.steps=16")
    whole, checkpoints = weights(tmp_path / "run"), tmp_path / "run" / "checkpoints"
    damage_checkpoint(checkpoints / "last.pt", "flipped")
    (checkpoints / "last.pt.part").write_bytes(b"left by a crash")
    code, out, _ = run(*options, "train.steps=16", "auto")
    assert code == 0 and "last.pt is damaged" in out and "previous.pt, after step 8" in out
    assert_same(whole, weights(tmp_path / "run"))
    assert not list(checkpoints.glob("*.part"))
    # the damaged one never took its place
    assert load_checkpoint(checkpoints / "previous.pt")["loader"]["step"] == 8


def test_save_after_kill_between_two_renames_leaves_no_part(tmp_path):
    """Both names are of one file then, and renaming one to the other does nothing."""
    state = {"state_dict": {"w": torch.zeros(3)}, "loader": {"step": 1}}
    save_checkpoint(tmp_path / "last.pt", state, tmp_path / "previous.pt")
    os.link(tmp_path / "last.pt", tmp_path / "previous.pt")
    save_checkpoint(tmp_path / "last.pt", state, tmp_path / "previous.pt")
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "previous.pt"}


def test_checkpoints_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "last.pt"
    save_checkpoint(path, {"state_dict": {}, "n": 1})

    def dies(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(UserError, match="No space left"):
        save_checkpoint(path, {"state_dict": {}, "n": 2})
    assert load_checkpoint(path)["n"] == 1


class Evil:
    def __reduce__(self):
        return exec, ("open('/tmp/omnidali-evil', 'w')",)


@pytest.mark.parametrize("content", ["garbage", "evil", "list", "missing", "empty folder"])
def test_bad_checkpoints_are_refused(tmp_path, content):
    import os

    path = tmp_path / "c.pt"
    if content == "garbage":
        path.write_bytes(b"\x80garbage" * 20)
    elif content == "evil":
        torch.save({"state_dict": {}, "x": Evil()}, path)
    elif content == "list":
        torch.save([1], path)
    elif content == "empty folder":
        path.mkdir()
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    assert "c.pt: expected a" in str(caught.value) and not os.path.exists("/tmp/omnidali-evil")


def test_weights_of_another_model_are_refused():
    model, other = TSN(18, 5, 0.5), TSN(18, 7, 0.5)
    state = {"state_dict": other.state_dict(), "model": {"name": "tsn", "depth": 18, "classes": 7}}
    with pytest.raises(UserError) as caught:
        load_weights(model, state, "resume")
    assert "cls_head.fc_cls.weight is (7, 512) instead of (5, 512)" in str(caught.value)
    assert "It was made for: name tsn, depth 18, classes 7." in str(caught.value)
    with pytest.raises(UserError, match="and 2.. more|and .* more"):
        load_weights(TSN(50, 5, 0.5), state, "resume")
