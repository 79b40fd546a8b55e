"""Files that DALI cannot decode, and what the CPU makes of them."""

import errno
import os
import time
from dataclasses import replace

import numpy as np
import pytest

from helpers.batches import pictures
from helpers.failures import lines_of, states
from helpers.image_source import CENTER, image_source, make_plan, open_images, truncate
from helpers.outages import Outage, attempts, dali_refuses, load, make_source, open_source
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.config.sources import SourceConfig
from omnidali.decoding.decoders import DECODERS
from omnidali.errors import DecodeError
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.testing.numbered_media import write_image, write_video


@pytest.mark.parametrize(
    "unable, said",
    [
        ({4}, "DALI cannot decode {}/4.png (no such codec); the CPU tries it, and"),
        (set(range(8)), "DALI decodes no png any more (8 files failed one after the other, the"),
    ],
)
def test_cpu_decodes_what_dali_cannot(tmp_path, monkeypatch, caplog, unable, said):
    table, source, folder = image_source(tmp_path, "dali")
    refused = [(tmp_path / "pics" / f"{n}.png").read_bytes() for n in unable]
    dali_refuses(monkeypatch, refused)

    with (
        open_images(table, source) as batches,
        open_images(table, {"web": replace(source["web"], decode="cpu")}) as others,
    ):
        same = 0
        for one, other in zip(batches, others, strict=True):
            (group,), (expected,) = one.groups, other.groups
            assert group.record.tolist() == expected.record.tolist()
            assert np.abs(pictures(group.clips) - pictures(expected.clips)).mean() < 4
            same += int((group.clips == expected.clips).flatten(1).all(1).sum())
            assert (one.samples[0].attempts == 0).all()
        assert same == sum(
            int(np.isin(plan.rows, list(unable)).sum())
            for step in range(8)
            for plan in make_plan([table], source, batch=4)(step)
        )
        assert batches.stats()["web"].bad_files == 0

    (line,) = caplog.messages
    assert said.format(folder) in line


@pytest.mark.needs_gpu
@pytest.mark.parametrize("kind", ["image", "video"])
def test_broken_files_on_a_gpu_give_the_clips_of_the_cpu(tmp_path, kind):
    """The files are cut off after the probe, damaged with size and time kept, or gone."""
    ending = {"image": "jpg", "video": "mp4"}[kind]
    for n in range(12):
        path = tmp_path / "files" / f"{n}.{ending}"
        if kind == "image":
            write_image(path, n, 320, 240)
        else:
            write_video(path, n, frames=24, width=320, height=240)

    (tmp_path / "l.txt").write_text("".join(f"{n}.{ending} {n % 2}\n" for n in range(12)))
    source = {"web": SourceConfig(kind=kind, root="files", list="l.txt")}
    build_catalog(tmp_path / "c.sqlite", source, tmp_path, progress=False)
    table = CatalogReader(tmp_path / "c.sqlite").table("web")
    truncate(tmp_path / "files" / f"3.{ending}")
    (tmp_path / "files" / f"4.{ending}").unlink()
    path = tmp_path / "files" / f"7.{ending}"
    status = path.stat()
    path.write_bytes(path.read_bytes()[:60] + bytes(status.st_size - 60))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    plan = make_plan([table], source, CENTER, batch=8)

    with (
        open_images(table, source, plan, device="cuda") as gpu,
        open_images(table, source, plan) as cpu,
    ):
        for one, other in zip(gpu, cpu, strict=True):
            (mine,), (theirs,) = one.groups, other.groups
            assert mine.record.tolist() == theirs.record.tolist() and len(mine) == 8
            assert np.abs(pictures(mine.clips.float().cpu()) - pictures(theirs.clips)).mean() < 4
        assert gpu.stats()["web"].bad_files == 3 and gpu.stats()["web"].by_dali > 0


@pytest.mark.parametrize("kind", ["image", "frames"])
def test_file_that_dali_decodes_again_leaves_the_count(tmp_path, monkeypatch, kind):
    table, sources, files = make_source(tmp_path, kind, decode="dali")
    outage = Outage(monkeypatch, errno.EIO)
    outage.paths.add(str(files[2]))
    path = tmp_path / "q.jsonl"
    options = {"prefetch": 1, "max_bad_ratio": 1.0, "max_bad_in_a_row": 1000}

    with open_source(table, sources, 30, quarantine=Quarantine(path), **options) as loader:
        for _ in range(10):
            next(loader)
        assert states(path) == ["failed"]
        outage.end()
        monkeypatch.setitem(DECODERS, table.kind, None)  # the CPU decodes nothing
        for _ in range(4):
            next(loader)
        assert attempts(list(loader)) == 0
        end = time.monotonic() + 5
        while loader.stats()["web"].bad_files and time.monotonic() < end:
            time.sleep(0.01)

    assert states(path) == ["failed", "recovered"]


@pytest.mark.parametrize("kind", ["image", "frames"])
def test_trouble_that_dali_met_is_the_reason(tmp_path, monkeypatch, kind):
    """The disk fails while DALI reads, and returns other bytes to the CPU."""
    table, sources, files = make_source(tmp_path, kind, decode="dali")
    outage = Outage(monkeypatch, errno.EIO, "read")
    outage.paths.add(str(files[3]))
    decode = DECODERS[table.kind]

    def fail(media, *arguments):
        if media.path.startswith(str(files[3])):
            raise DecodeError("OpenCV reads no picture in it")
        return decode(media, *arguments)

    monkeypatch.setitem(DECODERS, table.kind, fail)
    load(table, sources, quarantine=Quarantine(tmp_path / "q.jsonl"))
    (line,) = lines_of(tmp_path / "q.jsonl")
    assert (line["trouble"], line["reason"]) == (
        "disk",
        "Input/output error; then: OpenCV reads no picture in it",
    )


def test_reason_that_dali_gives_is_kept(tmp_path, monkeypatch):
    table, sources, files = make_source(tmp_path, "image", decode="dali")
    dali_refuses(monkeypatch, [files[3].read_bytes()])
    decode = DECODERS[table.kind]

    def cannot(media, *arguments):
        if media.path == str(files[3]):
            raise DecodeError("cut off")
        return decode(media, *arguments)

    monkeypatch.setitem(DECODERS, table.kind, cannot)
    load(table, sources, quarantine=Quarantine(tmp_path / "q.jsonl"))
    (line,) = lines_of(tmp_path / "q.jsonl")
    assert (line["trouble"], line["reason"]) == ("file", "DALI: no such codec; then: cut off")
