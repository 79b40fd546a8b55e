"""Calls in other processes and threads: a crash or a hang costs only its own call."""

import os
import threading
import time

import numpy as np
import pytest

from conftest import media_of
from helpers.slow_media import HURRIED, PATIENCE, hurried_processes, in_time
from omnidali.curation.copies.encode import RECIPES, encode_image, encode_video
from omnidali.decoding.decoders import decode_thumbnail
from omnidali.errors import DecodeError
from omnidali.loading.thread_pool import AbandonableThreadPool
from omnidali.processes import isolated_process
from omnidali.testing.numbered_media import write_image, write_video
from omnidali.utils.heartbeat import on_progress, report_progress

FAST = {"width": 160, "height": 120, "gop": 8, "options": {"preset": "ultrafast", "crf": "15"}}


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    with hurried_processes(monkeypatch):
        yield


def test_bad_file_costs_only_its_own_call(tmp_path, monkeypatch):
    """Files that crash, starve or hold the process, one after the other; the next call goes on."""
    code = HURRIED.replace(
        "    return answer(task)",
        "\\n".join(
            (
                '    if "crash" in file:',
                "        import os; os.kill(os.getpid(), 11)",
                '    if "hog" in file:',
                "        held = [bytearray(1 << 26) for _ in range(1000)]",
                '    if "lie" in file:',
                '        return "nonsense"',
                "    return answer(task)",
            )
        ),
    )
    monkeypatch.setattr(isolated_process, "_MAIN", f'exec("""{code}""")')
    monkeypatch.setattr(isolated_process, "MEMORY", 1 << 30)
    reasons = {
        "crash": "crashes its decoder",
        "hog": "needs too much memory",
        "lie": "crashes its decoder",
        "limbo": "nothing came of it for 40 s",
        "good": None,
    }
    for name, reason in reasons.items():
        write_image(tmp_path / f"{name}.jpg", 1, 64, 48)
        media = media_of(tmp_path / f"{name}.jpg", "image")
        if name == "limbo":
            (tmp_path / "limbo.jpg").unlink()
            os.mkfifo(tmp_path / "limbo.jpg")
        if reason is None:
            in_time(
                lambda media=media: isolated_process.call_isolated(
                    encode_image, media, tmp_path / "b.jpg", 32
                )
            )
            continue
        with pytest.raises(DecodeError, match=reason):
            isolated_process.call_isolated(encode_image, media, tmp_path / "b.jpg", 32)
    assert (tmp_path / "b.jpg").exists()


def test_isolated_call_passes_on_system_errors(tmp_path):
    write_image(tmp_path / "a.jpg", 1, 64, 48)
    media = media_of(tmp_path / "a.jpg", "image")
    with pytest.raises(FileNotFoundError) as caught:
        isolated_process.call_isolated(encode_image, media, tmp_path / "no/b.jpg", 32)
    assert caught.value.filename == str(tmp_path / "no/b.jpg")
    with pytest.raises(DecodeError, match="ValueError: a module of another package"):
        isolated_process.call_isolated(os.path.join, media)


def test_thumbnail_does_not_wait_for_a_disk(tmp_path, capsys):
    """The file hangs after the loader has shown its clip."""
    write_image(tmp_path / "limbo.jpg", 1, 64, 48)
    media = media_of(tmp_path / "limbo.jpg", "image")
    (tmp_path / "limbo.jpg").unlink()
    os.mkfifo(tmp_path / "limbo.jpg")
    shown = in_time(lambda: decode_thumbnail("image", media, 0, np.array([[0, 0, 48, 64]]), 32))
    assert (
        shown == 128
    ).all() and "limbo.jpg is not shown: nothing came of it for" in capsys.readouterr().err


def test_decoders_report_progress(tmp_path):
    """They report it at every packet, in all ways to decode frames."""
    write_video(tmp_path / "a.mp4", 1, frames=30, **FAST)
    write_video(tmp_path / "a.ts", 1, frames=30, **FAST)
    for name in ("a.mp4", "a.ts"):
        media, moves = media_of(tmp_path / name), []
        with on_progress(lambda moves=moves: moves.append(1)):
            encode_video(media, tmp_path / "b.mp4", RECIPES["fast"], 64)
        assert len(moves) >= 60  # read and written


def test_abandoned_thread_ends_at_the_next_packet():
    """A clip may need a hundred thousand packets, and nothing waits for it any more."""
    workers, gone = AbandonableThreadPool(1, "test"), threading.Event()

    def work(task):
        task.mark_file("file")
        try:
            while True:
                time.sleep(0.001)
                report_progress()
        finally:
            gone.set()

    task = workers.submit("source", work, target=object())
    while not workers.wait(task, 0.2):
        pass
    assert task.abandoned and gone.wait(PATIENCE)
    workers.close(1)
