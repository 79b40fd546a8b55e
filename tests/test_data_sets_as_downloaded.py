"""Data sets in the layouts in which people download them: read as they are, with equal labels."""

import json

import pytest

from helpers.data_sets import add_frames, add_media, add_text, open_folder
from omnidali.errors import UserError

ARCHERY = [f"Archery/v_Archery_g0{group}_c01.avi" for group in (1, 8)]
# folder and files differ in a capital letter
HANDSTAND = [f"HandstandPushups/v_HandStandPushups_g0{group}_c01.avi" for group in (1, 8)]
ZUMBA = [f"YoYo/v_YoYo_g0{group}_c01.avi" for group in (1, 8)]


@pytest.mark.parametrize("classes", ["", "classes: ucfTrainTestlist/classInd.txt"])
def test_ucf101(tmp_path, classes):
    add_media(tmp_path / "UCF-101", *ARCHERY, *HANDSTAND, *ZUMBA)
    lists = tmp_path / "ucfTrainTestlist"
    add_text(lists, "classInd.txt", "1 Archery\n2 HandstandPushups\n3 YoYo\n", ending="\r\n")
    train = f"{ARCHERY[1]} 1\n{HANDSTAND[1]} 2\n{ZUMBA[1]} 3\n"
    add_text(lists, "trainlist01.txt", train, ending="\r\n")
    add_text(lists, "testlist01.txt", f"{ZUMBA[0]}\n{ARCHERY[0]}\n{HANDSTAND[0]}\n", ending="\r\n")

    found = open_folder(
        tmp_path,
        f"{classes}\nsources:\n  ucf:"
        " {kind: video, root: UCF-101, list: ucfTrainTestlist/trainlist01.txt}\nevaluation:\n"
        "  source: {kind: video, root: UCF-101, list: ucfTrainTestlist/testlist01.txt}",
    )
    names = ["Archery", "HandstandPushups", "YoYo"]
    assert found.classes == names and set(found.forms.values()) == {"ucf101"}
    assert found.samples["ucf"] == dict(
        zip((ARCHERY[1], HANDSTAND[1], ZUMBA[1]), names, strict=True)
    )
    assert found.samples["evaluation"] == dict(
        zip((ARCHERY[0], HANDSTAND[0], ZUMBA[0]), names, strict=True)
    )
    assert not found.left_out
    assert ("labels count from 1, as in classInd.txt" in found.lines) == bool(classes)


def test_ucf101_in_class_folders_beside_its_test_list(tmp_path):
    add_media(tmp_path / "UCF-101", *ARCHERY, *ZUMBA)
    add_text(tmp_path, "testlist01.txt", f"{ZUMBA[0]}\n{ARCHERY[0]}\n")
    found = open_folder(
        tmp_path,
        "sources: {ucf: {kind: video, root: UCF-101}}\n"
        "evaluation: {source: {kind: video, root: UCF-101, list: testlist01.txt}}",
    )
    assert found.samples["evaluation"] == {ARCHERY[0]: "Archery", ZUMBA[0]: "YoYo"}
    assert len(found.samples["ucf"]) == 4


def test_ucf101_whose_root_is_a_folder_too_high(tmp_path):
    """What is missing is where the message says."""
    add_media(tmp_path / "UCF-101", *ARCHERY, *ZUMBA)
    add_text(tmp_path, "trainlist01.txt", f"{ARCHERY[1]} 1\n{ZUMBA[1]} 3\n")
    config = "sources: {ucf: {kind: video, root: ROOT, list: trainlist01.txt}}"
    with pytest.raises(UserError, match=r"below the folder UCF-101 of root: name that as root"):
        open_folder(tmp_path, config.replace("ROOT", "."))
    assert len(open_folder(tmp_path, config.replace("ROOT", "UCF-101")).samples["ucf"]) == 2


def test_hmdb51(tmp_path):
    """Files that begin with #, lines that end in a space, 0 for unused ones."""
    files = {
        "brush_hair": {
            "April_09_brush_hair_u_nm_np1_ba_goo_0.avi": 1,
            "#20060723sfjffbrushing_brush_hair_f_cm_np1_ri_goo_0.avi": 2,
            "Blonde_being_brushed_brush_hair_f_nm_np2_ri_med_0.avi": 0,
        },
        "wave": {
            "#122_-_Wave_(Hello)_wave_u_cm_np1_fr_med_1.avi": 1,
            "20060723sfjffwave_wave_f_cm_np1_ba_med_2.avi": 2,
        },
    }
    for name, rows in files.items():
        add_media(tmp_path / "hmdb51_org" / name, *rows)
        for split in (1, 2):
            lines = "".join(f"{file} {part} \n" for file, part in rows.items())
            add_text(tmp_path / "splits", f"{name}_test_split{split}.txt", lines)
    listed = "{kind: video, root: hmdb51_org, list: 'splits/*_test_split1.txt'}"
    found = open_folder(tmp_path, f"sources: {{hmdb: {listed}}}\nevaluation: {{source: {listed}}}")
    assert found.classes == ["brush_hair", "wave"]
    assert set(found.forms.values()) == {"hmdb51"} and not found.left_out
    for source, part in (("hmdb", 1), ("evaluation", 2)):
        assert found.samples[source] == {
            f"{name}/{file}": name
            for name, rows in files.items()
            for file, number in rows.items()
            if number == part
        }


