"""Why files do not decode: each decoder distinguishes the disk, the machine and the file."""

import errno
import os
import pickle
import re

import av
import pytest

from conftest import media_of
from helpers.failures import lines_of
from helpers.outages import KINDS, Outage, load, make_source
from omnidali.catalog.probing.limits import UnsupportedMediaError
from omnidali.catalog.probing.packet_index import PacketIndex
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.decoding.demuxer import demuxed_frames, frames_from
from omnidali.decoding.failure_cause import Cause, cause_of
from omnidali.decoding.read_frames import count_frames, read_frames
from omnidali.errors import BadSourceError, DecodeError, UserError
from omnidali.loading.failures.quarantine import Quarantine
from omnidali.testing.odd_media import odd_video

DISK_ERRORS = {
    "EIO": errno.EIO,
    "ENOENT": errno.ENOENT,
    "EACCES": errno.EACCES,
    "ESTALE": errno.ESTALE,
}


@pytest.mark.parametrize("at", ["open", "read"])
@pytest.mark.parametrize("error", DISK_ERRORS)
@pytest.mark.parametrize("kind", KINDS)
def test_trouble_of_the_disk_is_not_reported_as_trouble_of_the_file(
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
        load(table, sources, max_bad_ratio=0.0)
    message = str(caught.value)

    assert f"1 disk: {os.strerror(number)}, such as " in message and "Check the disk" in message
    assert "remove" not in message and "Fetch" not in message


@pytest.mark.parametrize("kind", KINDS)
def test_bad_sector_in_the_middle_is_the_reason(tmp_path, monkeypatch, kind):
    """The bytes before the sector can be read, and a decoder reports the rest as cut off."""
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


@pytest.mark.parametrize("kind", ["index", "image"])
def test_earlier_reason_comes_first(tmp_path, monkeypatch, kind):
    """A file that was replaced by a broken one, and one that a disk gives once and not again."""
    table, sources, files = make_source(tmp_path, kind)
    files[3].write_bytes(files[3].read_bytes()[:300])
    load(table, sources, quarantine=Quarantine(tmp_path / "q.jsonl"))
    (line,) = lines_of(tmp_path / "q.jsonl")
    assert (line["trouble"], line["state"]) == ("file", "quarantined")
    if kind == "index":
        assert re.match("the file changed after the probe; then: .+", line["reason"])
        message = str(
            Cause("the file changed after the probe").then(Cause("Input/output error", "disk"))
        )
        assert message == "disk: the file changed after the probe; then: Input/output error"
    with pytest.raises(
        BadSourceError, match="Fetch the broken files again or remove them"
    ) as caught:
        load(table, sources, max_bad_ratio=0.0)

    assert f"1 file: {line['reason']}, such as " in str(
        caught.value
    ) and "Check the disk" not in str(caught.value)


def test_error_numbers_of_ffmpeg_are_about_the_content():
    """FFmpeg's demuxers raise EIO where a file ends early: the disk is not broken then."""
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
def test_no_decoder_loses_an_error_of_the_disk(tmp_path, monkeypatch, form, decoder):
    codec = {"avi": "mpeg4"}.get(form, "libx264")
    odd_video(form, codec)(tmp_path / "a", 1)
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
