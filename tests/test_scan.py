"""Lists that name the root, and classes that come from folders and lists."""

import dataclasses

import pytest

from helpers.small_builds import write
from omnidali.catalog.build import build_catalog
from omnidali.config.schema import Config
from omnidali.config.sources import SourceConfig
from omnidali.errors import UserError
from omnidali.loading.data import open_data
from omnidali.testing.numbered_media import write_image


def test_missing_first_file_does_not_hide_the_root_name(tmp_path):
    write_image(tmp_path / "ins" / "2.jpg", 1, 60, 40)
    write(tmp_path / "l.txt", "ins/1.jpg 0\nins/2.jpg 0\n")
    sources = {"w": SourceConfig(kind="image", root="ins", list="l.txt")}
    assert build_catalog(tmp_path / "c.sqlite", sources, tmp_path, progress=False)[0].usable == 1
    (tmp_path / "ins/2.jpg").rename(tmp_path / "2.jpg")
    with pytest.raises(UserError):
        build_catalog(tmp_path / "d.sqlite", sources, tmp_path, progress=False)
    # a later start looks again where the first one found nothing
    (tmp_path / "2.jpg").rename(tmp_path / "ins/2.jpg")
    assert build_catalog(tmp_path / "d.sqlite", sources, tmp_path, progress=False)[0].usable == 1


def test_class_names_come_from_the_target_alone(tmp_path):
    for name in ("t/a.jpg", "w/zebra/1.jpg", "w/ant/2.jpg"):
        write_image(tmp_path / name, 1, 60, 40)
    write(tmp_path / "l.txt", "a.jpg 0\n")
    write(tmp_path / "names.txt", "zebra\nant\n")
    target, folders = (
        SourceConfig(kind="image", root="t", list="l.txt"),
        SourceConfig(kind="image", root="w"),
    )
    run = Config(
        data_root=str(tmp_path), run_dir=str(tmp_path), sources={"t": target, "w": folders}
    )
    with pytest.raises(
        UserError,
        match="classes: expected a file that names the classes, as sources.w is class folders",
    ):
        open_data(run)
    assert open_data(dataclasses.replace(run, classes="names.txt")).class_names == ("zebra", "ant")
    assert open_data(dataclasses.replace(run, sources={"w": folders})).class_names == (
        "ant",
        "zebra",
    )
    write(tmp_path / "w.txt", "zebra/1.jpg zebra\n")
    named = SourceConfig(kind="image", root="w", list="w.txt")
    with pytest.raises(
        UserError, match="w.txt, line 1: expected a class number of 0 or more, got 'zebra'"
    ):
        open_data(dataclasses.replace(run, sources={"t": target, "w": named}))


def test_loose_files_without_labels_are_reported(tmp_path):
    write_image(tmp_path / "p/a.jpg", 1, 60, 40)
    run = Config(
        data_root=str(tmp_path),
        run_dir=str(tmp_path),
        sources={"p": SourceConfig(kind="image", root="p", fraction=0.5)},
    )
    with pytest.raises(UserError, match="sources.p: expected a label for every item"):
        open_data(run)


def test_lists_may_name_the_root_itself(tmp_path):
    write_image(tmp_path / "googleimage_200" / "000" / "1.jpg", 1, 60, 40)
    write(tmp_path / "l.txt", "googleimage_200/000/1.jpg 0\n")
    for root in (".", "googleimage_200"):
        sources = {"w": SourceConfig(kind="image", root=root, list="l.txt")}
        assert (
            build_catalog(tmp_path / f"{len(root)}.sqlite", sources, tmp_path, progress=False)[
                0
            ].usable
            == 1
        )
