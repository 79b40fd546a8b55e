"""Photos of every kind that goes to DALI: one picture on all roads.

On DALI's CPU decoder they equal the CPU's road bit for bit, where nothing is scaled. A GPU's JPEG
decoder rounds otherwise: its mean difference is at most 2 levels.
"""

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from conftest import media_of
from helpers.dali_graphs import as_bytes, as_pixels, box_feeds
from helpers.image_source import make_plan, open_images
from helpers.oriented_images import ORIENTATIONS, encoded, jpeg, made_picture, webp
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.config.sources import SourceConfig
from omnidali.decoding.image import decode_image, is_cut_off
from omnidali.pipelines import EncodedImages, MovingImages, PipelineError

WIDTH = 112
HEIGHT = 80
BOX = np.array([[0, 0, HEIGHT, HEIGHT]])
PICTURE = made_picture(WIDTH, HEIGHT)
IMAGE = Image.fromarray(PICTURE)
ALPHA = np.dstack([PICTURE, np.tile(np.linspace(0, 255, WIDTH, dtype=np.uint8), (HEIGHT, 1))])


def saved(image, form, **options):
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def sampled(factor):
    """A JPEG with another subsampling of colours."""
    return encoded(".jpg", PICTURE, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor)


def deep(shape):
    """A PNG of 16 bits a sample: noise, so that the lower 8 bits count."""
    return cv2.imencode(".png", np.random.default_rng(4).integers(0, 1 << 16, shape, np.uint16))[
        1
    ].tobytes()


