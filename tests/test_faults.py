"""Faults on purpose: what the probe makes of each, and what a running loader does."""

import json
import os
import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import hurry

from omnidali.bench.faults import BASES, EXACT, FAILS, FAULTS, REFUSED, REPLACED, UNSURE, hang, let_go
from omnidali.bench.media import read_numbers
from omnidali.catalog.build import build_catalog
from omnidali.catalog.store import CatalogReader
from omnidali.config import ClipConfig, SourceConfig
from omnidali.decoding.image import decode_image
from omnidali.decoding.video import decode_video
from omnidali.errors import CannotDecode
from omnidali.loading.faults import Limits
from omnidali.loading.fusion import FusionIterator
from omnidali.loading.quarantine import Quarantine
from omnidali.planning.plan import TrainPlan
from pipelines.feeds import MEAN, STD

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


STEPS, FILES = 3, 8  # files of each source, in two classes
CLIP = ClipConfig(num_clips=4, size=56, crop="center", flip=0.0)
VICTIM = 0  # row of its source
# decoders, and the kinds of files whose codecs they take here
MODES = {"cpu": tuple(BASES), "dali": ("webm", "jpg")}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A source of every kind of file: its table, and for every decoder what a loader gives while nothing is wrong."""
    root, sources = tmp_path_factory.mktemp("healthy"), {}
    for place, (base, make) in enumerate(BASES.items()):
        (root / base).mkdir()
        names = [f"{number}.{base[:4].strip()}" for number in range(100 * place, 100 * place + FILES)]
        for name in names:
            make(root / base / name, int(name.partition(".")[0]))
        (root / f"{base}.txt").write_text("".join(f"{name} {number % 2}\n" for number, name in enumerate(names)))
        sources[base] = SourceConfig(kind="image" if base == "jpg" else "video", root=base, list=f"{base}.txt")
    build_catalog(root / "catalog.sqlite", sources, root, progress=False)
    reader = CatalogReader(root / "catalog.sqlite")
    tables = {base: reader.table(base) for base in sources}
    return {(base, decode): Healthy(tables, sources, base, decode) for decode, bases in MODES.items() for base in bases}


class Healthy:
    """A loader over the source of one kind of file and another one."""

    def __init__(self, tables, sources, base, decode):
        pair = (base, "webm" if base == "jpg" else "jpg")
        self.sources = [replace(sources[name], decode=decode, weight=weight) for name, weight in zip(pair, (3, 1))]
        self.plan = TrainPlan([tables[name] for name in pair], self.sources, CLIP, 8, seed=3)
        self.slots, self.clips = {}, {}
        self.path = self.plan.tables[0].media(self.plan.tables[0].records[VICTIM]).path
        for step in range(STEPS):
            for samples in self.plan(step):
                self.slots.update({int(slot): (samples, place) for place, slot in enumerate(samples.slots)})
        self.clips, *_ = self.load(Quarantine())

    def load(self, quarantine):
        """(pixels by slot, batches, figures) of a loader's run."""
        limits = Limits(max_bad_ratio=1.0, max_bad_in_a_row=1000, hang_seconds=30.0)
        with FusionIterator(self.plan, self.sources, end=STEPS, threads=2, limits=limits,
                            quarantine=quarantine) as loader:
            batches = list(loader)
            figures = loader.stats()
        return {int(slot): clip for batch in batches for group in batch.groups
                for slot, clip in zip(group.slot, group.clips.clone())}, batches, figures


@contextmanager
def damaged(path, fault, number):
    """Apply a fault behind the probe, and make all as it was: bytes, size and time."""
    data, status = path.read_bytes(), path.stat()
    fault.apply(path, number)
    try:
        yield
    finally:
        if path.is_fifo():
            let_go(path)
        elif path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("decode, name", [(decode, name) for decode, bases in MODES.items()
                                          for name, fault in FAULTS.items() if fault.base in bases])
def test_behind_the_probe(healthy, tmp_path, monkeypatch, decode, name):
    fault = FAULTS[name]
    whole = healthy[fault.base, decode]
    plan, table, number = whole.plan, whole.plan.tables[0], int(Path(whole.path).name.partition(".")[0])
    if fault.apply is hang:
        hurry(monkeypatch, [whole.path], 60)
    with damaged(Path(whole.path), fault, number):
        clips, batches, figures = whole.load(Quarantine(tmp_path / "quarantine.jsonl"))
    assert [len(batch) for batch in batches] == [8] * STEPS and clips.keys() == whole.slots.keys()
    came = {int(slot): (samples, place) for batch in batches for samples in batch.samples
            for place, slot in enumerate(samples.slots)}
    hit = [slot for slot, (samples, place) in whole.slots.items()
           if samples.source == 0 and samples.rows[place] == VICTIM]
    assert len(hit) >= 2
    for slot in whole.slots.keys() - set(hit):  # its mates are as ever
        assert came[slot][0].attempts[came[slot][1]] == 0 and torch.equal(clips[slot], whole.clips[slot])
    lines = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()] \
        if (tmp_path / "quarantine.jsonl").exists() else []
    own = figures[table.name]
    assert own.bad_files == len({line["path"] for line in lines}) and figures[plan.tables[1].name].bad_files == 0
    if fault.behind == UNSURE:
        assert own.bad_files <= 1
        return
    gone = 0
    for slot in hit:
        samples, place = came[slot]
        wanted, at = whole.slots[slot]
        # a clip of which nothing is left fails, too
        fails = fault.behind == FAILS or not set(wanted.frames[at].tolist()) & set(fault.frames)
        gone += fails
        if fails:
            wanted, at = plan.substitute(wanted, at, 1), 0
        assert samples.attempts[place] == fails and samples.rows[place] == wanted.rows[at]
        assert (samples.frames[place] == wanted.frames[at]).all()
        assert table.labels[samples.rows[place]] == table.labels[VICTIM]
        pictures = (clips[slot].permute(1, 2, 3, 0) * torch.tensor(STD) + torch.tensor(MEAN)).numpy()
        shown = [read_numbers(picture) for picture in pictures]
        assert {file for file, _ in shown} == {number - VICTIM + int(wanted.rows[at])}
        if fault.behind == REPLACED and not fails:
            assert {frame for _, frame in shown} <= set(fault.frames)
        else:
            assert [frame for _, frame in shown] == wanted.frames[at].tolist()
    assert own.substituted == gone and bool(own.replaced_frames) == (fault.behind == REPLACED and gone < len(hit))
    assert own.bad_files == (fault.behind != EXACT)
    assert len({line["state"] for line in lines}) == len(lines) <= 2  # damaged for one clip, and failed for another
    for line in lines:
        assert (line["source"], line["path"]) == (table.name, whole.path) and line["reason"]
        assert fault.behind == REPLACED or line["state"] in ("quarantined", "failed")
