"""The FusionIterator: the planned clips in the planned order, restorable at every step, closing
cleanly.
"""

import errno
import gc
import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import SOURCES, hurry, media_of
from helpers.batches import assert_restores_at_every_step, content, pictures
from helpers.outages import dali_refuses
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.store import CatalogReader
from omnidali.catalog.file_span import FileSpan
from omnidali.catalog.probing.packet_index import PacketDecoder, PacketIndex
from omnidali.config.schema import ClipConfig, SourceConfig, ViewsConfig
from omnidali.decoding import recheck as last_try
from omnidali.decoding.recheck import anything_decodes
from omnidali.decoding.video import decode_video
from omnidali.errors import BadSourceError, DecodeError, UserError
from omnidali.loading import producer
from omnidali.loading.batch import ClipBatch, StepBatch
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.failures.tracker import Limits
from omnidali.loading.fusion import FusionIterator
from omnidali.loading.producer import Started
from omnidali.planning.plan import EvaluationPlan, TrainPlan
from omnidali.testing.numbered_media import read_numbers, write_photo, write_video

CENTER = ClipConfig(num_clips=4, size=56, crop="center", flip=0.0)
RANDOM = ClipConfig(num_clips=4, size=56)


def make_plan(tables, clip=RANDOM, batch=12, seed=5, sources=SOURCES):
    return TrainPlan(tables, list(sources.values()), clip, batch, seed)


def open_fusion(tables, clip=RANDOM, seed=5, sources=SOURCES, **options):
    return FusionIterator(
        make_plan(tables, clip, seed=seed, sources=sources),
        list(sources.values()),
        **{"threads": 2, **options},
    )


def test_every_clip_shows_what_was_planned(tables):
    plan = make_plan(tables, CENTER)
    with open_fusion(tables, CENTER, end=6) as batches:
        for batch in batches:
            planned = {
                int(slot): (samples.source, row, frames)
                for samples in plan(batch.step)
                for slot, row, frames in zip(samples.slots, samples.rows, samples.frames.tolist())
            }
            assert [tuple(group.clips.shape[1:]) for group in batch.groups] == [
                (3, 4, 56, 56),
                (3, 1, 56, 56),
            ]
            seen = set()
            for group in batch.groups:
                for clip, slot, source, label, record in zip(
                    pictures(group.clips),
                    group.slot.tolist(),
                    group.source.tolist(),
                    group.labels.tolist(),
                    group.record.tolist(),
                ):
                    number, row, frames = planned[slot]
                    assert (source, label) == (number, tables[source].labels[row])
                    assert record == tables[source].records[row]
                    file = (0, 100, 200)[source] + row  # as the fixture numbers its files
                    assert [read_numbers(shown) for shown in clip] == [
                        (file, frame) for frame in frames
                    ]
                    seen.add(slot)
            assert seen == planned.keys() and len(batch) == 12


def test_memory_is_channels_last(tables):
    with open_fusion(tables, end=1) as batches:
        for group in next(batches).groups:
            assert group.clips.is_contiguous(memory_format=torch.channels_last_3d)
            frames = group.clips.transpose(1, 2).flatten(0, 1)
            # a 2D network reads it without a copy
            assert frames.data_ptr() == group.clips.data_ptr()
            assert frames.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "options", [{"threads": 1}, {"threads": 5}, {"prefetch": 1}, {"prefetch": 6}]
)
def test_order_and_pixels_do_not_depend_on_speed(tables, options):
    with open_fusion(tables, end=5) as plain, open_fusion(tables, end=5, **options) as other:
        assert [content(batch) for batch in plain] == [content(batch) for batch in other]


def test_batches_that_are_kept_stay_as_they_were(tables):
    """Clips may lie in DALI's own memory, which must not be used again while someone holds them."""
    with open_fusion(tables, end=8) as batches:
        kept = list(batches)
    with open_fusion(tables, end=8) as batches:
        assert [content(batch) for batch in kept] == [content(batch) for batch in batches]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_see_what_one_sees(tables, world):
    with open_fusion(tables, end=4) as batches:
        whole = [
            sorted(zip(batch.groups[0].slot.tolist(), batch.groups[0].record.tolist()))
            for batch in batches
        ]
    parts = [[] for _ in whole]
    for rank in range(world):
        with open_fusion(tables, end=4, rank=rank, world=world) as batches:
            for batch in batches:
                parts[batch.step] += zip(
                    batch.groups[0].slot.tolist(), batch.groups[0].record.tolist()
                )
    assert [sorted(part) for part in parts] == whole