JPEGS = {
    "4:4:4": saved(IMAGE, "JPEG", quality=95, subsampling=0),
    "4:2:2": saved(IMAGE, "JPEG", quality=95, subsampling=1),
    "4:2:0": saved(IMAGE, "JPEG", quality=95, subsampling=2),
    "4:4:0": sampled(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
    "4:1:1": sampled(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
    "progressive": saved(IMAGE, "JPEG", quality=95, progressive=True),
    "grey": saved(IMAGE.convert("L"), "JPEG", quality=95),
    "RGB": saved(IMAGE, "JPEG", quality=95, keep_rgb=True),
    "restart markers": encoded(".jpg", PICTURE, cv2.IMWRITE_JPEG_RST_INTERVAL, 4),
    "bytes after its end": saved(IMAGE, "JPEG") + bytes(500),
    **{f"EXIF {orientation}": jpeg(PICTURE, orientation) for orientation in ORIENTATIONS},
}
OTHERS = {
    "PNG": saved(IMAGE, "PNG"),
    "PNG grey": saved(IMAGE.convert("L"), "PNG"),
    "PNG palette": saved(IMAGE.quantize(64), "PNG"),
    "PNG palette with alpha": saved(IMAGE.quantize(64), "PNG", transparency=3),
    "PNG 1 bit": saved(IMAGE.convert("1"), "PNG"),
    "PNG alpha": saved(Image.fromarray(ALPHA), "PNG"),
    "PNG grey alpha": saved(Image.fromarray(ALPHA).convert("LA"), "PNG"),
    "PNG 16 bits": deep((HEIGHT, WIDTH, 3)),
    "PNG 16 bits grey": deep((HEIGHT, WIDTH)),
    "PNG 16 bits alpha": deep((HEIGHT, WIDTH, 4)),
    "WebP": saved(IMAGE, "WEBP", quality=90),
    "WebP lossless": saved(IMAGE, "WEBP", lossless=True),
    "WebP alpha": saved(Image.fromarray(ALPHA), "WEBP", quality=90),
    "WebP with EXIF": webp(PICTURE, 1),
}
PHOTOS = {f"JPEG {name}": data for name, data in JPEGS.items()} | OTHERS
# DALI rounds 16 bits, OpenCV cuts them off.
LARGEST = {name: 1 if "16 bits" in name else 0 for name in PHOTOS}
DAMAGED = {
    "JPEG": JPEGS["4:2:0"][: len(JPEGS["4:2:0"]) // 2],
    "JPEG without its end": JPEGS["4:2:0"][:-2],
    "progressive JPEG": JPEGS["progressive"][: len(JPEGS["progressive"]) // 2],
    "PNG": OTHERS["PNG"][: len(OTHERS["PNG"]) // 2],
    "WebP": OTHERS["WebP"][: len(OTHERS["WebP"]) // 2],
}
every_photo = pytest.mark.parametrize("name", PHOTOS)


def by_cpu(folder, data, motions=None):
    """The box of a photo by the CPU's road: uint8 (F, HEIGHT, HEIGHT, 3)."""
    (folder / "photo").write_bytes(data)
    out = np.zeros((1, 1 if motions is None else len(motions), HEIGHT, HEIGHT, 3), np.uint8)
    decode_image(media_of(folder / "photo", "image"), BOX, HEIGHT, out, motions)
    return out[0]


def feeds_of(data):
    return {"data": [np.frombuffer(data, np.uint8)], **box_feeds(BOX, [0])}


def still_feeds(data, frames):
    """The feeds of a picture that does not move."""
    return feeds_of(data) | {
        "sides": [np.array([HEIGHT, HEIGHT], np.float32)],
        "matrices": [np.tile(np.eye(3, dtype=np.float32), (frames, 1, 1))],
    }


@pytest.fixture(scope="module")
def graph():
    return EncodedImages(HEIGHT, 1, batch=1, threads=1, device_id=None)


@pytest.fixture(scope="module")
def moving_graph():
    return MovingImages(HEIGHT, 1, batch=1, threads=1, device_id=None, frames=2)


@every_photo
def test_dalis_cpu_gives_the_picture_of_our_cpu(tmp_path, graph, name):
    shown = as_bytes(graph.run(feeds_of(PHOTOS[name]))[0])[0]
    wanted = by_cpu(tmp_path, PHOTOS[name])
    assert np.abs(shown.astype(int) - wanted).max() <= LARGEST[name]


@every_photo
def test_moving_pictures_are_the_same(tmp_path, moving_graph, name):
    shown = as_bytes(moving_graph.run(still_feeds(PHOTOS[name], 2))[0])[0]
    wanted = by_cpu(tmp_path, PHOTOS[name], np.tile(np.eye(3), (2, 1, 1)))
    assert shown.shape == wanted.shape == (2, HEIGHT, HEIGHT, 3)
    assert np.abs(shown.astype(int) - wanted).max() <= LARGEST[name]


@pytest.mark.parametrize("name", DAMAGED)
def test_photo_that_is_cut_off_is_an_error_and_the_next_one_is_not(tmp_path, graph, name):
    with pytest.raises(PipelineError):
        graph.run(feeds_of(DAMAGED[name]))
    good = PHOTOS["JPEG progressive"]
    assert np.array_equal(as_bytes(graph.run(feeds_of(good))[0])[0], by_cpu(tmp_path, good))


def test_only_jpegs_without_an_end_are_cut_off():
    assert all(is_cut_off(data) for name, data in DAMAGED.items() if "JPEG" in name)
    assert not any(is_cut_off(data) for data in JPEGS.values())


def test_jpegs_that_are_cut_off_never_reach_dali(tmp_path, monkeypatch):
    """A GPU's decoder may fill them up: the CPU decides, and the clips are those of its road."""
    (tmp_path / "p").mkdir()
    for number in range(6):
        data = DAMAGED["JPEG without its end"] if number == 2 else JPEGS["4:2:0"]
        (tmp_path / "p" / f"{number}.jpg").write_bytes(data)
    (tmp_path / "l.txt").write_text("".join(f"{n}.jpg {n % 2}\n" for n in range(6)))

    fed = []
    start = EncodedImages.start

    def note_feeds(graph, feeds):
        fed.extend(data.tobytes() for data in feeds["data"])
        start(graph, feeds)

    monkeypatch.setattr(EncodedImages, "start", note_feeds)
    clips = {}
    for decode in ("dali", "cpu"):
        source = {"web": SourceConfig(kind="image", root="p", list="l.txt", decode=decode)}
        build_catalog(tmp_path / f"{decode}.sqlite", source, tmp_path, progress=False)
        table = CatalogReader(tmp_path / f"{decode}.sqlite").table("web")
        with open_images(table, source, make_plan([table], source, batch=4)) as batches:
            clips[decode] = [
                (group.record.tolist(), group.clips.clone())
                for batch in batches
                for group in batch.groups
            ]
            assert batches.stats()["web"].bad_files == 1

    assert fed and DAMAGED["JPEG without its end"] not in fed
    for (records, shown), (same, wanted) in zip(clips["dali"], clips["cpu"], strict=True):
        assert records == same
        assert (shown - wanted).abs().mean() < 0.1  # their filters differ


@pytest.mark.needs_gpu
@every_photo
def test_gpu_gives_the_picture_of_our_cpu(tmp_path, name):
    wanted = torch.tensor(by_cpu(tmp_path, PHOTOS[name])).float()
    for graph, feeds in (
        (
            EncodedImages(HEIGHT, 1, batch=1, threads=1, device_id=0),
            feeds_of(PHOTOS[name]),
        ),
        (
            MovingImages(HEIGHT, 1, batch=1, threads=1, device_id=0, frames=2),
            still_feeds(PHOTOS[name], 2),
        ),
    ):
        (output,) = graph.run(feeds)
        assert torch.from_dlpack(output).is_cuda
        assert (as_pixels(output)[0] - wanted).abs().mean() < 2
