"""One mapping of labels for all sources: from where lists count, and what cannot be mapped."""

import dataclasses
import io
import tarfile

import pytest

from helpers.small_builds import write
from omnidali.catalog.listing.folders import scan_folder
from omnidali.catalog.listing.labels import Labels
from omnidali.catalog.listing.left_out import LeftOut
from omnidali.catalog.listing.scan import SourceScan
from omnidali.config.schema import Config, EvaluationConfig
from omnidali.config.sources import MediaConfig, SourceConfig
from omnidali.errors import UserError
from omnidali.loading.class_names import class_names_from, find_names
from omnidali.loading.data import open_data
from omnidali.media_kind import MediaKind
from omnidali.testing.numbered_media import write_image

NAMES = ["ant", "bee", "cat"]
CLASS_FILES = {
    "names": "ant\nbee\ncat\n",
    "from 0": "0 ant\n1 bee\n2 cat\n",
    "from 1": "1 ant\n2 bee\n3 cat\n",
}
WORDS = "".join(f"{name}.jpg {name}\n" for name in NAMES)


def numbers(*labels):
    return "".join(f"{place}.jpg {label}\n" for place, label in enumerate(labels))


def config_of(folder, target, held_out=None, classes=None, **others):
    """A config of sources of images below ``folder``; each is the text of a list, or settings."""
    root = folder / "images"
    root.mkdir(exist_ok=True)

    def source(name, given, make=SourceConfig):
        if isinstance(given, str):
            write(folder / f"{name}.txt", given)
            given = {"root": "images", "list": f"{name}.txt"}
        return make(**{"kind": "image", **given})

    if classes is not None:
        write(folder / "classes.txt", CLASS_FILES.get(classes, classes))
    training = {"target": target, **others}
    return Config(
        data_root=str(folder),
        run_dir=str(folder / "run"),
        classes=None if classes is None else "classes.txt",
        sources={name: source(name, given) for name, given in training.items()},
        evaluation=EvaluationConfig(
            source=None if held_out is None else source("held_out", held_out, MediaConfig)
        ),
    )


def labels_of(config):
    """The labels of each source, in the order of its list."""
    names = find_names(config)
    sources = {**config.sources, "evaluation": config.evaluation.source}
    found = {}
    for name, source in sources.items():
        if source is not None:
            scan = SourceScan.of(name, source, config.data_root, names)
            found[name] = [row[1] for row in scan.read(LeftOut())[1]]
    return found


def folders(folder, name, *classes):
    for number, label in enumerate(classes):
        write_image(folder / name / label / "1.jpg", number, 40, 30)
    return {"root": name}


@pytest.mark.parametrize(
    "classes, target, held_out, first",
    [
        ("names", (0, 1, 2), (1, 2), 0),
        ("from 0", (0, 1, 2), (1, 2), 0),
        ("from 1", (1, 2, 3), (2, 3), 1),
        ("from 1", (1, 2), (3,), 1),
        ("from 1", (0, 1, 2), (1, 2), 0),
        ("from 1", (1, 2), (0, 1, 2), 0),
    ],
)
def test_all_lists_count_from_the_same_number(tmp_path, classes, target, held_out, first):
    config = config_of(tmp_path, numbers(*target), numbers(*held_out), classes=classes, words=WORDS)
    names = find_names(config)
    assert names == NAMES and names.first == first
    assert labels_of(config) == {
        "target": [label - first for label in target],
        "words": [0, 1, 2],
        "evaluation": [label - first for label in held_out],
    }
    if classes == "from 1":
        assert f"labels count from {first}, as in " in names.note and "classes.txt" in names.note
        assert names.note.count("line 1") == (first == 0)
    else:
        assert not names.note


def test_label_maps_count_as_the_lists_do(tmp_path):
    write(tmp_path / "map.txt", "ant 1\nbee 2\ncat 3\n")
    mapped = {"root": "images", "list": "words.txt", "labels": "map.txt"}
    write(tmp_path / "words.txt", WORDS)
    config = config_of(tmp_path, numbers(1, 2), classes="from 1", mapped=mapped)
    assert labels_of(config) == {"target": [0, 1], "mapped": [0, 1, 2]}
    write(tmp_path / "map.txt", "ant 0\nbee 1\ncat 2\n")
    with pytest.raises(UserError, match="target.txt, line 2: expected a label below 3"):
        labels_of(config_of(tmp_path, numbers(1, 3), classes="from 1", mapped=mapped))


