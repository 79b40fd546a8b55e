"""What a filter reports of the items that it kept and dropped."""

import json
from pathlib import Path

import cv2
import pytest

from helpers.filtering import (
    BROKEN,
    NAMES,
    PHOTOS,
    command,
    plain_scores,
    rows_of,
    settings,
)
from omnidali.cli import main as cli
from omnidali.config.load import load_config
from omnidali.loading.data import open_data

pytestmark = pytest.mark.usefixtures("one_thread")


def test_report_and_list_equal_plain_lines(world, filtered, flat, teacher):
    config = settings(world, filtered, "sources.photos.fraction=1")
    table = open_data(config).tables[1]
    probabilities = plain_scores(flat, table, config.sources["photos"], config)
    expected = [
        f"some photos/{n}.jpg {n % 4}" for n in range(BROKEN) if probabilities[n, n % 4] >= 0.4
    ]
    out = filtered / "out"
    assert (out / "photos.txt").read_text().splitlines() == expected and 5 < len(expected) < 35
    kept, dropped = rows_of(out / "photos_kept.csv"), rows_of(out / "photos_dropped.csv")
    assert len(kept) == len(expected) and len(kept) + len(dropped) == PHOTOS
    for row in dropped[:-1]:
        n = int(Path(row["path"]).stem)
        assert row["reason"] == "probability below 0.4" and row["label"] == NAMES[n % 4]
        assert float(row["probability"]) == pytest.approx(probabilities[n, n % 4], abs=1e-3)
        assert int(row["rank"]) == 1 + (probabilities[n] > probabilities[n, n % 4]).sum()
        assert row["best"] == NAMES[probabilities[n].argmax()]
    assert dropped[-1]["reason"] == "does not decode" and not dropped[-1]["probability"]
    report = (out / "report.md").read_text()
    assert (
        f"| photos | {PHOTOS} | {len(kept)} |" in report and f"some photos/{BROKEN}.jpg" in report
    )
    assert {path.name for path in (out / "pictures").iterdir()} == {
        "photos_kept.png",
        "photos_dropped.png",
        "photos_probabilities.png",
    }
    assert cv2.imread(str(out / "pictures/photos_dropped.png")).shape[1] == 6 * 160
    assert not list(out.rglob("*.part"))
    made = load_config(out / "config.yaml")
    data = open_data(made)
    assert f"photos: {len(kept)} samples, read as path_label" in data.summary[1]
    assert not any("probed now" in line for line in data.summary[:2])  # the catalog was copied
    assert made.sources["photos"].fraction == 0.5 and data.class_names == tuple(NAMES)
    assert (
        json.loads((out / "records.jsonl").read_text().splitlines()[0])["filter"]["photos"][
            "items_per_second"
        ]
        > 0
    )


def test_class_with_nothing_kept_is_warned_of(world, filtered, flat, teacher, capsys):
    config = settings(world, filtered, "sources.photos.fraction=1")
    probabilities = plain_scores(
        flat, open_data(config).tables[1], config.sources["photos"], config
    )
    best = {
        label: max(probabilities[n, label] for n in range(BROKEN) if n % 4 == label)
        for label in range(4)
    }
    lowest = min(best, key=best.get)
    threshold = (best[lowest] + min(best[label] for label in best if label != lowest)) / 2
    assert (
        cli.main(
            command(
                world,
                filtered,
                teacher,
                "--sources",
                "photos",
                "--threshold",
                f"{threshold:.6f}",
                out="class",
            )
        )
        == 0
    )
    errors = capsys.readouterr().err.splitlines()
    warnings = [line for line in errors if line.startswith("WARNING: photos: nothing")]
    assert len(warnings) == 1 and f"class {lowest} ({NAMES[lowest]})" in warnings[0]


def test_failing_items_are_relabelled_with_the_best_other_class(world, filtered, flat, teacher):
    assert (
        cli.main(
            command(
                world,
                filtered,
                teacher,
                "--sources",
                "photos",
                "--threshold",
                "0.7",
                "--relabel",
                out="moved",
            )
        )
        == 0
    )
    config = settings(world, filtered, "sources.photos.fraction=1")
    probabilities = plain_scores(
        flat, open_data(config).tables[1], config.sources["photos"], config
    )
    expected = [
        f"some photos/{n}.jpg {probabilities[n].argmax()}"
        for n in range(BROKEN)
        if probabilities[n].max() >= 0.7
    ]
    assert (filtered / "moved/photos.txt").read_text().splitlines() == expected
    moved = [row for row in rows_of(filtered / "moved/photos_kept.csv") if row["reason"]]
    assert moved and all(
        row["reason"].startswith("relabelled from") and row["label"] == row["best"] for row in moved
    )
