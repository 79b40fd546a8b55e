"""Programs that a command runs: it reports their end, and none outlives it."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from omnidali.cli import main as cli
from omnidali.errors import UserError
from omnidali.processes import launch
from omnidali.processes.launch import ProgramFailedError, run_program
from omnidali.processes.program_log import ProgramLog

ROOT = Path(__file__).parent.parent
ENDINGS = {
    "refused": (
        "raise ConfigError([UserError('a.b', 'one', 'two', 'Do it.'), UserError(*'cdef')])",
        2,
    ),
    "wrong": ("raise RuntimeError('no such thing')", 1),
    "killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137),
    "silent": ("import os; os._exit(7)", 7),
}
PROGRAM = """
import sys
from omnidali.cli.error_report import run_reporting_errors
from omnidali.errors import ConfigError, UserError
def run():
    {0}
sys.exit(run_reporting_errors(run))
"""
# a rank that needs a while to save
SAVING = """
import os, pathlib, signal, sys, time
folder, received = pathlib.Path({0!r}), []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: received.append(number))
(folder / "begun").write_text(str(os.getpid()))
while not received:
    time.sleep(0.05)
time.sleep(1)
(folder / "saved").write_text(signal.Signals(received[0]).name)
"""
PARENT = """
import argparse, sys
from omnidali.processes import launch
from omnidali.cli.main import run_command
from omnidali.cli.error_report import run_reporting_errors
launch._PROGRAM = ({0!r},)
options = argparse.Namespace(run=lambda _: launch.run_program("train", ranks=1))
sys.exit(run_reporting_errors(lambda: run_command(options)))
"""


@pytest.mark.parametrize("ending", ENDINGS)
def test_command_reports_the_error_of_its_program(tmp_path, monkeypatch, capfd, ending):
    """A mistake of the user stays one."""
    what, code = ENDINGS[ending]
    (tmp_path / "program.py").write_text(PROGRAM.format(what))
    monkeypatch.setattr(launch, "_PROGRAM", (str(tmp_path / "program.py"),))
    log = tmp_path / "logs/step.log"
    with pytest.raises(UserError if code == 2 else ProgramFailedError) as raised:
        run_program("train", ranks=1, log=log)
    assert (
        str(raised.value)
        == {
            "refused": "train, a.b: expected one, got two. Do it.\ntrain, c: expected d, got e. f",
            "wrong": "train failed: RuntimeError: no such thing",
            "killed": "train failed: killed by SIGKILL",
            "silent": "train failed: it ended with exit code 7, without a reason",
        }[ending]
    )
    assert code == 2 or raised.value.code == code
    errors = capfd.readouterr().err
    assert "ChildFailedError" not in errors
    assert f"all that train printed is in {log}; what is finished is kept" in errors


def test_log_of_a_program_has_all_that_it_printed(tmp_path, monkeypatch, capfd):
    """Also what it printed on stderr, after what an earlier start did."""
    log = tmp_path / "logs/step.log"
    log.parent.mkdir()
    log.write_text("before\n")
    what = "print('sec\\x1bond'); print('odd \\r 5%\\r 100%', file=sys.stderr)"
    (tmp_path / "program.py").write_text(PROGRAM.format(what))
    monkeypatch.setattr(launch, "_PROGRAM", (str(tmp_path / "program.py"),))
    run_program("train", ranks=1, log=log)
    shown = capfd.readouterr()
    assert "sec" in shown.out and "odd \r 5%\r 100%\n" in shown.err
    first, command, *rest = log.read_text().splitlines()
    assert first == "before" and command.startswith("$ torchrun --nproc-per-node 1 ")
    assert {"sec\\x1bond", " 100%"} <= set(rest)


def test_program_of_a_terminal_has_a_terminal(tmp_path):
    """Its bars are shown as if it had been started alone, and the log has their last state."""
    program = "import os, sys; print('5%\\r', os.get_terminal_size(2).columns, file=sys.stderr)"
    parent = (
        "import subprocess, sys; from pathlib import Path;"
        " from omnidali.processes.program_log import ProgramLog\n"
        f"with ProgramLog(Path({str(tmp_path / 'log')!r})) as log, log.copying_stderr() as error:\n"
        f"    subprocess.run([sys.executable, '-c', {program!r}], stderr=error, check=True)"
    )
    reader, writer = os.openpty()
    termios.tcsetwinsize(writer, (24, 123))
    subprocess.run([sys.executable, "-c", parent], stderr=writer, cwd=ROOT, check=True)
    os.close(writer)
    assert os.read(reader, 1000) == b"5%\r 123\r\n"
    os.close(reader)
    assert (tmp_path / "log").read_text() == " 123\n"


def test_log_has_the_last_line_of_a_program_that_is_killed(tmp_path):
    program = "import os, sys; sys.stderr.write('0%\\r7%\\r8%'); sys.stderr.flush(); os.abort()"
    with ProgramLog(tmp_path / "log") as log, log.copying_stderr() as stderr:
        subprocess.run([sys.executable, "-c", program], stderr=stderr, check=False)
    assert (tmp_path / "log").read_text() == "8%\n"


def test_log_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "logs").write_text("no folder")
    with ProgramLog(tmp_path / "logs/step.log") as log, log.copying_stderr() as stderr:
        log.add("a line")
        assert log.path is None and stderr is None


def test_command_that_starts_ranks_is_no_rank_itself(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="train: expected to be started once.*got 2 ranks"):
        run_program("train", ranks=1)


def is_alive(pid):
    """Whether a process runs; one that nobody has waited for yet does not."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_for(found, seconds=60):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "name, group, code, line",
    [
        ("SIGINT", True, 130, "interrupted"),
        ("SIGINT", False, 130, "interrupted"),
        (
            "SIGTERM",
            False,
            143,
            "SIGTERM: train was ended; the same command goes on where it stopped",
        ),
        (
            "SIGTERM",
            True,
            143,
            "SIGTERM: train was ended; the same command goes on where it stopped",
        ),
        (
            "SIGHUP",
            False,
            129,
            "SIGHUP: train was ended; the same command goes on where it stopped",
        ),
        ("SIGKILL", False, -9, None),
    ],
)
def test_signal_ends_the_program_and_then_the_command(tmp_path, name, group, code, line):
    """Alone or to the whole group, as from a terminal: the program saves, and the command waits."""
    (tmp_path / "program.py").write_text(SAVING.format(str(tmp_path)))
    with (
        open(tmp_path / "err", "w") as err,
        subprocess.Popen(
            [sys.executable, "-c", PARENT.format(str(tmp_path / "program.py"))],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=err,
            start_new_session=True,
        ) as command,
    ):
        wait_for((tmp_path / "begun").exists)
        wait_for((tmp_path / "begun").read_text)
        (os.killpg if group else os.kill)(command.pid, signal.Signals[name])
        assert command.wait(60) == code
        rank = int((tmp_path / "begun").read_text())
        if line is None:  # nobody could hand on anything: its end does
            wait_for(lambda: not is_alive(rank))
        assert not is_alive(rank)
    assert (tmp_path / "saved").read_text() == ("SIGTERM" if name == "SIGKILL" else name)
    output = (tmp_path / "err").read_text()
    assert "Traceback" not in output
    assert line is None or output.splitlines()[-1] == line


