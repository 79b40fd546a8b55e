"""Random input for every parser of untrusted files but media: taken, or refused with a reason."""

import contextlib
import io
import json
import os
import random
import tarfile
import time

import numpy as np
from hypothesis import strategies as st

from helpers.avif_files import clap, grid_avif, imir, irot, picture_avif
from helpers.bmp_files import RLE8, bmp
from helpers.fuzzing import SLOWEST, fuzz, mutate, record_counts, token
from omnidali.catalog.listing.class_files import read_label_map
from omnidali.catalog.listing.labels import UNLABELLED, Labels
from omnidali.catalog.listing.list_formats import FORMATS
from omnidali.catalog.listing.list_reader import read_list
from omnidali.catalog.listing.tars import read_tar
from omnidali.catalog.probing.image_header import read_image_header
from omnidali.catalog.probing.limits import MAX_PIXELS, UnsupportedMediaError
from omnidali.catalog.probing.sniff import describe_head, refusal_of, sniff_photo, sniff_video
from omnidali.catalog.probing.video_container import check_canvas
from omnidali.config.load import dump_config, load_config
from omnidali.config.sources import MediaConfig
from omnidali.config.strict_yaml import parse_yaml
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind
from omnidali.models.weights import read_weights
from omnidali.testing.numbered_media import numbered_image

record = record_counts()


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
        text, kind, form, multi_label = value
        (tmp_path / "l.txt").write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            found, entries = read_list(
                tmp_path / "l.txt",
                MediaConfig(kind=kind, format=form),
                Labels().number,
                "s",
                root=tmp_path,
                multi_label=multi_label,
            )
            for entry in entries:
                assert isinstance(entry.path, str)
                assert entry.label >= 0 or (found == "paths" and entry.label == UNLABELLED)
                labels = [int(text) for text in entry.labels.split(",") if text]
                assert labels == sorted(set(labels)) and len(labels) != 1
                assert multi_label or not labels
        except UserError as error:
            assert len(str(error)) < 2000

    fuzz(
        "lists",
        st.tuples(
            LINES,
            st.sampled_from(["video", "image", "frames", "untrimmed"]),
            st.sampled_from(["auto", *FORMATS]),
            st.booleans(),
        ),
        check,
    )


def test_label_map_formats_are_read(tmp_path):
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
    b"GIF89a",
    b"BM" + bytes(8) + b"\x36\0\0\0\x28\0\0\0",
    b"\0\0\0\x14ftypavif\0\0\0\0avif\0\0\0\x60meta\0\0\0\0",
    b"\0\0\0\x10ftypheic",
    b"OggS\0\2" + bytes(22) + b"\x80theora",
    bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
    b"<?xml",
]


def test_gate():
    def check(data):
        for parse in (read_image_header, sniff_photo, sniff_video, check_canvas):
            try:
                parse(data)
            except UnsupportedMediaError as refusal:
                assert str(refusal).isprintable() and len(str(refusal)) < 200
        assert describe_head(data).isprintable()
        for kind in MediaKind:
            refusal = refusal_of(data, kind)
            assert refusal is None or refusal.isprintable()

    fuzz("gate", st.tuples(st.sampled_from(STARTS), st.binary(max_size=600)).map(b"".join), check)


def test_photo_headers():
    """AVIF and BMP are full of places and counts: none leads out of the file, or on for long."""
    picture = numbered_image(1, 0, 40, 32)
    bases = [
        picture_avif(picture, irot(1), imir(1), clap(20, 16)),
        grid_avif(picture, 2, 2),
        bmp(40, 32, 24, bytes(40 * 32 * 3)),
        bmp(40, 32, 8, b"\0\1", compression=RLE8, palette=[(1, 2, 3)] * 256),
    ]

    def check(seed):
        rng = random.Random(seed)
        data = mutate(rng, rng.choice(bases))
        began = time.process_time()
        try:
            header = read_image_header(data, whole=rng.random() < 0.5)
            assert 0 < header.width * header.height <= MAX_PIXELS
            assert len(header.without_metadata(data)) == len(data)
        except UnsupportedMediaError as refusal:
            assert str(refusal).isprintable() and len(str(refusal)) < 200
        assert time.process_time() - began < SLOWEST

    fuzz("photo headers", st.integers(0, 2**60), check)


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
        with contextlib.suppress(UserError):
            parse_yaml(text, "c.yaml")

    fuzz("config", texts | whole, check)


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
        for name, offset, count, *_ in read_tar(str(tmp_path), "t.tar", MediaKind.IMAGE)[0]:
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
        {
            "state_dict": {"a.weight": torch.zeros(3, 3)},
            "epoch": 1,
            "classes": np.array(["a"]),
            "meta": {"epoch": np.int64(1), "best": np.float32(0.5), "log": np.zeros((2, 2))},
        },
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
        with contextlib.suppress(UserError):
            weights = read_weights(path)["state_dict"]
            assert all(isinstance(value, torch.Tensor) for value in weights.values())

    fuzz("checkpoints", st.integers(0, 2**60), check)
