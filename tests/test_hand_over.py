"""From a device's memory to the clips: nothing late, nothing that was given up, nothing that is
missing reaches a batch. The device is a fake one, which decodes with DALI's CPU operators.
"""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import SOURCES
from helpers.fake_device import FakeDevice
from helpers.image_source import CENTER, image_source, truncate
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.config.sources import SourceConfig
from omnidali.decoding.decoders import DECODERS
from omnidali.errors import BadSourceError, DecodeError
from omnidali.loading import device_work
from omnidali.loading.backend import PendingSamples
from omnidali.loading.fusion import FusionIterator
from omnidali.loading.source_decoder import SourceDecoder
from omnidali.media_kind import MediaKind
from omnidali.pipelines import Graph
from omnidali.planning.train_plan import TrainPlan
from omnidali.testing.numbered_media import write_video

DALI = {
    **SOURCES,
    "photos": replace(SOURCES["photos"], decode="dali"),
    "shorts": replace(SOURCES["shorts"], decode="dali"),
}
STEPS = 6
VP9 = {
    "codec": "libvpx-vp9",
    "gop": 8,
    "options": {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"},
}


def open_loader(tables, sources=DALI, *, mixup="none", steps=STEPS, **options):
    settings = list(sources.values())
    plan = TrainPlan(tables, settings, CENTER, 12, 5, mixup=mixup, classes=4)
    return FusionIterator(plan, settings, **{"threads": 2, "end": steps, **options})


def clips_of(loader):
    """Of each group of each step: clips, labels, records and valid."""
    with loader:
        return [
            (group.clips.clone(), group.labels, group.record, group.valid)
            for batch in loader
            for group in batch.groups
        ]


def assert_same(shown, expected, tolerance=1e-4):
    assert len(shown) == len(expected)
    for (clips, *facts), (other, *wanted) in zip(shown, expected, strict=True):
        for fact, want in zip(facts, wanted, strict=True):
            assert torch.equal(fact, want)
        assert torch.isfinite(clips).all()
        assert (clips - other).abs().max() < tolerance


@pytest.fixture(scope="module")
def expected(tables):
    """What the loader gives without the fake device, by its mixup."""
    return {mixup: clips_of(open_loader(tables, mixup=mixup)) for mixup in ("none", "cross")}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A source of twelve VP9 videos, which DALI decodes on the CPU, too."""
    folder = tmp_path_factory.mktemp("videos")
    for n in range(12):
        write_video(folder / "v" / f"{n}.webm", n, frames=24, width=96, height=64, **VP9)
    (folder / "l.txt").write_text("".join(f"{n}.webm {n % 4}\n" for n in range(12)))
    sources = {"web": SourceConfig(kind="video", root="v", list="l.txt", decode="dali")}
    build_catalog(folder / "c.sqlite", sources, folder, progress=False)
    return [CatalogReader(folder / "c.sqlite").table("web")], sources


def by_cpu(sources):
    return {name: replace(source, decode="cpu") for name, source in sources.items()}


@pytest.mark.parametrize("prefetch", [1, 2, 3])
@pytest.mark.parametrize("mixup", ["none", "cross"])
def test_no_late_and_no_poisoned_value_reaches_a_clip(
    tables, expected, monkeypatch, mixup, prefetch
):
    """Photos and short videos are DALI's; the device normalises the other videos."""
    device = FakeDevice(monkeypatch)
    assert_same(clips_of(open_loader(tables, mixup=mixup, prefetch=prefetch)), expected[mixup])
    assert device.runs >= 2 * STEPS


@pytest.mark.parametrize("careless", ["lets go before it waits", "never waits"])
def test_fake_device_sees_a_careless_hand_over(tables, expected, monkeypatch, careless):
    """The control: once the wait comes after the last reference to the outputs is gone."""
    device = FakeDevice(monkeypatch)
    finish = SourceDecoder.finish
    wait = device.work.wait

    def finish_and_wait(decoder, pending, stopped):
        finish(decoder, pending, stopped)
        wait()

    monkeypatch.setattr(device_work.HeldMemory, "__exit__", lambda held, *_: None)
    if careless == "lets go before it waits":
        monkeypatch.setattr(SourceDecoder, "finish", finish_and_wait)
    with pytest.raises(AssertionError):
        assert_same(clips_of(open_loader(tables)), expected["none"])


def test_clips_go_to_their_places_in_any_order():
    pending = PendingSamples(0, None, torch.zeros(3, 1, 2, 4, 4, 3))
    pending.write([2, 0, 1], torch.arange(3.0).view(3, 1, 1, 1, 1, 1).expand(3, 1, 1, 4, 4, 3))
    assert pending.out[:, 0, 1, 0, 0, 0].tolist() == [1, 2, 0]


@pytest.mark.parametrize("decode", ["dali", "cpu"])
def test_substitutes_are_handed_over_as_planned(tmp_path, monkeypatch, decode):
    table, source, pics = image_source(tmp_path, decode)
    for n in (2, 5):
        truncate(pics / f"{n}.png")
    options = {"max_bad_ratio": 1.0}
    whole = clips_of(open_loader([table], source, **options))

    FakeDevice(monkeypatch)
    assert_same(clips_of(open_loader([table], source, **options)), whole)


@pytest.mark.parametrize("fails", ["some", "all"])
def test_batch_that_fails_is_handed_over_in_parts(tmp_path, monkeypatch, fails):
    """DALI refuses files that the CPU decodes; the rest of their batch is DALI's all the same."""
    table, source, pics = image_source(tmp_path, "dali")
    whole = clips_of(open_loader([table], source))
    refused = {(pics / f"{n}.png").read_bytes() for n in range(8) if fails == "all" or n % 3 == 0}

    device = FakeDevice(monkeypatch)
    device.refuses = refused
    assert_same(clips_of(open_loader([table], source)), whole, tolerance=0.5)


@pytest.mark.parametrize("fault", ["no library", "no graph"])
def test_device_without_decoder_leaves_all_to_the_cpu(videos, monkeypatch, caplog, fault):
    """Every clip is right, one line says why, and the runs do not grow with the steps."""
    tables, sources = videos
    whole = clips_of(open_loader(tables, by_cpu(sources), steps=12))

    device = FakeDevice(monkeypatch)
    if fault == "no library":
        device.lacks_nvcuvid = True
    else:
        device.refuse_to_build()
    assert_same(clips_of(open_loader(tables, sources, steps=12)), whole)
    told = [record.message for record in caplog.records if "DALI" in record.message]
    assert len(told) == 1 and "shared object symbol not found" in told[0]
    assert device.runs < 40


@pytest.mark.parametrize("drops", ["black", "short"])
def test_frame_that_the_device_drops_is_decoded_by_the_cpu(videos, monkeypatch, drops):
    tables, sources = videos
    whole = clips_of(open_loader(tables, by_cpu(sources)))
    without = clips_of(open_loader(tables, sources))

    device = FakeDevice(monkeypatch)
    device.drops = drops
    shown = clips_of(open_loader(tables, sources))
    assert device.dropped > 3
    for (clips, *_), (by_dali, *_), (by_cpu_alone, *_) in zip(shown, without, whole, strict=True):
        for clip, one, other in zip(clips, by_dali, by_cpu_alone, strict=True):
            assert min((clip - one).abs().max(), (clip - other).abs().max()) < 1e-4


def test_error_in_the_middle_ends_the_loader_and_no_graph_runs_on(tables, monkeypatch):
    FakeDevice(monkeypatch)
    graphs = []
    start = Graph.start
    read = DECODERS[MediaKind.VIDEO]
    decoded = []

    def note(graph, feeds):
        graphs.append(graph)
        start(graph, feeds)

    def break_down(media, *arguments):
        decoded.append(media)
        if len(decoded) > 20:
            raise DecodeError("cut off")
        return read(media, *arguments)

    monkeypatch.setattr(Graph, "start", note)
    monkeypatch.setitem(DECODERS, MediaKind.VIDEO, break_down)
    before = threading.active_count()
    with (
        open_loader(tables, prefetch=3, steps=None, max_bad_ratio=0.0) as loader,
        pytest.raises(BadSourceError),
    ):
        for _ in loader:
            pass
    assert graphs and not any(graph.under_way for graph in graphs)
    assert threading.active_count() <= before + 1


def test_loader_that_is_stopped_leaves_no_graph_at_work(tables, expected, monkeypatch):
    FakeDevice(monkeypatch)
    graphs = set()
    start = Graph.start

    def note(graph, feeds):
        graphs.add(graph)
        start(graph, feeds)

    monkeypatch.setattr(Graph, "start", note)
    with open_loader(tables, prefetch=3) as loader:
        next(loader)
        state = loader.state_dict()
        loader.load_state_dict(state)  # stops the threads, and begins anew with the next step
        rest = [
            (group.clips.clone(), group.labels, group.record, group.valid)
            for batch in loader
            for group in batch.groups
        ]
    assert_same(rest, expected["none"][-len(rest) :])
    assert len(rest) > 5 and not any(graph.under_way for graph in graphs)


def test_loader_without_a_gpu_pins_no_memory(tables, monkeypatch):
    empty = torch.empty

    def refuse(*_, **__):
        raise AssertionError("pinned memory needs CUDA")

    def checked(*arguments, pin_memory=False, **options):
        return refuse() if pin_memory else empty(*arguments, **options)

    monkeypatch.setattr(torch, "empty", checked)
    monkeypatch.setattr(torch.Tensor, "pin_memory", refuse)
    monkeypatch.setattr(torch.Tensor, "record_stream", refuse)
    assert clips_of(open_loader(tables, mixup="cross", steps=2))


@pytest.mark.needs_gpu
@pytest.mark.parametrize("mixup", ["none", "cross"])
def test_gpu_gives_the_clips_of_the_cpu(tables, mixup):
    sources = by_cpu(SOURCES)
    on_cpu = clips_of(open_loader(tables, sources, mixup=mixup))
    on_gpu = clips_of(open_loader(tables, sources, mixup=mixup, device="cuda"))
    assert_same([[value.cpu() for value in group] for group in on_gpu], on_cpu)


@pytest.mark.needs_gpu
def test_pinned_memory_is_used_again_and_uploads_do_not_wait():
    work = device_work.device_work(torch.device("cuda"))
    with work.stream():
        first = work.host_memory((1 << 20,), torch.uint8)
        place = first.data_ptr()
        assert first.is_pinned()
        del first
        assert work.host_memory((1 << 20,), torch.uint8).data_ptr() == place

        torch.cuda._sleep(1 << 30)  # a long training step on this stream
        behind = torch.cuda.Event()
        copy = work.upload(np.arange(8))
        behind.record()
        assert not behind.query()
        work.wait()
        assert behind.query() and copy.tolist() == list(range(8))
