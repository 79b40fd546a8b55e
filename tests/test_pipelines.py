"""The DALI graphs: shapes, flips, boxes, errors; and that all decoders give one picture.

Tolerance between the CPU decoders and DALI, as the mean difference on a scale of 0..255: 2 for
video and 4 for photos at ordinary scales (their filters for colour planes and for shrinking
differ).
"""

import numpy as np
import pytest
import torch

from conftest import media_of
from helpers.dali_graphs import as_pixels, box_feeds, video_feeds
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import decode_video
from omnidali.loading.cpu_backend import normalise
from omnidali.pipelines import EncodedImages, EncodedVideos, PipelineError
from omnidali.pipelines.graph import first_reason
from omnidali.testing.numbered_media import read_numbers, write_image, write_video
from omnidali.utils.constants import MEAN, STD

WIDTH = 224  # pixels: NVDEC takes no HEVC below 144
HEIGHT = 160
SIZE = 128
BOXES = np.array([[0, 32, 160, 192], [12, 16, 140, 144]], np.int32)
FLIPS = [0, 1]


def normalised(pixels):
    """(V, F, S, S, 3) pixels as the CPU's road finishes them, with FLIPS; on the scale 0..255."""
    out = torch.zeros(pixels.shape)
    normalise(pixels, np.array(FLIPS, bool), out)
    return out * torch.tensor(STD) + torch.tensor(MEAN)


def test_normalise_scales_shifts_and_mirrors():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3), np.uint8)
    right = (torch.tensor(pixels) - torch.tensor(MEAN)) / torch.tensor(STD)
    right[1] = right[1].flip(2)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.02)):
        out = torch.zeros(2, 3, 16, 16, 3, dtype=dtype)
        normalise(pixels, np.array(FLIPS, bool), out)
        assert (out.float() - right).abs().max() < tolerance
    still = torch.zeros(2, 5, 16, 16, 3)
    normalise(pixels[:, :1], np.array(FLIPS, bool), still)
    assert torch.equal(still, still[:, :1].expand_as(still)) and still.abs().sum() > 0


ENCODINGS = {
    "a.mp4": {},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "a.avi": {"codec": "mjpeg", "pixels": "yuvj420p", "options": {"q": "4"}},
    "a.webm": {
        "codec": "libvpx-vp9",
        "options": {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"},
    },
}


def check_video(path, device_id, tolerance):
    write_video(path, 21, frames=30, width=WIDTH, height=HEIGHT, **ENCODINGS[path.name])
    frames = np.array([29, 3, 3, 17], np.int32)
    pixels = np.zeros((2, 4, SIZE, SIZE, 3), np.uint8)
    decode_video(media_of(path), frames, BOXES, SIZE, pixels)
    by_cpu = normalised(pixels)
    graph = EncodedVideos(SIZE, 2, batch=3, threads=1, device_id=device_id)
    outputs = graph.run(video_feeds(path, frames, count=2) | box_feeds(BOXES, FLIPS, count=2))
    assert len(outputs) == 2

    for view, output in enumerate(outputs):
        assert torch.from_dlpack(output).is_cuda == (device_id is not None)
        by_dali = as_pixels(output)
        assert by_dali.shape == (2, 4, SIZE, SIZE, 3)
        for sample in by_dali:
            assert (sample - by_cpu[view]).abs().mean() < tolerance

    assert [read_numbers(shown.numpy())[1] for shown in as_pixels(outputs[0])[0]] == frames.tolist()


def check_image(path, device_id, tolerance):
    write_image(path, 22, WIDTH, HEIGHT)
    pixels = np.zeros((2, 1, SIZE, SIZE, 3), np.uint8)
    decode_image(media_of(path, "image"), BOXES, SIZE, pixels)
    by_cpu = normalised(pixels)
    graph = EncodedImages(SIZE, 2, batch=1, threads=1, device_id=device_id)
    for view, output in enumerate(
        graph.run({"data": [np.fromfile(path, np.uint8)], **box_feeds(BOXES, FLIPS)})
    ):
        by_dali = as_pixels(output)
        assert by_dali.shape == (1, 1, SIZE, SIZE, 3)
        assert (by_dali[0] - by_cpu[view]).abs().mean() < tolerance


def test_repeated_frames_are_decoded_once(tmp_path, monkeypatch):
    """DALI's decoder begins anew for each: half a short video again for every one of them."""
    path = tmp_path / "a.webm"
    write_video(path, 21, frames=30, width=WIDTH, height=HEIGHT, **ENCODINGS["a.webm"])
    graph = EncodedVideos(SIZE, 1, batch=1, threads=1, device_id=None)
    fed = []
    monkeypatch.setattr(graph._pipeline, "feed_input", feed_noting(graph._pipeline, fed))
    for frames in ([29, 3, 3, 17], [5, 5, 5, 5], [0, 1, 2, 3]):
        (output,) = graph.run(video_feeds(path, frames) | box_feeds(BOXES[:1], FLIPS[:1]))
        assert [read_numbers(shown.numpy())[1] for shown in as_pixels(output)[0]] == frames
        assert fed.pop().tolist() == sorted(set(frames))


def feed_noting(pipeline, fed):
    feed = pipeline.feed_input

    def note(name, arrays):
        if name == "frames":
            fed.extend(arrays)
        feed(name, arrays)

    return note


@pytest.mark.parametrize("name", ["a.webm", "a.avi"])
def test_dali_and_cpu_decoders_agree_on_video(tmp_path, name):
    check_video(tmp_path / name, None, 2)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_dali_and_cpu_decoders_agree_on_images(tmp_path, name):
    check_image(tmp_path / name, None, 4)


@pytest.mark.needs_gpu
@pytest.mark.parametrize("name", ["a.mp4", "hevc.mp4", "a.webm"])
def test_gpu_and_cpu_agree_on_video(tmp_path, name):
    check_video(tmp_path / name, 0, 4)


@pytest.mark.needs_gpu
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_gpu_and_cpu_agree_on_images(tmp_path, name):
    check_image(tmp_path / name, 0, 4)


def test_bad_sample_fails_its_batch_and_no_other(tmp_path):
    write_image(tmp_path / "a.jpg", 1, WIDTH, HEIGHT)
    good = np.fromfile(tmp_path / "a.jpg", np.uint8)
    graph = EncodedImages(64, 2, batch=2, threads=1, device_id=None)
    boxes = box_feeds(BOXES, FLIPS, count=2)
    before = as_pixels(graph.run({"data": [good, good], **boxes})[0]).clone()
    for bad in (good[:300], np.frombuffer(b"no picture at all", np.uint8)):
        with pytest.raises(PipelineError) as caught:
            graph.run({"data": [good, bad], **boxes})
        assert "Critical" not in str(caught.value) and "\n" not in str(caught.value)
        assert torch.equal(as_pixels(graph.run({"data": [good, good], **boxes})[0]), before)


def test_first_reason_of_dali_errors():
    text = (
        "Critical error in pipeline:\nError in CPU operator `x`,\n"
        'with the following traceback:\n\n  File "a"\n\n'
        "encountered:\n\nAssert failed: no decoder\nC++ context: [/x.h:1] \n"
        "Current pipeline object is no longer"
    )
    assert first_reason(text) == "Assert failed: no decoder"
    assert first_reason("plain") == "plain"
