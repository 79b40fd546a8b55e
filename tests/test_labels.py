"""Classes: files of names, label maps, and the labels of lists."""

import json

import pytest

from helpers.list_files import names_in, read_file, read_text
from helpers.small_builds import write
from omnidali.catalog.listing.class_files import ClassNames, read_class_names, read_label_map
from omnidali.catalog.listing.labels import Labels, label_text
from omnidali.catalog.listing.list_file import Entry
from omnidali.errors import UserError


def test_class_names_are_read_one_a_line(tmp_path):
    assert read_class_names(write(tmp_path / "c.txt", "a b\nc\n\n")) == ["a b", "c"]
    for text in ("", "a\na\n", "a\n\nb\n"):
        with pytest.raises(UserError):
            read_class_names(write(tmp_path / "c.txt", text))


def test_huge_labels_are_reported(tmp_path):
    for text in ("2000000000", "9" * 5000):
        with pytest.raises(UserError, match="a label of at most 1,000,000"):
            read_file(write(tmp_path / "l.txt", f"a.mp4 {text}\n"))


KINETICS = "label,youtube_id,time_start,time_end,split\n"


def test_labels_of_lists_may_be_class_names(tmp_path):
    names = ["riding a bike", "tennis"]
    assert read_text(tmp_path, "a.mp4 tennis\nb.mp4 0\n", names)[1] == [
        Entry("a.mp4", 1),
        Entry("b.mp4", 0),
    ]
    assert read_text(tmp_path, "a b.mp4\triding a bike\n", names)[1] == [Entry("a b.mp4", 0)]
    assert read_text(tmp_path, KINETICS + "riding a bike,x,0,10,train\n", names)[1][0].label == 0
    assert (
        read_text(
            tmp_path,
            '[{"video_dir": "a", "label": "tennis", "num_clips": 1, "positive_clip_inds": [0]}]',
            names,
            kind="untrimmed",
        )[1][0].label
        == 1
    )
    with pytest.raises(UserError, match="or one of 2 class names, got 'chess'"):
        read_text(tmp_path, "a.mp4 chess\n", names)
    path = write(tmp_path / "k.csv", KINETICS + "zoo,a,0,10,train\nant,b,0,10,train\n")
    assert names_in(path) == ["ant", "zoo"]
    assert names_in(write(tmp_path / "l.txt", "a.mp4 3\n")) is None


@pytest.mark.parametrize(
    "text, mapping",
    [
        ('{"archery": 0, "bowling": "3"}', {"archery": 0, "bowling": 3}),
        ('["archery", "bowling"]', {"archery": 0, "bowling": 1}),
        ("archery\nbowling a ball\n", {"archery": 0, "bowling a ball": 1}),
        ("archery 4\nbowling a ball 2\n", {"archery": 4, "bowling a ball": 2}),
        ("id,name\n0,archery\n1,bowling\n", {"archery": 0, "bowling": 1}),
        ("12 0\n17 1\n", {"12": 0, "17": 1}),
    ],
)
def test_label_map_formats_are_read(tmp_path, text, mapping):
    assert read_label_map(write(tmp_path / "map", text)) == mapping


def test_label_map_gives_the_labels_of_a_list(tmp_path):
    assert read_text(tmp_path, "a.mp4 12\n", mapping={"12": 3})[1] == [Entry("a.mp4", 3)]
    # lists without labels: some users have the release's k200 lists in this form
    assert read_text(tmp_path, "x/a.mp4\nb.mp4\n", mapping={"a": 3, "b.mp4": 4})[1] == [
        Entry("x/a.mp4", 3),
        Entry("b.mp4", 4),
    ]
    with pytest.raises(
        UserError,
        match=r"list.txt, line 2: expected a class that the label map .*map.json holds, got '13'",
    ):
        read_text(tmp_path, "a.mp4 12\nb.mp4 13\n", mapping={"12": 3})
    for text, message in (
        ('{"a": -1}', "a class number"),
        ("{", "JSON"),
        ("", "an empty file"),
        ('{"a": [1]}', "a class number"),
        ("a 1\na 2\n", "every key once"),
    ):
        with pytest.raises(UserError, match=message):
            read_label_map(write(tmp_path / "map", text))