def test_restore_at_every_step(tables):
    assert_restores_at_every_step(lambda: open_fusion(tables, end=5), 5)


def test_restore_while_running(tables):
    with open_fusion(tables, end=6) as batches:
        first = [content(next(batches)) for _ in range(2)]
        state = batches.state_dict()
        rest = [content(next(batches)) for _ in range(2)]
        batches.load_state_dict(state)
        assert [content(next(batches)) for _ in range(2)] == rest != first


def test_another_plan_is_refused_with_every_difference(tables):
    with open_fusion(tables) as batches:
        state = batches.state_dict()
    other = {
        **SOURCES,
        "photos": SourceConfig(kind="image", root="photos", list="photos.txt", weight=1),
    }
    with open_fusion(tables, seed=6, sources=other) as batches:
        with pytest.raises(UserError) as caught:
            batches.load_state_dict(state)
    assert "seed: 5 became 6" in str(caught.value) and "sources.photos.weight: 3 became 1" in str(
        caught.value
    )


def test_state_survives_a_checkpoint(tables, tmp_path):
    with open_fusion(tables, end=3) as batches:
        next(batches)
        torch.save(batches.state_dict(), tmp_path / "s.pt")
        batches.load_state_dict(torch.load(tmp_path / "s.pt", weights_only=True))


def test_still_images_fill_the_clip(tables):
    sources = {
        **SOURCES,
        "photos": SourceConfig(kind="image", root="photos", list="photos.txt", inflate="still"),
    }
    with open_fusion(tables, sources=sources, end=1) as batches:
        (group,) = next(batches).groups
        photos = group.clips[group.source == 1]
        assert len(photos) and (photos == photos[:, :, :1]).all() and group.clips.shape[2] == 4


@pytest.mark.parametrize(
    "decode, said",
    [
        ("dali", "photos: jpeg by DALI on the CPU"),
        (
            "hybrid",
            "photos: jpeg by DALI on the CPU and, of every 100 slots, 40 by nvImageCodec and OpenCV on the CPU",
        ),
    ],
)
def test_dali_decodes_where_it_is_asked_to(tables, decode, said):
    sources = {
        **SOURCES,
        "photos": SourceConfig(
            kind="image", root="photos", list="photos.txt", weight=3, decode=decode
        ),
        "shorts": SourceConfig(kind="video", root="shorts", list="shorts.txt", decode=decode),
    }
    differ = []
    with (
        open_fusion(tables, CENTER, sources=sources, end=4, cpu_share=0.4) as dali,
        open_fusion(tables, CENTER, end=4) as cpu,
    ):
        assert (
            dali.routes[1]
            == said
            + " (a damaged photo may crash DALI's own decoder on the CPU: prefer decode: auto)"
        )
        assert cpu.routes[0] == "clips: h264 by PyAV on the CPU"
        for one, other in zip(dali, cpu):
            for mine, theirs in zip(one.groups, other.groups):
                assert mine.slot.tolist() == theirs.slot.tolist()
                assert np.abs(pictures(mine.clips) - pictures(theirs.clips)).mean() < 4
                differ += (mine.clips != theirs.clips).flatten(1).any(1)[mine.source == 1].tolist()
    # where DALI decoded, the filter is another one
    assert np.mean(differ) == (1 if decode == "dali" else pytest.approx(0.6, abs=0.1))


@pytest.mark.needs_gpu
def test_clips_are_whole_while_the_gpu_is_busy(tables):
    """Batches are handed over between streams: one that is used late, behind heavy work, is still
    the planned one.
    """
    with (
        open_fusion(tables, CENTER, end=60, device="cuda", prefetch=3) as busy,
        open_fusion(tables, CENTER, end=60) as calm,
    ):
        weights, sums = torch.randn(4096, 4096, device="cuda"), []
        for batch in busy:
            weights = (weights @ weights).clamp(-1, 1)  # the consumer's stream falls behind
            sums.append([group.clips.float().mean(dim=(1, 2, 3, 4)) for group in batch.groups])
        for batch, mine in zip(calm, sums):
            for group, means in zip(batch.groups, mine):
                assert (group.clips.mean(dim=(1, 2, 3, 4)) - means.cpu()).abs().max() < 0.1


