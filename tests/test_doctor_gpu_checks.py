"""The GPU's half of `omnidali doctor`, on DALI's CPU operators: no line of it shall run for the
first time on the one day that there is a GPU.
"""

import pytest
import torch

from helpers.doctor_findings import collect, texts
from omnidali.doctor import (
    codec_matrix,
    device,
    faults,
    first_look,
    loader_speed,
    photos,
    roads,
    stages,
    training,
    world,
)
from omnidali.doctor.device import VIDEO_CODECS, Device
from omnidali.doctor.doctor import _GPU
from omnidali.doctor.media import MediaFolder
from omnidali.doctor.pictures import cpu_video, media_of, wrong_numbers
from omnidali.pipelines import PipelineError


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("doctor")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small media: it is the lines that count, not the figures."""
    monkeypatch.setattr(first_look, "FRAMES", 24)
    monkeypatch.setattr(first_look, "_REPEATS", 2)
    monkeypatch.setattr(codec_matrix, "SIZES", {"small": (160, 144), "1080p": (1008, 144)})
    monkeypatch.setattr(faults, "_STEPS", 2)
    monkeypatch.setattr(loader_speed, "_QUICK_SECONDS", 0.01)
    monkeypatch.setattr(loader_speed, "_SECONDS", 0.01)
    monkeypatch.setattr(stages, "_QUICK_SECONDS", 0.01)
    monkeypatch.setattr(stages, "_SIZE", 64)


@pytest.fixture
def few_faults(monkeypatch):
    """Two of the cases; test_gpu_road.py has all of them."""
    every = faults.fault_cases

    def some(*arguments):
        return dict(list(every(*arguments).items())[:2])

    monkeypatch.setattr(faults, "fault_cases", some)


@pytest.fixture
def mjpeg(monkeypatch):
    """The stand-in's fastest codec."""
    monkeypatch.setattr(device, "_ON_CPU", ("mjpeg",))


def look(function, scratch, quick=True):
    """Run a check; returns the facts, and the texts by level."""
    findings, lines = collect(function, scratch=str(scratch), quick=quick)
    return findings.facts, {level: texts(lines, level) for level in ("good", "note", "bad")}


def test_first_look(scratch):
    facts, said = look(first_look.look_first, scratch)
    assert not said["bad"] and len(said["good"]) == 5
    assert facts["video"]["codec"] == "vp9" and not facts["video"]["wrong"]
    assert len(facts["video"]["ms"]) == 8 and max(facts["colours"].values()) < 3
    assert not facts["photo"]["wrong"]


def test_every_codec_and_size_on_both_roads(scratch):
    facts, said = look(codec_matrix.look_at_codecs, scratch, quick=False)
    assert not said["bad"] and said["good"] == [
        f"{len(facts)} of {len(facts)} videos are the same on both roads, with the right frames"
    ]
    assert {name.split()[0] for name in facts} == {"vp9", "vp8", "mjpeg"}
    assert all(not row["wrong"] and row["difference"] < 4 for row in facts.values())


def test_odd_and_damaged_files(scratch, mjpeg, few_faults):
    facts, said = look(faults.look_at_faults, scratch)
    assert not said["bad"] and len(facts) == len(said["good"]) == 2
    damaged = facts["files damaged after the probe"]
    assert damaged["bad_files"][0] > 0 and damaged["bad_files"][0] == damaged["bad_files"][1]
    assert all(row["by_dali"] > 0 for row in facts.values())


def test_photos(scratch):
    facts, said = look(photos.look_at_photos, scratch)
    assert not said["bad"] and f"{len(facts) - 1} of {len(facts) - 1} kinds" in said["good"][-1]
    assert facts["photos through the loader"]["bad_files"] == (3, 3)


def test_more_than_a_hundred_sizes_are_decoded():
    """Else DALI's cache of decoders would never be full."""
    case = faults.fault_cases(Device(None))["104 sizes"]
    assert len({video.width for video in case.videos}) == 104 and 8 * case.steps >= 104