def test_tars_count_as_the_lists_do(tmp_path):
    (tmp_path / "shards").mkdir()
    for first in (1, 0):
        with tarfile.open(tmp_path / "shards/0.tar", "w") as tar:
            for number, name in enumerate(NAMES, first):
                for ending, data in ((".jpg", b"x"), (".cls", str(number).encode())):
                    member = tarfile.TarInfo(f"{name}{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        shards = {"root": "shards", "tars": "*.tar"}
        config = config_of(tmp_path, numbers(1, 2), classes="from 1", shards=shards)
        assert labels_of(config) == {"target": [1 - first, 2 - first], "shards": [0, 1, 2]}


@pytest.mark.parametrize("label", [0, 4])
def test_label_outside_of_the_class_file_is_an_error_at_its_line(tmp_path, label):
    config = config_of(tmp_path, numbers(1, 2, 3), classes="from 1")
    names = find_names(config)
    write(tmp_path / "target.txt", numbers(1, label))
    scan = SourceScan.of("target", config.sources["target"], tmp_path, names)
    with pytest.raises(UserError, match="target.txt, line 2: expected a label from 1 to 3, as in"):
        list(scan.read(LeftOut())[1])


def test_new_base_reads_every_list_again(tmp_path):
    """The target's list is the same, and its labels are not, as another list changed."""
    for number in range(3):
        write_image(tmp_path / f"images/{number}.jpg", number, 40, 30)
    for held_out, labels in ((numbers(2, 3), [0, 1]), (numbers(2, 0), [1, 2])):
        data = open_data(config_of(tmp_path, numbers(1, 2), held_out, classes="from 1"))
        assert data.tables[0].labels.tolist() == labels
        assert data.first_label == (labels[0] == 0)
        assert data.summary[0].startswith("labels count from ")


# a target and another source, and the error where nothing says how their labels belong together
APART = {
    "numbers, folders": (numbers(0, 1), "folders", r"classes: .* is class folders and sources.t"),
    "folders, numbers": ("folders", numbers(0, 1), r"r.txt, line 1: .* the folders of sources.t"),
    "numbers, words": (numbers(0, 1), WORDS, r"r.txt, line 1: expected a class number of 0 or"),
    "words, numbers": (WORDS, numbers(0, 1), r"r.txt, line 1: .* words in the list of sources.t"),
}


@pytest.mark.parametrize("case", APART)
@pytest.mark.parametrize("place", ["evaluation", "training"])
def test_numbers_and_words_need_a_file_of_class_names(tmp_path, case, place):
    *pair, message = APART[case]
    target, other = (
        folders(tmp_path, "folders", *NAMES) if given == "folders" else given for given in pair
    )
    if isinstance(other, str):
        write(tmp_path / "other.txt", other)
        other = {"root": "images", "list": "other.txt"}
    sources = {"held_out" if place == "evaluation" else "other": other}
    config = config_of(tmp_path, target, **sources)
    with pytest.raises(UserError, match=message):
        open_data(config)
    assert not (tmp_path / "run").exists()  # nothing was probed

    write(tmp_path / "classes.txt", CLASS_FILES["names"])
    found = labels_of(dataclasses.replace(config, classes="classes.txt"))
    assert all(labels[:2] == [0, 1] for labels in found.values())


def test_checkpoints_names_do_not_say_what_numbers_mean(tmp_path):
    for number in range(3):
        write_image(tmp_path / f"images/{number}.jpg", number, 40, 30)
    config = config_of(tmp_path, numbers(0, 1), numbers(0, 2))
    with pytest.raises(UserError, match="held_out.txt, line 1: .* are those of the checkpoint"):
        open_data(config, training=False, classes=NAMES)
    data = open_data(config, training=False, classes=["0", "1", "2"])
    assert data.evaluation.labels.tolist() == [0, 2]


KINETICS = "label,youtube_id,time_start,time_end,split\n"
UCF101 = "Archery/v_Archery_g01_c01.avi{}\nYoYo/v_YoYo_g01_c01.avi{}\n"
PARTS = '[{{"id": "1", "template": "B [something]"}}, {{"id": "2", "template": "A {}"}}]'
# a training list, one for evaluation, and files of class names that fit both
TOGETHER = {
    "UCF101": (
        ("train.txt", UCF101.format(" 1", " 2")),
        ("test.txt", UCF101.format("", "")),
        [None, "1 Archery\n2 YoYo\n", "Archery\nYoYo\n"],
    ),
    "HMDB51": (
        ("a_test_split1.txt", "#x.avi 1 \ny.avi 2 \n"),
        ("a_test_split1.txt", "#x.avi 1 \ny.avi 2 \n"),
        [None, "a\n"],
    ),
    "Something-Something": (
        ("train.json", PARTS.format("[number of]")),
        ("val.json", PARTS.format("[number of]")),
        ['{"B something": "0", "A number of": "1"}', "B something\nA number of\n"],
    ),
    "Kinetics": (
        ("train.csv", KINETICS + "zoo,x,0,10,train\nriding a bike,y,0,10,train\n"),
        ("val.csv", "x, 300, 0\ny, 300, 1\n"),
        ['{"\\"riding a bike\\"": 1, "zoo": 0}', "id,name\n0,zoo\n1,riding a bike\n"],
    ),
    "PySlowFast": (
        ("train.csv", "/data/a b.mp4 0\n/data/c.mp4 1\n"),
        ("val.csv", "/data/a b.mp4,0\n/data/c.mp4,1\n"),
        [None, '{"\\"riding a bike\\"": 1, "zoo": 0}', "zoo 0\nriding a bike 1\n"],
    ),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_lists_of_a_data_set_train_and_evaluate_together(tmp_path, name):
    *lists, class_files = TOGETHER[name]
    for file, text in lists:
        write(tmp_path / file, text)
    target, held_out = ({"kind": "video", "root": "images", "list": file} for file, _ in lists)
    for classes in class_files:
        expected = [0] if name == "HMDB51" else [0, 1]
        config = config_of(tmp_path, target, held_out, classes=classes)
        assert labels_of(config) == {"target": expected, "evaluation": expected}


def test_folders_named_by_their_numbers_fit_numbered_lists(tmp_path):
    target = folders(tmp_path, "folders", "000", "001", "002")
    config = config_of(tmp_path, target, numbers(2, 0))
    assert find_names(config) == ["000", "001", "002"]
    assert labels_of(config)["evaluation"] == [2, 0]
    # sorted as text, 10 comes before 2: a list's 10 is the folder 10, and a 1 is none
    names = class_names_from(["0", "10", "2"], "the folders of sources.target")
    path = write(tmp_path / "l.txt", numbers(10, 2))
    source = MediaConfig(kind="image", root="images", list=str(path))
    rows = SourceScan.of("s", source, tmp_path, names).read(LeftOut())[1]
    assert [row[1] for row in rows] == [1, 2]


def test_numbers_that_a_class_file_names_classes_by_are_names_everywhere(tmp_path):
    """As ``LC_ALL=C ls ROOT`` writes them: a folder 10 and a 10 in a list are one class."""
    target = folders(tmp_path, "folders", "1", "10", "2")
    config = config_of(tmp_path, target, numbers(10, 2, 1), classes="1\n10\n2\n")
    names = find_names(config)
    assert (
        names.note
        == "numbers in lists are names of classes, as classes.txt names classes by numbers"
    )
    assert labels_of(config) == {"target": [0, 1, 2], "evaluation": [1, 2, 0]}
    config = config_of(tmp_path, target, numbers(10, 0), classes="1\n10\n2\n")
    with pytest.raises(UserError, match="held_out.txt, line 2: expected one of 3 class names, wh"):
        labels_of(config)


def test_label_map_that_contradicts_the_class_file_is_refused_before_files_are_probed(tmp_path):
    write(tmp_path / "map.txt", "2 ant\n1 bee\n")
    write(tmp_path / "words.txt", WORDS)
    for files in ({"list": "words.txt"}, {"tars": "*.tar"}):
        write(tmp_path / "images/a.tar", "")
        target = {"root": "images", "labels": "map.txt", **files}
        config = config_of(tmp_path, target, classes="names")
        with pytest.raises(UserError, match="map.txt, line 1: expected 0, the number of 'ant' in"):
            open_data(config)
        assert not (tmp_path / "run").exists()


def test_list_that_looks_like_ucf101s_is_pointed_to_its_format(tmp_path):
    for name, text in (("train", "A/v_A_g01_c01.avi 0\n"), ("val", "B/v_B_g01_c01.avi 1\n")):
        write(tmp_path / f"{name}.txt", text)
    sources = [
        {"kind": "video", "root": "images", "list": f"{name}.txt"} for name in ("train", "val")
    ]
    with pytest.raises(
        UserError, match="val.txt, line 1: .* `format: path_label` if its numbers are"
    ):
        labels_of(config_of(tmp_path, *sources))
    sources[1]["format"] = "path_label"
    assert labels_of(config_of(tmp_path, *sources)) == {"target": [0], "evaluation": [1]}


@pytest.mark.parametrize("folder", ["eating cake", "eating_cake", "caf\u00e9", "cafe\u0301"])
def test_folders_and_words_that_look_like_a_class_are_that_class(tmp_path, folder):
    names = ["archery", "eating cake", "caf\u00e9"]
    expected = 1 if "cake" in folder else 2
    write_image(tmp_path / folder / "1.jpg", 1, 40, 30)
    entries, _ = scan_folder(tmp_path, MediaKind.IMAGE, names, LeftOut())
    assert [label for _, label in entries] == [expected]
    assert Labels(names).number(folder, "l.txt, line 1", "1.jpg") == expected


def test_classes_that_differ_by_underscores_alone_are_two(tmp_path):
    labels = Labels(["a b", "a_b"])
    assert [labels.number(name, "l.txt, line 1", "1.jpg") for name in ("a b", "a_b")] == [0, 1]
