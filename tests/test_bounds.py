"""Every command over a folder of slow, huge and hanging files: it ends, the good ones are done, the
bad ones named.
"""

import io
import json
import os
import shutil
import struct
import threading
import time
import zlib

import av
import cv2
import numpy as np
import pytest
import torch

import evaluate
from conftest import hurry, media_of
from omnidali.catalog import build
from omnidali.catalog.file_span import FileSpan
from omnidali.catalog.probing.image_probe import IMAGE_HEADER_BYTES, probe_image
from omnidali.catalog.probing.probe import probe_video
from omnidali.catalog.probing.sniff import (
    MAX_SCANS,
    MAX_UNITS,
    UnsupportedMediaError,
    read_image_header,
)
from omnidali.cli import main as cli
from omnidali.curation.copies import advise as advice
from omnidali.curation.copies import copy_gain as copies
from omnidali.curation.copies.encode import RECIPES, encode_photo, encode_video
from omnidali.decoding.thumbnail import decode_still
from omnidali.errors import DecodeError
from omnidali.loading.thread_pool import Workers
from omnidali.models.recognizers import TSN
from omnidali.processes import child_pool as children
from omnidali.testing.numbered_media import write_photo, write_video
from omnidali.utils.heartbeat import moves_on, watched

PATIENCE = 240  # seconds until something hangs for sure, also on a machine that is starved
FAST = {"width": 160, "height": 120, "gop": 8, "options": {"preset": "ultrafast", "crf": "15"}}
CONFIG = """
classes: names.txt
sources:
  clips: {kind: video, root: clips, list: clips.txt}
  photos: {kind: image, root: photos, list: photos.txt}
clip: {num_clips: 2, size: 32}
model: {depth: 18}
train: {batch: 6, steps: 4}
evaluation:
  batch: 4
  test: {num_clips: 2, size: 32, short_side: 32}
  source: {kind: video, root: clips, list: clips.txt}
"""
LONG = CONFIG.replace(
    "sources:\n",
    "sources:\n  long: {kind: untrimmed, root: clips, list: clips.txt, window_seconds: 0.4}\n",
)
# the time of bad files passes 400 times as fast: good ones may need long on a machine that is
# starved
HURRIED = """
import omnidali.processes.child as confined
answer = confined._answer
def hurried(task):
    file = task["arguments"][0]["fields"]["path"]
    if "treacle" in file or "limbo" in file:
        task["seconds"] /= 400
        confined.set_alarm(task["seconds"])
    return answer(task)
confined._answer = hurried
confined.main({memory}, {modules})
""".strip().replace("\n", "\\n")


# Files


def progressive(scans, width=64, height=48):
    """A JPEG whose last scan is repeated; a scan of 20 bytes passes over the whole picture."""
    picture = np.full((height, width, 3), 128, np.uint8)
    picture[:8, :8] = 200
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (scans - data.count(b"\xff\xda") + 1) + data[-2:]


