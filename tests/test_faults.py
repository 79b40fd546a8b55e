"""Faults on purpose: what the probe makes of each, and what a running loader does."""

import errno
import json
import os
import pickle
import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from conftest import hurry, media_of
from helpers.outages import KINDS, Outage, dali_refuses, make_source
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.store import CatalogReader
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.probe import probe_video
from omnidali.catalog.probing.sniff import UnsupportedMediaError
from omnidali.config.schema import ClipConfig, SourceConfig
from omnidali.curation.copies import encode, transcode
from omnidali.decoding.demuxer import demuxed_frames, frames_from
from omnidali.decoding.failure_cause import Cause, cause_of
from omnidali.decoding.image import decode_image
from omnidali.decoding.read_frames import count_frames, read_frames
from omnidali.decoding.video import decode_video
from omnidali.errors import BadSourceError, DecodeError, UserError
from omnidali.loading import producer
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.loading.failures.tracker import Limits
from omnidali.loading.fusion import FusionIterator
from omnidali.planning.plan import TrainPlan
from omnidali.testing import odd_media as odd
from omnidali.testing.damaged_media import (
    BASES,
    EXACT,
    FAILS,
    FAULTS,
    REFUSED,
    REPLACED,
    UNSURE,
    hang,
    let_go,
)
from omnidali.testing.numbered_media import read_numbers
from omnidali.utils.constants import MEAN, STD

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
    """What the pictures of a file show, (file, frame) each, and how many neighbours stand for
    others.
    """
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
        with pytest.raises(DecodeError):
            decoded(media, fault.kind)
        return
    try:
        shown, replaced = decoded(media, fault.kind)
    except DecodeError:
        assert fault.before == UNSURE
        return
    wanted = [(number, frame) for frame in (fault.frames if fault.kind == "video" else (0,))]
    if fault.before == EXACT:
        assert shown == wanted and replaced == 0
    elif fault.before == REPLACED:
        assert (
            replaced == len(shown) - len(dict.fromkeys(shown)) > 0
            and list(dict.fromkeys(shown)) == wanted
        )


STEPS, FILES = 3, 8  # files of each source, in two classes
CLIP = ClipConfig(num_clips=4, size=56, crop="center", flip=0.0)
VICTIM = 0  # row of its source
# decoders, and the kinds of files whose codecs they take here
MODES = {"cpu": tuple(BASES), "dali": ("webm", "jpg")}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A source of every kind of file: its table, and for every decoder what a loader gives while
    nothing is wrong.
    """
    root, sources = tmp_path_factory.mktemp("healthy"), {}
    for place, (base, make) in enumerate(BASES.items()):
        (root / base).mkdir()
        names = [
            f"{number}.{base[:4].strip()}" for number in range(100 * place, 100 * place + FILES)
        ]
        for name in names:
            make(root / base / name, int(name.partition(".")[0]))
        (root / f"{base}.txt").write_text(
            "".join(f"{name} {number % 2}\n" for number, name in enumerate(names))
        )
        sources[base] = SourceConfig(
            kind="image" if base == "jpg" else "video", root=base, list=f"{base}.txt"
        )
    build_catalog(root / "catalog.sqlite", sources, root, progress=False)
    reader = CatalogReader(root / "catalog.sqlite")
    tables = {base: reader.table(base) for base in sources}
    return {
        (base, decode): Healthy(tables, sources, base, decode)
        for decode, bases in MODES.items()
        for base in bases
    }


class Healthy:
    """A loader over the source of one kind of file and another one."""

    def __init__(self, tables, sources, base, decode):
        pair = (base, "webm" if base == "jpg" else "jpg")
        self.sources = [
            replace(sources[name], decode=decode, weight=weight)
            for name, weight in zip(pair, (3, 1))
        ]
        self.plan = TrainPlan([tables[name] for name in pair], self.sources, CLIP, 8, seed=3)
        self.slots, self.clips = {}, {}
        self.path = self.plan.tables[0].media(self.plan.tables[0].records[VICTIM]).path
        for step in range(STEPS):
            for samples in self.plan(step):
                self.slots.update(
                    {int(slot): (samples, place) for place, slot in enumerate(samples.slots)}
                )
        self.clips, *_ = self.load(Quarantine())

    def load(self, quarantine):
        """(pixels by slot, batches, figures) of a loader's run."""
        limits = Limits(max_bad_ratio=1.0, max_bad_in_a_row=1000, hang_seconds=30.0)
        with FusionIterator(
            self.plan, self.sources, end=STEPS, threads=2, limits=limits, quarantine=quarantine
        ) as loader:
            batches = list(loader)
            figures = loader.stats()
        return (
            {
                int(slot): clip
                for batch in batches
                for group in batch.groups
                for slot, clip in zip(group.slot, group.clips.clone())
            },
            batches,
            figures,
        )


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


