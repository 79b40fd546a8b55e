"""Untrusted tars: nothing is unpacked, and what they claim is not believed."""

import gzip
import io
import os
import tarfile
import time

from helpers.raw_png import raw_png
from helpers.small_builds import read_members, run_build, write
from omnidali.catalog.listing import tars
from omnidali.catalog.probing.root_guard import LINK_LEAVES
from omnidali.config.sources import SourceConfig


def make_tar(path, members, form=tarfile.GNU_FORMAT):
    with tarfile.open(path, "w", format=form) as tar:
        for name, data, *kind in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if kind:
                member.type, member.linkname, member.size = kind[0], "../secret", 0
            tar.addfile(member, io.BytesIO(data))
    return path


def test_hostile_tars_are_refused_or_read_safely(tmp_path):
    photo = raw_png(8, 8)
    make_tar(
        tmp_path / "a.tar",
        [
            ("0/a.png", photo),
            ("0/../../b.png", photo),
            ("/abs.png", photo),
            ("0/link.png", b"", tarfile.SYMTYPE),
            ("0/hard.png", b"", tarfile.LNKTYPE),
            ("0/dev.png", b"", tarfile.CHRTYPE),
            ("0/fifo.png", b"", tarfile.FIFOTYPE),
            ("0/sparse.png", b"", tarfile.GNUTYPE_SPARSE),
            ("0/a.png", photo),
            ("0/\x1b.png", photo),
        ],
    )
    found, left_out = read_members(tmp_path, "a.tar")
    assert [member[0] for member in found] == ["0/a.png"]
    assert (
        left_out["member whose name leaves the tar"] == 2 and left_out["member that is a link"] == 2
    )
    assert (
        left_out["member with the name of another"] == 1
        and left_out["member with an odd name"] == 1
    )
    assert left_out["member that is no plain file"] >= 2
    whole = (tmp_path / "a.tar").read_bytes()
    for name, data, expected in (
        ("gz.tar", gzip.compress(whole), "tar compressed with gzip: decompress it"),
        ("cut.tar", whole[:540], "member cut off"),
        ("text.tar", b"hello" * 200, "tar broken"),
    ):
        found, left_out = read_members(tmp_path, write(tmp_path / name, data).name)
        assert not found and any(reason.startswith(expected) for reason in left_out), left_out
    os.mkfifo(tmp_path / "pipe.tar")
    assert read_members(tmp_path, "pipe.tar")[1] == {"tar that is no regular file": 1}
    (tmp_path / "root").mkdir()
    (tmp_path / "root/out.tar").symlink_to(tmp_path / "a.tar")
    assert read_members(tmp_path / "root", "out.tar")[1] == {f"tar whose {LINK_LEAVES}": 1}


def test_unreadable_tar_is_tried_at_the_next_start(tmp_path, monkeypatch):
    for name in "ab":
        make_tar(tmp_path / f"{name}.tar", [(f"0/{n}.png", raw_png(8, 8)) for n in range(2)])
    source, read = {"s": SourceConfig(kind="image", root=".", tars="*.tar")}, tars._Headers.read

    def fail(headers, count=-1):
        if headers.name.endswith("b.tar"):
            raise OSError(5, "Input/output error")
        return read(headers, count)

    with monkeypatch.context() as outage:
        outage.setattr(tars._Headers, "read", fail)
        summary = run_build(tmp_path, source)
    assert (summary.usable, summary.refused) == (2, {"unreadable tar: Input/output error": 1})
    summary = run_build(tmp_path, source)
    assert (summary.usable, summary.probed, summary.refused) == (4, 2, {})


def test_false_tar_headers_are_refused(tmp_path):
    """Sizes below zero and beyond the file, endless chains of headers, and headers of gigabytes."""

    def header(size, kind=b"0", name=b"0/a.png"):
        block = bytearray(512)
        block[: len(name)], block[100:108], block[124:136], block[156:157] = (
            name,
            b"0000644\0",
            size,
            kind,
        )
        block[257:265] = b"ustar  \0"
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block)

    negative, huge = b"\xff" * 11 + b"\0", b"\x80" + b"\x7f" * 11
    for data in (
        header(negative) * 4,
        header(huge),
        header(b"77777777777\0"),
        header(negative, b"L"),
        header(huge, b"x"),
        header(b"%011o\0" % 512, b"L") * 4000,
        (header(b"%011o\0" % 512, b"L") + b"x" * 512) * 3000,
        (header(b"%011o\0" % 512, b"x") + b"20 a=b\n".ljust(512)) * 3000,
        header(b"77777777777\0", b"x"),
    ):
        began = time.thread_time()
        found, left_out = read_members(tmp_path, write(tmp_path / "h.tar", data + bytes(1024)).name)
        assert not found and time.thread_time() - began < 5


def test_tar_that_ends_early_is_reported(tmp_path):
    """Cut off while it was copied, or with a damaged header: the loss of its rest is reported."""
    make_tar(
        tmp_path / "a.tar", [(f"0/{n}.png", b"x" * 1000) for n in range(4)], tarfile.USTAR_FORMAT
    )
    whole, header = (tmp_path / "a.tar").read_bytes(), 2 * 1536  # of the third member
    flipped, emptied = bytearray(whole), bytearray(whole)
    flipped[header + 5] ^= 1
    emptied[header : header + 512] = bytes(512)
    for data, members, expected in (
        (whole, 4, {}),
        (whole[: 4 * 1536 + 512], 4, {}),
        (whole + bytes(1 << 21), 4, {}),
        (bytes(10240), 0, {}),
        (whole[:header], 2, {"tar broken: ends at byte 3,072 of 3,072": 1}),
        (whole[: header + 300], 2, {"tar broken: ends at byte 3,072 of 3,372": 1}),
        (whole[: 4 * 1536 + 100], 4, {"tar broken: ends at byte 6,144 of 6,244": 1}),
        (flipped, 2, {"tar broken: ends at byte 3,072 of 10,240": 1}),
        (emptied, 2, {"tar broken: ends at byte 3,072 of 10,240": 1}),
        (whole + whole, 4, {"tar broken: ends at byte 6,144 of 20,480": 1}),
    ):
        found, left_out = read_members(tmp_path, write(tmp_path / "t.tar", bytes(data)).name)
        assert (len(found), left_out) == (members, expected)
