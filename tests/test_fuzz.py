"""Random input for every parser of strangers' files: it is taken, or refused with a reason, and
nothing else happens.

In CI a fixed number of inputs each. OMNIDALI_FUZZ_SECONDS runs as long, with other seeds every
time, and OMNIDALI_RECORDS names a folder that gets a record of how many inputs each parser saw.
"""

import io
import json
import os
import random
import resource
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnidali.catalog.database.store import Media
from omnidali.catalog.file_span import FileSpan
from omnidali.catalog.listing.labels import Labels, read_label_map
from omnidali.catalog.listing.list_formats import FORMATS, read_list
from omnidali.catalog.listing.tars import read_tar
from omnidali.catalog.probing.image_probe import probe_image
from omnidali.catalog.probing.probe import probe_frames, probe_video, unpack_numbers
from omnidali.catalog.probing.sniff import (
    UnsupportedMediaError,
    describe_head,
    read_image_header,
    sniff_video,
)
from omnidali.config.load import dump_config, load_config, parse_yaml
from omnidali.config.schema import MediaConfig
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import decode_video
from omnidali.errors import DecodeError, UserError
from omnidali.models.weights import read_weights
from omnidali.testing.numbered_media import picture, write_video
from omnidali.utils.run_record import write_record

SECONDS = float(os.environ.get("OMNIDALI_FUZZ_SECONDS", 0))
SHARES = {
    "lists": 0.1,
    "labels": 0.05,
    "gate": 0.05,
    "config": 0.1,
    "tars": 0.1,
    "checkpoints": 0.05,
    "media": 0.55,
}
IN_CI = {
    "lists": 200,
    "labels": 100,
    "gate": 400,
    "config": 100,
    "tars": 150,
    "checkpoints": 60,
    "media": 600,
}
SLOWEST = 20.0  # seconds of a core that one input may take
COUNTS: dict[str, int] = {}


@pytest.fixture(scope="module", autouse=True)
def record():
    yield
    folder = os.environ.get("OMNIDALI_RECORDS")
    if folder and COUNTS:
        write_record(folder, {"fuzz": COUNTS, "fuzz_seconds": SECONDS})


def fuzz(name, strategy, check):
    """Try inputs of a strategy, as many or as long as is asked for; hypothesis makes a failing one
    small.
    """
    COUNTS.setdefault(name, 0)

    @settings(
        max_examples=IN_CI[name],
        deadline=None,
        derandomize=not SECONDS,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def once(value):
        COUNTS[name] += 1
        check(value)

    end = time.monotonic() + SECONDS * SHARES[name]
    once()
    while time.monotonic() < end:
        once()


def token(*known):
    return st.one_of(
        st.sampled_from(known), st.text(max_size=12), st.integers().map(str), st.floats().map(str)
    )


PATHS = (
    "a.mp4",
    "../x.mp4",
    "/etc/passwd",
    "a b.mp4",
    "http://h/x",
    "concat:a|b",
    "a\0b",
    "\x1b[2J",
    "\u00b2",
    "\ud7ff",
    '"',
    "#",
)
WORDS = token(
    *PATHS,
    "0",
    "1",
    "2",
    "9" * 5000,
    "1e999",
    "nan",
    "-1",
    "0.5",
    "label",
    "youtube_id",
    "time_start",
    "time_end",
    "split",
    "[",
    "]",
    "{",
    "}",
    '{"video_dir": "a", "label": 0, "num_clips": 3, "positive_clip_inds": [1]}',
)
LINES = st.lists(
    st.lists(WORDS, max_size=6).flatmap(
        lambda row: st.sampled_from(" ,\t").map(lambda mark: mark.join(row))
    ),
    max_size=8,
).map("\n".join)


def test_lists(tmp_path):
    def check(value):
        text, kind, form = value
        (tmp_path / "l.txt").write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            for entry in read_list(
                tmp_path / "l.txt", MediaConfig(kind=kind, format=form), Labels(), "s"
            )[1]:
                assert isinstance(entry.path, str) and entry.label >= 0
        except UserError as error:
            assert len(str(error)) < 2000

    fuzz(
        "lists",
        st.tuples(
            LINES,
            st.sampled_from(["video", "image", "frames", "untrimmed"]),
            st.sampled_from(["auto", *FORMATS]),
        ),
        check,
    )


def test_label_maps(tmp_path):
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        ),
    )

    def check(text):
        (tmp_path / "m.txt").write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            assert all(number >= 0 for number in read_label_map(tmp_path / "m.txt").values())
        except UserError as error:
            assert len(str(error)) < 2000

    fuzz(
        "labels",
        LINES
        | values.map(json.dumps)
        | values.map(json.dumps).flatmap(
            lambda text: st.integers(0, len(text)).map(lambda cut: text[:cut] + text[cut + 1 :])
        ),
        check,
    )


