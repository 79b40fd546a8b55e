"""What FFmpeg can do here, and whether the CPU's decoders give the right frames."""

import time
from typing import Literal

import av

from omnidali.doctor.findings import Findings
from omnidali.doctor.media import MediaFolder, Video
from omnidali.doctor.pictures import cpu_image, cpu_video, media_of, wrong_numbers

_DECODERS = ("h264", "hevc", "av1", "mpeg4", "vp8", "vp9", "mjpeg")
_ENCODERS = {"libx264": "`omnidali transcode`", "libx265": "the demo", "libvpx-vp9": "the demo"}
_WANTED = (0, 23, 9, 9)


def look_at_cpu(findings: Findings) -> None:
    """FFmpeg's codecs in PyAV, and a few numbered frames of each codec."""
    versions = {name: ".".join(map(str, number)) for name, number in av.library_versions.items()}
    findings.fact("ffmpeg", versions)
    missing = [name for name in _DECODERS if not _has_codec(name, "r")]
    if missing:
        findings.bad(f"FFmpeg in PyAV lacks decoders: {', '.join(missing)}; install PyAV's wheel")
    else:
        findings.good(f"FFmpeg in PyAV decodes {', '.join(_DECODERS)}")
    for name, use in _ENCODERS.items():
        if not _has_codec(name, "w"):
            findings.note(f"FFmpeg in PyAV lacks the encoder {name}, which {use} needs")

    files = MediaFolder(findings.context.scratch)
    right = []
    codecs = [name for name in _DECODERS if name not in missing]
    for case in findings.cases([*codecs, "jpeg"]):
        try:
            wrong, milliseconds = _decode(files, case)
        except Exception as error:
            findings.error(case, error)
            continue
        findings.fact(case, {"wrong": wrong, "milliseconds": milliseconds})
        if wrong:
            findings.bad(f"{case} on the CPU: {wrong[0]}")
        else:
            right.append(f"{case} {milliseconds:.1f} ms")
    if right:
        findings.good(f"right frames on the CPU (time of 4 of 24 frames): {', '.join(right)}")


def _decode(files: MediaFolder, case: str) -> tuple[list[str], float]:
    """The wrong frames, and the milliseconds of the second time."""
    if case == "jpeg":
        media = media_of(files.image(7), is_image=True)
        cpu_image(media)
        begun = time.perf_counter()
        shown = cpu_image(media)
        wrong = wrong_numbers(shown, 7, [0])
    else:
        video = Video(case, 340, 256)
        media = media_of(files.video(video))
        cpu_video(media, _WANTED)
        begun = time.perf_counter()
        shown = cpu_video(media, _WANTED)
        wrong = wrong_numbers(shown, video.file, _WANTED)
    return wrong, round(1000 * (time.perf_counter() - begun), 2)


def _has_codec(name: str, mode: Literal["r", "w"]) -> bool:
    try:
        av.Codec(name, mode)
    except av.codec.codec.UnknownCodecError:
        return False
    return True
