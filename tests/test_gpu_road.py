"""The GPU's road from files to clips: frames, faults, routes, rescue and training on a GPU.

Each body runs on DALI's CPU operators as well, as far as these decode, so that no mistake in it
waits for the day that there is a GPU. A test on a GPU fails if the GPU did not decode.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from helpers.fake_device import FakeDevice
from omnidali.doctor import device as device_module
from omnidali.doctor import loader_speed, training
from omnidali.doctor.codec_matrix import cases_of
from omnidali.doctor.device import VIDEO_CODECS, Device
from omnidali.doctor.faults import compare_roads, fault_cases, make_case_world
from omnidali.doctor.findings import Context, Findings
from omnidali.doctor.media import MediaFolder, Video
from omnidali.doctor.pictures import NEAR, cpu_video, difference, media_of, wrong_numbers
from omnidali.doctor.roads import show_frames, video_graph, whole_file
from omnidali.doctor.world import Road, World
from omnidali.loading.source_routes import capability_of

CPU = None
GPU = 0
ON_GPU = pytest.param(GPU, marks=pytest.mark.needs_gpu, id="gpu")
DEVICES = [pytest.param(CPU, id="cpu"), ON_GPU]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return MediaFolder(tmp_path_factory.mktemp("gpu_road"))


@pytest.fixture
def mjpeg(monkeypatch):
    """The CPU's fastest codec, for what is about files and not about codecs."""
    monkeypatch.setattr(device_module, "_ON_CPU", ("mjpeg",))


def codec_cases():
    """All codecs and sizes for a GPU, and for the CPU what it decodes of them, quickly."""
    for codec in VIDEO_CODECS:
        for case in cases_of(codec):
            if case.is_sure:
                yield pytest.param(GPU, case, marks=pytest.mark.needs_gpu, id=f"gpu-{case.name}")
    for codec in Device(CPU).codecs:
        for case in cases_of(codec):
            if case.is_sure and case.video.width < 400:
                yield pytest.param(CPU, case, id=f"cpu-{case.name}")


@pytest.mark.parametrize("number, case", list(codec_cases()))
def test_every_codec_and_size_shows_the_planned_frames(files, number, case):
    device = Device(number)
    if not device.must_decode(case.video.codec):
        pytest.skip("not every chip decodes it")
    media = media_of(files.video(case.video))
    graph = video_graph(device)
    assert graph.on_gpu == (number is not None)
    for _ in range(2):  # the second time, the decoder may be used again
        shown, _ = show_frames(device, graph, media, case.frames)
        assert not wrong_numbers(shown, case.video.file, case.frames)
        assert difference(shown, cpu_video(media, case.frames)) < NEAR


@pytest.mark.parametrize("number", DEVICES)
def test_excerpts_and_whole_files_give_one_picture(files, number):
    device = Device(number)
    media = media_of(files.video(Video(device.main_codec, 340, 256)))
    graph = video_graph(device)
    frames = [23, 0, 9]
    excerpt, _ = show_frames(device, graph, media, frames)
    whole, _ = show_frames(device, graph, media, frames, whole_file)
    assert difference(excerpt, whole) < 1  # the excerpt has its cropping removed


FAULTS = list(fault_cases(Device(CPU)))


@pytest.mark.parametrize("number", DEVICES)
@pytest.mark.parametrize("name", FAULTS)
def test_faults_give_the_same_clips_on_both_roads(files, mjpeg, number, name):
    device = Device(number)
    case = fault_cases(device, quick=number is CPU).get(name) or fault_cases(device)[name]
    found = compare_roads(make_case_world(files, name, case), device, max(case.steps, 2))
    assert not found.differing and found.difference < NEAR, found
    assert found.bad_files[0] == found.bad_files[1]
    assert found.by_dali > 0 and found.left_to_cpu <= case.allowed
    place = "DALI on the GPU" if number is not None else "DALI on the CPU"
    assert all(place in line for line in found.routes)


@pytest.mark.needs_gpu
def test_sizes_do_not_fill_the_memory_of_the_gpu(files):
    """DALI keeps up to 100 decoders."""
    device = Device(GPU)
    name = FAULTS[-1]
    world = make_case_world(files, name, fault_cases(device)[name])
    compare_roads(world, device, steps=14)  # 112 files
    free = device.free_memory()
    compare_roads(world, device, steps=14)
    assert free - device.free_memory() < 4 << 30


