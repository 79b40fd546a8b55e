"""The lists of data sets whose classes are words beside the paths: read as they are downloaded."""

import re
from collections.abc import Iterable, Iterator

from omnidali.catalog.listing.labels import label_text
from omnidali.catalog.listing.list_file import Entry, ListFile
from omnidali.errors import UserError
from omnidali.utils.text_files import is_whole

# UCF101's files, in a folder named like the class: v_Archery_g01_c01.avi
# (but HandstandPushups/v_HandStandPushups_g01_c01.avi)
_UCF101_FILE = re.compile(r"(?:^|.*/)([^/]+)/v_\1_g[0-9]+_c[0-9]+\.[a-z0-9]+", re.IGNORECASE)
_HMDB51_LIST = re.compile(r"(.+)_test_split[0-9]+")
_HMDB51_PARTS = {"1": "train", "2": "test", "0": "unused"}


def fits_ucf101(line: str) -> bool:
    """Whether a line is a path of UCF101, maybe with a class number from 1."""
    return _ucf101_fields(line) is not None


def read_ucf101(file: ListFile) -> Iterator[Entry]:
    """The entries of UCF101's ``trainlist01.txt``, or of ``testlist01.txt``, which has no numbers.

    The class is the name of the file's folder. A number, counted from 1, has to be the same in all
    lines of a class.

    Args:
        file: the list.

    Raises:
        UserError: with file and line.
    """
    # the first line of each number and of each name
    names: dict[str, tuple[str, str]] = {}
    numbers: dict[str, tuple[str, str]] = {}
    for where, line in file.lines():
        fields = _ucf101_fields(line)
        if fields is None:
            raise file.wrong(where, line)
        path, name, number = fields
        if number is not None:
            for seen, key, value in ((names, number, name), (numbers, name, number)):
                known, place = seen.setdefault(key, (value, where))
                if known != value:
                    raise UserError(
                        where,
                        f"one number for each class, and {key} with {known}, as in {place}",
                        f"{name} {number}",
                        "Correct the line.",
                    )
        listed = None if number is None else int(number)
        yield file.entry(path, file.number(name, where, path, listed), where)


def counts_otherwise(lines: Iterable[str]) -> bool:
    """Whether lines of UCF101's paths have numbers of their own, and not those of the classes.

    mmaction2's lists count from 0, and a user may have given one number to several classes.

    Args:
        lines: all lines of a list.
    """
    numbers: dict[str, set[str]] = {}
    for path_and_number in lines:
        fields = None if path_and_number.startswith("#") else _ucf101_fields(path_and_number)
        if fields is None:
            continue
        _, name, number = fields
        if number is not None and int(number) == 0:
            return True
        if number is not None:
            numbers.setdefault(name, set()).add(number)

    if any(len(found) > 1 for found in numbers.values()):  # a line is wrong
        return False
    return len(set().union(*numbers.values())) < len(numbers)


def _ucf101_fields(line: str) -> tuple[str, str, str | None] | None:
    """Path, class and number of a line."""
    path, number = line, None
    match = _UCF101_FILE.fullmatch(path)
    if not match:
        path, _, number = line.rpartition(" ")
        path = path.rstrip()
        match = _UCF101_FILE.fullmatch(path) if is_whole(number) else None
    return (path, match[1], number) if match else None


def fits_hmdb51(line: str) -> bool:
    """Whether a line is a file name with 0, 1 or 2."""
    return _hmdb51_fields(line) is not None


def read_hmdb51(file: ListFile) -> Iterator[Entry]:
    """The entries of one class of a split of HMDB51: ``brush_hair_test_split1.txt``.

    The class is in the list's name. Files with 1 are for training, those with 2 for the test, and
    those with 0 for neither.

    Args:
        file: the list.

    Raises:
        UserError: with file and line.
    """
    match = _HMDB51_LIST.fullmatch(file.path.stem)
    if not match:
        raise UserError(
            str(file.path),
            "a list of hmdb51, named such as brush_hair_test_split1.txt",
            file.path.name,
            "Name its `format:`, or give it the name that it was downloaded with.",
        )
    name = match[1]

    for where, line in file.lines(is_item=fits_hmdb51):
        fields = _hmdb51_fields(line)
        if fields is None:
            raise file.wrong(where, line)
        video, part = fields
        if part == file.split:
            path = file.fill_pattern("{label}/{id}", label=name, id=video)
            yield file.entry(path, file.number(name, where, path), where)


def is_hmdb51_name(stem: str) -> bool:
    """Whether a list is named like those of HMDB51, without the ending."""
    return _HMDB51_LIST.fullmatch(stem) is not None


def _hmdb51_fields(line: str) -> tuple[str, str] | None:
    """The file and the part of a line."""
    video, _, number = line.rpartition(" ")
    video = video.rstrip()
    part = _HMDB51_PARTS.get(number)
    return (video, part) if video and "/" not in video and part else None


def read_something_json(file: ListFile) -> Iterator[Entry]:
    """The entries of Something-Something V2's ``train.json`` or ``validation.json``.

    The class is the template without the brackets around what the annotator filled in.

    Args:
        file: the list.

    Raises:
        UserError: with file and line; the test set, whose objects have no template, has no classes.
    """
    for where, item in file.objects():
        values = item if isinstance(item, dict) else {}
        video = label_text(values.get("id"))
        template = label_text(values.get("template"))
        if not video or not template:
            raise file.wrong_object(where, item)
        name = " ".join(template.replace("[", "").replace("]", "").split())
        path = file.fill_pattern("{id}.webm", id=video, label=name)
        yield file.entry(path, file.number(name, where, path), where)


def fits_something_csv(line: str) -> bool:
    """Whether a line is an id and a class behind a semicolon."""
    video, mark, name = line.partition(";")
    return is_whole(video) and bool(mark and name) and ";" not in name


def read_something_csv(file: ListFile) -> Iterator[Entry]:
    """The entries of Something-Something V1's ``something-something-v1-train.csv``: ``id;class``.

    Args:
        file: the list.

    Raises:
        UserError: with file and line.
    """
    default = "{id}" if file.source.media_kind.is_folder else "{id}.webm"
    for where, line in file.lines():
        if not fits_something_csv(line):
            raise file.wrong(where, line)
        video, _, name = line.partition(";")
        path = file.fill_pattern(default, id=video, label=name.strip())
        yield file.entry(path, file.number(name.strip(), where, path), where)
