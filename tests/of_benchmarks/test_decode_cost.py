"""The benchmark of decoding alone."""

import json

import pytest

from benchmarks import __main__ as cli
from benchmarks import decode_cost
from of_benchmarks.small_workloads import shrink_workloads


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink_workloads(monkeypatch)


def test_decode_cost_of_a_video_and_an_image(tmp_path, capsys, monkeypatch):
    # the quickest of five may be disturbed where other tests run
    monkeypatch.setattr(decode_cost, "_REPEATS", 25)
    assert cli.main(["decode", "--out", str(tmp_path), "--media", "jpeg", "h264-gop8"]) == 0
    video, photo = map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines())
    assert (video["media"], photo["media"]) == ("h264-gop8", "jpeg")
    for name in ("open_ms", "index_ms", "frame_ms", "passed_packet_ms", "bytes_per_frame"):
        assert video[name] > 0
    assert video["index_ms"] < video["open_ms"]  # what the index is for
    assert 0 < photo["half_the_area_ms"] < photo["whole_ms"]
    assert cli.main(["decode", "--out", str(tmp_path), "--media", "x"]) == 2
    assert "expected beginnings of: " in capsys.readouterr().err


@pytest.mark.needs_gpu
def test_decode_cost_on_a_gpu(tmp_path):
    assert cli.main(["decode", "--out", str(tmp_path), "--media", "jpeg", "h264-gop8"]) == 0
    for line in (tmp_path / "records.jsonl").read_text().splitlines():
        assert (
            0 < json.loads(line)["best_cpu_share"] < 1
            and json.loads(line)["gpu_samples_per_second_depth_8"] > 0
        )