def test_stats(tables):
    with open_fusion(tables, end=20) as batches:
        assert batches.stats()["clips"].clips == 0
        for _ in batches:
            pass
        stats = batches.stats()
    assert sum(row.clips for row in stats.values()) == 240
    for row, share in zip(stats.values(), (2 / 6, 3 / 6, 1 / 6)):
        assert (
            row.planned_share == pytest.approx(share) and abs(row.realised_share - share) < 2 / 240
        )
        assert row.clips_per_second > 0 and row.wait_seconds >= 0 and 0 <= row.occupancy <= 1
        assert row.replaced_frames == 0


def test_end_stays_the_end(tables):
    with open_fusion(tables, end=2) as batches:
        assert len(list(batches)) == 2
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(batches)


def test_close_twice_and_use_after_close(tables):
    before = threading.active_count()
    batches = open_fusion(tables)
    next(batches)
    batches.close()
    batches.close()
    assert threading.active_count() <= before
    with pytest.raises(RuntimeError, match="this FusionIterator .* was closed"):
        next(batches)
    with pytest.raises(RuntimeError, match="closed"):
        batches.load_state_dict({})


def photo_source(folder, decode="cpu", count=8, kind="image"):
    """A source of numbered PNGs in two classes: its table, its settings, and the folder of the
    files.
    """
    for n in range(count):
        write_photo(folder / "pics" / f"{n}.png", n, 60, 50)
    (folder / "l.txt").write_text("".join(f"{n}.png {n % 2}\n" for n in range(count)))
    source = {"web": SourceConfig(kind=kind, root="pics", list="l.txt", decode=decode)}
    build_catalog(folder / "c.sqlite", source, folder, progress=False)
    return CatalogReader(folder / "c.sqlite").table("web"), source, folder / "pics"


def cut(path):
    """Damage a file behind the probe."""
    path.write_bytes(path.read_bytes()[:90])


def open_photos(table, source, plan=None, **options):
    return FusionIterator(
        plan or make_plan([table], batch=4, sources=source),
        list(source.values()),
        **{"threads": 2, "end": 8, "limits": Limits(1.0), **options},
    )


def clips_by_slot(batches):
    return {
        int(slot): (int(record), int(label), clip.numpy().tobytes())
        for batch in batches
        for group in batch.groups
        for slot, record, label, clip in zip(group.slot, group.record, group.labels, group.clips)
    }


