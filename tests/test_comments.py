"""``#`` in lists: the beginning of a name where a file is named so, else of a comment."""

import pytest

from helpers.small_builds import write
from omnidali.catalog.listing.comments import TAKEN_FOR_COMMENT, CommentRule
from omnidali.catalog.listing.labels import Labels
from omnidali.catalog.listing.list_reader import read_list
from omnidali.config.sources import MediaConfig

# kind, format, the rest of a line after the path
FORMS = [
    ("video", "path_label", " 3"),
    ("video", "path_label", "\t3"),
    ("video", "slowfast_csv", ",3"),
    ("frames", "rawframes", " 10 3"),
    ("frames", "rawframes_offset", " 5 10 3"),
    ("untrimmed", "pieces", " 1.5 9 3"),
]


def read(folder, text, root=None, **settings):
    path = write(folder / "l.txt", text)
    passed = []
    _, entries = read_list(
        path,
        MediaConfig(**settings),
        Labels().number,
        "s",
        root=root,
        leave_out=lambda *item: passed.append(item),
    )
    return [entry.path for entry in entries], passed


@pytest.mark.parametrize("kind, form, rest", FORMS)
@pytest.mark.parametrize("name", ["#437_a.mp4", "#a b, c.mp4", "# a.mp4", "#d/a.mp4"])
def test_names_that_begin_with_a_hash_are_items(tmp_path, kind, form, rest, name):
    if form != "path_label" and "," in name:
        name = name.replace(",", "")  # which a CSV quotes
    root = tmp_path / "root"
    text = f"# a comment{rest}\n{name}{rest}\nplain.mp4{rest}\n#\n"
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).touch()
    for settings in ({}, {"format": form}):
        paths, passed = read(tmp_path, text, root=root, kind=kind, **settings)
        assert paths == [name, "plain.mp4"] and not passed
        # without a root nobody can look
        paths, _ = read(tmp_path, text, root=None, kind=kind, **settings)
        assert paths == ["plain.mp4"]


@pytest.mark.parametrize("kind, form, rest", FORMS)
def test_items_that_are_taken_for_comments_are_named(tmp_path, kind, form, rest):
    text = f"a.mp4{rest}\n#gone.mp4{rest}\n# gone.mp4{rest}\n#see the readme\n"
    paths, passed = read(tmp_path, text, root=tmp_path, kind=kind, format=form)
    assert paths == ["a.mp4"]
    place = f"{tmp_path / 'l.txt'}, line 2"
    assert passed == [("#gone.mp4", TAKEN_FOR_COMMENT, place)]


def test_hash_in_the_roots_name_and_links_are_looked_through(tmp_path):
    root = tmp_path / "#root"
    root.mkdir()
    (root / "a.mp4").touch()
    (root / "#out").symlink_to(tmp_path)
    (tmp_path / "b.mp4").touch()
    text = "#root/a.mp4 0\n#out/b.mp4 0\nc.mp4 1\n"
    for links, found in (("below", []), ("follow", ["#out/b.mp4"])):
        paths, _ = read(tmp_path, text, root=root, kind="video", links=links)
        assert paths == ["#root/a.mp4", *found, "c.mp4"]


def test_list_of_nothing_but_such_names_is_read(tmp_path):
    (tmp_path / "#1.mp4").touch()
    assert read(tmp_path, "#1.mp4 0\n", root=tmp_path, kind="video") == (["#1.mp4"], [])


def test_many_comments_ask_the_disk_once(tmp_path, monkeypatch):
    write(tmp_path / "#one.mp4", "")
    write(tmp_path / "#two words.mp4", "")
    asked = []
    exists = CommentRule._exists
    monkeypatch.setattr(CommentRule, "_exists", lambda *a: asked.append(a) or exists(*a))
    rule = CommentRule(tmp_path)
    lines = [f"# the comment number {n}" for n in range(2000)]
    assert all(rule.is_comment("l.txt, line 1", line) for line in lines)
    assert len(asked) < 1000
    assert not rule.is_comment("l.txt, line 1", "#one.mp4 0")
    assert not rule.is_comment("l.txt, line 1", "#two words.mp4 0")