def png(width, height, packed_bytes):
    """Zeros, of which a few kilobytes become a picture of any size."""
    packer = zlib.compressobj(1)
    packed = (
        b"".join(packer.compress(bytes(1 << 20)) for _ in range(packed_bytes >> 20))
        + packer.flush()
    )
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", packed),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def write_sliced(path, slices, width=1920, height=1080):
    """A video one of whose packets repeats a slice of 14 bytes, which takes a quarter of a
    millisecond each time.
    """
    plain = io.BytesIO()
    with av.open(plain, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264",
            rate=25,
            options={
                "preset": "ultrafast",
                "x264-params": "slices=2:sliced-threads=1:threads=2:keyint=250:bframes=0",
            },
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(
                np.full((height * 3 // 2, width), 128, np.uint8), format="yuv420p"
            )
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    plain.seek(0)
    with av.open(plain) as container, av.open(str(path), "w", format="mp4") as sliced:
        stream = sliced.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(container.demux(video=0)):
            if not packet.size:
                continue
            data = bytes(packet)
            if number == 6:
                first = 4 + int.from_bytes(data[:4], "big")
                data += (
                    data[first : first + 4 + int.from_bytes(data[first : first + 4], "big")]
                    * slices
                )
            more = av.Packet(data)
            more.pts, more.dts, more.time_base = packet.pts, packet.dts, packet.time_base
            more.is_keyframe, more.stream = packet.is_keyframe, stream
            sliced.mux(more)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Good files have numbers for names. What a name says of the others is in their table."""
    root = tmp_path_factory.mktemp("files")
    for n in range(6):
        write_video(root / f"clips/{n}.mp4", n, frames=40, **FAST)
    for n in range(6):
        write_photo(root / f"photos/{n}.jpg", n, 120, 90)
    write_video(root / "clips/limbo.mp4", 3, frames=30, **FAST)
    write_sliced(root / "clips/treacle.mp4", 1200)
    write_sliced(root / "clips/slices.mp4", 2 * MAX_UNITS)
    shutil.copy(root / "photos/5.jpg", root / "photos/limbo.jpg")
    (root / "photos/scans.jpg").write_bytes(progressive(30_000))
    (root / "photos/claims.png").write_bytes(png(65535, 65535, 1 << 20))
    (root / "photos/bomb.png").write_bytes(png(3000, 3000, 26 << 20))
    # far more data than its picture has
    (root / "photos/tiny.png").write_bytes(png(40, 40, 200 << 20))
    for folder in ("clips", "photos"):
        names = sorted(path.name for path in (root / folder).iterdir())
        names.append("pipe.mp4" if folder == "clips" else "pipe.jpg")
        (root / f"{folder}.txt").write_text(
            "".join(f"{name} {n % 2}\n" for n, name in enumerate(names))
        )
    (root / "names.txt").write_text("run\nswim\n")
    torch.manual_seed(0)
    (root / "teacher/checkpoints").mkdir(parents=True)
    torch.save(
        {"state_dict": TSN(18, 2, 0.0).state_dict(), "classes": ["run", "swim"]},
        root / "teacher/checkpoints/best.pt",
    )
    return root


HANGS = ("clips/limbo.mp4", "photos/limbo.jpg")


@pytest.fixture
def world(template, tmp_path, monkeypatch):
    """The folder, two of whose files hang for whoever opens them once their headers were looked at."""
    root = tmp_path / "world"
    shutil.copytree(template, root)
    os.mkfifo(root / "clips/pipe.mp4")
    os.mkfifo(root / "photos/pipe.jpg")
    look = build.build_catalog

    def look_and_hang(path, sources, data_root, *rest, **options):
        found = look(path, sources, data_root, *rest, **options)
        for name in HANGS:
            file = root / name
            if (
                any(source.root == name.partition("/")[0] for source in sources.values())
                and not file.is_fifo()
            ):
                file.unlink()
                os.mkfifo(file)
        return found

    for module in ("loading.data", "curation.lint", "curation.pieces"):
        monkeypatch.setattr(f"omnidali.{module}.build_catalog", look_and_hang)
    hurry(monkeypatch, [str(root / name) for name in HANGS], 60)
    monkeypatch.setattr(copies, "_SECONDS", 0.1)
    monkeypatch.setattr(advice, "_SECONDS", 0.1)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return root


@pytest.fixture(autouse=True)
def hurried_children(monkeypatch):
    children.end_idle()
    monkeypatch.setattr(children, "_MAIN", f'exec("""{HURRIED}""")')
    monkeypatch.setattr(children, "SECONDS", 40.0)
    yield
    children.end_idle()


def in_time(work):
    """What ``work`` gives, if it ends at all."""
    given = []
    thread = threading.Thread(target=lambda: given.append(work()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "hangs"
    return given[0]


# Commands


def read(path):
    return path.read_text(encoding="utf-8")


def lines_of(path):
    return [json.loads(line) for line in read(path).splitlines()]


def of_lint(out, told):
    """issues.csv names all of them."""
    text = read(out / "issues.csv")
    return {
        name
        for name in (
            "scans.jpg",
            "claims.png",
            "pipe.jpg",
            "pipe.mp4",
            "slices.mp4",
            "limbo.jpg",
            "limbo.mp4",
        )
        if any(
            name in line and ("refused" in line or "not compared" in line or "not decoded" in line)
            for line in text.splitlines()
        )
    }


def of_transcode(out, told):
    done = {path.name for path in (out / "clips").iterdir()} | {
        path.name for path in (out / "photos").iterdir()
    }
    assert {"0.mp4", "3.mp4", "0.jpg", "bomb.png", "tiny.png"} <= done and not any(
        out.glob(".transcode/*")
    )
    failed = {
        os.path.basename(path): reason
        for row in lines_of(out / "transcode.jsonl")
        for path, reason in row["failed"]
    }
    assert not done & set(failed) and all(
        "nothing came of it for" in reason for reason in failed.values()
    )
    return set(failed)


def of_cut(out, told):
    assert len(list((out / "long/0").iterdir())) >= 2 and not any(out.glob(".cut/*"))
    failed = {
        os.path.basename(row["video"]): row["problem"]
        for row in lines_of(out / "cut.jsonl")
        if row["problem"]
    }
    assert all("nothing came of it for" in problem for problem in failed.values())
    assert not list((out / "long/limbo").iterdir())
    return set(failed)


def of_motion(out, told):
    values = json.loads(read(out))
    assert values["all"]["pairs"] > 8
    return {os.path.basename(path) for path, _ in values["failed"]}


def of_pictures(out, told):
    assert all(
        (out / f"{name}{ending}.png").stat().st_size > 1000
        for name in ("clips", "photos")
        for ending in ("", "-frames")
    )
    return {
        name
        for name in ("limbo.mp4", "limbo.jpg")
        if f"{name}: disk: not read and decoded within" in told.err
    }


def of_lists(out, told):
    assert "0.jpg" in read(
        out / "lists/photos.txt" if (out / "lists").exists() else out / "photos.txt"
    )
    return {os.path.basename(fault["path"]) for fault in lines_of(out / "quarantine.jsonl")}


def of_evaluation(out, told):
    rows = lines_of(out.parent / "run/evaluation-test/predictions.jsonl")
    assert sum(bool(row["predicted"]) for row in rows) >= 4
    return {os.path.basename(row["path"]) for row in rows if not row["predicted"]}


def of_advice(out, told):
    assert "| clips | original |" in told.out
    return {
        name
        for name in ("limbo.mp4", "treacle.mp4", "limbo.jpg")
        if f"{name} is left out" in told.err
    }


# words, what names the bad files, and those that are named beside what the catalog left out
COMMANDS = {
    "lint": (
        ["lint", "--out"],
        of_lint,
        {"scans.jpg", "claims.png", "pipe.jpg", "pipe.mp4", "slices.mp4", "limbo.jpg"},
    ),
    "transcode": (
        ["transcode", "--workers", "2", "--sources", "clips", "photos", "--out"],
        of_transcode,
        {"limbo.mp4", "limbo.jpg", "treacle.mp4"},
    ),
    "cut": (["cut", "--workers", "2", "--out"], of_cut, {"limbo.mp4"}),
    "cut --exact": (
        ["cut", "--exact", "--workers", "2", "--out"],
        of_cut,
        {"limbo.mp4", "treacle.mp4"},
    ),
    "motion": (
        ["motion", "estimate", "--source", "clips", "--videos", "50", "--out"],
        of_motion,
        {"limbo.mp4", "treacle.mp4"},
    ),
    "preview": (
        ["preview", "--samples", "12", "--sources", "clips", "photos", "--out"],
        of_pictures,
        {"limbo.mp4", "limbo.jpg"},
    ),
    "dedup": (
        ["dedup", "--within", "--sources", "photos", "--fps", "2", "--out"],
        of_lists,
        {"limbo.jpg"},
    ),
    "filter": (
        [
            "filter",
            "--checkpoint",
            "{world}/teacher",
            "--sources",
            "photos",
            "--rule",
            "topk",
            "--top",
            "2",
            "--out",
        ],
        of_lists,
        {"limbo.jpg"},
    ),
    "evaluate": (None, of_evaluation, {"limbo.mp4"}),
    "advise": (["advise", "--sample", "20"], of_advice, {"limbo.mp4", "limbo.jpg"}),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_ends_and_names_what_it_leaves_out(world, tmp_path, capfd, caplog, name):
    words, find, bad = COMMANDS[name]
    (tmp_path / "c.yaml").write_text(LONG if "cut" in name else CONFIG)
    sets = [
        f"data_root={world}",
        f"run_dir={tmp_path}/run",
        "loader.threads=2",
        "loader.max_bad_ratio=1",
    ]
    out = tmp_path / ("out.json" if name == "motion" else "out")
    if words is None:
        code = in_time(
            lambda: evaluate.main(
                [
                    "--config",
                    str(tmp_path / "c.yaml"),
                    "--checkpoint",
                    str(world / "teacher"),
                    *sets,
                ]
            )
        )
    else:
        words = [word.format(world=world) for word in words] + (
            [str(out)] if words[-1] == "--out" else []
        )
        code = in_time(
            lambda: cli.main([*words, "--config", str(tmp_path / "c.yaml"), "--set", *sets])
        )
    told = capfd.readouterr()
    assert code in ((0, 1) if name in ("lint", "cut", "cut --exact") else (0,)), told.err
    assert bad <= find(out, told._replace(err=told.err + caplog.text)), told.err
    assert "Traceback" not in told.err


def test_lint_decodes_everything_in_time(template, tmp_path):
    """Its own processes decode, each file within a limit: nothing is replaced here, as it probes
    again what changed.
    """
    shutil.copytree(template, tmp_path / "world")
    (tmp_path / "c.yaml").write_text(CONFIG)
    command = [
        "lint",
        "--decode",
        "--sources",
        "photos",
        "--config",
        str(tmp_path / "c.yaml"),
        "--out",
        str(tmp_path / "out"),
        "--set",
        f"data_root={tmp_path}/world",
        f"run_dir={tmp_path}/run",
    ]
    assert in_time(lambda: cli.main(command)) in (0, 1)
    assert {"scans.jpg", "claims.png"} <= of_lint(tmp_path / "out", None)


def test_info_opens_no_media(world, tmp_path, capsys):
    """It reads the catalog alone, where the files that were refused are counted."""
    (tmp_path / "c.yaml").write_text(CONFIG)
    sets = ["--set", f"data_root={world}", f"run_dir={tmp_path}/run"]
    assert in_time(lambda: cli.main(["lint", "--config", str(tmp_path / "c.yaml"), *sets])) in (
        0,
        1,
    )
    shutil.rmtree(world / "photos")
    assert in_time(lambda: cli.main(["info", "--config", str(tmp_path / "c.yaml"), *sets])) == 0
    assert f"1 JPEG with more than {MAX_SCANS} scans" in capsys.readouterr().out


# Pictures


def test_scans_are_counted_wherever_they_lie(tmp_path):
    """Not those of a thumbnail, and not bytes of a comment that look like one."""
    assert read_image_header(progressive(MAX_SCANS)).has_scans
    with pytest.raises(UnsupportedMediaError, match=f"JPEG with more than {MAX_SCANS} scans"):
        read_image_header(progressive(MAX_SCANS + 1))
    data = progressive(10)
    for segment in (b"\xff\xe1", b"\xff\xfe"):
        fake = segment + struct.pack(">H", 60_002) + b"\xff\xda" * 30_000
        assert read_image_header(data[:2] + fake + data[2:]).width == 64
        last = data.rindex(b"\xff\xda")
        assert read_image_header(data[:last] + fake + data[last:]).width == 64
    late = progressive(3000)
    begin = late.index(b"\xff\xda")
    comment = b"\xff\xfe" + struct.pack(">H", 60_002) + bytes(60_000)
    # behind what the probe reads at first
    (tmp_path / "late.jpg").write_bytes(late[:begin] + comment * 6 + late[begin:])
    assert begin + len(comment) * 6 > IMAGE_HEADER_BYTES
    with pytest.raises(UnsupportedMediaError, match="scans"):
        probe_image(FileSpan(str(tmp_path / "late.jpg")))
    with pytest.raises(UnsupportedMediaError, match="segments behind its header"):
        read_image_header(data[:begin] + b"\xff\xfe\0\2" * 5000 + b"\xff\xda" * 200 + data[begin:])


def test_baseline_pictures_may_hide_scans_too():
    """One scan a component, and any number of them; a picture whose first scan holds all has no
    second one.
    """
    picture = np.full((48, 64, 3), 128, np.uint8)
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1].tobytes()
    assert not read_image_header(data).has_scans
    begin = data.index(b"\xff\xda")
    scan = b"\xff\xda\0\x08\1\1\0\0\x3f\0" + data[begin + 14 : -2]
    parts = data[:begin] + scan * 3 + data[-2:]
    assert read_image_header(parts).has_scans
    with pytest.raises(UnsupportedMediaError, match="scans"):
        read_image_header(data[:begin] + scan * 200 + data[-2:])


def test_photos_meet_the_limit_before_every_decoder(tmp_path):
    """One that was replaced behind the probe's back."""
    write_photo(tmp_path / "a.jpg", 1, 64, 48)
    media = media_of(tmp_path / "a.jpg", "image")
    (tmp_path / "a.jpg").write_bytes(progressive(30_000))
    with pytest.raises(DecodeError, match="more than 100 scans"):
        encode_photo(media, tmp_path / "b.jpg", 32)
    assert (decode_still("image", media, 0, np.array([[0, 0, 48, 64]]), 32) == 128).all()


def test_pictures_of_reports_do_not_wait_for_a_disk(tmp_path, capsys):
    """The loader has shown its clip; then the file hangs."""
    write_photo(tmp_path / "limbo.jpg", 1, 64, 48)
    media = media_of(tmp_path / "limbo.jpg", "image")
    (tmp_path / "limbo.jpg").unlink()
    os.mkfifo(tmp_path / "limbo.jpg")
    shown = in_time(lambda: decode_still("image", media, 0, np.array([[0, 0, 48, 64]]), 32))
    assert (
        shown == 128
    ).all() and "limbo.jpg is not shown: nothing came of it for" in capsys.readouterr().err


# Videos


def test_packets_of_endless_slices_are_refused(template):
    with pytest.raises(UnsupportedMediaError, match=f"more than {MAX_UNITS:,} units in a packet"):
        probe_video(FileSpan(str(template / "clips/slices.mp4")))
    assert probe_video(FileSpan(str(template / "clips/treacle.mp4"))).frames == 12


def test_a_thread_that_was_given_up_ends_at_the_next_packet():
    """A clip may need a run of a hundred thousand packets, and nobody waits for it any more."""
    workers, gone = Workers(1, "test"), threading.Event()

    def work(job):
        job.at("file")
        try:
            while True:
                time.sleep(0.001)
                moves_on()
        finally:
            gone.set()

    job = workers.submit("source", work, into=object())
    while not workers.wait(job, 0.2):
        pass
    assert job.given_up and gone.wait(PATIENCE)
    workers.close(1)


def test_decoders_say_that_they_go_on(tmp_path):
    """At every packet, whichever way frames are decoded."""
    write_video(tmp_path / "a.mp4", 1, frames=30, **FAST)
    write_video(tmp_path / "a.ts", 1, frames=30, **FAST)
    for name in ("a.mp4", "a.ts"):
        media, moves = media_of(tmp_path / name), []
        with watched(lambda moves=moves: moves.append(1)):
            encode_video(media, tmp_path / "b.mp4", RECIPES["fast"], 64)
        assert len(moves) >= 60  # read and written


# Child processes


def test_what_a_call_costs_is_its_own(tmp_path, monkeypatch):
    """Files that crash, starve or hold the process, one after the other; the next call goes on."""
    code = HURRIED.replace(
        "    return answer(task)",
        "\\n".join(
            (
                '    if "crash" in file:',
                "        import os; os.kill(os.getpid(), 11)",
                '    if "hog" in file:',
                "        held = [bytearray(1 << 26) for _ in range(1000)]",
                '    if "lie" in file:',
                '        return "nonsense"',
                "    return answer(task)",
            )
        ),
    )
    monkeypatch.setattr(children, "_MAIN", f'exec("""{code}""")')
    monkeypatch.setattr(children, "MEMORY", 1 << 30)
    told = {
        "crash": "crashes its decoder",
        "hog": "needs too much memory",
        "lie": "crashes its decoder",
        "limbo": "nothing came of it for 40 s",
        "good": None,
    }
    for name, reason in told.items():
        write_photo(tmp_path / f"{name}.jpg", 1, 64, 48)
        media = media_of(tmp_path / f"{name}.jpg", "image")
        if name == "limbo":
            (tmp_path / "limbo.jpg").unlink()
            os.mkfifo(tmp_path / "limbo.jpg")
        if reason is None:
            in_time(lambda media=media: children.call(encode_photo, media, tmp_path / "b.jpg", 32))
            continue
        with pytest.raises(DecodeError, match=reason):
            children.call(encode_photo, media, tmp_path / "b.jpg", 32)
    assert (tmp_path / "b.jpg").exists()


def test_errors_of_the_system_come_through(tmp_path):
    write_photo(tmp_path / "a.jpg", 1, 64, 48)
    media = media_of(tmp_path / "a.jpg", "image")
    with pytest.raises(FileNotFoundError) as told:
        children.call(encode_photo, media, tmp_path / "no/b.jpg", 32)
    assert told.value.filename == str(tmp_path / "no/b.jpg")
    with pytest.raises(DecodeError, match="ValueError: a module of another package"):
        children.call(os.path.join, media)
