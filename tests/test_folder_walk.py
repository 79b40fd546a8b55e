"""Class folders: which names are classes, which links are followed, what content counts."""

import os

import pytest

from helpers.small_builds import write
from omnidali.catalog.listing.folder_walk import (
    HIDDEN_FOLDER,
    LINK_UP,
    VISITED,
    FolderWalk,
    class_folders,
)
from omnidali.catalog.listing.folders import HIDDEN_FILE, scan_folder
from omnidali.catalog.listing.left_out import LeftOut
from omnidali.catalog.probing.root_guard import LINK_LEAVES
from omnidali.media_kind import MediaKind
from omnidali.testing.numbered_media import write_image, write_video


def listed(root, kind=MediaKind.IMAGE, follows_links=False):
    """(path, label) of the items, and (path, reason) of what is left out."""
    items = []
    left_out = LeftOut(items.extend)
    entries, _ = scan_folder(root, kind, None, left_out, follows_links)
    left_out.flush()
    return entries, {(item.path, item.reason) for item in items}


def test_folders_of_systems_and_hidden_ones_are_no_classes(tmp_path):
    for folder in ("cat", "dog", "__MACOSX/cat", ".git", "@eaDir", "cat/.thumbnails", "dog/@eaDir"):
        write_image(tmp_path / folder / "1.jpg", 0, 40, 30)
    write(tmp_path / "cat/._1.jpg", b"\0\5\x16\7")

    assert class_folders(tmp_path) == ["cat", "dog"]
    entries, left_out = listed(tmp_path)
    assert entries == [("cat/1.jpg", 0), ("dog/1.jpg", 1)]
    assert left_out == {
        *((name, HIDDEN_FOLDER) for name in ("__MACOSX", ".git", "@eaDir")),
        *((name, HIDDEN_FOLDER) for name in ("cat/.thumbnails", "dog/@eaDir")),
        ("cat/._1.jpg", HIDDEN_FILE),
    }


def test_empty_class_keeps_its_number_and_is_named(tmp_path):
    for name in ("ant/1.jpg", "cat/1.jpg"):
        write_image(tmp_path / name, 0, 40, 30)
    (tmp_path / "bee").mkdir()

    entries, left_out = listed(tmp_path)
    assert entries == [("ant/1.jpg", 0), ("cat/1.jpg", 2)]
    assert left_out == {("bee", "class folder without image files, which keeps its number")}


@pytest.mark.parametrize("ending", ["aspx", "jfif", "jpg!large", "php?id=3", ""])
def test_photo_is_found_under_any_name(tmp_path, ending):
    write_image(tmp_path / "cat/1.jpg", 0, 40, 30)
    (tmp_path / "cat/1.jpg").rename(tmp_path / "cat" / f"1.{ending}".rstrip("."))
    write(tmp_path / "cat/2.html", "<!doctype html><title>404</title>")
    write(tmp_path / "cat/3.txt", "a caption")
    write_video(tmp_path / "cat/4.mp4", 4, frames=3, width=64, height=48)

    entries, left_out = listed(tmp_path)
    assert [label for _, label in entries] == [0]
    assert {path for path, _ in left_out} == {"cat/2.html", "cat/3.txt", "cat/4.mp4"}
    assert ("cat/2.html", "not a photo: a web page") in left_out

    (video,), others = listed(tmp_path, MediaKind.VIDEO)
    assert video == ("cat/4.mp4", 0) and len(others) == 3


def test_pipe_with_an_unusual_ending_is_not_opened(tmp_path):
    write_image(tmp_path / "cat/1.jpg", 0, 40, 30)
    os.mkfifo(tmp_path / "cat/pipe")
    assert listed(tmp_path)[1] == {("cat/pipe", "not a regular file")}


@pytest.fixture
def farm(tmp_path):
    """A root whose classes and files are links, to places below it and outside."""
    root = tmp_path / "root"
    for name in ("store/x/1.jpg", "store/y/2.jpg", "cat/0.jpg"):
        write_image(root / name, 0, 40, 30)
    write_image(tmp_path / "out/3.jpg", 0, 40, 30)
    (root / "ant").symlink_to("store/x")
    (root / "bee").symlink_to(tmp_path / "out")
    (root / "cat/more").symlink_to("../store/y")
    (root / "cat/again").symlink_to("more")
    (root / "cat/up").symlink_to("..")
    (root / "dog").mkdir()
    (root / "dog/3.photo").symlink_to(tmp_path / "out/3.jpg")
    return root


def test_links_are_followed_where_they_end_below_the_root(farm):
    entries, left_out = listed(farm)
    labels = {name: number for number, name in enumerate(["ant", "bee", "cat", "dog", "store"])}
    assert entries == [
        ("ant/1.jpg", labels["ant"]),
        ("cat/0.jpg", labels["cat"]),
        ("cat/again/2.jpg", labels["cat"]),
        ("store/x/1.jpg", labels["store"]),
        ("store/y/2.jpg", labels["store"]),
    ]
    empty = "class folder without image files, which keeps its number"
    assert left_out == {
        ("bee", LINK_LEAVES),
        ("cat/more", VISITED),
        ("cat/up", LINK_UP),
        ("dog/3.photo", LINK_LEAVES),
        ("bee", empty),
        ("dog", empty),
    }


def test_links_lead_anywhere_with_follow(farm):
    entries, left_out = listed(farm, follows_links=True)
    assert {("bee/3.jpg", 1), ("dog/3.photo", 3)} < set(entries)
    assert left_out == {("cat/more", VISITED), ("cat/up", LINK_UP)}


def test_many_links_to_each_other_end(tmp_path):
    for number in range(30):  # each of a level has two ways to the next one: 2**30 paths
        folder = tmp_path / f"cat/{number}"
        folder.mkdir(parents=True)
        for name in "ab":
            (folder / name).symlink_to(f"../{number + 1}")
    write_image(tmp_path / "cat/30/1.jpg", 0, 40, 30)
    visited = list(FolderWalk(tmp_path, LeftOut()).folders(["cat"]))
    assert len(visited) == 1 + 1 + 31


def test_links_to_themselves_stop_nothing(tmp_path):
    write_image(tmp_path / "cat/1.jpg", 0, 40, 30)
    for folder in (tmp_path, tmp_path / "cat"):
        (folder / "loop").symlink_to("loop")
    entries, left_out = listed(tmp_path)
    assert entries == [("cat/1.jpg", 0)]
    assert left_out == {
        ("loop", "link that leads to itself"),
        ("cat/loop", "link that leads to itself"),
    }
