"""Files that hang, and the threads that they block."""

import gc
import json
import os
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import hurry
from helpers.fake_device import FakeWork, Memory
from helpers.image_source import (
    clips_by_slot,
    image_source,
    make_plan,
    open_images,
    truncate,
)
from omnidali.config.schema import LoaderConfig
from omnidali.decoding.decoders import DECODERS
from omnidali.errors import BadSourceError, DecodeError
from omnidali.loading import cpu_backend, sample_decoder
from omnidali.loading.backend import PendingSamples, Workers
from omnidali.loading.cpu_backend import CpuBackend
from omnidali.loading.device_work import DeviceWork
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.failures.tracker import FailureTracker
from omnidali.loading.fusion import FusionIterator
from omnidali.loading.thread_plan import thread_plan
from omnidali.media_kind import MediaKind


def test_error_does_not_wait_for_a_hanging_file(tmp_path, monkeypatch):
    """Other ranks learn of an error only when the rank that meets it ends."""
    table, source, _ = image_source(tmp_path)
    plan = make_plan([table], source, batch=4)
    first = {table.media(record).path for record in table.records[plan(0)[0].rows]}
    hangs = threading.Event()
    let_go = threading.Event()

    def decode(media, *_):
        if media.path in first:
            hangs.wait(10)
            raise DecodeError("broken")
        hangs.set()
        let_go.wait(30)

    monkeypatch.setitem(DECODERS, MediaKind.IMAGE, decode)
    began = time.monotonic()
    before = threading.active_count()
    with (
        open_images(table, source, plan, max_bad_ratio=0.0, hang_seconds=25.0) as batches,
        pytest.raises(BadSourceError, match="broken"),
    ):
        list(batches)
    assert hangs.is_set() and time.monotonic() - began < 12
    let_go.set()
    end = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert threading.active_count() <= before  # they end by themselves


@pytest.mark.parametrize("decode", ["cpu", "dali"])
def test_hanging_file_is_abandoned(tmp_path, decode, caplog, monkeypatch):
    table, source, pics = image_source(tmp_path, decode)
    hanging = [str(pics / f"{n}.png") for n in (3, 6)]
    for path in hanging:
        os.unlink(path)
        os.mkfifo(path)  # opening it waits for ever

    hurry(monkeypatch, hanging, 15)
    began = time.monotonic()
    before = threading.active_count()
    with open_images(
        table, source, max_bad_ratio=1.0, hang_seconds=30.0, stall_seconds=0.6
    ) as batches:
        assert len(clips_by_slot(batches)) == 32
        assert batches.stats()["web"].bad_files == 2
    assert time.monotonic() - began < 25
    assert caplog.text.count("not read and decoded within 30 s") == 2
    stalls = [record.message for record in caplog.records if "no batch for 0.6 s" in record.message]
    assert all(stall.startswith("rank 0: ") and "waits for source web" in stall for stall in stalls)
    assert any(str(pics) in stall for stall in stalls)
    gc.collect()
    # the threads hang, and hold no batch
    assert not [thing for thing in gc.get_objects() if type(thing) is PendingSamples]
    for path in hanging:  # let the threads go
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    end = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_two_sources_that_hang_at_once_lose_no_clip(tmp_path, monkeypatch):
    """Reads return just when they are abandoned: each clip is decoded all the same."""
    parts = [image_source(tmp_path / name) for name in ("one", "two")]
    sources = {
        name: source["web"] for name, (_, source, _) in zip(("one", "two"), parts, strict=True)
    }
    tables = [replace(table, name=name) for name, (table, _, _) in zip(sources, parts, strict=True)]
    slow = threading.Lock()
    read = DECODERS[MediaKind.IMAGE]

    def late(media, *arguments):
        if media.path.endswith("3.png"):
            with slow:
                time.sleep(1.2)
        read(media, *arguments)

    with FusionIterator(
        make_plan(tables, sources, batch=8), list(sources.values()), threads=4, end=12
    ) as batches:
        whole = [
            [clip.sum().item() for group in batch.groups for clip in group.clips]
            for batch in batches
        ]
    monkeypatch.setitem(DECODERS, MediaKind.IMAGE, late)
    with FusionIterator(
        make_plan(tables, sources, batch=8),
        list(sources.values()),
        threads=4,
        end=12,
        max_bad_ratio=1.0,
        hang_seconds=1.0,
    ) as batches:
        for batch, expected in zip(batches, whole, strict=True):
            shown = [clip.sum().item() for group in batch.groups for clip in group.clips]
            attempts = np.concatenate([part.attempts for part in batch.samples])
            assert all(
                one == other
                for one, other, attempt in zip(shown, expected, attempts, strict=True)
                if not attempt
            )
            assert all(group.valid.all() for group in batch.groups)


