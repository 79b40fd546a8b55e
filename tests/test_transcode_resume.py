"""A copy that was interrupted is completed, and only what changed is made again."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from helpers.copies import (
    PLAIN,
    content,
    small,
)
from omnidali.catalog.database.reader import CatalogReader
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.curation.copies import advise as advice
from omnidali.curation.copies import copy_gain as copies
from omnidali.curation.copies import encode
from omnidali.curation.copies.encode import ENCODERS
from omnidali.media_kind import MediaKind
from omnidali.testing.numbered_media import write_video


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    monkeypatch.setattr(copies, "_SECONDS", 0.1)
    monkeypatch.setattr(advice, "_SECONDS", 0.1)


def count_encodes(monkeypatch, fail_at=None):
    done, encode_one = [], ENCODERS[MediaKind.VIDEO]

    def counted(media, path, *rest):
        if len(done) == fail_at:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        done.append(os.path.basename(media.path))
        return encode_one(media, path, *rest)

    monkeypatch.setitem(ENCODERS, MediaKind.VIDEO, counted)
    return done


def test_full_disk_leaves_no_half_copy_and_a_second_start_completes_it(
    tmp_path, monkeypatch, capsys
):
    command = small(tmp_path)
    with monkeypatch.context() as patch:
        done = count_encodes(patch, fail_at=2)
        assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert (
        "No space left on device" in error
        and "Traceback" not in error
        and "second start goes on" in error
    )
    assert len(done) == 2 and sorted(f"v/{name}" for name in done) == sorted(
        content(tmp_path / "copy")
    )
    assert (
        not any((tmp_path / "copy/.transcode").iterdir())
        and not (tmp_path / "copy/config.yaml").exists()
    )
    again = count_encodes(monkeypatch)
    assert cli.main(command) == 0 and len(again) == 2 and not set(done) & set(again)
    assert not (tmp_path / "copy/.transcode").exists()


def test_copies_of_another_size_stay(tmp_path, monkeypatch):
    """Those of earlier versions had even sides, and decode as ever."""
    command = small(tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(encode, "video_size", lambda *_: (98, 66))
        patch.setattr(encode, "call_isolated", lambda work, *given: work(*given))
        assert cli.main(command) == 0
    before = content(tmp_path / "copy")
    write_video(tmp_path / "media/v/0.mp4", 7, frames=10, **PLAIN)  # is copied again
    again = count_encodes(monkeypatch)
    assert cli.main(command) == 0 and again == ["0.mp4"]
    after = content(tmp_path / "copy")
    assert after["v/1.mp4"] == before["v/1.mp4"] and after["v/0.mp4"] != before["v/0.mp4"]
    reader = CatalogReader(load_config(tmp_path / "copy/config.yaml").catalog_path)
    table = reader.table("v")
    assert (table.widths.tolist(), table.heights.tolist()) == ([96, 98], [64, 66])


def test_file_size_limit_leaves_no_half_copy(tmp_path):
    """The limit is a real one of the system, which also stops FFmpeg's writes."""
    command = small(tmp_path, 1)
    write_video(tmp_path / "media/v/0.mp4", 0, frames=200, **PLAIN)
    assert cli.main([*command, "--recipe", "intra"]) == 0
    size = (tmp_path / "copy/v/0.mp4").stat().st_size
    (tmp_path / "copy/v/0.mp4").unlink()
    script = (
        "import resource, sys; from omnidali.cli import main as cli;"
        " resource.setrlimit(resource.RLIMIT_FSIZE,"
        f" ({size // 2}, {size // 2})); sys.exit(cli.main(sys.argv[1:]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *command, "--recipe", "intra"],
        capture_output=True,
        text=True,
    )
    assert (
        result.returncode == 2
        and "File too large" in result.stderr
        and "Traceback" not in result.stderr
    )
    assert content(tmp_path / "copy") == {} and not any((tmp_path / "copy/.transcode").iterdir())


def test_killed_transcode_is_completed_with_the_same_bytes(tmp_path, monkeypatch):
    command = small(tmp_path, 6)
    for n in range(6):
        write_video(tmp_path / f"media/v/{n}.mp4", n, frames=40, **PLAIN)
    process = subprocess.Popen(
        [sys.executable, "-m", "omnidali", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    journal = tmp_path / "copy/transcode.jsonl"
    while process.poll() is None and not (
        journal.exists() and journal.read_text().count("\n") >= 2
    ):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with open(journal, "a") as file:
        file.write('{"path": "v/5.mp4", "orig')  # a line that the kill cut off
    written = journal.read_text().count("\n")
    done = count_encodes(monkeypatch)
    assert cli.main(command) == 0 and len(done) == 6 - written
    resumed = content(tmp_path / "copy")
    assert cli.main([*command[:4], str(tmp_path / "other"), *command[5:]]) == 0
    assert resumed == content(tmp_path / "other") and len(resumed) == 6


def test_only_changed_files_are_copied_again(tmp_path, monkeypatch):
    command = small(tmp_path)
    assert cli.main(command) == 0
    before = content(tmp_path / "copy")
    done = count_encodes(monkeypatch)
    assert cli.main(command) == 0 and not done
    write_video(tmp_path / "media/v/2.mp4", 9, frames=10, **PLAIN)
    (tmp_path / "copy/v/3.mp4").unlink()
    assert cli.main(command) == 0 and sorted(done) == ["2.mp4", "3.mp4"]
    after = content(tmp_path / "copy")
    assert after["v/2.mp4"] != before["v/2.mp4"] and after["v/3.mp4"] == before["v/3.mp4"]
    # all four are made again with another recipe
    assert cli.main([*command, "--recipe", "small"]) == 0 and len(done) == 6
