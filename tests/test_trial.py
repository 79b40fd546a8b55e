"""The trial of DALI before a run: facts choose, never times, and the choice stays."""

import functools
import json
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from helpers.fake_device import FakeDevice
from helpers.image_source import image_source, open_images, truncate
from helpers.trials import SETTING, change_dali_pixels, hold
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.database.source_table import SourceTable
from omnidali.config.sources import SourceConfig
from omnidali.decoding.routes import choose_routes
from omnidali.errors import UserError
from omnidali.loading import dali_inputs, source_routes, trial_outcome
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.trial import MOST_DIFFERENCE, SourceTrial, make_samples
from omnidali.media_kind import MediaKind
from omnidali.pipelines import Graph
from omnidali.testing.numbered_media import write_image, write_video


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Videos of VP9, videos of MJPEG, and photos."""
    root = tmp_path_factory.mktemp("world")
    options = {"deadline": "realtime", "cpu-used": "8"}
    for n in range(5):
        write_video(
            root / f"v/{n}.webm",
            n,
            frames=24,
            width=160,
            height=128,
            codec="libvpx-vp9",
            options=options,
        )
        write_video(
            root / f"v/{n}.avi", n, frames=9, width=60, height=50, codec="mjpeg", pixels="yuvj420p"
        )
        write_image(root / f"p/{n}.jpg", n, 320, 240)
    (root / "v.txt").write_text("".join(f"{n}.{e} 0\n" for n in range(5) for e in ("webm", "avi")))
    (root / "p.txt").write_text("".join(f"{n}.jpg 0\n" for n in range(5)))
    sources = {
        "v": SourceConfig(kind="video", root="v", list="v.txt"),
        "p": SourceConfig(kind="image", root="p", list="p.txt"),
    }
    build_catalog(root / "c.sqlite", sources, root, progress=False)
    reader = CatalogReader(root / "c.sqlite")
    return {name: (reader.table(name), source) for name, source in sources.items()}


@pytest.fixture
def gpu(monkeypatch):
    """A GPU in the eyes of the facts; what is built works on the CPU."""
    for module in (source_routes, trial_outcome):
        monkeypatch.setattr(module, "capability_of", lambda device: (8, 9))


@pytest.fixture
def change_pixels(monkeypatch):
    return functools.partial(change_dali_pixels, monkeypatch)


def test_sound_roads_are_alike(world, caplog):
    for name, codecs in (("v", ["mjpeg", "vp9"]), ("p", ["jpeg"])):
        table, _ = world[name]
        routes = choose_routes(table, "dali", None)
        trials = SourceTrial(
            table, routes, device=torch.device("cpu"), threads=2, hang_seconds=60
        ).try_codecs()
        assert [(trial.codec, trial.clips, trial.failure) for trial in trials] == [
            (codec, 4, "") for codec in codecs
        ]
        assert all(trial.difference < MOST_DIFFERENCE / 2 for trial in trials)
        assert all(trial.dali_rate > 0 < trial.cpu_rate for trial in trials)
    trial = hold(world, "v", "hybrid")
    assert trial.tried == {"v": {"mjpeg": "", "vp9": ""}}
    assert trial.record == {"v": {SETTING: {"mjpeg": "", "vp9": ""}}}
    assert len(trial.lines) == 2 and "in a trial of 4 small clips in mjpeg" in trial.lines[0]
    assert not caplog.messages


@pytest.mark.parametrize("shift", [-1, 1])
def test_road_that_shows_neighbouring_frames_is_not_taken(shift, world, monkeypatch):
    """One frame off is less than the bound on most videos, and wrong all the same."""
    right = dali_inputs.make_excerpt
    monkeypatch.setattr(
        dali_inputs,
        "make_excerpt",
        lambda media, frames, **options: right(
            media, (frames + shift).clip(0, media.frames - 1), **options
        ),
    )
    trial = hold(world, "v", "hybrid")
    for codec, cause in trial.tried["v"].items():
        assert cause == (
            f"in {codec}, whose pixels by DALI differ (neighbouring frames in 4 of 4 clips)"
        )
    with pytest.raises(UserError, match="got neighbouring frames in 4 of 4 clips"):
        hold(world, "v", "dali")


def test_nothing_is_tried_where_nobody_asks_for_dali(world, monkeypatch):
    monkeypatch.setattr(SourceTrial, "try_codecs", None)
    for decode in ("cpu", "auto"):
        assert hold(world, "v", decode).record == {}


def test_clips_of_a_trial_lie_within_their_pieces():
    table = choose_pieces()
    samples = make_samples(table, np.array([0, 1, 4]))
    assert samples.rows.tolist() == [0, 0, 2]
    firsts, lengths = table.firsts[[0, 1, 4]], table.frames[[0, 1, 4]]
    assert (samples.frames >= firsts[:, None]).all()
    assert (samples.frames < (firsts + lengths)[:, None]).all()
    top, left, bottom, right = samples.boxes[:, 0].T
    assert (bottom - top == right - left).all() and (bottom <= 90).all() and (right <= 120).all()
    assert samples.frames.flags.c_contiguous and samples.boxes.flags.c_contiguous


def choose_pieces():
    """Three long videos of two, two and one pieces."""
    return SourceTable(
        "long",
        MediaKind.UNTRIMMED,
        np.arange(5),
        np.zeros(3, np.int32),
        np.full(3, 120, np.uint16),
        np.full(3, 90, np.uint16),
        np.array([10, 1, 30, 7, 2], np.int32),
        np.zeros(5, np.uint8),
        firsts=np.array([0, 50, 10, 90, 4], np.int32),
        starts=np.array([0, 2, 4, 5]),
        codec_names=("vp9",),
    )


def test_wrong_pixels_make_a_codec_the_cpus(world, change_pixels, caplog):
    change_pixels(40)
    trial = hold(world, "v", "hybrid")
    reasons = trial.tried["v"]
    for codec in ("vp9", "mjpeg"):
        assert reasons[codec].startswith(f"in {codec}, whose pixels by DALI differ (")
    assert trial.record == {"v": {SETTING: reasons}} and not trial.lines
    with pytest.raises(UserError) as caught:
        hold(world, "v", "dali")
    assert str(caught.value).startswith(
        "sources.v.decode: expected pixels of mjpeg by DALI within 6 of 255 of the CPU's, got "
    )
    assert not caplog.messages


def test_one_odd_file_does_not_condemn_a_codec(world, change_pixels):
    table, _ = world["p"]
    odd = table.media(table.records[0]).span.read_bytes()
    change_pixels(90, only=[odd])
    assert hold(world, "p", "dali").tried == {"p": {"jpeg": ""}}


@pytest.mark.parametrize("how", ["runs fail", "no graph can be built"])
def test_auto_without_the_drivers_library_is_one_line_and_the_cpu(
    world, monkeypatch, caplog, gpu, how
):
    device = FakeDevice(monkeypatch)
    device.lacks_nvcuvid = how == "runs fail"
    if how == "no graph can be built":
        device.refuse_to_build()
    monkeypatch.setattr(trial_outcome, "_has_library", lambda: False)
    trial = hold(world, "v", "auto")
    (line,) = caplog.messages
    assert line.startswith("v: DALI on the GPU decodes no vp9 here (no libnvcuvid.so.1, NVIDIA's")
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in line
    # another machine, or this one once it is mended, tries it again
    assert trial.record == {
        "v": {"auto on a GPU": {"mjpeg": "in mjpeg, which DALI does not decode on this GPU"}}
    }

    device.runs = 0
    table, source = world["v"]
    with open_images(table, {"v": source}, trial=trial) as loader:
        assert loader.routes == [
            "v: 5 in mjpeg, which DALI does not decode on this GPU, 5 in vp9, which DALI does not"
            " decode here: PyAV on the CPU"
        ]
        assert len(list(loader)) == 8
        assert loader.state_dict()["trial"] == trial.record
    assert device.runs == 0

    rows = np.flatnonzero(table.codecs == table.codec_names.index("vp9"))
    alone = replace(
        table.take(rows, "vp9"), codecs=np.zeros(len(rows), np.uint8), codec_names=("vp9",)
    )
    for decode in ("dali", "hybrid"):
        with pytest.raises(UserError) as caught:
            hold({"v": (alone, source)}, "v", decode)
        text = str(caught.value)
        assert text.startswith(
            "sources.v.decode: expected DALI on the GPU to decode vp9, got no libnvcuvid.so.1"
        )
        assert text.endswith(
            "Start the container with the driver's capability `video`"
            " (NVIDIA_DRIVER_CAPABILITIES=compute,utility,video), or use decode: auto."
        )


def test_times_only_advise(world, monkeypatch):
    fast = hold(world, "p", "dali")
    collect = Graph.collect

    def late(graph):
        time.sleep(0.1)
        return collect(graph)

    monkeypatch.setattr(Graph, "collect", late)
    slow = hold(world, "p", "dali")
    assert (slow.tried, slow.record) == (fast.tried, fast.record)
    assert slow.lines[0].endswith("; decode: cpu may be faster")


def test_broken_files_are_no_business_of_the_trial(tmp_path, caplog):
    """Some are cut off, and then all."""
    table, source, folder = image_source(tmp_path, "dali", count=4)
    world = {"web": (table, source["web"])}
    for count in (2, 4):
        for n in range(count):
            if (folder / f"{n}.png").stat().st_size > 90:
                truncate(folder / f"{n}.png")
        assert hold(world, "web", "dali").tried == {"web": {"png": ""}}
    assert not caplog.messages

    quarantine = Quarantine(tmp_path / "q.jsonl")
    with open_images(table, source, trial=hold(world, "web", "dali"), quarantine=quarantine) as one:
        stats = one.stats()["web"]
    assert (stats.bad_files, stats.left_to_cpu, stats.clips, stats.substituted) == (0, 0, 0, 0)
    assert not list(tmp_path.glob("*.jsonl"))


def test_pictures_of_one_colour_say_nothing_about_a_road(tmp_path, change_pixels):
    """DALI shows such a picture, too, where it has none: fade-ins must not look like a fault."""
    for n in range(4):
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.full((50, 60, 3), 40 * n, np.uint8))
    (tmp_path / "l.txt").write_text("".join(f"{n}.png 0\n" for n in range(4)))
    sources = {"web": SourceConfig(kind="image", root=".", list="l.txt")}
    build_catalog(tmp_path / "c.sqlite", sources, tmp_path, progress=False)
    world = {"web": (CatalogReader(tmp_path / "c.sqlite").table("web"), sources["web"])}
    change_pixels(40)
    trial = hold(world, "web", "dali")
    assert trial.tried == {"web": {"png": ""}} and not trial.lines


def test_outcome_of_the_first_start_stays(world, change_pixels, monkeypatch, caplog):
    first = hold(world, "v", "hybrid")
    left = {"v": {SETTING: {"vp9": "in vp9, whose pixels by DALI differ", "mjpeg": ""}}}
    other = {"gone": {"auto on a GPU": {"h264": ""}}, "v": {"dali on the CPU": {"vp9": ""}}}

    kept = hold(world, "v", "hybrid", {**other, **left})
    assert kept.tried == {"v": left["v"][SETTING]}  # though they are alike
    assert kept.record == {**other, **left}
    assert hold(world, "v", "dali", left).tried == {"v": {"vp9": "", "mjpeg": ""}}

    change_pixels(40)
    again = hold(world, "v", "hybrid", first.record)
    assert (again.tried, again.record) == (first.tried, first.record)
    assert len(again.lines) == 2 and "the run began with DALI and stays with it" in again.lines[0]

    # DALI cannot at all: the CPU steps in, and a later start finds the first choice again
    FakeDevice(monkeypatch).lacks_nvcuvid = True
    table, source = world["v"]
    mixed = {"v": {"hybrid on the CPU": {"vp9": "", "mjpeg": "in mjpeg, as it was"}}}
    with pytest.raises(UserError, match="expected DALI on the CPU to decode vp9"):
        hold(world, "v", "hybrid", mixed)
    assert not caplog.messages


def test_kept_dali_gives_way_where_it_cannot_work(world, monkeypatch, caplog, gpu):
    kept = {"v": {"auto on a GPU": {"vp9": "", "mjpeg": "in mjpeg, as it was"}}}
    FakeDevice(monkeypatch).lacks_nvcuvid = True
    trial = hold(world, "v", "auto", kept)
    assert trial.record == kept and len(caplog.messages) == 1
    assert trial.tried["v"]["vp9"] == "in vp9, which DALI does not decode here"

    table, source = world["v"]
    with open_images(table, {"v": source}, trial=hold(world, "v", "auto", kept)) as loader:
        state = loader.state_dict()
        line = state["decoders"]["v"]
        state["decoders"] = {"v": line.replace("vp9 by PyAV on the CPU", "vp9 by DALI on the GPU")}
        (note,) = loader.load_state_dict(state)
    assert note.startswith("same order, but slightly other pixels from here on: v: ")


@pytest.mark.parametrize(
    "kept", [None, 3, "x", {"v": 3}, {"v": {SETTING: {"vp9": 7, 3: ""}, 4: {}}}, {5: {}}]
)
def test_strange_checkpoints_keep_nothing(world, monkeypatch, kept):
    monkeypatch.setattr(SourceTrial, "try_codecs", lambda roads: [])
    trial = hold(world, "v", "hybrid", kept)
    assert trial.tried == {"v": {"mjpeg": "", "vp9": ""}}
    json.dumps(trial.record)
