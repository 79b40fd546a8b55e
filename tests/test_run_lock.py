"""One run a folder, also where somebody removes the lock, the folder, or both."""

import errno
import fcntl
import os
import shutil
import signal
import socket
import stat
import time

import pytest

from helpers.crashing import calling
from helpers.running import (
    run,
    step_of,
)
from helpers.warm_process import Process
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


def test_release_leaves_nothing(tmp_path):
    lock = RunLock(tmp_path / "above" / "run")
    assert is_held(tmp_path / "above" / "run")
    lock.release()
    lock.release()
    assert not (tmp_path / "above").exists()


def test_release_leaves_a_folder_that_existed(tmp_path):
    (tmp_path / "run").mkdir()
    RunLock(tmp_path / "run").release()
    assert (tmp_path / "run").is_dir() and not list((tmp_path / "run").iterdir())


def test_folder_stays_locked_after_lock_file_is_removed(tmp_path):
    lock = RunLock(tmp_path)
    (tmp_path / "run.lock").unlink()
    assert is_held(tmp_path)
    lock.check()
    assert (tmp_path / "run.lock").exists() and is_held(tmp_path)
    lock.release()
    assert not is_held(tmp_path)


@pytest.mark.parametrize("how", ["gone", "replaced"])
def test_removed_folder_is_locked_again(tmp_path, how, capsys):
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


def test_file_system_without_locks_causes_one_warning(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    lock = RunLock(tmp_path)
    assert "cannot be locked here" in capsys.readouterr().err
    lock.check()
    assert not capsys.readouterr().err
    lock.release()


def test_lock_file_deleted_while_it_is_opened_is_opened_again(tmp_path, network_disk, monkeypatch):
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


def test_lock_taken_by_another_run_stays_taken(tmp_path, network_disk):
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


def test_disk_error_does_not_lose_the_lock(tmp_path, monkeypatch):
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


def test_run_saves_elsewhere_if_its_folder_was_taken(options, tmp_path, network_disk):
    """The network disk locks no folders, so whoever removes the lock lets another run in."""
    others = []

    def before(step):
        if step == 5:
            (tmp_path / "run/run.lock").unlink()
            others.append(RunLock(tmp_path / "run"))

    code, _, err = run(*options, "train.checkpoint_every=4", wrap_loader=calling(before))
    (path,) = (tmp_path / "temporary").glob("omnidali-*/step-8.pt")
    assert code == 2 and "expected the folder that this run began in, got one of process" in err
    assert (
        f"What was trained is in {path}. Go on with --resume {path} and another run_dir." in err
        and load_checkpoint(path)["loader"]["step"] == 8
    )
    assert step_of(tmp_path / "run") == 4  # the other one's by now
    others[0].release()


def test_run_goes_on_if_its_folder_was_deleted(options, tmp_path):
    def before(step):
        if step == 5:
            shutil.rmtree(tmp_path / "run")

    code, _, err = run(
        *options,
        "train.steps=8",
        "train.checkpoint_every=4",
        f"catalog={tmp_path / 'c.sqlite'}",
        wrap_loader=calling(before),
    )
    assert code == 0, err
    assert "was removed or replaced" in err and step_of(tmp_path / "run") == 8


def test_second_run_in_a_folder_is_refused(warm, tmp_path):
    holder = Process(warm, tmp_path, "lock")
    holder.wait_for_file()
    with pytest.raises(UserError) as caught:
        RunLock(tmp_path)
    assert f"one of process {holder.pid} on {socket.gethostname()} since 20" in str(caught.value)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    lock = RunLock(tmp_path)  # the kernel has released it
    child = os.fork()
    if child == 0:
        time.sleep(3)
        os._exit(0)
    lock.release()
    RunLock(tmp_path).release()  # a child that lives on does not hold it
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