NUMBERED = [("a b", 0), ("Ünder", 1), ("c, d", 2)]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    "form",
    [
        *("{n} {name}", "{n},{name}", "{n}\t{name}", "{n};{name}"),
        *("{n}. {name}", "{n}.{name}", "{n}: {name}", "{n}:{name}", "{n}) {name}", "{n} : {name}"),
        *("{name} {n}", "{name},{n}", "{name};{n}", "{name}: {n}"),
        *('{n},"{name}"', '{n}; "{name}"', '"{name}",{n}'),
    ],
)
@pytest.mark.parametrize("frame", ["{}", "\ufeff{}", "{}\n\n", "id,name\n{}"])
def test_numbers_beside_class_names_give_the_order_and_go(tmp_path, first, form, frame):
    for order in ((0, 1, 2), (2, 0, 1)):
        rows = [NUMBERED[place] for place in order]
        lines = [form.format(name=name, n=number + first) for name, number in rows]
        for end in ("\n", " \r\n"):
            path = tmp_path / "c.txt"
            path.write_bytes(frame.format(end.join(lines)).encode())
            names = read_class_names(path)
            assert names == ["a b", "Ünder", "c, d"] and names.counted_from == first
            assert read_label_map(path) == {name: number + first for name, number in NUMBERED}


@pytest.mark.parametrize(
    "text, names",
    [
        ("take 1\ntake 2\n", ["take 1", "take 2"]),
        ("10 km run\n5 km walk\nmarathon\n", ["10 km run", "5 km walk", "marathon"]),
        ("1.5 km\n2.5 km\n0.5 km\n", ["1.5 km", "2.5 km", "0.5 km"]),
        ("2 pointer\n3 pointer\n", ["2 pointer", "3 pointer"]),
        ('0,"a ""b"", c"\n1,"d" or "e"\n', ['a "b", c', '"d" or "e"']),
        ("0\n2\n1\n", ["0", "2", "1"]),
        ("#run\nid,name\n", ["#run", "id,name"]),
        ('["a", " b"]', ["a", " b"]),
        ('{"b": 1, "a": "0"}', ["a", "b"]),
        ('{"1": "b", "0": "a"}', ["a", "b"]),
        ('{"\\"riding a bike\\"": 0, "abseiling": 1}', ["riding a bike", "abseiling"]),
    ],
)
def test_class_names_are_read_from_usual_files(tmp_path, text, names):
    assert read_class_names(write(tmp_path / "c.txt", text)) == names