def test_whole_loader(scratch, mjpeg):
    facts, said = look(loader_speed.look_at_loader, scratch)
    assert not said["bad"] and list(facts) == list(loader_speed.WORKLOADS)
    assert all(row["gpu"] > 0 and row["cpu"] > 0 for row in facts.values())
    assert not any(row["left to cpu"] for row in facts.values())


def test_stages(scratch, mjpeg):
    facts, said = look(stages.look_at_stages, scratch)
    assert not said["bad"] and len(said["good"]) == 12
    assert facts.pop("clip") == "8 frames of a video of 340x256, mjpeg, GOP 8"
    assert len(facts) == 12 and all(rate > 0 for rate in facts.values())


def test_training_without_a_second_gpu(scratch, mjpeg, monkeypatch):
    figures = {"wait_percent": 40.0, "clips_per_second": 100.0}
    monkeypatch.setitem(training.CASES, "one rank", lambda path: figures)
    quick = {"wait_percent": 1.0, "clips_per_second": 100.0}
    monkeypatch.setitem(training.CASES, "two ranks", lambda path: quick)
    _, said = look(training.look_at_training, scratch)
    assert "1.0 % of the time waiting" in said["good"][0]
    monkeypatch.setattr(training, "has_two", lambda device: False)
    _, said = look(training.look_at_training, scratch)
    assert "40.0 % of the time waiting" in said["note"][0] and "no second GPU" in said["note"][1]


@pytest.mark.parametrize(
    "function",
    [
        first_look.look_first,
        codec_matrix.look_at_codecs,
        photos.look_at_photos,
        faults.look_at_faults,
        stages.look_at_stages,
        loader_speed.look_at_loader,
        training.look_at_training,
    ],
)
def test_graph_that_fails_is_a_line_for_each_case(
    scratch, mjpeg, few_faults, monkeypatch, function
):
    """The control: a GPU that decodes nothing is seen by every check."""

    def fail(*arguments):
        raise PipelineError("no libnvcuvid")

    monkeypatch.setattr(roads.Graph, "run", fail)
    monkeypatch.setattr(roads.Graph, "collect", fail)
    for case in training.CASES:
        monkeypatch.setitem(training.CASES, case, fail)
    _, said = look(function, scratch)
    works = ("copied", "sent", "read", "excerpt", "one core", "all cores")  # stages without DALI
    others = [text for text in said["good"] if not any(map(text.count, works))]
    assert said["bad"] and not others
    assert said["good"] == [] or function is stages.look_at_stages


def changed_by(change, function):
    """The function of frames, with other pixels."""

    def run(*arguments):
        pixels, milliseconds = function(*arguments)
        return change(pixels), milliseconds

    return run


@pytest.mark.parametrize("what", ["numbers", "colours"])
def test_wrong_frames_and_colours_are_seen(scratch, mjpeg, monkeypatch, what):
    """The control: DALI's road shows other numbers, or is too dark."""
    change = {"numbers": lambda pixels: 255 - pixels, "colours": lambda pixels: pixels * 0.8}[what]
    for module in (first_look, codec_matrix):
        monkeypatch.setattr(module, "show_frames", changed_by(change, roads.show_frames))
    for module in (first_look, photos):
        monkeypatch.setattr(module, "run_timed", changed_by(change, roads.run_timed))

    _, said = look(first_look.look_first, scratch)
    assert any("colours beside the CPU's" in text for text in said["bad"])
    assert any("shows frame" in text for text in said["bad"]) == (what == "numbers")
    for check in (codec_matrix.look_at_codecs, photos.look_at_photos):
        facts, said = look(check, scratch)
        wrong = [name for name, row in facts.items() if row.get("wrong")]
        assert len(wrong) == (len(facts) - (check is photos.look_at_photos)) * (what == "numbers")
        reason = "shows frame" if what == "numbers" else "of 255 from"
        assert any(reason in text for text in said["bad"]) and "0 of" in said["note"][-1]


def test_wrong_frames_of_the_cpu_are_seen(scratch, mjpeg, monkeypatch):
    right = codec_matrix.cpu_video
    monkeypatch.setattr(codec_matrix, "cpu_video", lambda *arguments: 255 - right(*arguments))
    _, said = look(codec_matrix.look_at_codecs, scratch)
    assert any("on the CPU: frame" in text for text in said["bad"])


