"""Every other project's loader delivers the planned frames, boxes and mirrorings, so that comparing
with it is fair.
"""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.loader_task import Item, Job
from benchmarks.peers import PEERS
from conftest import media_of
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import decode_video
from omnidali.testing.numbered_media import read_numbers, write_photo, write_video
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
    root, made = tmp_path_factory.mktemp("peers"), {}
    for form in ("jpeg", *VIDEOS):
        ending, settings = VIDEOS.get(form, ("jpg", None))
        made[form] = [str(root / f"{form}-{file}.{ending}") for file in range(2)]
        for file, path in enumerate(made[form]):
            if form == "jpeg":
                write_photo(root / path, file, WIDTH, HEIGHT)
            else:
                write_video(root / path, file, FRAMES, WIDTH, HEIGHT, **settings)
    return made


def plan(paths: list[str], kind: str) -> Job:
    """Three batches, the last one shorter; frames out of order and repeated; every other item with
    any box.
    """
    rng, items = random.Random(5), []
    for number in range(8):
        drawn = [rng.randrange(FRAMES) for _ in range(4)]
        frames = (*drawn, drawn[0], FRAMES - 1) if kind == "video" else (0,)
        box = (rng.randrange(30), rng.randrange(40), rng.randrange(50, 81), rng.randrange(60, 113))
        file = rng.randrange(2)
        items.append(Item(paths[file], frames, box if number % 2 else SQUARE, number % 4 > 1, file))
    return Job(kind, SIZE, (tuple(items[:3]), tuple(items[3:6]), tuple(items[6:])), workers=2)


def ours(item: Item, kind: str) -> np.ndarray:
    out = np.empty((1, len(item.frames), SIZE, SIZE, 3), np.uint8)
    media, boxes = media_of(item.path, kind), np.array([item.box])
    if kind == "image":
        decode_image(media, boxes, SIZE, out)
    else:
        decode_video(media, np.array(item.frames), boxes, SIZE, out)
    return out[0, :, :, ::-1] if item.flip else out[0]


@pytest.mark.parametrize("name, settings, form", CASES)
def test_peers_do_the_same_job(paths, name, settings, form):
    job = plan(paths[form], "image" if form == "jpeg" else "video")
    try:
        batches = list(PEERS[name].deliver(job, **settings))
    except ImportError as error:
        pytest.skip(f"{name}: {error}")
    assert len(batches) == len(job.steps)
    for step, batch in zip(job.steps, batches):
        assert batch.dtype == torch.float32
        assert batch.shape == (len(step), 3, len(step[0].frames), SIZE, SIZE)
        for item, clip in zip(step, batch.permute(0, 2, 3, 4, 1)):
            shown = (clip * torch.tensor(STD) + torch.tensor(MEAN)).numpy()
            if item.box == SQUARE:
                upright = shown[:, :, ::-1] if item.flip else shown
                assert [read_numbers(picture) for picture in upright] == [
                    (item.file, frame) for frame in item.frames
                ]
            # libraries differ in filters, chroma and rounding; a wrong frame, box or side is off by
            # 20 and more
            assert np.abs(shown - ours(item, job.kind)).mean() < 6


# PyTorch waits 10 s for the workers of a DataLoader that failed, and mmaction2 has no other way
@pytest.mark.parametrize("name", sorted(set(PEERS) - {"mmaction2"}))
def test_broken_files_are_no_silence(paths, name):
    kind = PEERS[name].kinds[0]
    job = plan(paths["jpeg" if kind == "image" else "vp9"], kind)
    lost = replace(job.steps[1][0], path="/nowhere/at.all")
    try:
        batches = PEERS[name].deliver(
            replace(job, steps=(job.steps[0], (lost, *job.steps[1][1:]))),
            **PEERS[name].settings[-1],
        )
    except ImportError as error:
        pytest.skip(f"{name}: {error}")
    with pytest.raises(Exception):
        list(batches)


def test_jobs_survive_their_file(tmp_path, paths):
    job = plan(paths["h264"], "video")
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job
