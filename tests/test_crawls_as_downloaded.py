"""Crawls, and lists of other projects, in their own layouts: read as they are."""

import io
import json
import os
import tarfile

import pytest

from helpers.data_sets import FRAMES, add_frames, add_media, add_text, open_folder


@pytest.mark.parametrize(
    "root, separator", [("/", " "), ("{folder}", ","), ("{folder}/kinetics", " ")]
)
def test_pyslowfast_csv_with_absolute_paths(tmp_path, root, separator):
    for part in ("train", "val"):
        files = [f"{part}/{name}/{part} {n}.mp4" for n, name in enumerate(("eating cake", "yoga"))]
        add_media(tmp_path / "kinetics", *files)
        lines = [f"{tmp_path}/kinetics/{file}{separator}{n}\n" for n, file in enumerate(files)]
        add_text(tmp_path, f"{part}.csv", "".join(lines))
    root = root.format(folder=tmp_path)
    found = open_folder(
        tmp_path,
        f"sources: {{k: {{kind: video, root: '{root}', list: train.csv}}}}\n"
        f"evaluation: {{source: {{kind: video, root: '{root}', list: val.csv}}}}",
    )
    base = os.path.relpath(tmp_path / "kinetics", root)
    assert not found.left_out
    for source, part in (("k", "train"), ("evaluation", "val")):
        assert found.samples[source] == {
            os.path.normpath(f"{base}/{part}/eating cake/{part} 0.mp4"): "0",
            os.path.normpath(f"{base}/{part}/yoga/{part} 1.mp4"): "1",
        }


def test_mmaction2_lists_of_videos_and_frames(tmp_path):
    """A list of videos and one of frames train together; the offset counts from the first frame."""
    add_media(tmp_path / "videos_train", "abseiling/a b.mp4", "yoga/c.mp4")
    add_text(tmp_path, "k_train_list_videos.txt", "abseiling/a b.mp4 0\nyoga/c.mp4 1\n")
    add_frames(tmp_path / "rawframes_train", "abseiling/a", "yoga/c")
    rows = f"abseiling/a {FRAMES} 0\nyoga/c {FRAMES + 3} 1\n"
    add_text(tmp_path, "k_train_list_rawframes.txt", rows)
    add_frames(tmp_path / "rawframes_val", "yoga/d")
    add_text(tmp_path, "k_val_list_rawframes.txt", f"yoga/d 0 {FRAMES - 2} 1\nyoga/d 2 4 1\n")
    found = open_folder(
        tmp_path,
        "sources:\n"
        "  videos: {kind: video, root: videos_train, list: k_train_list_videos.txt}\n"
        "  frames: {kind: frames, root: rawframes_train, list: k_train_list_rawframes.txt}\n"
        "evaluation:\n"
        "  source: {kind: frames, root: rawframes_val, list: k_val_list_rawframes.txt}",
    )
    assert found.forms == {
        "videos": "path_label",
        "frames": "rawframes",
        "evaluation": "rawframes_offset",
    }
    assert found.samples["videos"] == {"abseiling/a b.mp4": "0", "yoga/c.mp4": "1"}
    # a folder with fewer frames than listed is not used, and named
    assert found.samples["frames"] == {"abseiling/a": "0"}
    assert list(found.left_out) == ["frames"] and list(found.left_out["frames"]) == ["yoga/c"]
    assert found.samples["evaluation"] == {"yoga/d": "1"}


def test_omnisource_release(tmp_path):
    """The release's five sources, with its own paths, lists, class names and JSON."""
    notes = tmp_path / "annotations"
    add_text(notes, "k200_actions.txt", "abseiling\narchery\n")
    add_media(tmp_path, "kinetics_200_train/a.mp4", "kinetics_200_train/b.mp4")
    add_text(notes, "kinetics_200/k200_train.txt", "a.mp4 0\nb.mp4 1\n")
    add_media(tmp_path, "kinetics_200_val/c.mp4")
    add_text(notes, "kinetics_200/k200_val.txt", "c.mp4 1\n")
    add_media(tmp_path, "googleimage_200/0/x 1.jpg", "insimage_200/1/y.jpg")
    web = "googleimage_200/0/x 1.jpg 0\ninsimage_200/1/y.jpg 1\ninsimage_200/1/gone.jpg 1\n"
    add_text(notes, "webimage_200/tsn_8seg_webimage_200_wodup.txt", web)
    add_media(tmp_path, "insvideo_200/1/z.mp4")
    add_text(notes, "insvideo_200/slowonly_8x8_insvideo_200_wodup.txt", "1/z.mp4 1\n")
    add_media(tmp_path / "kinetics_raw_200_train", "abc/part_0.mp4", "abc/part_2.mp4")
    raw = [{"video_dir": "abc", "label": 1, "num_clips": 3, "positive_clip_inds": [0, 2]}]
    add_text(notes, "kinetics_raw_200/slowonly_8x8_kinetics_raw_200.json", json.dumps(raw))

    found = open_folder(
        tmp_path,
        """classes: annotations/k200_actions.txt
sources:
  k200: {kind: video, root: kinetics_200_train, list: annotations/kinetics_200/k200_train.txt}
  web: {kind: image, root: ., list: annotations/webimage_200/tsn_8seg_webimage_200_wodup.txt}
  ins:
    {kind: video, root: insvideo_200,
    list: annotations/insvideo_200/slowonly_8x8_insvideo_200_wodup.txt}
  raw:
    {kind: untrimmed, root: kinetics_raw_200_train,
    list: annotations/kinetics_raw_200/slowonly_8x8_kinetics_raw_200.json}
evaluation:
  source: {kind: video, root: kinetics_200_val, list: annotations/kinetics_200/k200_val.txt}
""",
    )
    assert found.classes == ["abseiling", "archery"]
    assert found.forms["raw"] == "parts_json"
    assert found.samples == {
        "k200": {"a.mp4": "abseiling", "b.mp4": "archery"},
        "web": {"googleimage_200/0/x 1.jpg": "abseiling", "insimage_200/1/y.jpg": "archery"},
        "ins": {"1/z.mp4": "archery"},
        "raw": {"abc/part_0.mp4": "archery"},
        "evaluation": {"c.mp4": "archery"},
    }
    assert found.left_out == {"web": {"insimage_200/1/gone.jpg": "missing file"}}


