"""Listed items of long videos: their windows, frames and sizes."""

from fractions import Fraction

import numpy as np

from helpers.small_builds import write
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.listed_items import flatten, read_items
from omnidali.catalog.database.reader import CatalogReader
from omnidali.config.sources import SourceConfig
from omnidali.curation.list_writer import write_list
from omnidali.testing.numbered_media import write_video


def test_written_windows_are_read_back_to_the_same_frames(tmp_path):
    """Also those of a video with fewer frames than windows."""
    for name, times in (("slow", 2000), ("fast", 300)):
        write_video(
            tmp_path / f"{name}.mp4",
            1,
            frames=9,
            width=64,
            height=48,
            times=[times * n for n in range(9)],
        )
    write(tmp_path / "l.txt", "slow.mp4 0\nfast.mp4 1\n")
    source = SourceConfig(
        kind="untrimmed", root=".", list="l.txt", window_seconds=1.0, pieces="all"
    )
    found = []
    for catalog in ("a.sqlite", "b.sqlite"):
        build_catalog(tmp_path / catalog, {"w": source}, tmp_path, progress=False)
        found.append(
            [
                (item.path, item.number, item.begin, item.frames, item.first, item.last)
                for item in read_items(tmp_path / catalog, "w")
            ]
        )
        every = np.ones(len(found[0]), bool)
        source, count = write_list(
            tmp_path, str(tmp_path / catalog), "w", source, every, every.astype(int)
        )
        assert count == 2 and source.format == "parts_json"
    assert found[0] == found[1]
    assert [row[1:4] for row in found[0][:9]] == [(2 * n, n, 1) for n in range(9)]
    assert [row[1:4] for row in found[0][9:]] == [(0, 0, 4), (1, 4, 3), (2, 7, 2)]


def test_videos_of_too_many_windows_are_left_out(tmp_path):
    write_video(tmp_path / "day.mp4", 1, frames=2, width=64, height=48, times=[0, 250_000])
    write_video(
        tmp_path / "second.mp4",
        1,
        frames=10,
        width=64,
        height=48,
        times=[100 * n for n in range(10)],
    )
    write(tmp_path / "l.txt", "day.mp4 0\nsecond.mp4 0\n")
    source = SourceConfig(kind="untrimmed", root=".", list="l.txt", window_seconds=0.001)
    (summary,) = build_catalog(tmp_path / "c.sqlite", {"w": source}, tmp_path, progress=False)
    assert (
        summary.refused["video of more than 200,000 windows: raise window_seconds or --window"] == 1
    )
    assert summary.usable == 1 and {
        item.path for item in read_items(tmp_path / "c.sqlite", "w")
    } == {"second.mp4"}


def test_flatten_keeps_stretched_sizes(tmp_path):
    write_video(tmp_path / "v.mp4", 1, frames=20, width=96, height=64, pixel_aspect=Fraction(4, 3))
    write(tmp_path / "l.txt", "v.mp4 0\n")
    source = SourceConfig(
        kind="untrimmed", root=".", list="l.txt", window_seconds=0.4, pixel_aspect="apply"
    )
    build_catalog(tmp_path / "c.sqlite", {"w": source}, tmp_path, progress=False)

    table = CatalogReader(tmp_path / "c.sqlite").table("w")
    flat = flatten(tmp_path / "c.sqlite", table)

    assert len(flat) == len(table.records) > 1
    assert set(flat.widths) == set(table.widths) == {128}
    assert flat.codecs.tolist() == table.codecs.tolist()
