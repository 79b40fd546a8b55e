"""Every other project's loader delivers the planned frames, boxes and flips: a fair comparison."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.loader_task import ClipRequest, LoaderTask
from benchmarks.peer_tools import WAYS
from benchmarks.peers import PEERS
from conftest import media_of
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import decode_video
from omnidali.testing.numbered_media import read_numbers, write_image, write_video
from omnidali.utils.constants import MEAN, STD

FRAMES, WIDTH, HEIGHT, SIZE = 40, 112, 80, 96
VIDEOS = {
    "h264": ("mp4", {"gop": 8}),
    "h264-b": ("mp4", {"gop": 250, "b_frames": 3}),
    "vp9": (
        "webm",
        {
            "codec": "libvpx-vp9",
            "gop": 8,
            "options": {"deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "0"},
        },
    ),
    "mjpeg": ("avi", {"codec": "mjpeg", "pixels": "yuvj420p", "options": {"q": "2"}}),
}
CASES = [
    pytest.param(name, settings, form, id=f"{name}-{form}-{'-'.join(map(str, settings.values()))}")
    for name, peer in PEERS.items()
    for settings in peer.settings
    for form in ("jpeg", *VIDEOS)
    if ("image" if form == "jpeg" else "video") in peer.kinds
    and (form == "jpeg" or peer.codecs is None or form.partition("-")[0] in peer.codecs)
]
SQUARE = (0, 16, 80, 96)  # the whole short side, where the numbers are read


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> dict[str, list[str]]:
    root = tmp_path_factory.mktemp("peers")
    made = {}
    for form in ("jpeg", *VIDEOS):
        ending, settings = VIDEOS.get(form, ("jpg", None))
        made[form] = [str(root / f"{form}-{file}.{ending}") for file in range(2)]
        for file, path in enumerate(made[form]):
            if form == "jpeg":
                write_image(root / path, file, WIDTH, HEIGHT)
            else:
                write_video(root / path, file, FRAMES, WIDTH, HEIGHT, **settings)
    return made


def make_task(paths: list[str], kind: str) -> LoaderTask:
    """Three batches, the last one shorter; frames out of order and repeated; any box for each other
    clip.
    """
    rng = random.Random(5)
    clips = []
    for number in range(8):
        drawn = [rng.randrange(FRAMES) for _ in range(4)]
        frames = (*drawn, drawn[0], FRAMES - 1) if kind == "video" else (0,)
        box = (rng.randrange(30), rng.randrange(40), rng.randrange(50, 81), rng.randrange(60, 113))
        file = rng.randrange(2)
        clips.append(
            ClipRequest(
                path=paths[file],
                frames=frames,
                box=box if number % 2 else SQUARE,
                flip=number % 4 > 1,
                file=file,
            )
        )
    steps = (tuple(clips[:3]), tuple(clips[3:6]), tuple(clips[6:]))
    return LoaderTask(kind, SIZE, steps, workers=2)


def decode_ours(clip: ClipRequest, kind: str) -> np.ndarray:
    """The clip as our decoders give it: uint8 (T, SIZE, SIZE, 3)."""
    out = np.empty((1, len(clip.frames), SIZE, SIZE, 3), np.uint8)
    media = media_of(clip.path, kind)
    boxes = np.array([clip.box])
    if kind == "image":
        decode_image(media, boxes, SIZE, out)
    else:
        decode_video(media, np.array(clip.frames), boxes, SIZE, out)
    return out[0, :, :, ::-1] if clip.flip else out[0]


@pytest.mark.parametrize("name, settings, form", CASES)
def test_peer_delivers_the_task(paths, name, settings, form):
    task = make_task(paths[form], "image" if form == "jpeg" else "video")
    try:
        batches = list(PEERS[name].deliver(task, **settings))
    except ImportError as error:
        pytest.skip(f"{name}: {error}")
    for step, batch in zip(task.steps, batches, strict=True):
        assert batch.dtype == torch.float32
        assert batch.shape == (len(step), 3, len(step[0].frames), SIZE, SIZE)
        for clip, frames in zip(step, batch.permute(0, 2, 3, 4, 1), strict=True):
            shown = (frames * torch.tensor(STD) + torch.tensor(MEAN)).numpy()
            if clip.box == SQUARE:
                upright = shown[:, :, ::-1] if clip.flip else shown
                assert [read_numbers(image) for image in upright] == [
                    (clip.file, frame) for frame in clip.frames
                ]
            # libraries differ in filters, chroma and rounding; a wrong frame, box or side is off by
            # 20 and more
            assert np.abs(shown - decode_ours(clip, task.kind)).mean() < 6


@pytest.mark.parametrize("way", WAYS)
def test_peer_delivers_more_batches_than_are_under_way(paths, way):
    task = make_task(paths["jpeg"], "image")
    task = replace(task, steps=4 * task.steps)
    batches = PEERS["opencv"].deliver(task, way=way, jump=32)
    assert [len(batch) for batch in batches] == [len(step) for step in task.steps]


# PyTorch waits 10 s for the workers of a DataLoader that failed, and mmaction2 has no other way
@pytest.mark.parametrize("name", sorted(set(PEERS) - {"mmaction2"}))
def test_peer_raises_for_a_missing_file(paths, name):
    kind = PEERS[name].kinds[0]
    task = make_task(paths["jpeg" if kind == "image" else "vp9"], kind)
    first, second, _ = task.steps
    lost = replace(second[0], path="/nowhere/at.all")
    task = replace(task, steps=(first, (lost, *second[1:])))
    try:
        batches = PEERS[name].deliver(task, **PEERS[name].settings[-1])
    except ImportError as error:
        pytest.skip(f"{name}: {error}")
    with pytest.raises(Exception, match="."):
        list(batches)


def test_loader_task_survives_its_file(tmp_path, paths):
    task = make_task(paths["h264"], "video")
    task.write(tmp_path / "job.json")
    assert LoaderTask.read(tmp_path / "job.json") == task