def test_web_crawl_in_class_folders(tmp_path):
    """What lies about in an unpacked crawl: odd endings, pages, pointers, links, hidden folders."""
    crawl = tmp_path / "crawl"
    add_media(crawl, "cat/1.jpg", "cat/page/2.PNG", "dog/4.webp", "dog/6.bmp")
    add_media(crawl, "cat/3.aspx", "dog/5", "dog/photo.php?id=7", like=".jpg")
    add_text(crawl, "cat/no.jpg", "<!DOCTYPE html><html><body>404</body></html>")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 99\n"
    add_text(crawl, "dog/lfs.jpg", pointer)
    add_text(crawl, "dog/empty.jpg", "")
    add_text(crawl, "dog/._4.webp", "resource fork")
    add_text(crawl, "cat/urls.txt", "https://example.org/1.jpg\n")
    add_media(crawl, "__MACOSX/cat/1.jpg", ".cache/9.jpg")
    (crawl / "emu").mkdir()
    add_media(tmp_path / "store", "10.jpg")
    add_media(crawl / "more", "8.jpg")
    (crawl / "dog/8.jpg").symlink_to("../more/8.jpg")
    (crawl / "dog/10.jpg").symlink_to(tmp_path / "store/10.jpg")
    (crawl / "yak").symlink_to("more")
    config = "sources: {web: {kind: image, root: crawl}}"

    found = open_folder(tmp_path, config)
    assert found.classes == ["cat", "dog", "emu", "more", "yak"]
    samples = found.samples["web"]
    assert {path for path, name in samples.items() if name == "cat"} == {
        "cat/1.jpg",
        "cat/page/2.PNG",
        "cat/3.aspx",
    }
    dogs = {"dog/4.webp", "dog/5", "dog/6.bmp", "dog/photo.php?id=7", "dog/8.jpg"}
    assert {path for path, name in samples.items() if name == "dog"} == dogs
    assert samples["yak/8.jpg"] == "yak" and samples["more/8.jpg"] == "more"
    reasons = found.left_out["web"]
    for path, words in {
        "cat/no.jpg": "a web page",
        "dog/lfs.jpg": "Git",
        "dog/empty.jpg": "empty",
        "dog/._4.webp": "hidden",
        "cat/urls.txt": "not a photo: text",
        "dog/10.jpg": "link",
        "emu": "which keeps its number",
        "__MACOSX": "",
        ".cache": "",
    }.items():
        assert words in reasons[path], path
    assert len(reasons) == 9
    assert "9 left out" in found.lines[-1] and "catalog.left_out.csv" in found.lines[-1]

    followed = open_folder(tmp_path, config, "sources.web.links=follow").samples["web"]
    assert {path for path, name in followed.items() if name == "dog"} == {*dogs, "dog/10.jpg"}


def test_webdataset_tars(tmp_path):
    def member(name, data):
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))

    add_media(tmp_path, "x.jpg", "x.png")
    photo, mask = ((tmp_path / name).read_bytes() for name in ("x.jpg", "x.png"))
    for shard in range(2):
        with tarfile.open(tmp_path / f"train-{shard:06}.tar", "w") as tar:
            member(f"{shard}a.jpg", photo)
            member(f"{shard}a.seg.png", mask)
            member(f"{shard}a.json", json.dumps({"label": float(shard), "caption": "x"}).encode())
            member(f"{shard}b.jpg", photo)
            member(f"{shard}b.cls", b"1")
            member(f"{shard}c.jpg", photo)  # without a class
    config = "sources: {web: {kind: image}}"
    pattern = "sources.web.tars=train-{000000..000001}.tar"
    found = open_folder(tmp_path, config, pattern)
    assert found.forms == {"web": "webdataset tars"}
    assert len(found.samples["web"]) == 4
    by_class = dict.fromkeys(("0", "1"), 0)
    for name in found.samples["web"].values():
        by_class[name] += 1
    assert by_class == {"0": 1, "1": 3}
    reasons = found.left_out["web"]
    assert {path for path, reason in reasons.items() if reason == "member without a class"} == {
        "train-000000.tar:0c.jpg",
        "train-000001.tar:1c.jpg",
    }
    assert "more than an ending" in reasons["train-000000.tar:0a.seg.png"] and len(reasons) == 4
