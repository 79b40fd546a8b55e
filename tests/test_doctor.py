"""`omnidali doctor`: its checks on any machine, its processes, its report and its advice."""

import configparser
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers.doctor_findings import collect, texts
from omnidali.cli import main as cli
from omnidali.doctor import cpu_road, disks, doctor, machine, versions
from omnidali.doctor.advice import LOADER, advise
from omnidali.doctor.findings import Context
from omnidali.doctor.runner import Check, run_check

ROOT = Path(__file__).parent.parent


def run(name, tmp_path, seconds=30.0, case_seconds=20.0):
    """Run a check of helpers.doctor_checks; returns its outcome and the lines as they came."""
    lines = []
    check = Check(name, f"helpers.doctor_checks:{name}", seconds, case_seconds)
    outcome = run_check(
        check, Context(str(tmp_path), seconds=100.0), lambda *line: lines.append(line)
    )
    assert outcome.lines == lines
    return outcome


@pytest.mark.parametrize(
    "name, reason", [("crash", "two: its process died of SIGSEGV"), ("hang", "two: hangs, or")]
)
def test_case_that_crashes_or_hangs_is_a_line_in_the_report(tmp_path, name, reason):
    outcome = run(name, tmp_path, case_seconds=1.5)
    good, bad, last = outcome.lines
    assert (good, last) == (("good", "one"), ("good", "three"))
    assert bad[0] == "bad" and bad[1].startswith(reason)
    assert outcome.ended and outcome.is_bad
    # where it was when it crashed
    assert f"in {name}" in outcome.tracebacks[0]


def test_check_that_crashes_again_and_again_ends(tmp_path):
    outcome = run("crash_each_time", tmp_path)
    *crashes, last = outcome.lines
    assert [text for _, text in crashes] == [
        f"{case}: its process died of SIGKILL" for case in range(5)
    ]
    assert last == ("note", "too many crashes: the rest is left out")


def test_check_that_fails_keeps_what_it_found(tmp_path):
    outcome = run("fail", tmp_path)
    assert outcome.lines == [("good", "before"), ("bad", "RuntimeError: nobody thought of this")]
    assert outcome.facts == {"found": 7} and "raise RuntimeError" in outcome.tracebacks[0]
    assert not outcome.ended


def test_process_that_leaves_is_noticed(tmp_path):
    outcome = run("leave", tmp_path)
    assert outcome.lines == [("bad", "its process ended with exit code 3")]
    assert outcome.tracebacks == ["something went wrong"]


def test_check_ends_in_time(tmp_path):
    outcome = run("be_slow", tmp_path, seconds=4.5)
    assert re.fullmatch("out of time: [12] cases were not looked at", outcome.lines[0][1])
    hanging = run("hang_without_a_case", tmp_path, seconds=3.1)
    assert hanging.lines == [("bad", "ended, as time ran out")] and not hanging.ended
    late = run("fail", tmp_path, seconds=0.5)
    assert late.lines == [("note", "out of time: not looked at")] and not late.ended


def test_machine_without_a_gpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "has_gpu", lambda: False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "media"
    folder.mkdir()
    assert cli.main(["doctor", "--quick", "--folder", str(folder)]) == 0

    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "doctor.json").read_text())
    names = [check["name"] for check in report["checks"]]
    assert names == ["machine", "folders", "decoding on the CPU", "versions"]
    assert all(check["ended"] for check in report["checks"])
    for check in report["checks"]:
        for _, text in check["lines"]:
            assert text in printed
    for line in report["advice"]["lines"]:
        assert line in printed
    assert f"{folder} can be written" in printed and f"{folder} reads" in printed
    assert "right frames on the CPU" in printed and "jpeg " in printed
    assert report["broken"] == [] and "everything that was looked at works" in printed
    assert report["advice"]["settings"]["decode"] == "auto"