@pytest.mark.parametrize(
    "text, message",
    [
        ("1 a\n2 b\n4 c\n", "line 3: expected the number 3 after 2, got 4 for 'c'"),
        ("1 a\n2 b\n2 c\n", "line 3: expected the number 3 after 2, got 2 for 'c'"),
        ("2 a\n3 b\n", "line 1: expected class numbers from 0 or 1, got 2 for 'a'"),
        ("1 a\n2 b\nc\n", "line 3: expected a class and its number, as in other lines, got 'c'"),
        ("a\n1 b\n2 c\n", "line 1: expected a class and its number, as in other lines, got 'a'"),
        (
            "caf\u00e9\nx\ncafe\u0301\n",
            "line 3: expected a class name of its own, got 'cafe\u0301'",
        ),
        ("a\nb\na\n", "c.txt, line 1 names, too"),
        ("a\n\nb\n", "line 2: expected a class name of its own, got none"),
        ('{"a": 0, "b": 2}', "expected the number 1 after 0, got 2 for 'b'"),
        ('{"a": true}', "expected a class number from 0 to 1,000,000, got 'a: True'"),
        ("1 a\n2 a\n3 b\n", "line 2: expected a class name of its own, got 'a', which"),
        ("2) b\n0) a\n1) a\n", "line 3: expected a class name of its own, got 'a', which"),
        ("id,name\n0,a\n1,a\n", "line 3: expected a class name of its own, got 'a', which"),
        ("name,id\na,0\na,1\n", "line 3: expected a class name of its own, got 'a', which"),
        ('["a", "a"]', "expected a class name of its own, got 'a', which"),
        ('[{"id": 1, "name": "a"}]', "or a class name at each place of the JSON, got {'id': 1"),
        ('{"a": {"id": 0}}', "or a class name at each place of the JSON, got {'id': 0}"),
        ('{"0": {"name": "a"}}', "or a class name at each place of the JSON, got {'name': 'a'}"),
        ('["a", null]', "or a class name at each place of the JSON, got None"),
    ],
)
def test_wrong_files_of_class_names_are_refused_with_their_line(tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        read_class_names(write(tmp_path / "c.txt", text))
    assert message in str(caught.value) and "c.txt" in str(caught.value)


def test_odd_line_of_a_label_map_is_named(tmp_path):
    path = write(tmp_path / "map", "a 0\nb 1\nodd\nc 2\n")
    with pytest.raises(UserError, match="map, line 3: expected a class and its number"):
        read_label_map(path)


def test_unicode_forms_of_a_name_are_one(tmp_path):
    composed, split = "caf\u00e9", "cafe\u0301"
    for known, listed in ((composed, split), (split, composed)):
        names = read_class_names(write(tmp_path / "c.txt", f"x\n{known}\n"))
        assert read_text(tmp_path, f"a.mp4 {listed}\n", names)[1] == [Entry("a.mp4", 1)]
        assert read_text(tmp_path, f"a.mp4 {listed}\n", mapping={known: 2})[1][0].label == 2
    path = write(tmp_path / "l.txt", f"a.mp4 {composed}\nb.mp4 {split}\n")
    assert names_in(path) == [composed]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("mapping", [None, {"x": 1, "y": 2, "z": 3}])
def test_lists_count_from_where_their_class_names_do(tmp_path, first, mapping):
    names = ClassNames(["a", "b", "c"], first=first, counted_from=first)
    labels = ["1", "2", "3"] if mapping is None else list(mapping)
    for label, text in enumerate(labels, 1 - first):
        if label < 3:
            assert read_text(tmp_path, f"a.mp4 {text}\n", names, mapping)[1][0].label == label
    wrong = {0: labels[2], 1: "0" if mapping is None else "none"}[first]
    with pytest.raises(UserError, match="list.txt, line 2: expected a"):
        read_text(tmp_path, f"a.mp4 {labels[0]}\nb.mp4 {wrong}\n", names, mapping)


def test_numbers_mean_nothing_beside_names_of_folders(tmp_path):
    names = ClassNames(["10", "2", "ant"], origin="the folders of sources.t")
    with pytest.raises(UserError, match=r"line 1: expected a class name, as the classes are the f"):
        read_text(tmp_path, "a.mp4 1\n", names)
    with pytest.raises(UserError, match=r"line 1: expected one of 3 class names, which are the fo"):
        read_text(tmp_path, "a.mp4 bee\n", names)
    assert read_text(tmp_path, "a.mp4 2\n", names)[1] == [Entry("a.mp4", 1)]  # a folder's name


@pytest.mark.parametrize(
    "value, text",
    [
        (1, "1"),
        (1.0, "1"),
        (0.0, "0"),
        ("archery", "archery"),
        ("1", "1"),
        (1.5, None),
        (True, None),
        (None, None),
        ([1], None),
        ("two\nlines", None),
        (1e300, None),
        (float("inf"), None),
        (float("nan"), None),
    ],
)
def test_json_says_a_label_as_a_list_does(tmp_path, value, text):
    assert label_text(value) == text
    item = {"video_dir": "a", "label": value, "num_clips": 1, "positive_clip_inds": [0]}
    path = write(tmp_path / "l.json", json.dumps([item]))
    if text == "1":
        assert read_file(path, kind="untrimmed")[0].label == 1
    elif text is None:
        with pytest.raises(UserError, match="l.json"):
            read_file(path, kind="untrimmed")


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("known_first", [None, 0, 1])
def test_label_map_of_class_names_gives_their_labels(tmp_path, first, known_first):
    """From 0 or from 1, whatever the file of class names has beside them."""
    names = ClassNames(["a", "b c", "d"], first=known_first or 0, counted_from=known_first)
    mapping = {"b_c": 1 + first, "d": 2 + first, "alias": first}
    for text, label in (("b_c", 1), ("d", 2), ("alias", 0)):
        assert read_text(tmp_path, f"x.mp4 {text}\n", names, mapping)[1] == [Entry("x.mp4", label)]


@pytest.mark.parametrize(
    "mapping, message",
    [
        ({"a": 0, "b": 2}, "expected 1, the number of 'b' in the file of class names, got 2"),
        ({"b": 2, "a": 0}, "expected 1, the number of 'b' in the file of class names, got 2"),
        (
            {"a": 1, "b": 2, "c": 1},
            "expected 3, the number of 'c' in the file of class names, got 1",
        ),
        ({"b": 0, "a": 1}, "expected 1, the number of 'b' in the file of class names, got 0"),
        ({"a": 2, "b": 3}, "expected 0, the number of 'a' in the file of class names, got 2"),
        ({"a": 1, "x": 0}, "expected 0, the number of 'a' in the file of class names, got 1"),
    ],
)
def test_label_map_that_contradicts_the_class_names_is_refused(tmp_path, mapping, message):
    for text in (json.dumps(mapping), "".join(f"{key} {mapping[key]}\n" for key in mapping)):
        path = write(tmp_path / "map", text)
        with pytest.raises(UserError, match=f"{path}.*: {message}"):
            Labels(["a", "b", "c"], path)


def test_label_map_of_numbers_or_videos_has_its_own_numbers(tmp_path):
    names = ClassNames(["0", "1", "2"])  # of a checkpoint without names
    assert read_text(tmp_path, "a.mp4 2\n", names, {"2": 1, "1": 0})[1] == [Entry("a.mp4", 1)]
    assert read_text(tmp_path, "x/a.mp4\n", ["u", "v"], {"a": 1})[1] == [Entry("x/a.mp4", 1)]


@pytest.mark.parametrize("number", ["", " 7"])
@pytest.mark.parametrize("key", ["YoYo", "7", "YoYo/v_YoYo_g01_c01.avi", "v_YoYo_g01_c01"])
def test_label_map_knows_ucf101s_files_by_class_number_or_path(tmp_path, key, number):
    line = f"YoYo/v_YoYo_g01_c01.avi{number}\n"
    if key == "7" and not number:
        with pytest.raises(UserError, match="line 1: expected a class that .* holds, got 'YoYo'"):
            read_text(tmp_path, line, mapping={key: 3})
    else:
        form, entries = read_text(tmp_path, line, mapping={key: 3, "v_YoYo_g01_c01.avi": 3})
        assert form == "ucf101" and entries[0].label == 3


def test_path_does_not_stand_in_for_a_label_that_the_map_lacks(tmp_path):
    for text in ("13", "chess"):
        with pytest.raises(UserError, match=f"line 1: expected a class that .* got '{text}'"):
            read_text(tmp_path, f"x/12.mp4 {text}\n", mapping={"12": 3})


@pytest.mark.parametrize(
    "names", [["1", "2", "3"], ["1", "10", "2"], ["2", "0", "1"], ["01", "02"]]
)
def test_number_is_the_class_that_a_file_of_numbers_names(tmp_path, names):
    known = read_class_names(write(tmp_path / "c.txt", "\n".join(names)))
    assert known == names and known.are_numbers
    lines = "".join(f"{name}.mp4 {name}\n" for name in names)
    assert [entry.label for entry in read_text(tmp_path, lines, known)[1]] == [*range(len(names))]
    with pytest.raises(UserError, match="line 2: expected one of . class names, which are numbers"):
        read_text(tmp_path, f"a.mp4 {names[0]}\nb.mp4 7\n", known)
    # a label map gives names, too
    if "01" not in names:
        assert read_text(tmp_path, "a.mp4 x\n", known, {"x": int(names[1])})[1][0].label == 1


@pytest.mark.parametrize("text", ["0\n1\n2\n", "00\n01\n", "0 1\n1 2\n", '{"1": 0, "2": 1}'])
def test_number_is_a_label_where_numbers_are_in_order_or_beside_names(tmp_path, text):
    known = read_class_names(write(tmp_path / "c.txt", text))
    assert not known.are_numbers
    assert [entry.label for entry in read_text(tmp_path, "a.mp4 1\n", known)[1]] == [1]
