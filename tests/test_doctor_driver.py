"""What `omnidali doctor` asks NVIDIA's driver, on stand-ins for its libraries."""

import ctypes
import os

import pytest

from helpers.doctor_findings import collect, texts
from helpers.fake_driver import FakeCuda, FakeCuvid
from omnidali.doctor import driver


def libraries(monkeypatch, cuvid=None, **cuda):
    """Let ctypes load stand-ins."""
    loaded = {driver.CUDA_LIBRARY: FakeCuda(**cuda), driver.CUVID_LIBRARY: cuvid}

    def load(name):
        if loaded[name] is None:
            raise OSError(f"{name}: cannot open shared object file")
        return loaded[name]

    monkeypatch.setattr(ctypes, "CDLL", load)


def test_driver_and_limits_of_the_video_decoder(monkeypatch, tmp_path):
    libraries(monkeypatch, FakeCuvid())
    findings, lines = collect(driver.look_at_driver, scratch=str(tmp_path), device_id=0)
    assert findings.facts["device"]["compute capability"] == "9.0"
    good = texts(lines, "good")
    assert good[0].startswith("NVIDIA Stand-in, 141 GiB, compute capability 9.0")
    assert "driver for CUDA up to 13.1, 2 device(s)" in good[0]
    hevc = next(text for text in good if "hevc" in text)
    assert hevc == (
        "NVDEC, hevc: 144x144 to 8192x8192, 7 engine(s); also 4:2:0 10 bits, 4:2:0 12 bits,"
        " 4:4:4 8 bits, 4:4:4 10 bits, 4:4:4 12 bits"
    )
    assert texts(lines, "note") == ["NVDEC, av1: not supported; the CPU decodes it"]
    assert findings.facts["decoder limits"]["h264 4:2:0 8 bits"]["smallest"] == (48, 48)
    assert not texts(lines, "bad") and driver.has_gpu()


@pytest.mark.parametrize("lies_elsewhere", [False, True])
def test_missing_video_decoder_is_named_with_advice(monkeypatch, tmp_path, lies_elsewhere):
    libraries(monkeypatch)
    if lies_elsewhere:
        (tmp_path / "deep").mkdir()
        (tmp_path / "deep" / "libnvcuvid.so.570").touch()
    find = driver.find_library
    monkeypatch.setattr(driver, "find_library", lambda name: find(name, (str(tmp_path),)))
    findings, lines = collect(driver.look_at_driver, scratch=str(tmp_path), device_id=0)
    (bad,) = texts(lines, "bad")
    advice = f"LD_LIBRARY_PATH={tmp_path / 'deep'}" if lies_elsewhere else "compute,utility,video"
    assert advice in bad and not findings.facts["libnvcuvid"]["loads"]


def test_driver_that_fails(monkeypatch, tmp_path):
    libraries(monkeypatch, FakeCuvid(), fails="cuDeviceGet")
    _, lines = collect(driver.look_at_driver, scratch=str(tmp_path), device_id=0)
    (bad,) = texts(lines, "bad")
    assert "cuDeviceGet failed: CUDA_ERROR_NO_DEVICE" in bad
    libraries(monkeypatch, FakeCuvid(fails_at=4))
    _, lines = collect(driver.look_at_driver, scratch=str(tmp_path), device_id=0)
    assert texts(lines, "bad") == ["NVDEC, h264: cuvidGetDecoderCaps failed: error 1"]
    assert any("NVDEC, vp9: 48x48" in text for text in texts(lines, "good"))  # the others are asked
    assert driver.has_gpu()  # the stand-in's cuInit works
    libraries(monkeypatch, FakeCuvid(), fails="cuInit")
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    assert not driver.has_gpu()
    libraries(monkeypatch, FakeCuvid())
    assert driver.has_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not driver.has_gpu()
