"""Every fault of omnidali.testing: what the probe and a running loader do with it."""

import os
import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import hurry
from helpers.batches import pictures
from helpers.failures import lines_of
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.config.schema import ClipConfig
from omnidali.config.sources import SourceConfig
from omnidali.decoding.decoders import DECODERS
from omnidali.errors import DecodeError
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.train_plan import TrainPlan
from omnidali.testing.damaged_media import (
    BASES,
    EXACT,
    FAILS,
    FAULTS,
    REFUSED,
    REPLACED,
    UNSURE,
    end_hang,
    make_hang,
)
from omnidali.testing.numbered_media import read_numbers

SIDE = 64
STEPS = 3
FILES = 8  # of each source, in two classes
CLIP = ClipConfig(num_clips=4, size=56, crop="center", flip=0.0)
VICTIM = 0  # row of its source
# decoders, and the kinds of files whose codecs they take here
MODES = {"cpu": tuple(BASES), "dali": ("webm", "jpg")}


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """Every fault there at the probe: the reader, and {fault: (state, catalog id, number)}."""
    root = tmp_path_factory.mktemp("faults")
    sources = {}
    for kind in ("video", "image"):
        sources[kind] = SourceConfig(kind=kind, root=kind, list=f"{kind}.txt")
        lines = []
        (root / kind).mkdir()
        for number, fault in enumerate(FAULTS.values()):
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
    """What the images of a file show, (file, frame) each, and how many were replaced."""
    side = min(media.height, media.width)
    top = (media.height - side) // 2
    left = (media.width - side) // 2
    boxes = np.array([[top, left, top + side, left + side]])
    out = np.zeros((1, media.frames, SIDE, SIDE, 3), np.uint8)

    replaced = DECODERS[kind](media, np.arange(media.frames), boxes, SIDE, out)
    return [read_numbers(np.rot90(shown, -media.rotation // 90)) for shown in out[0]], replaced


@pytest.mark.parametrize("name", FAULTS)
def test_fault_before_the_probe(probed, name):
    fault = FAULTS[name]
    reader, found = probed
    state, record, number = found[name]
    if fault.at_probe == REFUSED:
        assert re.search(fault.reason, state), state
        return
    if fault.at_probe == UNSURE and state != "ok":
        return

    assert state == "ok"
    media = reader.media(record)
    if fault.at_probe == FAILS:
        with pytest.raises(DecodeError):
            decoded(media, fault.kind)
        return
    try:
        shown, replaced = decoded(media, fault.kind)
    except DecodeError:
        assert fault.at_probe == UNSURE
        return

    wanted = [(number, frame) for frame in (fault.frames if fault.kind == "video" else (0,))]
    distinct = list(dict.fromkeys(shown))
    if fault.at_probe == EXACT:
        assert shown == wanted and replaced == 0
    elif fault.at_probe == REPLACED:
        assert replaced == len(shown) - len(distinct) > 0 and distinct == wanted


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """By kind of file and decoder, a loader's run while nothing is wrong."""
    root = tmp_path_factory.mktemp("healthy")
    sources = {}
    for place, (base, make) in enumerate(BASES.items()):
        (root / base).mkdir()
        lines = []
        for number in range(100 * place, 100 * place + FILES):
            name = f"{number}.{base[:4].strip()}"
            make(root / base / name, number)
            lines.append(f"{name} {number % 2}\n")
        (root / f"{base}.txt").write_text("".join(lines))
        kind = "image" if base == "jpg" else "video"
        sources[base] = SourceConfig(kind=kind, root=base, list=f"{base}.txt")
    build_catalog(root / "catalog.sqlite", sources, root, progress=False)

    reader = CatalogReader(root / "catalog.sqlite")
    tables = {base: reader.table(base) for base in sources}
    return {
        (base, decode): HealthyRun(tables, sources, base, decode)
        for decode, bases in MODES.items()
        for base in bases
    }


class HealthyRun:
    """A loader over the source of one kind of file and another one.

    Attributes:
        planned: by slot, its samples and the place among them.
        clips: by slot.
    """

    def __init__(self, tables, sources, base, decode):
        pair = (base, "webm" if base == "jpg" else "jpg")
        self.sources = [
            replace(sources[name], decode=decode, weight=weight)
            for name, weight in zip(pair, (3, 1), strict=True)
        ]
        self.plan = TrainPlan([tables[name] for name in pair], self.sources, CLIP, 8, seed=3)
        self.table = self.plan.tables[0]
        self.victim = self.table.media(self.table.records[VICTIM]).path
        self.planned = by_slot(self.plan(step) for step in range(STEPS))
        self.clips, *_ = self.load(Quarantine())

    def load(self, quarantine):
        """(clips by slot, batches, figures) of a loader's run."""
        limits = {"max_bad_ratio": 1.0, "max_bad_in_a_row": 1000, "hang_seconds": 30.0}
        with FusionIterator(
            self.plan, self.sources, end=STEPS, threads=2, quarantine=quarantine, **limits
        ) as loader:
            batches = list(loader)
            figures = loader.stats()
        clips = {
            int(slot): clip
            for batch in batches
            for group in batch.groups
            for slot, clip in zip(group.slot, group.clips.clone(), strict=True)
        }
        return clips, batches, figures


def by_slot(steps):
    """The samples of each slot, and its place among them."""
    return {
        int(slot): (samples, place)
        for step in steps
        for samples in step
        for place, slot in enumerate(samples.slots)
    }


@contextmanager
def damaged(path, fault, number):
    """Apply a fault after the probe, and restore bytes, size and time at the end."""
    data = path.read_bytes()
    status = path.stat()
    fault.apply(path, number)
    try:
        yield
    finally:
        if path.is_fifo():
            end_hang(path)
        elif path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "decode, name",
    [
        (decode, name)
        for decode, bases in MODES.items()
        for name, fault in FAULTS.items()
        if fault.base in bases
    ],
)
def test_fault_after_the_probe(healthy, tmp_path, monkeypatch, decode, name):
    fault = FAULTS[name]
    whole = healthy[fault.base, decode]
    number = int(Path(whole.victim).name.partition(".")[0])
    if fault.apply is make_hang:
        hurry(monkeypatch, [whole.victim], 60)
    with damaged(Path(whole.victim), fault, number):
        clips, batches, figures = whole.load(Quarantine(tmp_path / "quarantine.jsonl"))

    assert [len(batch) for batch in batches] == [8] * STEPS and clips.keys() == whole.planned.keys()
    shown = by_slot(batch.samples for batch in batches)
    hit = [
        slot
        for slot, (samples, place) in whole.planned.items()
        if samples.source == 0 and samples.rows[place] == VICTIM
    ]
    assert len(hit) >= 2
    for slot in whole.planned.keys() - set(hit):  # the other files are unchanged
        samples, place = shown[slot]
        assert samples.attempts[place] == 0 and torch.equal(clips[slot], whole.clips[slot])

    lines = lines_of(tmp_path / "quarantine.jsonl")
    own, other = figures.values()
    assert own.bad_files == len({line["path"] for line in lines}) and other.bad_files == 0
    if fault.after_probe == UNSURE:
        assert own.bad_files <= 1
        return

    lost = sum(check_clip(whole, fault, slot, shown[slot], clips[slot]) for slot in hit)
    has_replaced = fault.after_probe == REPLACED and lost < len(hit)
    assert own.substituted == lost and bool(own.replaced_frames) == has_replaced
    assert own.bad_files == (fault.after_probe != EXACT)
    # damaged for one clip, and failed for another
    assert len({line["state"] for line in lines}) == len(lines) <= 2
    for line in lines:
        assert (line["source"], line["path"]) == (whole.table.name, whole.victim) and line["reason"]
        assert fault.after_probe == REPLACED or line["state"] in ("quarantined", "failed")


def check_clip(whole, fault, slot, decoded_sample, clip):
    """Check a clip that was planned of the victim; returns whether a substitute replaced it."""
    samples, place = decoded_sample
    planned, at = whole.planned[slot]
    # a clip of which nothing is left fails, too
    fails = fault.after_probe == FAILS or not set(planned.frames[at].tolist()) & set(fault.frames)
    if fails:
        planned = whole.plan.substitute(planned, at, 1)
        at = 0
    assert samples.attempts[place] == fails and samples.rows[place] == planned.rows[at]
    assert (samples.frames[place] == planned.frames[at]).all()
    assert whole.table.labels[samples.rows[place]] == whole.table.labels[VICTIM]

    numbers = [read_numbers(frame) for frame in pictures(clip[None])[0]]
    first = int(Path(whole.victim).name.partition(".")[0]) - VICTIM
    assert {file for file, _ in numbers} == {first + int(planned.rows[at])}
    frames = [frame for _, frame in numbers]
    if fault.after_probe == REPLACED and not fails:
        assert set(frames) <= set(fault.frames)
    else:
        assert frames == planned.frames[at].tolist()
    return fails