@pytest.mark.parametrize("decode", ["cpu", "dali"])
def test_a_broken_file_is_replaced_as_planned(tmp_path, decode, caplog):
    table, source, pics = photo_source(tmp_path, decode)
    plan = make_plan([table], batch=4, sources=source)
    with open_photos(table, source) as batches:
        whole = clips_by_slot(batches)
    cut(pics / "5.png")
    (pics / "2.png").unlink()
    bad = {5, 2}
    for world, options in ((1, {}), (2, {"prefetch": 5, "threads": 3})):
        parts, path = {}, tmp_path / f"q{world}.jsonl"
        for rank in range(world):
            with open_photos(
                table, source, rank=rank, world=world, quarantine=Quarantine(path), **options
            ) as batches:
                part = list(batches)
                assert [(batch.step, len(batch)) for batch in part] == [
                    (step, 4 // world) for step in range(8)
                ]
                stats = batches.stats()["web"]
                assert (
                    stats.substituted
                    == sum(int((batch.samples[0].attempts > 0).sum()) for batch in part)
                    > 0
                )
                assert stats.bad_files == 2 and stats.replaced_frames == 0
            parts |= clips_by_slot(part)
        assert parts.keys() == whole.keys()
        for step in range(8):
            (samples,) = plan(step)
            for index, (slot, row) in enumerate(zip(samples.slots.tolist(), samples.rows.tolist())):
                attempt, expected = 0, samples.take(np.array([index]))
                while expected.rows[0] in bad:
                    attempt += 1
                    expected = plan.substitute(samples, index, attempt)
                row = int(expected.rows[0])
                assert parts[slot][:2] == (table.records[row], row % 2)  # the same class
                if not attempt and decode == "cpu":
                    assert parts[slot] == whole[slot]
        if world == 1:
            expected_clips = parts
        assert parts == expected_clips or decode == "dali"  # a substitute is decoded by the CPU
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert sorted((row["path"], row["state"]) for row in rows) == [
            (str(pics / "2.png"), "quarantined"),
            (str(pics / "5.png"), "quarantined"),
        ]
        assert "OpenCV reads no picture in it" in str(rows)
        assert {(row["trouble"], row["reason"]) for row in rows} == {
            ("file", "OpenCV reads no picture in it"),
            ("disk", "No such file or directory"),
        }
    assert caplog.text.count(f"quarantined: {pics / '5.png'}") == 2  # once a run


def test_the_quarantine_holds_until_the_file_changes(tmp_path):
    table, source, pics = photo_source(tmp_path)
    good = (pics / "5.png").read_bytes()
    cut(pics / "5.png")
    with open_photos(table, source, quarantine=Quarantine(tmp_path / "q.jsonl")) as batches:
        first = clips_by_slot(batches)
    status = (pics / "5.png").stat()
    (pics / "5.png").write_bytes(good[:90])  # as it was: it would be tried in vain
    os.utime(pics / "5.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert Quarantine(tmp_path / "q.jsonl").blocks("web", str(pics / "5.png"))
    with open_photos(table, source, quarantine=Quarantine(tmp_path / "q.jsonl")) as batches:
        assert clips_by_slot(batches) == first
    assert len((tmp_path / "q.jsonl").read_text().splitlines()) == 1
    (pics / "5.png").write_bytes(good)
    again = Quarantine(tmp_path / "q.jsonl")
    assert not again.blocks("web", str(pics / "5.png")) and again.count("web") == 0
    with open_photos(table, source, quarantine=again) as batches:
        assert clips_by_slot(batches) != first
    with open(tmp_path / "q.jsonl", "a") as file:
        file.write('{"source": "we')  # cut off by a crash
    (pics / "4.png").unlink()
    Quarantine(tmp_path / "q.jsonl").add(
        "web", str(pics / "4.png"), str(pics / "4.png"), "gone", "quarantined", 3, 1
    )
    assert Quarantine(tmp_path / "q.jsonl").blocks("web", str(pics / "4.png"))


def test_ranks_share_a_quarantine(tmp_path, caplog):
    ranks = [Quarantine(tmp_path / "q.jsonl") for _ in range(4)]

    def name_all(quarantine):
        for n in range(30):
            quarantine.add("web", f"/{n}", f"/{n}", "gone", "quarantined", n, 0)

    threads = [threading.Thread(target=name_all, args=(quarantine,)) for quarantine in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = [json.loads(line)["path"] for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert sorted(rows) == sorted(f"/{n}" for n in range(30))
    assert all(quarantine.count("web") == 30 for quarantine in ranks)


def test_a_damaged_file_that_fails_later_counts_everywhere(tmp_path, caplog):
    write_photo(tmp_path / "a.jpg", 1, 60, 50)
    path, file = tmp_path / "q.jsonl", str(tmp_path / "a.jpg")
    mine, other = Quarantine(path), Quarantine(path)
    for step, state in enumerate(("damaged", "failed", "damaged", "failed", "quarantined")):
        mine.add("web", file, file, "cut off", state, step, 0)
        other.add("web", file, file, "cut off", state, step, 1)
        for quarantine in (mine, other, Quarantine(path)):
            assert quarantine.count("web") == 1 and len(quarantine.failing("web")) == (step > 0)
    assert [json.loads(line)["state"] for line in path.read_text().splitlines()] == [
        "damaged",
        "failed",
        "quarantined",
    ]
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "damaged",
        "quarantined",
    ]


def test_faults_are_kept_while_the_disk_is_full(tmp_path, monkeypatch):
    quarantine = Quarantine(tmp_path / "none" / "q.jsonl")
    (tmp_path / "none").write_text("a file where the folder should be")
    quarantine.add("web", "/1", "/1", "gone", "quarantined", 0, 0)
    assert quarantine.blocks("web", "/1")
    (tmp_path / "none").unlink()
    quarantine.add("web", "/2", "/2", "gone", "quarantined", 0, 0)
    assert [json.loads(line)["path"] for line in quarantine.path.read_text().splitlines()] == [
        "/1",
        "/2",
    ]


@pytest.mark.parametrize(
    "limits, told",
    [
        (
            Limits(0.0),
            "sources.web: expected at most 0 of 8 files to fail (loader.max_bad_ratio), got 1",
        ),
        (
            Limits(1.0, max_bad_in_a_row=5),
            "at most 5 clips to fail one after the other (loader.max_bad_in_a_row), got 6",
        ),
    ],
)
def test_too_many_broken_files_stop_the_run(tmp_path, limits, told):
    table, source, pics = photo_source(tmp_path)
    for path in pics.iterdir():
        cut(path)
    with open_photos(table, source, limits=limits, threads=1) as batches:
        with pytest.raises(BadSourceError, match="--resume auto") as caught:
            next(batches)
    assert told in str(caught.value) and " OpenCV reads no picture in it, such as " in str(
        caught.value
    )


def test_a_start_behind_one_that_was_stopped_is_stopped_as_well(tmp_path):
    table, source, pics = photo_source(tmp_path)
    cut(pics / "5.png")
    for _ in range(2):
        quarantine = Quarantine(tmp_path / "q.jsonl")
        with (
            open_photos(
                table, source, limits=Limits(0.0), quarantine=quarantine, threads=1
            ) as batches,
            pytest.raises(
                BadSourceError,
                match="expected at most 0 of 8 files to fail .loader.max_bad_ratio., got 1",
            ),
        ):
            list(batches)
    assert len((tmp_path / "q.jsonl").read_text().splitlines()) == 1


def test_an_error_does_not_wait_for_a_file_that_hangs(tmp_path, monkeypatch):
    """Other ranks hear of it only then."""
    table, source, _ = photo_source(tmp_path)
    plan = make_plan([table], batch=4, sources=source)
    first = {table.media(record).path for record in table.records[plan(0)[0].rows]}
    hangs, let_go = threading.Event(), threading.Event()

    def decode(media, *_):
        if media.path in first:
            hangs.wait(10)
            raise DecodeError("broken")
        hangs.set()
        let_go.wait(30)

    monkeypatch.setattr(producer, "decode_image", decode)
    began, before = time.monotonic(), threading.active_count()
    with open_photos(table, source, plan, limits=Limits(0.0, hang_seconds=25.0)) as batches:
        with pytest.raises(BadSourceError, match="broken"):
            list(batches)
    assert hangs.is_set() and time.monotonic() - began < 12
    let_go.set()
    end = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert threading.active_count() <= before  # they end by themselves


def test_a_class_without_a_readable_file_gets_another(tmp_path):
    table, source, pics = photo_source(tmp_path)
    for n in (1, 3, 5, 7):
        cut(pics / f"{n}.png")
    with open_photos(table, source, limits=Limits(1.0, 1000)) as batches:
        assert {label for _, label, _ in clips_by_slot(batches).values()} == {0}


@pytest.mark.parametrize("decode", ["cpu", "dali"])
def test_a_hanging_file_is_given_up(tmp_path, decode, caplog, monkeypatch):
    table, source, pics = photo_source(tmp_path, decode)
    hanging = [str(pics / f"{n}.png") for n in (3, 6)]
    for path in hanging:
        os.unlink(path)
        os.mkfifo(path)  # opening it waits for ever

    hurry(monkeypatch, hanging, 15)
    began, before = time.monotonic(), threading.active_count()
    with open_photos(
        table, source, limits=Limits(1.0, hang_seconds=30.0, stall_seconds=0.6)
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
    assert not [thing for thing in gc.get_objects() if type(thing) is Started]
    for path in hanging:  # let the threads go
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    end = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert threading.active_count() <= before


@pytest.mark.parametrize("unable", [{4}, {1, 2, 3, 4, 5, 6, 7, 0}])
def test_the_cpu_decodes_what_dali_cannot(tmp_path, monkeypatch, caplog, unable):
    table, source, _ = photo_source(tmp_path, "dali")
    refused = [(tmp_path / "pics" / f"{n}.png").read_bytes() for n in unable]
    dali_refuses(monkeypatch, refused)
    with (
        open_photos(table, source) as batches,
        open_photos(table, {"web": replace(source["web"], decode="cpu")}) as others,
    ):
        same = 0
        for one, other in zip(batches, others):
            (group,), (expected,) = one.groups, other.groups
            assert group.record.tolist() == expected.record.tolist()
            assert np.abs(pictures(group.clips) - pictures(expected.clips)).mean() < 4
            same += int((group.clips == expected.clips).flatten(1).all(1).sum())
            assert (one.samples[0].attempts == 0).all()
        assert same == sum(
            int(np.isin(plan.rows, list(unable)).sum())
            for step in range(8)
            for plan in make_plan([table], batch=4, sources=source)(step)
        )
        assert batches.stats()["web"].bad_files == 0
    assert (
        caplog.text.count("DALI cannot decode") == 1
        and "(no such codec); the CPU tries" in caplog.text
    )


@pytest.mark.needs_gpu
@pytest.mark.parametrize("kind", ["image", "video"])
def test_broken_files_on_a_gpu(tmp_path, kind):
    """Cut off behind the probe, damaged with size and time kept, and gone: the clips are those of
    the CPU.
    """
    ending = {"image": "jpg", "video": "mp4"}[kind]
    for n in range(12):
        path = tmp_path / "files" / f"{n}.{ending}"
        write_photo(path, n, 320, 240) if kind == "image" else write_video(
            path, n, frames=24, width=320, height=240
        )
    (tmp_path / "l.txt").write_text("".join(f"{n}.{ending} {n % 2}\n" for n in range(12)))
    source = {"web": SourceConfig(kind=kind, root="files", list="l.txt")}
    build_catalog(tmp_path / "c.sqlite", source, tmp_path, progress=False)
    table = CatalogReader(tmp_path / "c.sqlite").table("web")
    cut(tmp_path / "files" / f"3.{ending}")
    (tmp_path / "files" / f"4.{ending}").unlink()
    path = tmp_path / "files" / f"7.{ending}"
    status = path.stat()
    path.write_bytes(path.read_bytes()[:60] + bytes(status.st_size - 60))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    plan = make_plan([table], CENTER, batch=8, sources=source)
    with (
        open_photos(table, source, plan, device="cuda") as gpu,
        open_photos(table, source, plan) as cpu,
    ):
        for one, other in zip(gpu, cpu):
            (mine,), (theirs,) = one.groups, other.groups
            assert mine.record.tolist() == theirs.record.tolist() and len(mine) == 8
            assert np.abs(pictures(mine.clips.float().cpu()) - pictures(theirs.clips)).mean() < 4
        assert gpu.stats()["web"].bad_files == 3


def test_two_sources_that_hang_at_once_leave_no_hole(tmp_path, monkeypatch):
    """Reads that come back just when they are given up: whoever looks first, each clip is decoded
    by somebody.
    """
    parts = [photo_source(tmp_path / name) for name in ("one", "two")]
    sources = {name: source["web"] for name, (_, source, _) in zip(("one", "two"), parts)}
    tables = [replace(table, name=name) for name, (table, _, _) in zip(sources, parts)]
    slow, read = threading.Lock(), producer.decode_image

    def late(media, *arguments):
        if media.path.endswith("3.png"):
            with slow:
                time.sleep(1.2)
        read(media, *arguments)

    with FusionIterator(
        make_plan(tables, batch=8, sources=sources), list(sources.values()), threads=4, end=12
    ) as batches:
        whole = [
            [clip.sum().item() for group in batch.groups for clip in group.clips]
            for batch in batches
        ]
    monkeypatch.setattr(producer, "decode_image", late)
    with FusionIterator(
        make_plan(tables, batch=8, sources=sources),
        list(sources.values()),
        threads=4,
        end=12,
        limits=Limits(1.0, hang_seconds=1.0),
    ) as batches:
        for batch, expected in zip(batches, whole):
            shown = [clip.sum().item() for group in batch.groups for clip in group.clips]
            attempts = np.concatenate([part.attempts for part in batch.samples])
            assert all(
                one == other
                for one, other, attempt in zip(shown, expected, attempts)
                if not attempt
            )
            assert all(group.valid.all() for group in batch.groups)


def test_a_file_that_failed_and_hangs_later_is_not_tried_for_ever(tmp_path, monkeypatch):
    table, source, pics = photo_source(tmp_path)
    opened, read = [], producer.decode_image

    def bad_sector(media, *arguments):
        if media.path.endswith("3.png"):
            opened.append(media.path)
            if len(opened) == 1:
                raise DecodeError("Input/output error")
            time.sleep(30)
        read(media, *arguments)

    monkeypatch.setattr(producer, "decode_image", bad_sector)
    path = tmp_path / "q.jsonl"
    with open_photos(
        table, source, limits=Limits(1.0, hang_seconds=1.0), quarantine=Quarantine(path), threads=2
    ) as batches:
        assert len(clips_by_slot(batches)) == 32
    assert 2 <= len(opened) <= 3  # by both threads at once
    assert [json.loads(line)["state"] for line in path.read_text().splitlines()] == [
        "failed",
        "quarantined",
    ]
    assert Quarantine(path).blocks("web", str(pics / "3.png"))


def test_the_look_at_a_file_that_failed_has_a_time_of_its_own(tmp_path, monkeypatch):
    """A long video that is broken in part would be given up as one that hangs."""
    table, source, _ = photo_source(tmp_path)
    read, looks = producer.decode_image, []

    def slow(media, *arguments):
        if media.path.endswith("3.png"):
            time.sleep(0.5)
            raise DecodeError("cut off")
        read(media, *arguments)

    def look(media, kind, patience):
        looks.append(
            (patience, *(age for file, age in batches._workers.in_flight("web") if file == media))
        )
        return True

    monkeypatch.setattr(producer, "decode_image", slow)
    monkeypatch.setattr(producer, "anything_decodes", look)
    with open_photos(table, source, limits=Limits(1.0, hang_seconds=4.0), end=2) as batches:
        list(batches)
    ((patience, age),) = looks
    assert patience == 2.0 and age < 0.5


@pytest.mark.parametrize("damage", [bytes, lambda size: b"\xff" * size])
def test_a_video_whose_beginning_is_broken_is_not_given_up(tmp_path, damage):
    """Clips behind the damage decode; a file that is called useless must be so for every draw."""
    write_video(tmp_path / "v" / "0.mp4", 0, frames=24, width=96, height=64, gop=8)
    (tmp_path / "l.txt").write_text("0.mp4 0\n")
    source = {"v": SourceConfig(kind="video", root="v", list="l.txt")}
    build_catalog(tmp_path / "c.sqlite", source, tmp_path, progress=False)
    table = CatalogReader(tmp_path / "c.sqlite").table("v")
    media = table.media(table.first_record(0))
    index = PacketIndex.unpack(media.packets)
    data = bytearray(Path(media.path).read_bytes())
    begin, end = index.offsets[0], index.offsets[8]
    data[begin:end] = damage(int(end - begin))
    Path(media.path).write_bytes(data)
    os.utime(media.path, ns=(media.stamp[1], media.stamp[1]))
    assert anything_decodes(media, "video")
    box, out = np.array([[0, 0, 64, 64]]), np.empty((1, 2, 32, 32, 3), np.uint8)
    assert decode_video(media, np.array([20, 21]), box, 32, out) == 0
    assert (
        decode_video(media, np.array([2, 20]), box, 32, out) == 1 and (out[0, 0] == out[0, 1]).all()
    )
    with pytest.raises(DecodeError):
        decode_video(media, np.array([0, 1]), box, 32, out)
    data[begin:] = damage(len(data) - int(begin))
    Path(media.path).write_bytes(data)
    os.utime(media.path, ns=(media.stamp[1], media.stamp[1]))
    assert not anything_decodes(media, "video")


@pytest.mark.parametrize(
    "error, useless", [(errno.EIO, False), (errno.ESTALE, False), (errno.EACCES, True)]
)
def test_trouble_that_may_pass_makes_no_file_useless(tmp_path, monkeypatch, error, useless):
    write_photo(tmp_path / "a.jpg", 1, 60, 50)
    write_video(tmp_path / "a.mp4", 1, frames=5, width=64, height=48)
    made = [
        ("image", media_of(tmp_path / "a.jpg", "image")),
        ("video", media_of(tmp_path / "a.mp4")),
    ]

    def fail(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(FileSpan, "read_bytes", fail)
    monkeypatch.setattr(PacketDecoder, "frames", fail)
    monkeypatch.setattr(last_try, "demuxed_frames", fail)
    for kind, media in made:
        assert last_try.anything_decodes(media, kind) is not useless


@pytest.mark.parametrize("decode", ["cpu", "dali"])
def test_scattered_bad_items_do_not_end_an_evaluation(tmp_path, decode):
    """Nor does a bad last item, which fills up the last step."""
    table, source, pics = photo_source(tmp_path, decode, count=12)
    for n in (1, 4, 7, 11):
        cut(pics / f"{n}.png")
    for batch, most in ((32, 4), (3, 2)):
        plan = EvaluationPlan(
            table, CENTER, ViewsConfig(num_clips=1, size=32, short_side=40), batch
        )
        with open_photos(
            table, source, plan, end=None, limits=Limits(1.0, most), threads=1
        ) as batches:
            valid = [
                slot
                for batch in batches
                for slot, good in zip(batch.groups[0].slot.tolist(), batch.groups[0].valid.tolist())
                if good
            ]
            assert batches.stats()["web"].substituted == 4
        assert valid == [0, 2, 3, 5, 6, 8, 9, 10]


def test_an_evaluation_goes_on_without_a_broken_item(tmp_path):
    table, source, pics = photo_source(tmp_path)
    cut(pics / "5.png")
    plan = EvaluationPlan(table, CENTER, ViewsConfig(num_clips=1, size=32, short_side=40), batch=3)
    with open_photos(table, source, plan, end=None) as batches:
        rows = [
            (slot, valid)
            for batch in batches
            for slot, valid in zip(batch.groups[0].slot.tolist(), batch.groups[0].valid.tolist())
        ]
        assert batches.stats()["web"].substituted == 1
    assert [slot for slot, valid in rows if valid] == [0, 1, 2, 3, 4, 6, 7]


def test_evaluation_views(tables):
    plan = EvaluationPlan(
        tables[0], CENTER, ViewsConfig(num_clips=3, crops="ten", size=48, short_side=64), batch=4
    )
    slots = []
    with FusionIterator(plan, [SOURCES["clips"]]) as batches:
        for batch in batches:
            (group,) = batch.groups
            assert group.clips.shape == (40, 3, 3, 48, 48)
            slots += group.slot[group.valid].tolist()
            first, flipped = group.clips[0], group.clips[5]
            assert torch.equal(first.flip(-1), flipped)
    assert sorted(slots) == sorted(list(range(len(tables[0]))) * 10)


def test_clip_batches_are_checked():
    fine = {
        "labels": torch.zeros(2, dtype=torch.int64),
        "source": torch.zeros(2, dtype=torch.int64),
        "record": torch.zeros(2, dtype=torch.int64),
        "slot": torch.zeros(2, dtype=torch.int64),
        "valid": torch.ones(2, dtype=torch.bool),
    }
    batch = ClipBatch(torch.zeros(2, 4, 8, 6, 3).permute(0, 4, 1, 2, 3), **fine)
    assert repr(StepBatch(7, (batch,))) == "StepBatch(7: ClipBatch(2x3x4x8x6 float32 on cpu))"
    with pytest.raises(ValueError, match="an image needs a time axis"):
        ClipBatch(torch.zeros(2, 3, 8, 6), **fine)
    with pytest.raises(ValueError, match="channels-last in memory"):
        ClipBatch(torch.zeros(2, 3, 4, 8, 6), **fine)
    with pytest.raises(ValueError, match="normalised"):
        ClipBatch(torch.zeros(2, 3, 4, 8, 6, dtype=torch.uint8), **fine)
    with pytest.raises(ValueError, match=r"labels must be \(2,\) torch.int64"):
        ClipBatch(
            torch.zeros(2, 4, 8, 6, 3).permute(0, 4, 1, 2, 3), **{**fine, "labels": torch.zeros(2)}
        )


@pytest.mark.needs_gpu
def test_gpu_clips_equal_cpu_clips(tables):
    with (
        open_fusion(tables, CENTER, end=3, device="cuda", dtype=torch.float32) as gpu,
        open_fusion(tables, CENTER, end=3) as cpu,
    ):
        assert "h264 by DALI on the GPU" in gpu.routes[0]
        for one, other in zip(gpu, cpu):
            for mine, theirs in zip(one.groups, other.groups):
                assert (
                    mine.clips.device.type == "cuda" and mine.slot.tolist() == theirs.slot.tolist()
                )
                assert np.abs(pictures(mine.clips.cpu()) - pictures(theirs.clips)).mean() < 4
