"""Short, changed, edit-listed and damaged videos on DALI's road: the frames, substitutes and counts
are those of the CPU's.
"""

import json
import os
import shutil

import numpy as np
import pytest

from helpers.batches import pictures
from helpers.frame_matrix import extras, matrix
from helpers.image_source import make_plan
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.catalog.verify import recheck
from omnidali.config.schema import ClipConfig
from omnidali.config.sources import SourceConfig
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.fusion import FusionIterator
from omnidali.testing.damaged_media import truncate_file, write_zeros
from omnidali.testing.numbered_media import read_numbers, write_video

VP9 = {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "b": "1M"}}
MJPEG = {"codec": "mjpeg", "pixels": "yuvj420p", "options": {"q": "4"}}
# the middle of the picture, where the numbers are
CLIPS = {
    "tsn": ClipConfig(num_clips=4, size=64, crop="center", flip=0.0),
    "dense": ClipConfig(num_clips=1, clip_len=4, frame_interval=2, size=64, crop="center", flip=0),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Files of every kind; some are damaged, which `recheck` finds, and some will change."""
    folder = tmp_path_factory.mktemp("v")
    cases = {case.name: case for case in [*matrix.matrix(), *extras.extras()]}
    for name in (
        "vp9-plain-edit.mp4",
        "mjpeg-plain-edit.mp4",
        "vp9-plain-of-1.webm",
        "vp9-plain-of-2.webm",
        "vp9-plain-restart.webm",
        "vp8-plain-constant.webm",
        "vp9-plain-falling-times.mkv",
        "mjpeg-plain-late.avi",
    ):
        cases[name].make(folder / name)
    for name in ("good", "cut-off", "changed", "gone", "known"):
        write_video(folder / f"{name}.webm", 5, frames=40, width=160, height=128, gop=8, **VP9)
        write_video(folder / f"{name}.avi", 5, frames=40, width=160, height=128, **MJPEG)
    for ending in ("webm", "avi"):
        write_zeros(0.45, 0.6)(folder / f"known.{ending}", 0)
    return folder


def damage(folder):
    """What happens to files after the probe."""
    for ending in ("webm", "avi"):
        truncate_file(0.5)(folder / f"cut-off.{ending}", 0)
        write_zeros(0.45, 0.6, keep_time=True)(folder / f"changed.{ending}", 0)
        os.unlink(folder / f"gone.{ending}")


def seen(loader):
    """What a loader gives: for each clip what the plan says of it, and its pictures."""
    facts, shown = [], []
    for batch in loader:
        (group,) = batch.groups
        (samples,) = batch.samples
        facts.append(
            (
                group.slot.tolist(),
                group.record.tolist(),
                samples.attempts.tolist(),
                samples.valid.tolist(),
                samples.frames.tolist(),
            )
        )
        shown.extend(pictures(group.clips))
    return facts, np.stack(shown)


def numbers_of(clips):
    """The numbers that each frame shows."""
    return [[read_numbers(frame) for frame in clip] for clip in clips]


@pytest.mark.parametrize("clip", CLIPS)
def test_dalis_road_gives_the_frames_substitutes_and_counts_of_the_cpu(clip, written, tmp_path):
    shutil.copytree(written, tmp_path / "v")
    names = sorted(path.name for path in written.iterdir())
    (tmp_path / "l.txt").write_text("".join(f"{name} {n % 2}\n" for n, name in enumerate(names)))
    sources = {
        decode: {"v": SourceConfig(kind="video", root="v", list="l.txt", decode=decode)}
        for decode in ("dali", "cpu")
    }
    build_catalog(tmp_path / "c.sqlite", sources["dali"], tmp_path, progress=False)
    recheck(tmp_path / "c.sqlite", "v", sources["dali"]["v"], progress=False)
    damage(tmp_path / "v")
    table = CatalogReader(tmp_path / "c.sqlite").table("v")

    found = {}
    for decode, source in sources.items():
        quarantine = tmp_path / f"{decode}.jsonl"
        with FusionIterator(
            make_plan([table], source, CLIPS[clip], batch=8),
            list(source.values()),
            threads=2,
            end=12,
            max_bad_ratio=1.0,
            max_bad_in_a_row=10**6,
            quarantine=Quarantine(quarantine),
        ) as loader:
            facts, shown = seen(loader)
            stats = loader.stats()["v"]
        records = map(json.loads, quarantine.read_text().splitlines())
        failures = sorted((record["path"], record["state"]) for record in records)
        found[decode] = facts, shown, stats, failures

    (facts, shown, stats, failures), (right, pixels, expected, expected_failures) = found.values()
    assert facts == right
    assert failures == expected_failures and len(failures) >= 4
    assert stats.bad_files == expected.bad_files > 0
    assert stats.replaced_frames == expected.replaced_frames > 0
    # FFmpeg makes something up for a JPEG that breaks off, from whatever it decoded before
    torn = table.reader.find_record("v", str(tmp_path / "v" / "changed.avi"))
    whole = np.concatenate([record for _, record, *_ in facts]) != torn
    assert numbers_of(shown[whole]) == numbers_of(pixels[whole])
    assert np.abs(shown[whole] - pixels[whole]).mean() < 3
    assert stats.by_dali > len(shown) / 2 and expected.by_dali == 0


def test_pieces_of_a_long_video_show_the_frames_of_the_cpus_road(tmp_path):
    """A piece at the end of a video costs what one at its beginning costs."""
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v/long.webm", 6, frames=300, width=96, height=80, gop=8, rate=15, **VP9)
    (tmp_path / "l.txt").write_text("long.webm 1 4 0\nlong.webm 16 20 0\n")
    found = {}
    for decode in ("dali", "cpu"):
        source = SourceConfig(
            kind="untrimmed", root="v", list="l.txt", format="pieces", decode=decode
        )
        build_catalog(tmp_path / "c.sqlite", {"v": source}, tmp_path, progress=False)
        table = CatalogReader(tmp_path / "c.sqlite").table("v")
        plan = make_plan([table], {"v": source}, CLIPS["tsn"], batch=6)
        with FusionIterator(plan, [source], threads=2, end=4) as loader:
            facts, shown = seen(loader)
            found[decode] = facts, numbers_of(shown), loader.stats()["v"].by_dali
    assert found["dali"][:2] == found["cpu"][:2]
    assert found["dali"][2] >= 24 and found["cpu"][2] == 0
    frames = [number for clip in found["dali"][1] for _, number in clip]
    assert min(frames) >= 15 and max(frames) >= 240
