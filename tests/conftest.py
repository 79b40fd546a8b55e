"""Shared media and tables. Everything is made here; H differs from W and every frame carries its
number.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

import av
import pytest
import torch
from hypothesis import settings

from helpers import torchvision_stubs
from helpers.filtering import filter_images, make_network, make_world, save_teacher
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.media import Media
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.image_probe import probe_image
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.config.sources import SourceConfig
from omnidali.loading.thread_pool import Task
from omnidali.testing.numbered_media import write_image, write_video
from omnidali.testing.usual_priority import keeping_priority

torch.set_num_threads(1)
torchvision_stubs.install()
# a shell's background jobs ignore Ctrl-C, and what nohup starts ignores a hang-up; programs that
# the tests start would, too
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)
settings.register_profile("unhurried", deadline=None)  # a machine that stalls is no counterexample
settings.load_profile("unhurried")


def pytest_collection_modifyitems(items):
    """``needs_gpu`` skips on a laptop and fails where a GPU was promised."""
    if torch.cuda.is_available() or os.environ.get("OMNIDALI_REQUIRE_GPU") == "1":
        return
    for item in items:
        if item.get_closest_marker("needs_gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def usual_priority():
    """Undo what SVT-AV1 does to the scheduling of the whole process, see keeping_priority."""
    with keeping_priority():
        yield


def needs_tool(name: str) -> None:
    """Skip a test where a program is missing; fail where all were promised."""
    if shutil.which(name) is None:
        if os.environ.get("OMNIDALI_REQUIRE_TOOLS") == "1":
            pytest.fail(f"{name} is missing: tests/install_tools installs it")
        pytest.skip(f"{name} is not installed: tests/install_tools installs it")


@contextmanager
def free_port():
    """A port that the system gives to no other process: it stays bound, and torch's store shares
    it.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def hurry(monkeypatch, paths, factor):
    """Let the time of hanging files pass faster; good ones may need long on a busy machine."""
    in_flight = Task.in_flight.fget

    def hurried(task):
        flight = in_flight(task)
        if flight is None or flight.file.path not in paths:
            return flight
        return flight._replace(watched_seconds=factor * flight.watched_seconds)

    monkeypatch.setattr(Task, "in_flight", property(hurried))


class InProcess:
    """Stands in for the pool: the patches above would not reach other processes."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, work, jobs, chunksize):
        return map(work, jobs)


def media_of(path: Path, kind: str = "video") -> Media:
    """The catalog's view of one file, without a catalog."""
    span = FileSpan(str(path))
    probe = (probe_video if kind == "video" else probe_image)(span)
    return Media.of(str(path), span, probe)


def watch_decoder(decoder, noted):
    """Call ``noted`` with each packet that a PacketDecoder decodes, and the frames that come."""
    context = decoder._context
    decode = av.VideoCodecContext.decode

    class Watched:
        def __getattr__(self, name):
            return getattr(context, name)

        def __setattr__(self, name, value):
            setattr(context, name, value)

        def decode(self, packet):
            frames = decode(context, packet)
            noted(packet, frames)
            return frames

    decoder._context = Watched()


SOURCES = {
    "clips": SourceConfig(kind="video", root="clips", list="clips.txt", weight=2),
    "photos": SourceConfig(kind="image", root="photos", list="photos.txt", weight=3),
    "shorts": SourceConfig(kind="video", root="shorts", list="shorts.txt", weight=1),
}

SMALL = """
device: cpu
sources:
  clips: {kind: video, root: clips, list: clips.txt, weight: 2}
  photos: {kind: image, root: photos, list: photos.txt, weight: 1}
clip: {num_clips: 2, size: 32}
model: {depth: 18}
"""  # what the configs of small trainings begin with; on the CPU, where they give the same bits


@pytest.fixture(scope="session")
def media_root(tmp_path_factory) -> Path:
    """Three small sources with lists, 4 classes; file n of a source has label n % 4."""
    root = tmp_path_factory.mktemp("media")
    files: dict[str, list[str]] = {name: [] for name in SOURCES}
    for n in range(9):
        files["clips"].append(f"class {n % 4}/video {n}.mp4")
        write_video(
            root / "clips" / files["clips"][-1],
            n,
            frames=40 + n,
            width=96 if n % 2 else 72,
            height=64,
            gop=(8, 250)[n % 2],
            b_frames=2 * (n % 2),
            options={"preset": "ultrafast"},
        )
    for n in range(14):
        files["photos"].append(f"{n}.jpg")
        write_image(root / "photos" / files["photos"][-1], 100 + n, 110, 90)
    for n in range(5):
        files["shorts"].append(f"{n}.webm")
        write_video(
            root / "shorts" / files["shorts"][-1],
            200 + n,
            frames=12,
            width=80,
            height=64,
            codec="libvpx-vp9",
            options={"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"},
        )
    for name, paths in files.items():
        (root / f"{name}.txt").write_text(
            "".join(f"{path} {n % 4}\n" for n, path in enumerate(paths))
        )
    return root


@pytest.fixture(scope="session")
def tables(media_root, tmp_path_factory):
    """The catalog tables of the three sources."""
    path = tmp_path_factory.mktemp("catalog") / "catalog.sqlite"
    build_catalog(path, SOURCES, media_root, progress=False)
    reader = CatalogReader(path)
    return [reader.table(name) for name in SOURCES]


@pytest.fixture
def options(media_root, tmp_path) -> list[str]:
    """Arguments of a short training on two sources, in a run folder of the test's own."""
    from helpers.running import options_of

    return options_of(media_root, tmp_path)


@pytest.fixture
def small_network(monkeypatch, tmp_path):
    """Let the programs use a network of three layers, and the test's folder for temporary files."""
    from helpers.recorder import small_model
    from omnidali.evaluation import evaluate
    from omnidali.training import model_setup

    for module in (model_setup, evaluate):
        monkeypatch.setattr(module, "build_model", small_model)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()


@pytest.fixture(scope="session")
def warm():
    """A process that has imported torch, and starts others as its copies."""
    from helpers.warm_process import WarmProcess

    warm = WarmProcess()
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def whole_weights(warm, media_root, tmp_path_factory):
    """Weights of an undisturbed run by the number of ranks.

    Each has one thread, as the number of threads decides on the last bits.
    """
    from helpers.running import options_of, weights

    @functools.cache
    def train(world):
        folder = tmp_path_factory.mktemp(f"whole{world}")
        ranks = warm.start_ranks(folder, "train", *options_of(media_root, folder), world=world)
        for process in ranks:
            assert process.wait() == 0, process.output
        return weights(folder / "run")

    return train


@pytest.fixture(scope="module")
def one_thread():
    """Keep one thread: several on a busy core make a small network ten times as slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda count: None)
        yield


@pytest.fixture(scope="module")
def world(one_thread, tmp_path_factory):
    """A world to filter; files that need another one define their own."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def flat(world):
    return make_network(world)


@pytest.fixture(scope="module")
def teacher(flat, tmp_path_factory):
    return save_teacher(flat, tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def filtered(world, teacher, tmp_path_factory):
    return filter_images(world, tmp_path_factory.mktemp("filtered"), teacher)
