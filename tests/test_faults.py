"""Faults on purpose: what the probe makes of each, and what a running loader does."""

import re

import numpy as np
import pytest

from omnidali.bench.faults import BASES, EXACT, FAILS, FAULTS, REFUSED, REPLACED, UNSURE
from omnidali.bench.media import read_numbers
from omnidali.catalog.build import build_catalog
from omnidali.catalog.store import CatalogReader
from omnidali.config import SourceConfig
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import decode_video
from omnidali.errors import CannotDecode

SIDE = 64


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """Every fault there at the probe: the reader, and {fault: (state, catalog id, painted number)}."""
    root = tmp_path_factory.mktemp("faults")
    sources = {}
    for kind in ("video", "image"):
        sources[kind], lines = SourceConfig(kind=kind, root=kind, list=f"{kind}.txt"), []
        (root / kind).mkdir()
        for number, (name, fault) in enumerate(FAULTS.items()):
            if fault.kind == kind:
                path = root / kind / f"{number}.{fault.base[:4].strip()}"
                BASES[fault.base](path, number)
                fault.apply(path, number)
                lines.append(f"{path.name} 0\n")
        (root / f"{kind}.txt").write_text("".join(lines))
    build_catalog(root / "catalog.sqlite", sources, root, progress=False)
    reader = CatalogReader(root / "catalog.sqlite")
    rows = reader._db.execute("SELECT path, state, id FROM media").fetchall()
    states = {int(path.partition(".")[0]): (state, record) for path, state, record in rows}
    return reader, {name: (*states[number], number) for number, name in enumerate(FAULTS)}


def decoded(media, kind):
    """What the pictures of a file show, (file, frame) each, and how many neighbours stand for others."""
    side = min(media.height, media.width)
    top, left = (media.height - side) // 2, (media.width - side) // 2
    boxes = np.array([[top, left, top + side, left + side]])
    out, replaced = np.zeros((1, media.frames, SIDE, SIDE, 3), np.uint8), 0
    if kind == "image":
        decode_image(media, boxes, SIDE, out)
    else:
        replaced = decode_video(media, np.arange(media.frames), boxes, SIDE, out)
    return [read_numbers(np.rot90(shown, -media.rotation // 90)) for shown in out[0]], replaced


@pytest.mark.parametrize("name", FAULTS)
def test_at_the_probe(probed, name):
    fault, (reader, found) = FAULTS[name], probed
    state, record, number = found[name]
    if fault.before == REFUSED:
        assert re.search(fault.says, state), state
        return
    if fault.before == UNSURE and state != "ok":
        return
    assert state == "ok"
    media = reader.media(record)
    if fault.before == FAILS:
        with pytest.raises(CannotDecode):
            decoded(media, fault.kind)
        return
    try:
        shown, replaced = decoded(media, fault.kind)
    except CannotDecode:
        assert fault.before == UNSURE
        return
    wanted = [(number, frame) for frame in (fault.frames if fault.kind == "video" else (0,))]
    if fault.before == EXACT:
        assert shown == wanted and replaced == 0
    elif fault.before == REPLACED:
        assert replaced == len(shown) - len(dict.fromkeys(shown)) > 0 and list(dict.fromkeys(shown)) == wanted