def test_file_that_fails_and_then_hangs_is_quarantined(tmp_path, monkeypatch):
    table, source, pics = image_source(tmp_path)
    opened = []
    read = DECODERS[MediaKind.IMAGE]

    def bad_sector(media, *arguments):
        if media.path.endswith("3.png"):
            opened.append(media.path)
            if len(opened) == 1:
                raise DecodeError("Input/output error")
            time.sleep(30)
        read(media, *arguments)

    monkeypatch.setitem(DECODERS, MediaKind.IMAGE, bad_sector)
    path = tmp_path / "q.jsonl"
    with open_images(
        table, source, max_bad_ratio=1.0, hang_seconds=1.0, quarantine=Quarantine(path), threads=2
    ) as batches:
        assert len(clips_by_slot(batches)) == 32
    assert 2 <= len(opened) <= 3  # both threads may open it at once
    assert [json.loads(line)["state"] for line in path.read_text().splitlines()] == [
        "failed",
        "quarantined",
    ]
    assert Quarantine(path).blocks("web", str(pics / "3.png"))


def test_recheck_of_a_failed_file_has_its_own_time_limit(tmp_path, monkeypatch):
    """Without it, a long video that is broken in part would be abandoned as one that hangs."""
    table, source, _ = image_source(tmp_path)
    read = DECODERS[MediaKind.IMAGE]
    looks = []

    def slow(media, *arguments):
        if media.path.endswith("3.png"):
            time.sleep(0.5)
            raise DecodeError("cut off")
        read(media, *arguments)

    def look(media, kind, patience):
        looks.append(
            (
                patience,
                *(age for file, age in batches._workers.decoders.in_flight("web") if file == media),
            )
        )
        return True

    monkeypatch.setitem(DECODERS, MediaKind.IMAGE, slow)
    monkeypatch.setattr(sample_decoder, "is_decodable", look)
    with open_images(table, source, max_bad_ratio=1.0, hang_seconds=4.0, end=2) as batches:
        list(batches)
    ((patience, age),) = looks
    assert patience == 2.0 and age < 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_device_normalises_as_the_threads_do(tmp_path, dtype, monkeypatch):
    """Substitutes' flips, too, and clips that are uploaded in several parts."""
    table, source, pics = image_source(tmp_path)
    truncate(pics / "5.png")
    plan = make_plan([table], source, batch=32)
    tracker = FailureTracker(table, Quarantine(), 0, LoaderConfig(max_bad_ratio=1.0))
    monkeypatch.setattr(cpu_backend, "_UPLOAD_BYTES", 3 * 56 * 56 * 3)
    (samples,) = plan(0)
    assert samples.flips.any() and not samples.flips.all()
    shown = []

    for device in (DeviceWork(torch.device("cpu")), FakeWork(Memory())):
        workers = Workers(thread_plan(2, 1, 1), device)
        backend = CpuBackend(plan, table, workers=workers, tracker=tracker)
        pending = PendingSamples(0, samples, torch.zeros(32, 1, 1, 56, 56, 3, dtype=dtype))
        with device.stream():
            backend.start(pending, range(32), lambda: False)
            backend.finish(pending, lambda: False)
        assert len(pending.substitutes) == (samples.rows == 5).sum() > 0
        shown.append(pending.out)
        workers.close(5)

    assert (shown[0] - shown[1]).abs().max() < (1e-5 if dtype == torch.float32 else 0.02)