TEMPLATES = ["Holding [something] next to [something]", "Tipping [something] over"]


@pytest.mark.parametrize(
    "classes, labels", [("", ""), ("", ", labels: labels/labels.json"), ("labels/labels.json", "")]
)
def test_something_something_v2(tmp_path, classes, labels):
    root = tmp_path / "20bn-something-something-v2"
    add_media(root, *(f"{n}.webm" for n in (78687, 42326, 74225, 100904)))

    def listed(*rows):
        return json.dumps(
            [
                {
                    "id": str(video),
                    "label": TEMPLATES[number].replace("[something]", "a cup").lower(),
                    "template": TEMPLATES[number],
                    "placeholders": ["a cup"],
                }
                for video, number in rows
            ],
            indent=1,
        )

    add_text(tmp_path / "labels", "train.json", listed((78687, 1), (42326, 0)))
    add_text(tmp_path / "labels", "validation.json", listed((74225, 0), (100904, 1)))
    names = [text.replace("[", "").replace("]", "") for text in TEMPLATES]
    numbers = {name: str(number) for number, name in enumerate(names)}
    add_text(tmp_path / "labels", "labels.json", json.dumps(numbers))

    source = f"kind: video, root: 20bn-something-something-v2{labels}"
    found = open_folder(
        tmp_path,
        f"classes: {classes or 'null'}\n"
        f"sources: {{ssv2: {{{source}, list: labels/train.json}}}}\n"
        f"evaluation: {{source: {{{source}, list: labels/validation.json}}}}",
    )
    shown = ["0", "1"] if labels else names
    assert found.classes == shown and set(found.forms.values()) == {"something_json"}
    assert found.samples["ssv2"] == {"42326.webm": shown[0], "78687.webm": shown[1]}
    assert found.samples["evaluation"] == {"74225.webm": shown[0], "100904.webm": shown[1]}


def test_something_something_v2_encoded_again(tmp_path):
    """Copies have another ending, which `pattern` gives; the message says so."""
    add_media(tmp_path / "videos", "1.mp4", "2.mp4")
    rows = [{"id": str(n), "template": TEMPLATES[n - 1], "label": "x"} for n in (1, 2)]
    add_text(tmp_path, "train.json", json.dumps(rows))
    config = "sources: {ssv2: {kind: video, root: videos, list: train.json}}"
    with pytest.raises(UserError, match="there with the ending .mp4: correct the list, or its `pa"):
        open_folder(tmp_path, config)
    found = open_folder(tmp_path, config, "sources.ssv2.pattern={id}.mp4")
    assert list(found.samples["ssv2"]) == ["1.mp4", "2.mp4"]


def test_frames_in_folders_by_id(tmp_path):
    """Jester and Something-Something V1: `id;class`, and frames that are named by number alone."""
    add_frames(tmp_path / "20bn-jester-v1", "34870", "56557", "9223", pattern="{:05}.jpg")
    add_text(tmp_path, "train.csv", "34870;Drumming Fingers\n56557;Sliding Two Fingers Right\n")
    add_text(tmp_path, "val.csv", "9223;Sliding Two Fingers Right\n")
    source = "kind: frames, root: 20bn-jester-v1"
    found = open_folder(
        tmp_path,
        f"sources: {{jester: {{{source}, list: train.csv}}}}\n"
        f"evaluation: {{source: {{{source}, list: val.csv}}}}",
        "sources.jester.pattern={:05}.jpg",
        "evaluation.source.pattern={:05}.jpg",
    )
    assert found.forms == {"jester": "something_csv", "evaluation": "something_csv"}
    assert found.samples["jester"] == {
        "34870": "Drumming Fingers",
        "56557": "Sliding Two Fingers Right",
    }
    assert found.samples["evaluation"] == {"9223": "Sliding Two Fingers Right"}


HEADER = "label,youtube_id,time_start,time_end,split\n"


