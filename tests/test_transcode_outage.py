"""Training copies while a disk fails."""

import errno
import json

from helpers.outages import Outage, make_source
from omnidali.curation.copies import encode, transcode
from omnidali.curation.copies.encode import ENCODERS
from omnidali.media_kind import MediaKind


def test_member_that_the_disk_did_not_give_is_copied_later(tmp_path, monkeypatch):
    """A copy of the tar without the member is not final."""
    table, sources, files = make_source(tmp_path, "tar of images", count=2)
    unit = transcode.CopyUnit(
        str(files[1]), tmp_path / "copy.tar", "copy.tar", table, [int(table.records[1])], 1
    )

    def encode_here(media, path, recipe, short_side, limit):
        encode.encode_image(media, path, short_side)
        return 0

    monkeypatch.setitem(ENCODERS, MediaKind.IMAGE, encode_here)
    (tmp_path / ".transcode").mkdir()
    outage = Outage(monkeypatch, errno.EIO, "read", after=600)
    outage.paths.add(str(files[1]))
    row = transcode._copy(unit, tmp_path, encode.RECIPES["fast"], 32)
    ((_, reason),) = row["failed"]
    assert reason == "disk: Input/output error"
    (tmp_path / transcode.JOB_LOG).write_text(json.dumps(row) + "\n")
    outage.end()
    journal = transcode._copy_units(
        [unit], tmp_path, recipe=encode.RECIPES["fast"], short_side=32, workers=1
    )
    assert journal[row["path"]]["failed"] == []
