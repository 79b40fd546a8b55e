"""Media found in folders, and paths that would leave a source's root."""

import errno
import os

import pytest

from helpers.small_builds import fail_to_list, write
from omnidali.catalog.listing.folders import OUTSIDE_CLASSES, scan_folder
from omnidali.catalog.listing.left_out import LeftOut
from omnidali.catalog.probing.root_guard import (
    LEAVES,
    LINK_LEAVES,
    OUTSIDE,
    RootPaths,
    escape_reason,
)
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind
from omnidali.testing.numbered_media import write_image


def test_scan_folder_labels_class_folders(tmp_path):
    for name in ("dog/2.jpg", "dog/deep/1.JPG", "ant/9.png", "dog/notes.txt", "loose.jpg"):
        write(tmp_path / name, "x")
    left_out = LeftOut()
    entries, folders = scan_folder(tmp_path, MediaKind.IMAGE, None, left_out)
    assert left_out.counts == {"not a photo: text": 1, OUTSIDE_CLASSES: 1}
    assert entries == [("ant/9.png", 0), ("dog/2.jpg", 1), ("dog/deep/1.JPG", 1)]
    assert len(folders) == 4
    with pytest.raises(UserError, match="a folder named like a class"):
        scan_folder(tmp_path, MediaKind.IMAGE, ["ant", "cat"], LeftOut())


def test_plain_folder_is_unlabelled(tmp_path):
    write(tmp_path / "b.mp4", "x")
    write(tmp_path / "a.webm", "x")
    assert [
        tuple(entry)[:2] for entry in scan_folder(tmp_path, MediaKind.VIDEO, None, LeftOut())[0]
    ] == [
        ("a.webm", -1),
        ("b.mp4", -1),
    ]


def test_paths_stay_below_the_root(tmp_path):
    root = tmp_path / "root"
    write(root / "in.jpg", "x")
    write(tmp_path / "out.jpg", "x")
    (root / "link.jpg").symlink_to(tmp_path / "out.jpg")
    (root / "fine.jpg").symlink_to(root / "in.jpg")
    real = os.path.realpath(root)
    assert escape_reason(real, "in.jpg") is None and escape_reason(real, "fine.jpg") is None
    assert escape_reason(real, "link.jpg") == LINK_LEAVES
    assert escape_reason(real, "link.jpg", follows_links=True) is None
    for follows in (False, True):
        assert escape_reason(real, "../out.jpg", follows) == LEAVES
        assert escape_reason(real, "a/../../out.jpg", follows) == LEAVES
        assert escape_reason(real, "/etc/passwd", follows) == OUTSIDE
        assert escape_reason(real, "a\0b", follows) == "path holds a NUL byte"


def test_vanished_or_hidden_folders_may_fail(tmp_path, monkeypatch):
    for name in ("a/0.jpg", "b/1.jpg", ".trash/2.jpg"):
        write_image(tmp_path / "pics" / name, 0, 40, 30)
    fail_to_list(monkeypatch, tmp_path / "pics/b", errno.ENOENT)
    assert scan_folder(tmp_path / "pics", MediaKind.IMAGE, None, LeftOut())[0] == [("a/0.jpg", 0)]
    fail_to_list(monkeypatch, tmp_path / "pics/.trash", errno.EACCES)
    assert scan_folder(tmp_path / "pics", MediaKind.IMAGE, None, LeftOut())[0] == [
        ("a/0.jpg", 0),
        ("b/1.jpg", 1),
    ]


def test_absolute_paths_are_made_relative_to_the_root(tmp_path):
    write(tmp_path / "disk/data/cat/1.jpg", "x")
    (tmp_path / "data").symlink_to(tmp_path / "disk/data")
    (tmp_path / "other").symlink_to(tmp_path / "disk")
    for root in ("data", "disk/data", "other/data", "disk/../data"):
        below = RootPaths(str(tmp_path / root)).relative
        for given in ("data", "disk/data", "other/data"):
            assert below(f"{tmp_path}/{given}/cat/1.jpg") == "cat/1.jpg", (root, given)
        for outside in (f"{tmp_path}/other/1.jpg", f"{tmp_path}/data2/1.jpg", "/etc/passwd"):
            assert below(outside) == outside
        assert below("cat/1.jpg") == "cat/1.jpg"
        # what leads up is left to the guard
        assert escape_reason(os.path.realpath(tmp_path / root), below(f"{tmp_path}/data/../x"))
    assert RootPaths("/").relative("/data//cat/1.jpg") == "data//cat/1.jpg"