def test_kinetics_csv(tmp_path):
    """Ids that begin with dashes, labels with commas, clips that are no longer on the web."""
    add_media(tmp_path / "train", "---QUuC4vJs_000084_000094.mp4", "-3B32lodo2M_000059_000069.mp4")
    add_media(tmp_path / "val", "--7VUM9MKg4_000080_000090.mp4", "00zxr5Hbdxg_000007_000017.mp4")
    train = 'testifying,---QUuC4vJs,84,94,train\n"cooking, on a fire",-3B32lodo2M,59,69,train\n'
    add_text(tmp_path, "train.csv", f"{HEADER}{train}testifying,gone0000000,1,11,train\n")
    val = '"cooking, on a fire",--7VUM9MKg4,80,90,val\ntestifying,00zxr5Hbdxg,7,17,val\n'
    add_text(tmp_path, "val.csv", HEADER + val)
    found = open_folder(
        tmp_path,
        "sources: {k400: {kind: video, root: train, list: train.csv}}\n"
        "evaluation: {source: {kind: video, root: val, list: val.csv}}",
    )
    assert found.classes == ["cooking, on a fire", "testifying"]
    assert set(found.forms.values()) == {"kinetics_csv"}
    assert found.samples["k400"] == {
        "---QUuC4vJs_000084_000094.mp4": "testifying",
        "-3B32lodo2M_000059_000069.mp4": "cooking, on a fire",
    }
    assert found.samples["evaluation"] == {
        "--7VUM9MKg4_000080_000090.mp4": "cooking, on a fire",
        "00zxr5Hbdxg_000007_000017.mp4": "testifying",
    }
    assert found.left_out == {"k400": {"gone0000000_000001_000011.mp4": "missing file"}}


def test_kinetics_folders_with_the_references_validation_list(tmp_path):
    """Class folders give names, and the list numbers: the file of names makes them one."""
    add_media(tmp_path / "train", "abseiling/a_000001_000011.mp4", "zumba/b_000002_000012.mp4")
    add_media(tmp_path / "val", "c.mp4", "d.mp4")
    add_text(tmp_path, "val_list.csv", "video_id, num_frames, label_index\nc, 300, 1\nd, 250, 0\n")
    add_text(tmp_path, "kinetics_label_map.txt", "abseiling\nzumba\n")
    found = open_folder(
        tmp_path,
        "classes: kinetics_label_map.txt\nsources: {k400: {kind: video, root: train}}\n"
        "evaluation: {source: {kind: video, root: val, list: val_list.csv}}",
        "evaluation.source.pattern={id}.mp4",
    )
    assert found.samples["evaluation"] == {"c.mp4": "zumba", "d.mp4": "abseiling"}
    assert found.samples["k400"] == {
        "abseiling/a_000001_000011.mp4": "abseiling",
        "zumba/b_000002_000012.mp4": "zumba",
    }
    assert found.forms == {"k400": "class folders", "evaluation": "video_ids"}


def test_kinetics_folders_and_numbers_without_names_are_refused(tmp_path):
    add_media(tmp_path, "train/abseiling/a.mp4", "train/zumba/b.mp4", "val/c.mp4")
    add_text(tmp_path, "val_list.csv", "c, 300, 1\n")
    for target, other in (("k400", "evaluation"), ("evaluation", "k400")):
        sources = {target: "{kind: video, root: train}"}
        sources[other] = "{kind: video, root: val, list: val_list.csv}"
        with pytest.raises(UserError, match="`classes:`|^classes: expected a file that names"):
            open_folder(
                tmp_path,
                f"sources: {{k400: {sources['k400']}}}\n"
                f"evaluation: {{source: {sources['evaluation']}}}",
            )


def test_ucf101_with_mmaction2s_lists(tmp_path):
    """The same paths as UCF101's own lists, and labels from 0."""
    add_media(tmp_path / "videos", *ARCHERY, *ZUMBA)
    add_text(tmp_path, "ucf101_train_split_1_videos.txt", f"{ARCHERY[1]} 0\n{ZUMBA[1]} 100\n")
    add_text(tmp_path, "ucf101_val_split_1_videos.txt", f"{ARCHERY[0]} 0\n{ZUMBA[0]} 100\n")
    found = open_folder(
        tmp_path,
        "sources: {ucf: {kind: video, root: videos, list: ucf101_train_split_1_videos.txt}}\n"
        "evaluation:\n"
        "  source: {kind: video, root: videos, list: ucf101_val_split_1_videos.txt}",
    )
    assert found.samples["ucf"] == {ARCHERY[1]: "0", ZUMBA[1]: "100"}
    assert found.samples["evaluation"] == {ARCHERY[0]: "0", ZUMBA[0]: "100"}
