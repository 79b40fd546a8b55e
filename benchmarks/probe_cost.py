"""The cost of a video's probe, beside that of another checkout of this project."""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from omnidali.errors import UserError
from omnidali.testing.numbered_media import write_video
from omnidali.utils.run_record import write_record
from omnidali.utils.untrusted_text import say

_TURNS = 5  # processes of each checkout, in turns
_REPEATS = 9  # probes of a file in a process, of which the quickest counts
_HERE = Path(__file__).parents[1]
_CODE = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
try:
    from omnidali.catalog.probing.file_span import FileSpan
    from omnidali.catalog.probing.video_probe import probe_video
except ImportError:  # a checkout from before December 2026
    from omnidali.catalog.files import FileSpan
    from omnidali.catalog.probe import probe_video
times = {path: [] for path in sys.argv[3:]}
for _ in range(int(sys.argv[2]) + 1):  # all files in turn: the first round warms up
    for path, found in times.items():
        start = time.process_time()
        probe_video(FileSpan(path))
        found.append(time.process_time() - start)
print(json.dumps({path: 1000 * min(found[1:]) for path, found in times.items()}))
"""
_VP = {"deadline": "realtime", "cpu-used": "8", "b": "1000000"}
_X265 = {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": "log-level=none"}}
_SVT = {"codec": "libsvtav1", "options": {"preset": "12", "crf": "40"}}
# ten seconds each; the last three are decoded whole, as their headers do not determine their frames
_MEDIA: dict[str, dict[str, Any]] = {
    "h264-gop16.mp4": {"gop": 16},
    "h264-gop250-b.mp4": {"gop": 250, "b_frames": 3},
    "h264-gop250-b.mkv": {"gop": 250, "b_frames": 3},
    "h264-720p.mp4": {
        "gop": 250,
        "b_frames": 3,
        "width": 1280,
        "height": 720,
        "options": {"preset": "veryfast"},
    },
    "hevc.mp4": _X265,
    "hevc.mkv": _X265,
    "vp9.webm": {"codec": "libvpx-vp9", "options": _VP},
    "vp9.mp4": {"codec": "libvpx-vp9", "options": _VP},
    "av1.mkv": _SVT,
    "av1.mp4": _SVT,
    "mpeg4-b.avi": {"codec": "mpeg4", "b_frames": 2},
    "vp8.webm": {"codec": "libvpx", "options": _VP},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
}


def bench_probe(out: str | Path, against: str | Path | None) -> list[dict]:
    """Measure one core's time for a probe of each kind of file; writes and prints one record each.

    Args:
        out: folder for media and records.
        against: folder of another checkout, to take turns with.

    Raises:
        UserError: if ``against`` is no checkout.
    """
    checkouts = {"ours": _HERE}
    if against is not None:
        checkouts["theirs"] = Path(against).absolute()
        if not (checkouts["theirs"] / "omnidali/catalog").is_dir():
            raise UserError(
                "--against",
                "the folder of a checkout",
                str(against),
                "Make one: git worktree add DIR COMMIT.",
            )
    media = Path(out).absolute() / "media" / "probe"
    for number, (name, options) in enumerate(_MEDIA.items()):
        if not (media / name).exists():
            write_video(media / name, number, **options)

    times: dict[str, list[dict]] = {name: [] for name in checkouts}
    for _ in range(_TURNS):
        for name, folder in checkouts.items():
            times[name].append(_probe(folder, [str(media / file) for file in _MEDIA]))
    records = []
    for file in _MEDIA:
        found = {
            name: statistics.median(turn[str(media / file)] for turn in turns)
            for name, turns in times.items()
        }
        row = {
            "bench": "probe",
            "media": file,
            **{f"{name}_ms": round(value, 2) for name, value in found.items()},
        }
        if against is not None:
            row |= {
                "ratio": round(found["ours"] / found["theirs"], 2),
                "against": _commit(checkouts["theirs"]),
            }
        records.append(write_record(out, row))
        say(", ".join(f"{name} {value}" for name, value in row.items() if name != "bench"))
    return records


def _probe(folder: Path, files: list[str]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", _CODE, str(folder), str(_REPEATS), *files],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise UserError(
            str(folder), "a checkout that probes the files", said[-1], "Choose another commit."
        )
    return json.loads(done.stdout)


def _commit(folder: Path) -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=folder, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"
