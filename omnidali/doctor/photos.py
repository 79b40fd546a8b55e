"""Photos through DALI: orientations, rare kinds and damage, beside the CPU's decoder."""

import os
from pathlib import Path

import cv2

from omnidali.doctor.device import Device
from omnidali.doctor.faults import compare_roads, judge, make_damaged_world
from omnidali.doctor.findings import Findings
from omnidali.doctor.media import MediaFolder
from omnidali.doctor.pictures import compare, cpu_image, judge_pictures, media_of
from omnidali.doctor.roads import image_feeds, image_graph, run_timed
from omnidali.pipelines import Graph
from omnidali.testing.odd_media import MediaMaker, odd_image, turned_jpeg, write_cmyk_jpeg

_FILE = 11
_STEPS = 6  # of the loader
_LOADED = "photos through the loader"
_PROGRESSIVE = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)


def _sampled(factor: int) -> MediaMaker:
    return odd_image(".jpg", cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor)


# the makers, and whether DALI has to give the CPU's picture: the routes leave the others to the CPU
_KINDS: dict[str, tuple[MediaMaker, bool]] = {
    "jpeg": (odd_image(".jpg"), True),
    "jpeg 4:4:4": (_sampled(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444), True),
    "jpeg 4:2:2": (_sampled(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422), True),
    "jpeg 4:4:0": (_sampled(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440), True),
    "jpeg 4:1:1": (_sampled(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411), True),
    "jpeg progressive": (odd_image(".jpg", *_PROGRESSIVE), True),
    "jpeg grey": (odd_image(".jpg", grey=True), True),
    "jpeg CMYK": (write_cmyk_jpeg, False),
    **{f"jpeg EXIF {number}": (turned_jpeg(number), True) for number in range(1, 9)},
    "png": (odd_image(".png"), True),
    "webp": (odd_image(".webp"), True),
}


def look_at_photos(findings: Findings) -> None:
    """Decode photos of all kinds on both roads, then load whole and damaged ones."""
    device = Device(findings.context.device_id)
    folder = Path(findings.context.scratch, "photos")
    folder.mkdir(exist_ok=True)
    right = 0
    graph: Graph | None = None
    for name in findings.cases([*_KINDS, _LOADED]):
        try:
            if name == _LOADED:
                _look_at_loader(findings, device)
                continue
            graph = graph or image_graph(device)
            right += _look_at(findings, device, graph, name, folder)
        except Exception as error:
            graph = None  # its state is unknown
            is_sure = _KINDS[name][1] if name in _KINDS else True
            findings.error(name, error, is_sure)
    say = findings.good if right == len(_KINDS) else findings.note
    say(f"{right} of {len(_KINDS)} kinds of photos are the same on both roads")


def _look_at(findings: Findings, device: Device, graph: Graph, name: str, folder: Path) -> bool:
    """Compare one kind; returns whether both roads give one picture."""
    make, is_sure = _KINDS[name]
    path = folder / name.replace(" ", "-").replace(":", "")
    make(path, _FILE)
    media = media_of(path, is_image=True)
    pixels, milliseconds = run_timed(device, graph, image_feeds([media]))
    row = compare(pixels[0], cpu_image(media), _FILE, [0])
    findings.fact(name, {"codec": media.codec, "ms": round(milliseconds, 2), **row})
    return judge_pictures(findings, name, row, is_sure)


def _look_at_loader(findings: Findings, device: Device) -> None:
    """Load photos of which some were damaged after the probe."""
    files = MediaFolder(findings.context.scratch)
    photos = [files.image(number) for number in range(12)]
    world = make_damaged_world(files.folder / "loaded-photos", photos, "image", _damage)
    found = compare_roads(world, device, _STEPS)
    findings.fact(_LOADED, vars(found))
    judge(findings, _LOADED, found, allowed=3)


def _damage(photos: list[Path]) -> None:
    os.truncate(photos[1], photos[1].stat().st_size // 2)
    photos[2].unlink()
    photos[3].write_bytes(b"no picture at all")
