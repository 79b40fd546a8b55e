"""The demo world: the release's layout, honest splits, the same bits for the same seed."""

import hashlib
import json
import sqlite3

import numpy as np
import pytest

from conftest import InProcess
from omnidali.catalog.build import build_catalog
from omnidali.config.sources import SourceConfig
from omnidali.curation.copies.encode import RECIPES
from omnidali.demo import world
from omnidali.demo.scene import ACTIONS
from omnidali.demo.world import make_world
from omnidali.demo.world_plan import DEMO, X264_LONG_GOP, plan_items, shown_parts
from omnidali.errors import UserError
from omnidali.testing.numbered_media import write_video
from omnidali.utils import x264


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A world with every seventh item, so that all codecs come up."""
    patch = pytest.MonkeyPatch()
    patch.setattr(world, "PART_SECONDS", 1)
    folder = tmp_path_factory.mktemp("world")
    items = {name: group[::7] for name, group in plan_items(3).items()}
    patch.setattr(world, "ProcessPoolExecutor", InProcess)
    patch.setattr(world, "plan_items", lambda seed: items)
    for name in ("a", "b"):
        make_world(folder / name, 3, progress=False)
    patch.undo()
    return folder, items


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_same_seed_gives_the_same_bits(small):
    folder, _ = small
    first = digest(folder / "a")
    assert first == digest(folder / "b") and len(first) > 60


@pytest.mark.parametrize("number", [15, 111, 153])
def test_clip_with_b_frames_has_the_same_bytes_every_time(tmp_path, number):
    """These three had two to four versions in ten runs where x264 used AVX-512."""
    item = plan_items(3)["kinetics_8_train"][number]
    assert item.codec == X264_LONG_GOP
    rng = np.random.default_rng(item.seed)
    rate = int(rng.choice(world._RATES))
    scene, seconds = world._clip_scene(ACTIONS[item.shown], rng)
    frames = [scene.frame(k / rate, 0.5 / rate) for k in range(round(seconds * rate))]

    made = set()
    for _ in range(12):
        world._write_video(tmp_path / "a.mp4", frames, rate, item.codec)
        made.add((tmp_path / "a.mp4").read_bytes())
    assert len(made) == 1


def test_numbered_videos_with_b_frames_have_the_same_bytes_every_time(tmp_path):
    made = set()
    for _ in range(12):
        write_video(tmp_path / "a.mp4", 15, frames=30, width=192, height=108, gop=250, b_frames=3)
        made.add((tmp_path / "a.mp4").read_bytes())
    assert len(made) == 1


def test_x264_is_held_to_avx2_only_where_the_cpu_has_it_and_more(monkeypatch):
    monkeypatch.setattr(x264, "_cpu_flags", lambda: x264._REQUIRED_FLAGS | {"sse2"})
    assert x264.repeatable({"crf": "23"}) == {"crf": "23", "x264-params": "asm=avx2"}
    assert x264.repeatable({"x264-params": "bframes=0"}) == {"x264-params": "bframes=0:asm=avx2"}
    assert x264.repeatable({"x264-params": "asm=sse2"}) == {"x264-params": "asm=sse2"}
    for recipe in RECIPES.values():
        assert recipe.options["x264-params"].endswith(":asm=avx2")
        assert x264.repeatable(recipe.options) == recipe.options
    for lacking in x264._REQUIRED_FLAGS:  # x264 would die of the first such instruction
        flags = x264._REQUIRED_FLAGS - {lacking}
        monkeypatch.setattr(x264, "_cpu_flags", lambda flags=flags: flags)
        assert x264.repeatable({"crf": "23"}) == {"crf": "23"}


def test_other_seeds_give_other_items():
    assert plan_items(1) == plan_items(1)
    assert plan_items(1) != plan_items(2)


def test_layout_and_lists_are_the_releases(small):
    folder, items = small
    notes = folder / "a" / "annotations"
    assert (notes / "k8_actions.txt").read_text().splitlines() == [
        action.name for action in ACTIONS
    ]
    union = (notes / "webimage_8/tsn_8seg_webimage_8_wodup.txt").read_text().splitlines()
    assert {line.split("/")[0] for line in union} == {"googleimage_8", "insimage_8"}
    for name, listed in (
        ("googleimage_8", "tsn_8seg"),
        ("insimage_8", "tsn_8seg"),
        ("insvideo_8", "slowonly_8x8"),
    ):
        every = set((notes / name / f"{name}.txt").read_text().splitlines())
        kept = set((notes / name / f"{listed}_{name}.txt").read_text().splitlines())
        without = set((notes / name / f"{listed}_{name}_wodup.txt").read_text().splitlines())
        assert without <= kept <= every and len(every) == len(items[name])
    rows = json.loads((notes / "kinetics_raw_8/slowonly_8x8_kinetics_raw_8.json").read_text())
    for row in rows:
        assert set(row) == {"video_dir", "label", "num_clips", "positive_clip_inds"}
        folder_of_row = folder / "a" / "kinetics_raw_8_train" / row["video_dir"]
        assert folder_of_row.parent.name == f"pref{folder_of_row.name[0]}"
        assert len(list(folder_of_row.glob("part_*.mp4"))) == row["num_clips"] == 6
        assert 0 < len(row["positive_clip_inds"]) < 6


def test_every_file_is_usable_and_codecs_are_mixed(small):
    folder, items = small
    sources = {
        name: SourceConfig(kind=kind, root=name, list=f"annotations/{listing}")
        for name, kind, listing in (
            ("kinetics_8_train", "video", "kinetics_8/k8_train.txt"),
            ("kinetics_8_val", "video", "kinetics_8/k8_val.txt"),
            ("insvideo_8", "video", "insvideo_8/insvideo_8.txt"),
            ("insimage_8", "image", "insimage_8/insimage_8.txt"),
            ("googleimage_8", "image", "googleimage_8/googleimage_8.txt"),
        )
    }
    summaries = build_catalog(folder / "catalog.sqlite", sources, folder / "a", progress=False)
    assert all(not summary.refused for summary in summaries)
    db = sqlite3.connect(folder / "catalog.sqlite")
    assert len(set(db.execute("SELECT DISTINCT width, height FROM media"))) > 20
    assert len(set(db.execute("SELECT DISTINCT frame_rate FROM media WHERE frame_rate > 0"))) > 3
    codecs = {codec for (codec,) in db.execute("SELECT DISTINCT codec FROM media")}
    assert codecs == {"h264", "hevc", "vp9", "jpeg"}


def test_split_is_honest_and_noise_is_planted():
    items = plan_items(0)
    train = {item.seed for name, group in items.items() if "val" not in name for item in group}
    assert not train & {item.seed for item in items["kinetics_8_val"]}
    for collection in DEMO:
        group = items[collection.name.format(n=8)]
        noisy = sum(item.shown != item.label for item in group) / len(group)
        assert abs(noisy - collection.noise) < 0.12
        assert len(group) == 8 * collection.per_class
        if "kinetics" in collection.name:
            assert noisy == 0 and not any(item.copy_of for item in group)
    assert all(0 < len(shown_parts(item)) < 6 for item in items["kinetics_raw_8_train"])


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="an empty folder or a demo world"):
        make_world(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