def test_other_clips_on_one_road_are_seen(scratch, mjpeg, few_faults, monkeypatch):
    right = faults.shown_numbers
    calls = []

    def shown(clip):
        calls.append(clip)
        return right(clip) if len(calls) % 2 else ()

    monkeypatch.setattr(faults, "shown_numbers", shown)
    _, said = look(faults.look_at_faults, scratch)
    assert len(said["bad"]) == 2 and "clips differ, slot" in said["bad"][0]
    assert "on the CPU, () by DALI" in said["bad"][0]

    def fail(*arguments):
        raise PipelineError("no road at all")

    monkeypatch.setattr(faults, "compare_roads", fail)
    _, said = look(faults.look_at_faults, scratch)
    assert said["bad"][0] == "ordinary files: PipelineError: no road at all"


def test_roads_that_differ_are_seen(scratch, monkeypatch):
    """The control of the comparison of whole loaders."""
    found = faults.Comparison([], [], 0.0, 2, (0, 0), 4)
    for change, text in (
        ({"differing": ["slot 3: ..."]}, "1 clips differ, slot 3"),
        ({"bad_files": (1, 2)}, "1 files fail on the CPU's road, 2 on DALI's"),
        ({"difference": 9.0}, "9.0 of 255 between the roads"),
        ({"by_dali": 0}, "DALI decoded nothing"),
        ({"left_to_cpu": 3}, "DALI did not decode 3 files"),
    ):
        changed = faults.Comparison(**{**vars(found), **change})
        _, said = look(lambda findings, one=changed: faults.judge(findings, "it", one, 2), scratch)
        assert text in said["bad"][0] and not said["good"]


@pytest.mark.parametrize("codec", VIDEO_CODECS)
def test_media_for_every_codec_of_a_gpu_can_be_made(scratch, codec):
    """Their encoders are there, and the CPU reads the right frames: H.264 and HEVC, too."""
    cases = codec_matrix.cases_of(codec, quick=True)
    for case in cases:
        media = media_of(MediaFolder(scratch).video(case.video))
        shown = cpu_video(media, case.frames)
        assert not wrong_numbers(shown, case.video.file, case.frames), case.name
    assert len(cases) >= 2


def test_few_cases_are_tried_of_a_codec_that_the_chip_may_lack():
    cases = codec_matrix.cases_of("av1", is_sure=False)
    assert len(cases) == 2 and not any(case.is_sure for case in cases)


class FakeTorchCuda:
    """What the checks ask torch about a GPU."""

    synchronised = 0

    def get_device_name(self, number):
        return f"NVIDIA Stand-in {number}"

    def get_device_capability(self, number):
        return (9, 0)

    def mem_get_info(self, number):
        return (7, 9)

    def synchronize(self, number):
        self.synchronised += 1

    def device_count(self):
        return 2


def test_questions_to_torch_about_a_gpu(monkeypatch):
    cuda = FakeTorchCuda()
    for name in ("get_device_name", "get_device_capability", "mem_get_info", "synchronize"):
        assert hasattr(torch.cuda, name)
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    monkeypatch.setattr(torch.cuda, "device_count", cuda.device_count)
    gpu = Device(0)
    gpu.synchronise()
    assert (gpu.name, gpu.capability, gpu.free_memory()) == ("NVIDIA Stand-in 0", (9, 0), 7)
    assert gpu.torch_device == torch.device("cuda:0") and cuda.synchronised == 1
    assert gpu.codecs == VIDEO_CODECS and gpu.main_codec == "h264"
    assert not gpu.must_decode("av1") and gpu.must_decode("hevc")
    assert training.has_two(gpu)
    road = world.Road(gpu, is_dali=True)
    assert (road.decode, road.torch_device.type) == ("auto", "cuda")
    assert world.Road(gpu, is_dali=False).decode == "cpu"


def test_every_gpu_check_exists():
    modules = (first_look, codec_matrix, faults, photos, loader_speed, stages, training)
    for check, module in zip(_GPU, modules, strict=True):
        assert check.function.startswith(f"{module.__name__}:look_")
        assert callable(getattr(module, check.function.partition(":")[2]))
