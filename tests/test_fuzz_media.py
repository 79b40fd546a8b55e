"""Mutated media: they decode, or are refused with a reason, and nothing else happens."""

import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from helpers.frame_matrix.containers import make_file
from helpers.frame_matrix.reference import has_program
from helpers.fuzzing import COUNTS, IN_CI, SECONDS, SHARES, SLOWEST, mutate, record_counts
from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.folder_probe import probe_frames
from omnidali.catalog.probing.image_probe import probe_image
from omnidali.catalog.probing.limits import UnsupportedMediaError
from omnidali.catalog.probing.packed_numbers import unpack_numbers
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import decode_video
from omnidali.errors import DecodeError
from omnidali.testing.numbered_media import numbered_image, write_video

record = record_counts()


def make_media(folder):
    """Small files of every container and format that is admitted."""
    fast = {"preset": "ultrafast"}
    small = {"frames": 8, "width": 80, "height": 64, "gop": 4}
    for name, options in {
        "a.mp4": {"options": fast, "b_frames": 2},
        "fragments.mp4": {"options": fast},
        "b.mkv": {"options": fast},
        "c.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
        "d.avi": {"codec": "mpeg4"},
        "e.flv": {"codec": "flv"},
        "f.ts": {"options": fast},
        "g.mpg": {"codec": "mpeg1video", "rate": 25},
        "h.ivf": {"codec": "libvpx", "options": {"deadline": "realtime"}},
        "i.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
        "j.mp4": {"options": fast, "rotation": 90},
    }.items():
        write_video(folder / name, 1, **small, **options)
    codecs = {"p.ogv": "vp8", "q.wmv": "wmv2", "r.gif": "gif"}
    if has_program():
        codecs["v.ogv"] = "theora"
    for name, codec in codecs.items():
        make_file(folder / name, name[2:], codec, "plain")
    image = cv2.cvtColor(numbered_image(1, 0, 90, 60), cv2.COLOR_RGB2BGR)
    for name, options in {
        "k.jpg": [],
        "l.jpg": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
        "m.png": [],
        "n.webp": [],
        "o.jpg": [cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
        "s.bmp": [],
        "t.bmp": [cv2.IMWRITE_BMP_COMPRESSION, cv2.IMWRITE_BMP_COMPRESSION_RGB],
        "u.avif": [],
    }.items():
        (folder / name).write_bytes(cv2.imencode(name[1:], image, options)[1].tobytes())
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def try_media(folder, seed, count, seconds):
    """Probe mutated media, and decode what the probe takes; prints how many inputs each container
    had.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (6 << 30, 6 << 30))
    bases = make_media(folder / "bases")
    tried = {name.rsplit(".")[-1]: [0, 0, 0] for name in bases}
    rng, end, slowest = random.Random(seed), time.monotonic() + seconds, 0.0
    while sum(row[0] for row in tried.values()) < count or time.monotonic() < end:
        name = rng.choice(list(bases))
        kind, path, row = (
            name.rsplit(".")[-1],
            folder / f"now.{name.rsplit('.')[-1]}",
            tried[name.rsplit(".")[-1]],
        )
        path.write_bytes(
            mutate(
                rng, bases[name], [data for other, data in bases.items() if other.endswith(kind)]
            )
        )
        row[0] += 1
        began = time.process_time()
        try:
            check_media(path, row)
            assert time.process_time() - began < SLOWEST
        except BaseException:
            path.rename(folder / f"failed.{kind}")
            raise
        slowest = max(slowest, time.process_time() - began)
        path.unlink()
    print(json.dumps({"tried": tried, "slowest": slowest}))


def check_media(path, row):
    """A file that the probe takes must decode, or fail as decoders may."""
    span, image = (
        FileSpan(str(path)),
        path.suffix
        in (
            ".jpg",
            ".png",
            ".webp",
            ".bmp",
            ".avif",
        ),
    )
    try:
        probe = (probe_image if image else probe_video)(span)
    except UnsupportedMediaError as refusal:
        assert str(refusal).isprintable()
        return
    row[1] += 1
    media = Media.of(str(path), span, probe)
    box, out = np.array([[0, 0, probe.height, probe.width]]), np.zeros((1, 3, 32, 32, 3), np.uint8)
    try:
        if image:
            decode_image(media, box, 32, out[:, :1])
        else:
            assert probe.frames > 0 and (np.diff(unpack_numbers(probe.keyframes)) > 0).all()
            decode_video(media, np.array([0, probe.frames // 2, probe.frames - 1]), box, 32, out)
        row[2] += 1
    except DecodeError as error:
        assert str(error)


def test_media(tmp_path):
    """Another process tries the media: a file that kills it stays in its folder, and is named."""
    seed = time.time_ns() if SECONDS else 7
    done = subprocess.run(
        [
            sys.executable,
            __file__,
            str(tmp_path),
            str(seed),
            str(IN_CI["media"]),
            str(SECONDS * SHARES["media"]),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    kept = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert done.returncode == 0, (
        f"status {done.returncode} at {kept} in {tmp_path}, seed {seed}:\n{done.stderr[-3000:]}"
    )
    report = json.loads(done.stdout.splitlines()[-1])
    for kind, (tried, taken, decoded) in report["tried"].items():
        (
            COUNTS[f"media {kind}"],
            COUNTS[f"media {kind}, taken"],
            COUNTS[f"media {kind}, decoded"],
        ) = tried, taken, decoded
        assert 0 < decoded <= taken < tried, kind
    COUNTS["media, slowest in seconds"] = report["slowest"]


def test_folders_of_frames(tmp_path):
    """Names of frames differ a little from the pattern."""
    rng = random.Random(3)
    image = cv2.imencode(".jpg", numbered_image(1, 0, 40, 30))[1].tobytes()
    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        names = {
            rng.choice(("img_{:05}.jpg", "img_{:06}.jpg", "img_{}.jpg", "IMG_{:05}.jpg")).format(
                rng.randrange(-2, 5)
            )
            for _ in range(9)
        }
        for name in names:
            (folder / name).write_bytes(rng.choice((image, image, b"", image[:40])))
        try:
            probe = probe_frames(FileSpan(str(folder)), "img_{:05}.jpg")
            first = int(unpack_numbers(probe.timing)[0])
            assert all(f"img_{first + place:05}.jpg" in names for place in range(probe.frames))
        except UnsupportedMediaError as refusal:
            assert str(refusal)


if __name__ == "__main__":
    try_media(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
