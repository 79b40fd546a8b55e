"""How cameras move in videos, estimated from their frames."""

import json

import cv2
import numpy as np

from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.cli import main as cli
from omnidali.config.sources import SourceConfig
from omnidali.curation.motion_estimate import estimate_motion, homography


def test_homography_recovers_a_known_one():
    rng = np.random.default_rng(3)
    scene = cv2.resize(
        rng.integers(0, 255, (60, 60), np.uint8), (480, 480), interpolation=cv2.INTER_CUBIC
    )
    matrix = np.array([[1.02, 0.01, 4], [-0.01, 0.99, -6], [1e-5, 2e-5, 1]])
    moved = cv2.warpPerspective(scene, matrix, (480, 480), borderMode=cv2.BORDER_REFLECT)
    found = homography(scene[80:400, 80:400], moved[80:400, 80:400])
    shift = np.array([[1, 0, 80], [0, 1, 80], [0, 0, 1]])
    wanted = np.linalg.inv(shift) @ matrix @ shift
    for point in ([20, 30, 1], [300, 250, 1]):
        one, other = wanted @ point, found @ point
        assert np.abs(one[:2] / one[2] - other[:2] / other[2]).max() < 0.7
    assert homography(scene[:320, :320], np.zeros((320, 320), np.uint8)) is None


def test_estimate_recovers_a_known_camera(tmp_path):
    """The camera zooms and pans by known amounts; their mean and covariance are found."""
    import av

    rng = np.random.default_rng(0)
    drawn = []
    for n in range(12):
        scene = cv2.resize(
            rng.integers(0, 255, (45, 60, 3), np.uint8), (480, 360), interpolation=cv2.INTER_CUBIC
        )
        matrix = np.eye(3)
        with av.open(str(tmp_path / f"{n}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10, options={"crf": "12"})
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for frame in range(5):
                if frame:
                    zoom, right = 1 + rng.normal(0.0, 0.01), rng.normal(0.02, 0.01)
                    drawn.append([zoom - 1, 0, right, 0, zoom - 1, 0, 0, 0])
                    step = np.array([[zoom, 0, right], [0, zoom, 0], [0, 0, 1]])
                    pixels = np.array([[240, 0, 160], [0, 240, 120], [0, 0, 1.0]])
                    matrix = pixels @ step @ np.linalg.inv(pixels) @ matrix
                view = cv2.warpPerspective(
                    scene, matrix @ np.array([[1, 0, -80], [0, 1, -60], [0, 0, 1]]), (320, 240)
                )
                container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
            container.mux(stream.encode(None))
    (tmp_path / "l.txt").write_text("".join(f"{n}.mp4 {n % 2}\n" for n in range(12)))
    source = SourceConfig(kind="video", list="l.txt")
    build_catalog(tmp_path / "c.sqlite", {"v": source}, tmp_path, progress=False)
    values = estimate_motion(
        CatalogReader(tmp_path / "c.sqlite").table("v"),
        interval=1,
        videos=100,
        seed=0,
        names=["a", "b"],
        threads=2,
    )
    drawn = np.array(drawn)
    assert values["all"]["pairs"] >= 40 and values["videos"] == 12 and values["classes"] == {}
    assert np.allclose(values["all"]["mean"], drawn.mean(axis=0), atol=2e-3)
    assert np.allclose(
        values["all"]["covariance"], np.cov(drawn, rowvar=False, bias=True), atol=6e-5
    )


def test_motion_estimate_command_writes_what_a_source_reads(media_root, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(
        "sources: {clips: {kind: video, root: clips, list: clips.txt}, photos: {kind: image,"
        " root: photos, list: photos.txt}}\ntrain: {steps: 1}\n"
    )
    command = [
        "motion",
        "estimate",
        "--config",
        str(tmp_path / "c.yaml"),
        "--out",
        str(tmp_path / "m.json"),
        f"data_root={media_root}",
        f"run_dir={tmp_path}",
    ]
    assert cli.main(command[:4] + ["--source", "photos"] + command[4:]) == 2
    assert "--source: expected a source of videos (clips), got photos" in capsys.readouterr().err
    assert cli.main(command[:4] + ["--interval", "0"] + command[4:]) == 2
    assert cli.main(command[:4] + ["--videos", "1"] + command[4:]) == 2
    assert "pairs of frames with a common plane" in capsys.readouterr().err
    assert cli.main(command) == 0
    values = json.loads((tmp_path / "m.json").read_text())
    assert (
        len(values["all"]["mean"]) == 8 and values["interval"] == 1 and values["all"]["pairs"] >= 16
    )