def plain_world(files, folder, codec, count=10):
    """A world of ordinary videos."""
    paths = []
    folder.mkdir()
    for number in range(count):
        path = files.video(Video(codec, 340, 256, file=number))
        paths.append(folder / path.name)
        os.link(path, paths[-1])
    world = World(folder, {"videos": paths}, {"videos": {"kind": "video"}})
    world.build()
    return world


def rescue(folder, number):
    """Load with a GPU whose video decoder is missing; returns what it came to."""
    world = World(
        folder,
        {"videos": sorted(folder.glob("*-*"))},
        {"videos": {"kind": "video"}},
    )
    return vars(compare_roads(world, Device(number), steps=4))


@pytest.mark.parametrize("number", DEVICES)
def test_cpu_takes_over_where_libnvcuvid_is_missing(
    files, mjpeg, tmp_path, monkeypatch, caplog, number
):
    device = Device(number)
    plain_world(files, tmp_path / "world", device.main_codec)
    if number is CPU:
        FakeDevice(monkeypatch).lacks_nvcuvid = True
        found, said = rescue(tmp_path / "world", number), caplog.text
    else:
        # a library that cannot be loaded comes first on the loader's path
        (tmp_path / "libnvcuvid.so.1").write_text("no library")
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "import json, pathlib, test_gpu_road as t;"
                f"print(json.dumps(t.rescue(pathlib.Path({str(tmp_path / 'world')!r}), {number})))",
            ],
            env={
                **os.environ,
                "LD_LIBRARY_PATH": f"{tmp_path}:{os.environ.get('LD_LIBRARY_PATH', '')}",
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            text=True,
            capture_output=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        found, said = json.loads(done.stdout.splitlines()[-1]), done.stderr

    assert found["by_dali"] == 0 and not found["differing"] and found["difference"] < 1
    assert list(found["bad_files"]) == [0, 0]
    # one clear line, and nothing of single files
    assert said.count("any more") == 1


@pytest.mark.parametrize("number", DEVICES)
def test_gpu_gets_the_capability_that_the_routes_go_by(number):
    device = Device(number)
    found = capability_of(device.torch_device)
    assert found == device.capability and (found is None) == (number is CPU)


@pytest.mark.parametrize("number", DEVICES)
def test_photos_and_videos_go_to_dali_in_one_loader(files, mjpeg, number):
    device = Device(number)
    context = Context(str(files.folder), number, quick=True)
    world = loader_speed.make_world(Findings(context, print), device)
    with world.loader(Road(device, is_dali=True), batch=8, end=2) as loader:
        for batch in loader:
            for group in batch.groups:
                assert group.clips.is_cuda == (number is not None)
                assert bool(torch.isfinite(group.clips.float()).all())
        rows = loader.stats()
    assert all(row.by_dali > 0 for row in rows.values()), rows
    assert sum(row.left_to_cpu + row.bad_files for row in rows.values()) == 0


def train(files, number, case):
    """A short training in bf16; returns its figures."""
    device = Device(number)
    facts = []
    findings = Findings(Context(str(files.folder), number, quick=True), facts.append)
    path = training.write_config(findings, device)
    return training.CASES[case](path)


@pytest.mark.parametrize(
    "number, case",
    [
        pytest.param(CPU, "one rank", id="cpu"),
        pytest.param(GPU, "one rank", id="gpu", marks=pytest.mark.needs_gpu),
        # on the CPU, other tests train on two ranks
        pytest.param(GPU, "two ranks", id="two-gpus", marks=pytest.mark.needs_gpu),
    ],
)
def test_training_in_bf16(files, mjpeg, number, case, one_thread):
    if case == "two ranks" and not training.has_two(Device(number)):
        pytest.skip("no second GPU")
    figures = train(files, number, case)
    assert figures["steps"] == 4 and np.isfinite(figures["clips_per_second"])
    if case == "one rank":
        assert set(figures["left_to_cpu"].values()) == {0}
        assert number is CPU or figures["memory_gib"] > 0
