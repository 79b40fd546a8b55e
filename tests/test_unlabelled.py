"""Sources without labels: what looks at them works, what learns from them is refused."""

import json

import pytest

from helpers.filtering import CONFIG, NAMES, rows_of
from omnidali.catalog.listing.list_formats import FORMATS
from omnidali.catalog.listing.list_reader import read_list
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.config.sources import MediaConfig
from omnidali.errors import UserError
from omnidali.loading.data import open_data

PHOTOS = 12
_POOL = "  pool: {kind: image, root: crawl, list: pool.txt}\n"


@pytest.fixture
def config(world, tmp_path):
    """A config with one more source, the list of which holds paths alone."""
    lines = [f"{world}/crawl/some photos/{n}.jpg\n" for n in range(PHOTOS)]
    (tmp_path / "pool.txt").write_text("".join(lines))
    pool = _POOL.replace("pool.txt", str(tmp_path / "pool.txt"))
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.replace("sources:\n", f"sources:\n{pool}", 1))
    return path


def arguments(config, world, *more):
    return [
        "--config",
        str(config),
        *more,
        f"data_root={world}",
        f"run_dir={config.parent}/run",
        "loader.threads=2",
    ]


@pytest.mark.parametrize(
    ("text", "kind", "form"),
    [
        ("a.mp4\nb c.mp4\n", "video", "paths"),
        ("a\nb\n", "frames", "paths"),
        ("a.jpg\n# remark\nb.jpg\n", "image", "paths"),
        ("a.mp4\n", "untrimmed", "paths"),
        ("a.mp4 1\nb.mp4\n", "video", "path_label"),
        ("a.mp4,1\n", "video", "slowfast_csv"),
        ("a.mp4 run\n", "video", "path_label"),
    ],
)
def test_paths_alone_are_recognised(tmp_path, text, kind, form):
    (tmp_path / "l.txt").write_text(text)
    source = MediaConfig(kind=kind, list="l.txt")
    found, entries = read_list(tmp_path / "l.txt", source, lambda *_: 0, "x")
    assert found == form
    if form == "paths":
        listed = [line for line in text.splitlines() if not line.startswith("#")]
        assert [(entry.path, entry.label) for entry in entries] == [(path, -1) for path in listed]


def test_label_map_still_labels_paths_alone(tmp_path):
    (tmp_path / "l.txt").write_text("a.mp4\n")
    source = MediaConfig(kind="video", list="l.txt", labels="map.json")
    found, entries = read_list(tmp_path / "l.txt", source, lambda *_: 3, "x")
    assert found == "path_label" and [entry.label for entry in entries] == [3]


def test_paths_fit_each_kind():
    assert len(FORMATS["paths"].kinds) == 4


def test_training_and_evaluation_refuse_before_any_probe(config, world, monkeypatch):
    monkeypatch.setattr("omnidali.loading.data.build_catalog", None)
    loaded = load_config(config, arguments(config, world)[2:])
    with pytest.raises(UserError, match=r"sources\.pool: expected a label .*filter --relabel"):
        open_data(loaded)


def test_folder_without_class_folders_is_refused_for_training(config, world, monkeypatch):
    monkeypatch.setattr("omnidali.loading.data.build_catalog", None)
    text = config.read_text()
    begin = text.index("  pool:")
    end = text.index("\n", begin)
    folder = "  pool: {kind: image, root: crawl/some photos}"
    config.write_text(text[:begin] + folder + text[end:])
    loaded = load_config(config, arguments(config, world)[2:])
    with pytest.raises(UserError, match=r"sources\.pool: expected a label .*without class folders"):
        open_data(loaded)


def test_info_and_preview_show_unlabelled_items(config, world, capsys):
    given = arguments(config, world, "train.steps=1")
    assert cli.main(["preview", *given, "--samples", "2", "--sources", "pool"]) == 0
    assert (config.parent / "run" / "preview" / "pool.png").exists()
    capsys.readouterr()
    assert cli.main(["info", *given]) == 0
    assert f"{PHOTOS:,} items have no label" in capsys.readouterr().out
    assert cli.main(["info", "--json", *given]) == 0
    sources = json.loads(capsys.readouterr().out)["sources"]
    unlabelled = {source["name"]: source["unlabelled"] for source in sources}
    assert unlabelled.pop("pool") == PHOTOS and not any(unlabelled.values())


def test_relabelling_filter_labels_what_it_is_sure_of(config, world, teacher, capsys):
    out = config.parent / "out"
    given = arguments(config, world, "--checkpoint", str(teacher), "--out", str(out))
    rules = ["--sources", "pool", "--threshold", "0.4"]
    assert cli.main(["filter", *given, *rules]) == 2
    assert "Add --relabel" in capsys.readouterr().err

    assert cli.main(["filter", *given, *rules, "--relabel"]) == 0
    kept = rows_of(out / "pool_kept.csv")
    dropped = rows_of(out / "pool_dropped.csv")
    assert len(kept) + len(dropped) == PHOTOS and kept
    assert all(row["label"] == row["best"] for row in kept)
    assert all(float(row["best_probability"]) >= 0.4 for row in kept)
    assert all(float(row["best_probability"]) < 0.4 for row in dropped)

    lines = (out / "pool.txt").read_text().splitlines()
    assert {NAMES[int(line.rpartition(" ")[2])] for line in lines} == {row["label"] for row in kept}
    made = load_config(out / "config.yaml", ["loader.threads=2"])
    assert (open_data(made).tables[0].labels >= 0).all()
