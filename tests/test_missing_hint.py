"""A listed file that is not there is looked for under other forms of its name, below the root."""

import contextlib
import io
import os
import sqlite3
import unicodedata

import pytest

from helpers.small_builds import IMAGES, make_images, run_build, write
from omnidali.catalog.probing import missing_hint
from omnidali.catalog.probing.missing_hint import MISSING, MissingFiles
from omnidali.catalog.probing.probe_child import ProbeRequest, ProbeTask, probe_file
from omnidali.curation.lint.file_checks import check_files
from omnidali.curation.lint.findings import Issues
from omnidali.media_kind import MediaKind

COMPOSED = unicodedata.normalize("NFC", "caf\u00e9/\u00fcber.mp4")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
CASES = [
    # kind, the file, what the list says, the hint
    ("video", DECOMPOSED, COMPOSED, "there in the Unicode form NFD: write the list in it"),
    ("video", COMPOSED, DECOMPOSED, "there in the Unicode form NFC: write the list in it"),
    (
        "video",
        f"{DECOMPOSED.split('/')[0]}/{COMPOSED.split('/')[1]}",
        COMPOSED,
        "there in the Unicode form NFD",
    ),
    ("video", "a/b/c.mp4", "a\\b\\c.mp4", r"there with / instead of \: replace them"),
    ("video", "a b.mp4", '"a b.mp4"', "there without the quotes around it: remove them"),
    ("video", "a.mp4", "'a.mp4'", "there without the quotes around it"),
    ("video", "a.mp4", "\u201ca.mp4\u201d", "there without the quotes around it"),
    ("video", "a.mp4", " a.mp4 ", "there without the spaces or commas around it"),
    ("video", "a.mp4", "a.mp4,", "there without the spaces or commas around it"),
    ("video", "a b\u00e9.mp4", "a%20b%C3%A9.mp4", "there under its decoded name: decode %20"),
    ("image", "a.jpg", "a.JPG", "there with the ending .jpg: correct the list, or rename it"),
    ("image", "a.JPG", "a.jpg", "there with the ending .JPG: correct the list, or rename it"),
    ("video", "x/a.mp4", "x/a.webm", "there with the ending .mp4: correct the list"),
    ("video", "v_a_g01_c01.avi", "v_a_g01_c01", "there with the ending .avi: correct the list"),
    ("video", "v.1_2.avi", "v.1_2", "there with the ending .avi: correct the list"),
    ("image", "a.png", "a.jpeg", "there with the ending .png: correct the list"),
    ("frames", "v_a/", "v_a.avi", "there without the ending: correct the list"),
    ("video", "a.mp4", "set/a.mp4", "there without the folders with which root ends"),
    ("video", "a.mp4", "data/set/a.mp4", "there without the folders with which root ends"),
    ("video", "a/x.mp4", "a/x.mp4,clapping,4", "there without the last words of its name: name"),
    ("video", "a b/x.mp4", "a b/x.mp4 300", "there without the last words of its name"),
    ("video", "UCF-101/a/b.avi", "a/b.avi", "there below the folder UCF-101 of root: name that"),
    ("video", "videos/b.avi", "b.avi", "there below the folder videos of root: name that as root"),
    ("video", "a.mp4", "~/data/set/a.mp4", "no list expands ~: write the whole path"),
]


@pytest.fixture
def state_of():
    return MissingFiles().state_of


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data/set"
    folder.mkdir(parents=True)
    return os.path.realpath(folder)


def make(root, name):
    path = os.path.join(root, name)
    os.makedirs(path if name.endswith("/") else os.path.dirname(path), exist_ok=True)
    if not name.endswith("/"):
        open(path, "w").close()


@pytest.mark.parametrize("many", [1, 50], ids=["few", "many"])
@pytest.mark.parametrize("kind, there, listed, hint", CASES)
def test_file_under_another_form_of_its_name_is_hinted_at(
    root, state_of, monkeypatch, kind, there, listed, hint, many
):
    """Also where the names of a folder are read at once, as many of its files are missing."""
    monkeypatch.setattr(missing_hint, "_MANY", 20)
    make(root, there)
    for _ in range(many):
        state = state_of(root, listed, MediaKind(kind))
    assert state.startswith(f"{MISSING} (") and hint in state
    assert state_of(root, f"other {listed}", MediaKind(kind)) == MISSING