@pytest.mark.parametrize(
    "decode, name",
    [
        (decode, name)
        for decode, bases in MODES.items()
        for name, fault in FAULTS.items()
        if fault.base in bases
    ],
)
def test_behind_the_probe(healthy, tmp_path, monkeypatch, decode, name):
    fault = FAULTS[name]
    whole = healthy[fault.base, decode]
    plan, table, number = (
        whole.plan,
        whole.plan.tables[0],
        int(Path(whole.path).name.partition(".")[0]),
    )
    if fault.apply is hang:
        hurry(monkeypatch, [whole.path], 60)
    with damaged(Path(whole.path), fault, number):
        clips, batches, figures = whole.load(Quarantine(tmp_path / "quarantine.jsonl"))
    assert [len(batch) for batch in batches] == [8] * STEPS and clips.keys() == whole.slots.keys()
    came = {
        int(slot): (samples, place)
        for batch in batches
        for samples in batch.samples
        for place, slot in enumerate(samples.slots)
    }
    hit = [
        slot
        for slot, (samples, place) in whole.slots.items()
        if samples.source == 0 and samples.rows[place] == VICTIM
    ]
    assert len(hit) >= 2
    for slot in whole.slots.keys() - set(hit):  # its mates are as ever
        assert came[slot][0].attempts[came[slot][1]] == 0 and torch.equal(
            clips[slot], whole.clips[slot]
        )
    lines = (
        [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
        if (tmp_path / "quarantine.jsonl").exists()
        else []
    )
    own = figures[table.name]
    assert (
        own.bad_files == len({line["path"] for line in lines})
        and figures[plan.tables[1].name].bad_files == 0
    )
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
        pictures = (
            clips[slot].permute(1, 2, 3, 0) * torch.tensor(STD) + torch.tensor(MEAN)
        ).numpy()
        shown = [read_numbers(picture) for picture in pictures]
        assert {file for file, _ in shown} == {number - VICTIM + int(wanted.rows[at])}
        if fault.behind == REPLACED and not fails:
            assert {frame for _, frame in shown} <= set(fault.frames)
        else:
            assert [frame for _, frame in shown] == wanted.frames[at].tolist()
    assert own.substituted == gone and bool(own.replaced_frames) == (
        fault.behind == REPLACED and gone < len(hit)
    )
    assert own.bad_files == (fault.behind != EXACT)
    # damaged for one clip, and failed for another
    assert len({line["state"] for line in lines}) == len(lines) <= 2
    for line in lines:
        assert (line["source"], line["path"]) == (table.name, whole.path) and line["reason"]
        assert fault.behind == REPLACED or line["state"] in ("quarantined", "failed")


DISK_ERRORS = {
    "EIO": errno.EIO,
    "ENOENT": errno.ENOENT,
    "EACCES": errno.EACCES,
    "ESTALE": errno.ESTALE,
}


def load(table, sources, steps=8, **options):
    """All batches of a loader over one source, and its figures."""
    plan = TrainPlan([table], list(sources.values()), CLIP, 4, seed=5)
    with FusionIterator(
        plan,
        list(sources.values()),
        end=steps,
        **{"threads": 2, "limits": Limits(1.0, 1000), **options},
    ) as loader:
        batches = list(loader)
        return batches, loader.stats()["web"]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("at", ["open", "read"])
@pytest.mark.parametrize("error", DISK_ERRORS)
@pytest.mark.parametrize("kind", KINDS)
def test_trouble_of_the_disk_is_not_told_as_trouble_of_the_file(
    tmp_path, monkeypatch, kind, error, at
):
    table, sources, files = make_source(tmp_path, kind)
    number = DISK_ERRORS[error]
    outage = Outage(monkeypatch, number, at)
    outage.paths.add(str(files[3]))
    batches, figures = load(table, sources, quarantine=Quarantine(tmp_path / "q.jsonl"))
    assert sum(map(len, batches)) == 32 and figures.substituted > 0 and figures.bad_files == 1
    (line,) = lines_of(tmp_path / "q.jsonl")
    assert (line["trouble"], line["reason"]) == ("disk", os.strerror(number))
    assert line["state"] == ("failed" if error in ("EIO", "ESTALE") else "quarantined")
    with pytest.raises(BadSourceError) as caught:
        load(table, sources, limits=Limits(0.0))
    told = str(caught.value)
    assert f"1 disk: {os.strerror(number)}, such as " in told and "Check the disk" in told
    assert "remove" not in told and "Fetch" not in told


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_sector_in_the_middle_is_the_reason(tmp_path, monkeypatch, kind):
    """What lies before it can be read, and a decoder calls the rest cut off."""
    table, sources, files = make_source(tmp_path, kind)
    file = files[3] / "img_00002.jpg" if kind == "frames" else files[3]
    outage = Outage(
        monkeypatch, errno.EIO, "read", after=512 + 100 if kind.startswith("tar") else 600
    )
    outage.paths.add(str(file))
    load(table, sources, quarantine=Quarantine(tmp_path / "q.jsonl"))
    lines = lines_of(tmp_path / "q.jsonl")
    assert lines and {line["trouble"] for line in lines} == {"disk"}
    for line in lines:
        assert "Input/output error" in line["reason"] and line["state"] in ("failed", "damaged")
        assert line["state"] == "damaged" or line["reason"].startswith("Input/output error")


@pytest.mark.parametrize("kind", ["index", "photo"])
def test_the_first_reason_comes_first(tmp_path, monkeypatch, kind):
    """A file that was replaced by a broken one, and one that a disk gives once and not again."""
    table, sources, files = make_source(tmp_path, kind)
    files[3].write_bytes(files[3].read_bytes()[:300])
    load(table, sources, quarantine=Quarantine(tmp_path / "q.jsonl"))
    (line,) = lines_of(tmp_path / "q.jsonl")
    assert (line["trouble"], line["state"]) == ("file", "quarantined")
    if kind == "index":
        assert re.match("the file changed after the probe; then: .+", line["reason"])
        told = str(
            Cause("the file changed after the probe").then(Cause("Input/output error", "disk"))
        )
        assert told == "disk: the file changed after the probe; then: Input/output error"
    with pytest.raises(
        BadSourceError, match="Fetch the broken files again or remove them"
    ) as caught:
        load(table, sources, limits=Limits(0.0))
    assert f"1 file: {line['reason']}, such as " in str(
        caught.value
    ) and "Check the disk" not in str(caught.value)


def test_ffmpegs_numbers_are_about_the_content():
    """Its demuxers say EIO where a file ends early; nobody shall look for a broken disk."""
    error = av.error.OSError(errno.EIO, "Input/output error")
    assert isinstance(error, OSError) and error.errno == errno.EIO
    assert cause_of(error) == Cause("cut off", "file")
    assert cause_of(OSError(errno.EIO, "Input/output error")) == Cause("Input/output error", "disk")
    assert cause_of(DecodeError("Stale file handle", "disk")) == Cause("Stale file handle", "disk")
    assert cause_of(MemoryError()) == Cause("out of memory", "machine")
    assert cause_of(OSError(errno.EMFILE, "Too many open files")).trouble == "machine"
    assert (
        str(pickle.loads(pickle.dumps(DecodeError("Stale file handle", "disk"))))
        == "disk: Stale file handle"
    )


@pytest.mark.parametrize("decoder", ["frames_from", "demuxed_frames", "read_frames", "probe_video"])
@pytest.mark.parametrize("form", ["mp4", "mpegts", "matroska", "avi"])
def test_no_road_loses_an_error_of_the_disk(tmp_path, monkeypatch, form, decoder):
    codec = {"avi": "mpeg4"}.get(form, "libx264")
    odd.video(form, codec)(tmp_path / "a", 1)
    media = media_of(tmp_path / "a")
    index = PacketIndex.unpack(media.packets) if media.packets else None
    outage = Outage(monkeypatch, errno.EIO, "read", after=(tmp_path / "a").stat().st_size // 2)
    if decoder == "read_frames":
        count_frames(tmp_path / "a")
    outage.paths.add(str(tmp_path / "a"))
    with pytest.raises((OSError, DecodeError, UserError)) as caught:
        if decoder == "frames_from":
            list(frames_from(media))
        elif decoder == "demuxed_frames":
            list(demuxed_frames(media, index, list(range(media.frames))))
        elif decoder == "read_frames":
            read_frames(tmp_path / "a", range(media.frames))
        else:
            probe_video(media.span)
    assert not isinstance(caught.value, (av.FFmpegError, UnsupportedMediaError))
    assert "Input/output error" in str(caught.value)
    if isinstance(caught.value, DecodeError):
        assert caught.value.trouble == "disk"


@pytest.mark.parametrize("kind", ["photo", "frames"])
def test_what_dali_met_is_the_reason(tmp_path, monkeypatch, kind):
    """The disk fails at reading for DALI, and gives something else to the CPU."""
    table, sources, files = make_source(tmp_path, kind, decode="dali")
    outage = Outage(monkeypatch, errno.EIO, "read")
    outage.paths.add(str(files[3]))
    decoder = getattr(producer, "decode_image" if kind == "photo" else "decode_frames")

    def fail(media, *arguments):
        if media.path.startswith(str(files[3])):
            raise DecodeError("OpenCV reads no picture in it")
        return decoder(media, *arguments)

    monkeypatch.setattr(producer, decoder.__name__, fail)
    load(table, sources, quarantine=Quarantine(tmp_path / "q.jsonl"))
    (line,) = lines_of(tmp_path / "q.jsonl")
    assert (line["trouble"], line["reason"]) == (
        "disk",
        "Input/output error; then: OpenCV reads no picture in it",
    )


def test_what_dali_says_of_a_broken_file_is_kept(tmp_path, monkeypatch):
    table, sources, files = make_source(tmp_path, "photo", decode="dali")
    dali_refuses(monkeypatch, [files[3].read_bytes()])
    decode = producer.decode_image

    def cannot(media, *arguments):
        if media.path == str(files[3]):
            raise DecodeError("cut off")
        return decode(media, *arguments)

    monkeypatch.setattr(producer, "decode_image", cannot)
    load(table, sources, quarantine=Quarantine(tmp_path / "q.jsonl"))
    (line,) = lines_of(tmp_path / "q.jsonl")
    assert (line["trouble"], line["reason"]) == ("file", "DALI: no such codec; then: cut off")


def test_a_member_that_the_disk_did_not_give_is_copied_later(tmp_path, monkeypatch):
    """And the copy of a tar does not stay without it."""
    table, sources, files = make_source(tmp_path, "tar of photos", count=2)
    unit = transcode.Unit(str(files[1]), tmp_path / "copy.tar", table, [int(table.records[1])], 1)
    monkeypatch.setattr(transcode, "encode_photo", encode.encode_photo)
    (tmp_path / ".transcode").mkdir()
    outage = Outage(monkeypatch, errno.EIO, "read", after=600)
    outage.paths.add(str(files[1]))
    row = transcode._copy(unit, tmp_path, encode.RECIPES["fast"], 32)
    ((_, reason),) = row["failed"]
    assert reason == "disk: Input/output error"
    (tmp_path / transcode.JOURNAL).write_text(json.dumps(row) + "\n")
    outage.end()
    journal = transcode._run([unit], tmp_path, encode.RECIPES["fast"], 32, 1)
    assert journal[row["path"]]["failed"] == []
