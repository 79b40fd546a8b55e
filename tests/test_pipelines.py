"""The DALI graphs: shapes, flips, boxes, errors; and that all decoders give one picture.

Tolerance between the CPU decoders and DALI, as the mean difference on a scale of 0..255: 2 for
video and 4 for photos at ordinary scales (their filters for colour planes and for shrinking
differ).
"""

import numpy as np
import pytest
import torch

from conftest import media_of
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import decode_video
from omnidali.loading.cpu_backend import normalise
from omnidali.pipelines import DecodedClips, EncodedImages, EncodedVideos, PipelineError
from omnidali.pipelines.graph import first_reason
from omnidali.testing.numbered_media import read_numbers, write_image, write_video
from omnidali.utils.constants import MEAN, STD

BOXES = np.array([[0, 16, 80, 96], [6, 8, 70, 72]], np.int32)
FLIPS = [0, 1]


def as_pixels(tensor):
    """A DALI output on the scale 0..255."""
    return torch.from_dlpack(tensor).float().cpu() * torch.tensor(STD) + torch.tensor(MEAN)


def box_feeds(count):
    feeds = {}
    for view, (box, flip) in enumerate(zip(BOXES.astype(np.float32), FLIPS, strict=True)):
        feeds |= {
            f"start{view}": [box[:2]] * count,
            f"end{view}": [box[2:]] * count,
            f"flip{view}": [np.array(flip, np.int32)] * count,
        }
    return feeds


def decoded(pixels, size, device_id=None):
    """(V, F, S, S, 3) pixels through DecodedClips, with FLIPS."""
    graph = DecodedClips(size, len(pixels), batch=1, threads=1, device_id=device_id)
    (output,) = graph.run(
        {"pixels": list(pixels), "flip": [np.array(flip, np.int32) for flip in FLIPS]}
    )
    return as_pixels(output)


def test_normalise_equals_dali():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3), np.uint8)
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.bfloat16, 0.01)):
        out = torch.zeros(2, 3, 16, 16, 3, dtype=dtype)
        normalise(pixels, np.array(FLIPS, bool), out)
        shown = out.float() * torch.tensor(STD) + torch.tensor(MEAN)
        assert (shown - decoded(pixels, 16)).abs().max() < 255 * tolerance
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
    write_video(path, 21, frames=30, width=112, height=80, **ENCODINGS[path.name])
    frames = np.array([29, 3, 3, 17], np.int32)
    pixels = np.zeros((2, 4, 64, 64, 3), np.uint8)
    decode_video(media_of(path), frames, BOXES, 64, pixels)
    by_cpu = decoded(pixels, 64, device_id)
    graph = EncodedVideos(64, 2, batch=3, threads=1, device_id=device_id)
    outputs = graph.run(
        {"data": [np.fromfile(path, np.uint8)] * 2, "frames": [frames] * 2, **box_feeds(2)}
    )
    assert len(outputs) == 2

    for view, output in enumerate(outputs):
        by_dali = as_pixels(output)
        assert by_dali.shape == (2, 4, 64, 64, 3)
        for sample in by_dali:
            assert (sample - by_cpu[view]).abs().mean() < tolerance

    assert [read_numbers(shown.numpy())[1] for shown in as_pixels(outputs[0])[0]] == frames.tolist()


def check_image(path, device_id, tolerance):
    write_image(path, 22, 112, 80)
    pixels = np.zeros((2, 1, 64, 64, 3), np.uint8)
    decode_image(media_of(path, "image"), BOXES, 64, pixels)
    by_cpu = decoded(pixels, 64, device_id)
    graph = EncodedImages(64, 2, batch=1, threads=1, device_id=device_id)
    for view, output in enumerate(
        graph.run({"data": [np.fromfile(path, np.uint8)], **box_feeds(1)})
    ):
        by_dali = as_pixels(output)
        assert by_dali.shape == (1, 1, 64, 64, 3)
        assert (by_dali[0] - by_cpu[view]).abs().mean() < tolerance


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


def test_decoded_clips_are_normalised_and_flipped():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3), np.uint8)
    graph = DecodedClips(32, 2, batch=1, threads=1, device_id=None)
    output = torch.from_dlpack(
        graph.run({"pixels": list(pixels), "flip": [np.array(flip, np.int32) for flip in FLIPS]})[0]
    )
    wanted = (torch.tensor(pixels).float() - torch.tensor(MEAN)) / torch.tensor(STD)
    assert output.dtype == torch.float32
    assert torch.allclose(output[0], wanted[0], atol=1e-4)
    assert torch.allclose(output[1], wanted[1].flip(2), atol=1e-4)


def test_bad_sample_fails_its_batch_and_no_other(tmp_path):
    write_image(tmp_path / "a.jpg", 1, 112, 80)
    good = np.fromfile(tmp_path / "a.jpg", np.uint8)
    graph = EncodedImages(64, 2, batch=2, threads=1, device_id=None)
    before = as_pixels(graph.run({"data": [good, good], **box_feeds(2)})[0]).clone()
    for bad in (good[:300], np.frombuffer(b"no picture at all", np.uint8)):
        with pytest.raises(PipelineError) as caught:
            graph.run({"data": [good, bad], **box_feeds(2)})
        assert "Critical" not in str(caught.value) and "\n" not in str(caught.value)
        assert torch.equal(as_pixels(graph.run({"data": [good, good], **box_feeds(2)})[0]), before)


def test_first_reason_of_dali_errors():
    text = (
        "Critical error in pipeline:\nError in CPU operator `x`,\n"
        'with the following traceback:\n\n  File "a"\n\n'
        "encountered:\n\nAssert failed: no decoder\nC++ context: [/x.h:1] \n"
        "Current pipeline object is no longer"
    )
    assert first_reason(text) == "Assert failed: no decoder"
    assert first_reason("plain") == "plain"
