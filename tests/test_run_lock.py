"""One run a folder, also where somebody removes the lock, the folder, or both."""

import errno
import fcntl
import os
import shutil
import stat

import pytest

from helpers.crashing import calling
from helpers.running import run, step_of
from omnidali.errors import UserError
from omnidali.models.checkpoint_file import load_checkpoint
from omnidali.training import run_lock
from omnidali.training.run_lock import RunFolderTakenError, RunLock

pytestmark = pytest.mark.usefixtures("small_network")


@pytest.fixture
def network_disk(monkeypatch):
    """Locks files and not folders, as NFS does."""
    real = fcntl.flock

    def flock(handle, how):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(handle, how)

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)


def is_held(folder):
    try:
        RunLock(folder).release()
        return False
    except UserError as error:
        assert f"got one of process {os.getpid()} on " in str(
            error
        ) or "got one of another process" in str(error)
        return True


def test_nothing_is_left_of_a_lock(tmp_path):
    lock = RunLock(tmp_path / "above" / "run")
    assert is_held(tmp_path / "above" / "run")
    lock.release()
    lock.release()
    assert not (tmp_path / "above").exists()


def test_a_folder_that_was_there_stays(tmp_path):
    (tmp_path / "run").mkdir()
    RunLock(tmp_path / "run").release()
    assert (tmp_path / "run").is_dir() and not list((tmp_path / "run").iterdir())


def test_a_removed_lock_lets_nobody_in(tmp_path):
    lock = RunLock(tmp_path)
    (tmp_path / "run.lock").unlink()
    assert is_held(tmp_path)
    lock.check()
    assert (tmp_path / "run.lock").exists() and is_held(tmp_path)
    lock.release()
    assert not is_held(tmp_path)


@pytest.mark.parametrize("how", ["gone", "replaced"])
def test_a_folder_that_nobody_took_is_locked_again(tmp_path, how, capsys):
    folder = tmp_path / "run"
    lock = RunLock(folder)
    folder.rename(tmp_path / "moved")
    if how == "replaced":
        folder.mkdir()
    lock.check()
    assert "was removed or replaced: the run locks it again" in capsys.readouterr().err and is_held(
        folder
    )
    assert not is_held(tmp_path / "moved")
    lock.check()
    assert not capsys.readouterr().err
    lock.release()


def test_a_file_system_without_locks_is_told_once(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    lock = RunLock(tmp_path)
    assert "cannot be locked here" in capsys.readouterr().err
    lock.check()
    assert not capsys.readouterr().err
    lock.release()


def test_a_lock_is_taken_over_only_if_it_is_the_file_at_that_place(
    tmp_path, network_disk, monkeypatch
):
    """A run that ends deletes the file which another one has just opened."""
    first, real, opened = RunLock(tmp_path), os.open, []

    def slow(path, *given):
        handle = real(path, *given)
        if str(path).endswith("run.lock"):
            opened.append(handle)
            if len(opened) == 1:
                first.release()
        return handle

    monkeypatch.setattr(run_lock.os, "open", slow)
    second = RunLock(tmp_path)
    assert len(opened) == 2
    monkeypatch.undo()
    assert is_held(tmp_path)
    second.release()


def test_a_lock_that_was_taken_stays_taken(tmp_path, network_disk):
    lock = RunLock(tmp_path)
    (tmp_path / "run.lock").unlink()
    other = RunLock(tmp_path)
    for _ in range(2):
        with pytest.raises(RunFolderTakenError):
            lock.check()
    other.release()
    lock.check()
    assert is_held(tmp_path)
    lock.release()


def test_a_disk_in_trouble_has_taken_nothing(tmp_path, monkeypatch):
    lock, real = RunLock(tmp_path), os.stat

    def stat_fails(path, *given, **more):
        if str(path).endswith("run.lock"):
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *given, **more)

    monkeypatch.setattr(run_lock.os, "stat", stat_fails)
    lock.check()
    monkeypatch.undo()
    assert is_held(tmp_path)
    lock.release()


def test_a_run_whose_folder_was_taken_saves_elsewhere(options, tmp_path, network_disk):
    """The network disk locks no folders, so whoever removes the lock lets another run in."""
    others = []

    def before(step):
        if step == 5:
            (tmp_path / "run/run.lock").unlink()
            others.append(RunLock(tmp_path / "run"))

    code, _, err = run(*options, "train.checkpoint_every=4", wrap=calling(before))
    (path,) = (tmp_path / "temporary").glob("omnidali-*/step-8.pt")
    assert code == 2 and "expected the folder that this run began in, got one of process" in err
    assert (
        f"What was trained is in {path}. Go on with --resume {path} and another run_dir." in err
        and load_checkpoint(path)["loader"]["step"] == 8
    )
    assert step_of(tmp_path / "run") == 4  # the other one's by now
    others[0].release()


def test_a_run_whose_folder_was_deleted_goes_on(options, tmp_path):
    def before(step):
        if step == 5:
            shutil.rmtree(tmp_path / "run")

    code, _, err = run(
        *options,
        "train.steps=8",
        "train.checkpoint_every=4",
        f"catalog={tmp_path / 'c.sqlite'}",
        wrap=calling(before),
    )
    assert code == 0, err
    assert "was removed or replaced" in err and step_of(tmp_path / "run") == 8