STARTS = [
    b"",
    b"\xff\xd8\xff\xe0",
    b"\x89PNG\r\n\x1a\n",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    b"RIFF\0\0\0\0WEBPVP8 ",
    b"RIFF\0\0\0\0WEBPVP8X",
    b"RIFF\0\0\0\0WEBPVP8L",
    b"\xff\xd8\xff\xe1\x00\x20Exif\0\0II*\0",
    b"\xff\xd8\xff\xc0",
    b"\0\0\0\x10ftyp",
    b"\x1aE\xdf\xa3",
    b"RIFF\0\0\0\0AVI ",
    b"FLV\1",
    b"\0\0\1\xba",
    b"DKIF",
    b"G" * 400,
    b"#EXTM3U",
    b"GIF8",
]


def test_gate():
    def check(data):
        for parse in (read_image_header, sniff_video):
            try:
                parse(data)
            except UnsupportedMediaError as refusal:
                assert str(refusal).isprintable() and len(str(refusal)) < 200
        assert describe_head(data).isprintable()

    fuzz("gate", st.tuples(st.sampled_from(STARTS), st.binary(max_size=600)).map(b"".join), check)


def test_config(tmp_path):
    keys = st.sampled_from(
        [
            "sources",
            "train",
            "clip",
            "model",
            "base",
            "k",
            "kind",
            "weight",
            "batch",
            "size",
            "seed",
            "<<",
            "evaluation",
            "pattern",
            "run_dir",
            "optimizer",
            "lr",
        ]
    ) | st.text(max_size=4)
    scalars = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=8)
        | st.dates()
        | st.sampled_from(
            [
                "video",
                "{:99999}",
                "none",
                "0x" + "f" * 6000,
                "!!binary x",
                "1:2",
                "&a",
                "*a",
                "!!python/name:os",
            ]
        )
    )
    trees = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5),
    )
    import yaml

    texts = (
        trees.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True))
        | st.text(st.sampled_from("ab:-?*&!|>%@`{}[], \n\t\"'#<=0x1.e~\0\ud800"), max_size=60)
        | trees.map(str)
    )
    whole = st.dictionaries(
        st.sampled_from(
            ["sources", "train", "clip", "model", "loader", "evaluation", "seed", "run_dir"]
        ),
        trees,
        max_size=5,
    ).map(yaml.safe_dump)

    def check(text):
        (tmp_path / "c.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            dump_config(load_config(tmp_path / "c.yaml"))
        except UserError as error:
            str(error).encode()
        try:
            parse_yaml(text, "c.yaml")
        except UserError:
            pass

    fuzz("config", texts | whole, check)


def mutate(rng, data, others=()):
    """Bytes with some of what breaks parsers: flips, cuts, splices, swaps, and numbers at their
    limits.
    """
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        size = len(data)
        if size < 16:
            break
        reach = rng.choice((64, 600, size, size))  # headers more often
        place = rng.randrange(min(reach, size - 8))
        if rng.random() < 0.2:
            place = size - 8 - rng.randrange(min(reach, size - 8))
        kind = rng.randrange(8)
        if kind == 0:
            for _ in range(rng.choice((1, 3, 20))):
                data[rng.randrange(min(reach, size))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[rng.randrange(1, size) :]
        elif kind == 2 and others:
            other = rng.choice(others)
            data[place:] = other[rng.randrange(len(other)) :]
        elif kind == 3:
            count = rng.randrange(1, min(4000, size - place))
            if rng.random() < 0.5:
                del data[place : place + count]
            else:
                data[place:place] = data[place : place + count] * rng.choice((1, 2, 50))
        elif kind == 4:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(
                (
                    0,
                    1,
                    2 ** (8 * width) - 1,
                    2 ** (8 * width - 1),
                    2 ** (8 * width - 1) - 1,
                    rng.getrandbits(8 * width),
                )
            )
            data[place : place + width] = number.to_bytes(width, rng.choice(("big", "little")))
        elif kind == 5:  # two boxes, chunks or headers change places
            names = [
                data.find(name)
                for name in (
                    b"moov",
                    b"mdat",
                    b"stbl",
                    b"stsz",
                    b"stco",
                    b"stts",
                    b"trak",
                    b"idx1",
                    b"movi",
                    b"LIST",
                    b"IHDR",
                    b"IDAT",
                    b"avcC",
                    b"ctts",
                    b"stss",
                    b"elst",
                )
                if data.find(name) >= 4
            ]
            if len(names) > 1:
                one, other = sorted(rng.sample(names, 2))
                data[one : one + 4], data[other : other + 4] = (
                    data[other : other + 4],
                    data[one : one + 4],
                )
        elif kind == 6:
            data[place : place + 8] = rng.randbytes(8)
        else:
            data += rng.randbytes(rng.choice((1, 100, 5000)))
    return bytes(data)


def test_tars(tmp_path):
    base = io.BytesIO()
    with tarfile.open(fileobj=base, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in (
            ("0/a.png", b"x" * 700),
            ("0/a.cls", b"3"),
            ("b" * 200 + ".json", b'{"label": 1}'),
            ("c.jpg", b"y" * 3),
        ):
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(data), {"comment": "z" * 50}
            tar.addfile(member, io.BytesIO(data))

    def check(seed):
        (tmp_path / "t.tar").write_bytes(mutate(random.Random(seed), base.getvalue()))
        size, began = os.path.getsize(tmp_path / "t.tar"), time.process_time()
        for name, offset, count, _ in read_tar(str(tmp_path), "t.tar", "image").members:
            assert (
                0 <= offset <= offset + count <= size
                and name.isprintable()
                and ".." not in name.split("/")
            )
        assert time.process_time() - began < SLOWEST

    fuzz("tars", st.integers(0, 2**60), check)


def test_checkpoints(tmp_path):
    import torch

    torch.save(
        {"state_dict": {"a.weight": torch.zeros(3, 3)}, "epoch": 1, "classes": ["a"]},
        tmp_path / "a.pth",
    )
    torch.save(
        {"a.weight": torch.zeros(3, 3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False
    )
    from safetensors.torch import save_file

    save_file({"a.weight": torch.zeros(3, 3)}, tmp_path / "a.safetensors")
    bases = [(path.suffix, path.read_bytes()) for path in sorted(tmp_path.iterdir())]

    def check(seed):
        rng = random.Random(seed)
        ending, data = rng.choice(bases)
        path = tmp_path / f"x{ending}"
        path.write_bytes(mutate(rng, data))
        try:
            assert all(
                isinstance(value, torch.Tensor)
                for value in read_weights(path)["state_dict"].values()
            )
        except UserError:
            pass

    fuzz("checkpoints", st.integers(0, 2**60), check)


def make_media(folder):
    """Small files of every container and format that the gate lets in."""
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
    image = cv2.cvtColor(picture(1, 0, 90, 60), cv2.COLOR_RGB2BGR)
    for name, options in {
        "k.jpg": [],
        "l.jpg": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
        "m.png": [],
        "n.webp": [],
        "o.jpg": [cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
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
    """Whatever the probe takes must decode, or fail as decoders may."""
    span, image = FileSpan(str(path)), path.suffix in (".jpg", ".png", ".webp")
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
    """In another process: a file that kills it stays in its folder, and is named."""
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
    said = json.loads(done.stdout.splitlines()[-1])
    for kind, (tried, taken, decoded) in said["tried"].items():
        (
            COUNTS[f"media {kind}"],
            COUNTS[f"media {kind}, taken"],
            COUNTS[f"media {kind}, decoded"],
        ) = tried, taken, decoded
        assert 0 < decoded <= taken < tried, kind
    COUNTS["media, slowest in seconds"] = said["slowest"]


def test_folders_of_frames(tmp_path):
    """Names that are nearly those of the pattern."""
    rng = random.Random(3)
    image = cv2.imencode(".jpg", picture(1, 0, 40, 30))[1].tobytes()
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
