"""Files of equal bytes."""

import os
import tarfile

from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.connection import connect
from omnidali.catalog.database.reader import CatalogReader
from omnidali.config.sources import MediaConfig
from omnidali.curation.exact_duplicates import find_exact_duplicates
from omnidali.testing.numbered_media import write_image


def test_equal_bytes_are_found_in_tars_and_folders_of_frames(tmp_path):
    for n in range(3):
        write_image(tmp_path / f"images/{n}.jpg", n, 80, 60)
    with tarfile.open(tmp_path / "web.tar", "w") as tar:
        for n, name in enumerate(("a", "b")):
            tar.add(tmp_path / f"images/{n + 1}.jpg", f"0/{name}.jpg")
    for folder, file in (("one", 5), ("two", 6), ("three", 5)):
        for frame in range(4):
            write_image(
                tmp_path / f"frames/{folder}/img_{frame + 1:05}.jpg", file, 80, 60, frame=frame
            )
    # as long as another one, with the same middle
    data = bytearray((tmp_path / "images/0.jpg").read_bytes())
    data[-1] ^= 1
    (tmp_path / "images/3.jpg").write_bytes(bytes(data) + bytes(1 << 14))
    (tmp_path / "images/4.jpg").write_bytes(
        (tmp_path / "images/0.jpg").read_bytes() + bytes(1 << 14)
    )
    for name, lines in (
        ("images", [f"{n}.jpg 0" for n in range(5)]),
        ("frames", ["one 4 0", "two 4 0", "three 4 0"]),
    ):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    sources = {
        "images": MediaConfig(kind="image", root="images", list="images.txt"),
        "web": MediaConfig(kind="image", tars="web.tar"),
        "frames": MediaConfig(kind="frames", root="frames", list="frames.txt"),
    }
    build_catalog(tmp_path / "catalog.sqlite", sources, tmp_path, progress=False)
    reader, db = (
        CatalogReader(tmp_path / "catalog.sqlite"),
        connect(tmp_path / "catalog.sqlite", read_only=True),
    )
    numbers = dict(db.execute("SELECT id, name FROM sources"))
    groups = find_exact_duplicates(
        db, reader, {number: sources[name].media_kind for number, name in numbers.items()}
    )
    named = {
        tuple(sorted(os.path.relpath(reader.media(record).path, tmp_path) for record in group))
        for group in groups
    }
    assert named == {
        ("images/1.jpg", "web.tar:0/a.jpg"),
        ("images/2.jpg", "web.tar:0/b.jpg"),
        ("frames/one", "frames/three"),
    }
