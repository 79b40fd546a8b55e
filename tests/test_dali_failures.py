"""What DALI did not decode is the CPU's from then on: remembered by file, given up by codec."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from conftest import media_of
from helpers.failures import lines_of
from helpers.fake_device import FakeDevice
from helpers.image_source import CENTER, image_source, make_plan, open_images
from helpers.outages import dali_refuses
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.config.sources import SourceConfig
from omnidali.loading.failures.dali_failures import (
    FAILED_IN_A_ROW,
    LEFT_FILES,
    DaliFailures,
    beside,
)
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.pipelines import Graph
from omnidali.testing.numbered_media import write_video


@pytest.fixture
def count_runs(monkeypatch):
    """The batches of DALI so far: for each the sizes of its files."""
    runs = []
    start = Graph.start

    def counted(graph, feeds):
        if "data" in feeds:
            runs.append(sorted(len(data) for data in feeds["data"]))
        start(graph, feeds)

    monkeypatch.setattr(Graph, "start", counted)
    return runs


def test_file_that_failed_is_remembered_over_a_restart(tmp_path, monkeypatch, count_runs, caplog):
    table, source, folder = image_source(tmp_path, "dali")
    quarantine = tmp_path / "run" / "quarantine.jsonl"
    bad = folder / "4.png"
    dali_refuses(monkeypatch, [bad.read_bytes()])
    plan = make_plan([table], source, CENTER, batch=8)

    def load(expected, **options):
        count_runs.clear()
        with open_images(
            table, source, plan, quarantine=Quarantine(quarantine), **options
        ) as loader:
            (line,) = loader.routes
            assert ("7 files (png): DALI on the CPU; 1 that DALI could not decode" in line) == (
                expected
            )
            clips = [batch.groups[0].clips for batch in loader]
            stats = loader.stats()["web"]
        assert (stats.bad_files, stats.left_to_cpu, stats.substituted) == (0, 1, 0)
        return clips

    first = load(expected=False)
    # the halves of the first batch down to the file, and what is left of those that had begun
    assert 8 + 6 <= len(count_runs) <= 8 + 6 + 2
    (row,) = lines_of(quarantine.with_name(LEFT_FILES))
    assert (row["source"], row["path"], row["state"]) == ("web", str(bad), "left to the CPU")
    assert row["reason"] == "no such codec" and not quarantine.exists()
    assert len(caplog.messages) == 1 and "DALI cannot decode" in caplog.messages[0]

    again = load(expected=True)
    assert len(count_runs) == 8
    assert all((one == other).all() for one, other in zip(first, again, strict=True))
    load(expected=True, rank=1, world=2)  # other ranks read the same file
    assert len(lines_of(quarantine.with_name(LEFT_FILES))) == 1 and len(caplog.messages) == 1

    # it has changed: DALI may try again
    os.utime(bad, ns=(1, 1))
    build_catalog(tmp_path / "c.sqlite", source, tmp_path, progress=False)
    table = CatalogReader(tmp_path / "c.sqlite").table("web")
    load(expected=False)
    assert len(count_runs) > 8


@pytest.mark.parametrize("how", ["runs fail", "no graph can be built"])
def test_road_that_breaks_causes_no_storm(tmp_path, monkeypatch, caplog, how):
    """A batch of 32 that fails was run in 63 parts, at every step."""
    table, source, _ = image_source(tmp_path, "dali", count=40)
    plan = make_plan([table], source, CENTER, batch=32)
    device = FakeDevice(monkeypatch)
    device.lacks_nvcuvid = how == "runs fail"
    if how == "no graph can be built":
        device.refuse_to_build()

    with (
        open_images(table, source, plan, quarantine=Quarantine(tmp_path / "q.jsonl")) as batches,
        open_images(table, {"web": replace(source["web"], decode="cpu")}, plan) as others,
    ):
        for one, other in zip(batches, others, strict=True):
            assert (one.groups[0].clips == other.groups[0].clips).all()
        stats = batches.stats()["web"]
    assert (stats.bad_files, stats.left_to_cpu) == (0, 0)  # the files are not to blame
    assert not (tmp_path / LEFT_FILES).exists()
    # halves down to so many files, and the steps that had begun
    assert device.runs <= 2 * FAILED_IN_A_ROW + 5 + 2
    (line,) = caplog.messages
    assert "DALI decodes no png any more" in line and "on rank 0" in line


def test_one_of_the_files_of_a_sample_is_found(tmp_path, monkeypatch):
    """Each segment of a long video comes from a file of its own."""
    for n in range(2):
        for part in range(3):
            write_video(
                tmp_path / f"parts/{n}/part_{part}.mp4",
                10 * n + part,
                frames=9,
                width=60,
                height=50,
                codec="mjpeg",
                pixels="yuvj420p",
            )
    videos = [
        {"video_dir": str(n), "label": n, "num_clips": 3, "positive_clip_inds": [1]}
        for n in range(2)
    ]
    (tmp_path / "l.json").write_text(json.dumps(videos))
    source = SourceConfig(
        kind="untrimmed",
        root="parts",
        list="l.json",
        pieces="one_positive_rest_negative",
        decode="dali",
    )
    build_catalog(tmp_path / "c.sqlite", {"web": source}, tmp_path, progress=False)
    table = CatalogReader(tmp_path / "c.sqlite").table("web")
    bad = media_of(tmp_path / "parts/1/part_2.mp4")
    index = PacketIndex.unpack(bad.packets)
    content = (tmp_path / "parts/1/part_2.mp4").read_bytes()
    packets = [
        content[offset : offset + size]
        for offset, size in zip(index.offsets.tolist(), index.sizes.tolist(), strict=True)
    ]
    dali_refuses(monkeypatch, packets)
    with open_images(
        table,
        {"web": source},
        make_plan([table], {"web": source}, CENTER, batch=8),
        quarantine=Quarantine(tmp_path / "q.jsonl"),
    ) as loader:
        assert len(list(loader)) == 8
        stats = loader.stats()["web"]
    assert (stats.bad_files, stats.left_to_cpu) == (0, 1) and stats.by_dali > 0
    (row,) = lines_of(tmp_path / LEFT_FILES)
    assert row["path"] == bad.path


class TestCounting:
    """One source of two codecs, a file a piece."""

    @pytest.fixture
    def failures(self, tmp_path):
        table, _, _ = image_source(tmp_path, "dali", count=20)
        codecs = np.array([0] * 10 + [1] * 10, np.uint8)
        table = replace(table, codecs=codecs, codec_names=("jpeg", "png"))
        self.left = beside(Quarantine(tmp_path / "q.jsonl"))
        return DaliFailures(table, np.zeros(20, bool), self.left, rank=0)

    def fail(self, failures, *pieces):
        failures.on_failed(np.array(pieces), "no such codec", 3)

    def taken(self, failures):
        return np.flatnonzero(failures.takes(np.arange(20)[:, None])).tolist()

    def test_files_of_several_codecs_count_apart(self, failures):
        for piece in (*range(FAILED_IN_A_ROW - 1), *range(10, 9 + FAILED_IN_A_ROW)):
            self.fail(failures, piece)
        assert self.taken(failures) == [7, 8, 9, 17, 18, 19] and failures.count() == 0
        self.fail(failures, 17)
        assert self.taken(failures) == [7, 8, 9] and failures.count() == 0
        failures.on_decoded(np.array([[8]]))
        assert self.taken(failures) == [7, 8, 9] and failures.count() == FAILED_IN_A_ROW - 1

    def test_a_clip_between_them_shows_that_the_files_are_to_blame(self, failures):
        for piece in range(9):
            self.fail(failures, piece)
            failures.on_decoded(np.array([[9]]))
        assert self.taken(failures) == list(range(9, 20)) and failures.count() == 9

    def test_same_file_counts_once(self, failures):
        for _ in range(2 * FAILED_IN_A_ROW):
            self.fail(failures, 2)
        assert self.taken(failures) == [0, 1, *range(3, 20)]

    def test_sample_of_several_files_takes_none_away(self, failures):
        self.fail(failures, 2, 3)
        failures.on_decoded(np.array([[9]]))
        assert self.taken(failures) == list(range(20)) and failures.count() == 0

    def test_sample_is_dalis_if_all_its_files_are(self, failures):
        self.fail(failures, 2)
        assert failures.takes(np.array([[1, 2], [1, 3], [2, 2]])).tolist() == [False, True, False]