def test_doctor_runs_from_a_folder_of_packages_and_names_what_is_missing(tmp_path):
    """No site-packages: PYTHONPATH alone, as on a machine that packages are carried to."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "cv2.py").write_text("raise ImportError('libGL is missing')")
    path = [str(tmp_path / "broken"), sysconfig.get_paths()["purelib"], str(ROOT)]
    done = subprocess.run(
        [sys.executable, "-S", "-m", "omnidali", "doctor", "--quick", "--out", "report.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert (
        "BAD  opencv-python-headless does not load (ImportError: libGL is missing)" in done.stdout
    )
    assert "pip install opencv-python-headless (or add" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["broken"] == ["decoding on the CPU", "versions"]


def test_out_that_cannot_be_written_is_refused_at_once(tmp_path, capsys):
    assert cli.main(["doctor", "--out", str(tmp_path)]) == 2
    assert "--out: expected a file that can be written" in capsys.readouterr().err


def test_folders_that_are_missing_or_locked(tmp_path):
    gone = tmp_path / "gone"
    _, lines = collect(
        disks.look_at_folders, scratch=str(tmp_path), folders=(str(gone),), quick=True
    )
    assert texts(lines, "bad") == [f"{gone} is no folder: create it, or name another one"]
    assert len(texts(lines, "good")) == 2


def test_folder_that_cannot_be_written_may_hold_media(tmp_path, monkeypatch):
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "a.bin").write_bytes(bytes(17 << 20))

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(disks.tempfile, "TemporaryDirectory", refuse)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    _, lines = collect(
        disks.look_at_folders, scratch=str(scratch), folders=(str(folder),), quick=True
    )
    notes = texts(lines, "note")
    assert f"{folder} cannot be written (PermissionError: [Errno 13] Permission denied)" in notes[0]
    assert notes[-1] == f"{scratch} holds no files whose reading could be measured"
    assert [text for text in texts(lines, "good") if text.startswith(f"{folder} reads")]

    monkeypatch.setattr(disks, "_read_chunk", refuse)
    _, lines = collect(disks.look_at_folders, scratch=str(folder), quick=True)
    assert "cannot be read" in texts(lines, "bad")[0]


def test_codecs_that_ffmpeg_lacks_are_named(tmp_path, monkeypatch):
    have = cpu_road._has_codec
    lacking = {("vp9", "r"), ("libx265", "w")}
    monkeypatch.setattr(
        cpu_road, "_has_codec", lambda *codec: codec not in lacking and have(*codec)
    )
    facts, lines = collect(cpu_road.look_at_cpu, scratch=str(tmp_path))
    assert texts(lines, "bad") == ["FFmpeg in PyAV lacks decoders: vp9; install PyAV's wheel"]
    assert texts(lines, "note") == [
        "FFmpeg in PyAV lacks the encoder libx265, which the demo needs"
    ]
    assert "h264" in texts(lines, "good")[-1] and "vp9" not in texts(lines, "good")[-1]


def test_gpu_checks_are_left_out_where_the_driver_fails(monkeypatch, tmp_path):
    """Each of them would wait for the driver."""
    begun = []

    def note(check, context, on_line):
        begun.append(check.name)
        return doctor.Outcome(check.name, ended=True)

    monkeypatch.setattr(doctor, "has_gpu", lambda: True)
    monkeypatch.setattr(doctor, "run_check", note)
    assert doctor.examine(doctor.Examination(), tmp_path / "a.json")
    assert begun == ["machine", "folders", "decoding on the CPU", "versions", "driver"]


def test_limits_of_a_container_are_found(tmp_path):
    root = tmp_path / "cgroup"
    inner = root / "job" / "step"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000")
    (root / "job" / "cpu.max").write_text("250000 100000")
    (inner / "memory.max").write_text("max")
    (root / "job" / "memory.max").write_text(str(3 << 30))
    (tmp_path / "own").write_text("0::/job/step\n")
    assert machine.cpu_quota(root, tmp_path / "own") == 2.5
    assert machine.memory_limit(root, tmp_path / "own") == 3 << 30

    old = tmp_path / "old"
    for controller in ("cpu,cpuacct", "memory"):
        (old / controller.split(",")[0] / "job").mkdir(parents=True)
    (old / "cpu" / "job" / "cpu.cfs_quota_us").write_text("400000")
    (old / "cpu" / "job" / "cpu.cfs_period_us").write_text("100000")
    (old / "memory" / "job" / "memory.limit_in_bytes").write_text(str(5 << 30))
    (tmp_path / "own").write_text("4:memory:/job\n3:cpu,cpuacct:/job\n")
    assert machine.cpu_quota(old, tmp_path / "own") == 4
    assert machine.memory_limit(old, tmp_path / "own") == 5 << 30
    assert machine.cpu_quota(tmp_path / "none", tmp_path / "none") is None


def test_small_machine_is_told_what_to_set(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "cpu_quota", lambda: 0.5)
    monkeypatch.setattr(machine, "memory_limit", lambda: 1 << 30)
    _, lines = collect(machine.look_at_machine, scratch=str(tmp_path))
    notes = texts(lines, "note")
    assert "the container may use 0.5 at a time" in notes[0]
    assert "1.0 GiB of memory can be used" in notes[1]


def test_shared_memory_that_is_small_or_missing(monkeypatch, tmp_path):
    small = SimpleNamespace(f_blocks=1024, f_frsize=65536, f_bavail=1024)
    monkeypatch.setattr(os, "statvfs", lambda path: small)
    _, lines = collect(machine.look_at_machine, scratch=str(tmp_path))
    assert "0.06 GiB of shared memory: little for several GPUs" in texts(lines, "note")[-1]

    def refuse(path):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "statvfs", refuse)
    _, lines = collect(machine.look_at_machine, scratch=str(tmp_path))
    assert texts(lines, "note")[-1].startswith("no shared memory at /dev/shm: No such file")


@pytest.mark.parametrize(
    "built_for, sees, said",
    [
        (None, False, "this build of torch has no CUDA"),
        ("13.0", False, "torch, built for CUDA 13.0, sees no GPU: look at the driver's version"),
        ("13.0", True, None),
    ],
)
def test_torch_has_to_see_the_gpu(tmp_path, monkeypatch, built_for, sees, said):
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: sees)
    _, lines = collect(versions.look_at_versions, scratch=str(tmp_path), device_id=0)
    bad = texts(lines, "bad")
    assert not bad if said is None else said in bad[0]


def test_package_that_is_missing_is_named(tmp_path, monkeypatch):
    packages = [versions._Package("none-such", "none_such", "tests"), *versions._PACKAGES[:1]]
    monkeypatch.setattr(versions, "_PACKAGES", packages)
    findings, lines = collect(versions.look_at_versions, scratch=str(tmp_path))
    (bad,) = texts(lines, "bad")
    assert bad.startswith("none-such does not load (ModuleNotFoundError") and "tests" in bad
    assert "pip install none-such (or add them" in texts(lines, "note")[0]
    assert findings.facts["versions"]["none-such"] is None


def test_every_package_of_the_project_is_looked_at():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].split("\n")
    needed = {re.split("[<>=]", line)[0] for line in lines if line and not line.startswith("#")}
    assert needed == {package.distribution for package in versions._PACKAGES}


WORKS = {"driver": {"libnvcuvid": {"loads": True}}}


@pytest.mark.parametrize(
    "rates, settings",
    [
        ({"W2 a": {"gpu": 900.0, "cpu": 90.0}}, {"decode of videos": "auto"}),
        (
            {"W2 a": {"gpu": 300.0, "cpu": 100.0}, "W3 b": {"gpu": 100.0, "cpu": 100.0 / 3}},
            {"decode of videos": "hybrid", "loader.cpu_share": 0.25},
        ),
        ({"W2 a": {"gpu": 17.0, "cpu": 180.0}}, {"decode of videos": "cpu"}),
        ({"W1 jpeg": {"gpu": 17.0, "cpu": 180.0}}, {"decode of photos": "cpu"}),
        ({"W2 a": {"gpu": 17.0}}, {}),
    ],
)
def test_advice_follows_what_was_measured(rates, settings):
    advice = advise({**WORKS, LOADER: rates}, on_gpu=True)
    del advice["settings"]["loader.threads"]
    assert advice["settings"] == settings


def test_advice_without_video_decoder_or_cores():
    cores = {"machine": {"cores": {"allowed": 16, "quota": 4.5}}}
    advice = advise({**cores, "driver": {"libnvcuvid": {"loads": False}}}, on_gpu=True)
    assert advice["settings"] == {"loader.threads": 4, "decode": "auto"}
    assert any("without libnvcuvid the CPU decodes videos" in line for line in advice["lines"])