def test_printed_command_can_be_pasted(tmp_path, monkeypatch, capsys):
    """Spaces split nothing, nothing is run, and control characters are escaped."""
    folder = tmp_path / "my $(touch pwned) `x` 'y\x1b[31m"
    folder.mkdir()
    (tmp_path / "program.py").write_text("")
    monkeypatch.setattr(launch, "_PROGRAM", (str(tmp_path / "program.py"),))
    run_program("train", "--config", str(folder / "c.yaml"), "; reboot", ranks=1)
    line = capsys.readouterr().out.splitlines()[1]
    assert "\x1b" not in line
    shown = str(folder / "c.yaml").replace("\x1b", "\\x1b")
    assert shlex.split(line)[1:] == [
        "torchrun",
        "--nproc-per-node",
        "1",
        str(tmp_path / "program.py"),
        "train",
        "--config",
        shown,
        "; reboot",
    ]


def test_commands_print_quoted_commands(media_root, tmp_path, monkeypatch, capsys):
    out = tmp_path / "a copy; $(touch pwned)"
    (tmp_path / "c.yaml").write_text(
        "sources: {photos: {kind: image, root: photos, list: photos.txt}}\n"
        "evaluation: {source: {kind: image, root: photos, list: one.txt}}\n"
        f"train: {{steps: 1}}\nrun_dir: {tmp_path}/run\ndata_root: {tmp_path}/media\n"
    )
    (tmp_path / "media").mkdir()
    (tmp_path / "media/photos").symlink_to(media_root / "photos")
    (tmp_path / "media/photos.txt").write_text((media_root / "photos.txt").read_text())
    (tmp_path / "media/one.txt").write_text("0.jpg 0\n")
    for name, more in (("transcode", []), ("dedup", ["--sources", "photos"])):
        assert (
            cli.main([name, "--config", str(tmp_path / "c.yaml"), "--out", str(out / name), *more])
            == 0
        )
        (advice,) = [
            line
            for line in capsys.readouterr().out.splitlines()
            if "omnidali train --config" in line
        ]
        assert shlex.split(advice.partition(": ")[2]) == [
            "omnidali",
            "train",
            "--config",
            str(out / name / "config.yaml"),
        ]


def test_one_function_quotes_commands():
    """In the source, only `for_shell` joins a command and a path."""
    for path in ROOT.glob("omnidali/**/*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            shown = any(
                f"{command} {{" in line
                or f"{command} --config {{" in line
                or f"{command} --logdir {{" in line
                for command in (" mv", "omnidali train", "tensorboard", "torchrun")
            )
            assert not shown, f"{path}:{number}: {line.strip()}"
