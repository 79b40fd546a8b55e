"""Parts of the files that training never sees."""

import numpy as np
import pytest

from helpers.small_builds import write
from omnidali.config.schema import Config
from omnidali.config.sources import SourceConfig
from omnidali.errors import UserError
from omnidali.loading.data import open_data
from omnidali.planning.resampling import parts_of
from omnidali.testing.numbered_media import write_image


def test_held_out_parts_are_the_same_files_in_any_list(tmp_path):
    for n in range(12):
        write_image(tmp_path / f"p/{n}.jpg", n, 60, 40)
    for name, order in (
        ("all", range(12)),
        ("backwards", range(11, -1, -1)),
        ("some", range(3, 9)),
    ):
        start = "./" if name == "backwards" else ""  # lists name files that begin with a # so
        write(tmp_path / f"{name}.txt", "".join(f"{start}{n}.jpg {n % 2}\n" for n in order))

    def used(name, hold_out, **more):
        source = SourceConfig(kind="image", root="p", list=f"{name}.txt", hold_out=hold_out, **more)
        run = Config(
            data_root=str(tmp_path),
            run_dir=str(tmp_path),
            catalog=str(tmp_path / f"{name}.sqlite"),
            sources={"p": source},
        )
        data = open_data(run)
        assert data.class_names == ("0", "1")
        return list(data.tables[0].owners())

    every, parts = {f"{n}.jpg" for n in range(12)}, []
    for part in (1, 2, 3):
        found = used("all", (part, 3))
        parts.append(every - set(found))
        assert 0 < len(found) < 12 and used("backwards", (part, 3)) == found[::-1]
        assert set(used("some", (part, 3))) == {f"{n}.jpg" for n in range(3, 9)} - parts[-1]
    assert sum(map(len, parts)) == 12 and set.union(*parts) == every
    assert used("all", None) == [f"{n}.jpg" for n in range(12)]
    assert set(used("all", (1, 3), fraction=0.5)) <= set(used("all", None, fraction=0.5))
    (part,) = (number for number, held in enumerate(parts, 1) if "5.jpg" in held)
    write(tmp_path / "top.txt", "5.jpg 1\n" + "".join(f"{n}.jpg 0\n" for n in range(12) if n != 5))
    assert "5.jpg" not in used("top", (part, 3))  # though there are two classes
    write(tmp_path / "one.txt", "0.jpg 0\n")
    (part,) = (number for number, held in enumerate(parts, 1) if "0.jpg" in held)
    with pytest.raises(
        UserError, match="sources.p.hold_out: expected samples outside of that part, got none of 1"
    ):
        used("one", (part, 3))


def test_files_with_numbers_for_names_are_spread_over_parts():
    for form in ("{}.jpg", "class/{:06d}.mp4", "video {:03d}.png"):
        for parts in (2, 3, 4, 8):
            found = parts_of([form.format(n) for n in range(800)], parts)
            assert np.abs(np.bincount(found, minlength=parts + 1)[1:] - 800 / parts).max() < 60
            rows = found.reshape(-1, 8)
            # eight in a row are not of one part
            assert (rows == rows[:, :1]).all(axis=1).sum() <= 3