def test_state_has_no_name_so_that_files_are_counted_together(root, state_of):
    states = set()
    for n in range(30):
        make(root, f"{n}.mp4")
        states.add(state_of(root, f"{n}.webm", MediaKind.VIDEO))
    assert len(states) == 1


def test_no_hint_leads_out_of_the_root(root, state_of, tmp_path):
    make(str(tmp_path / "data"), "secret.mp4")
    os.symlink(tmp_path / "data", os.path.join(root, "out"))
    for listed in ('"../secret.mp4"', "..\\secret.mp4", "%2e%2e/secret.mp4", "out/secret.webm"):
        assert state_of(root, listed, MediaKind.VIDEO) == MISSING
    # with the user's leave
    hint = state_of(root, "out/secret.webm", MediaKind.VIDEO, follows_links=True)
    assert "there with the ending .mp4" in hint
    assert state_of(root, f'"{tmp_path}/data/secret.mp4"', MediaKind.VIDEO) == MISSING


def test_link_to_nothing_is_told_from_a_missing_file(root):
    os.symlink("gone.mp4", os.path.join(root, "a.mp4"))
    task = ProbeTask(MediaKind.VIDEO, "", root, decodes_all=False)
    state, probe = probe_file(task, ProbeRequest(1, "a.mp4"), 0, MissingFiles())
    assert (state, probe) == ("missing file (a link to a file that is gone)", None)


def test_files_that_come_later_are_seen(root, state_of, monkeypatch):
    """The names of a folder that changes are read again."""
    monkeypatch.setattr(missing_hint, "_MANY", 0)
    assert state_of(root, "a.webm", MediaKind.VIDEO) == MISSING
    make(root, "a.mp4")
    os.utime(root, ns=(0, 10**18))
    assert "there with the ending .mp4" in state_of(root, "a.webm", MediaKind.VIDEO)


def test_a_list_of_missing_files_asks_the_disk_rarely(root, state_of, monkeypatch):
    """A list of a million files costs no ten million questions to a network disk."""
    for n in range(100):
        make(root, f"videos/{n}.avi")
    asked = []
    exists = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: asked.append(path) or exists(path))
    for n in range(5000):
        assert state_of(root, f"videos/x{n}.mp4", MediaKind.VIDEO) == MISSING
    assert len(asked) < 500


def test_folders_of_the_root_are_not_searched_for_ever(root, monkeypatch):
    for name in ("train", "val", "cat", "\udcff", "a\nb", ".hidden"):
        make(root, f"{name}/0.mp4")
    make(root, ".hidden/2.mp4")
    make(root, "a\nb/2.mp4")
    assert MissingFiles().state_of(root, "2.mp4", MediaKind.VIDEO) == MISSING
    missing = MissingFiles()
    asked = []
    exists = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: asked.append(path) or exists(path))
    for n in range(100):
        assert missing.state_of(root, f"x{n}/1.mp4", MediaKind.VIDEO) == MISSING
    assert len([path for path in asked if "/val/" in path]) == 20
    # the root is right where it holds the first folder
    make(root, "train/cat/9.mp4")
    assert MissingFiles().state_of(root, "cat/9.mp4", MediaKind.VIDEO) == MISSING


def test_start_counts_hints_with_an_example(tmp_path):
    """The line of a start has each hint once, with one of the paths."""
    make_images(tmp_path, 3)
    write(tmp_path / "l.txt", "0.jpg 0\n1.png 0\n2.png 1\n3.jpg 0\n")
    summary = run_build(tmp_path)
    hint = "missing file (there with the ending .jpg: correct the list, or its `pattern`)"
    assert summary.usable == 1 and summary.refused == {hint: 2, MISSING: 1}
    assert f"2 {hint}, such as 1.png; 1 missing file, such as 3.jpg" in str(summary)

    # lint still calls all of them missing
    issues = Issues(io.StringIO())
    with contextlib.closing(sqlite3.connect(tmp_path / "c.sqlite")) as db:
        check_files(db, "s", IMAGES["s"], issues)
    assert issues.counts == {("s", "missing"): 3}
