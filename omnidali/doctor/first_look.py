"""Does the GPU decode at all: a video and a photo, their frames, colours and times."""

from omnidali.doctor.device import Device
from omnidali.doctor.findings import Findings
from omnidali.doctor.media import BT601, BT709, FULL, LIMITED, MediaFolder, Video
from omnidali.doctor.pictures import (
    NEAR,
    compare,
    cpu_image,
    cpu_video,
    difference,
    judge_pictures,
    media_of,
    wrong_numbers,
)
from omnidali.doctor.roads import (
    excerpt_of,
    image_feeds,
    image_graph,
    run_timed,
    show_frames,
    video_graph,
    whole_file,
)

FRAMES = 300  # ten seconds
_REPEATS = 4
_COLOURS = {
    "BT.601 limited": (BT601, LIMITED),
    "BT.709 limited": (BT709, LIMITED),
    "BT.601 full": (BT601, FULL),
    "BT.709 full": (BT709, FULL),
}


def look_first(findings: Findings) -> None:
    """Decode a video and a photo through DALI: frame numbers, colours, and times."""
    device = Device(findings.context.device_id)
    findings.fact("device", device.name)
    files = MediaFolder(findings.context.scratch)
    cases = {"video": _look_at_video, "colours": _look_at_colours, "photo": _look_at_photo}
    for case in findings.cases(cases):
        try:
            cases[case](findings, device, files)
        except Exception as error:
            findings.error(case, error)


def _look_at_video(findings: Findings, device: Device, files: MediaFolder) -> None:
    """The first and the last frame, by an excerpt and by the whole file.

    The whole file of a size that is no multiple of 16 shows what a new decoder costs, as DALI uses
    none again that is for such a size.
    """
    wrong: list[str] = []
    rows: dict[str, list[float]] = {}
    for width in (340, 352):
        video = Video(device.main_codec, width, 256, frames=FRAMES)
        media = media_of(files.video(video))
        graph = video_graph(device)
        for what, maker in (("excerpt", excerpt_of), ("whole file", whole_file)):
            for frame in (0, FRAMES - 1):
                times = rows.setdefault(f"{width}x256, {what}, frame {frame}", [])
                for _ in range(_REPEATS):
                    pixels, milliseconds = show_frames(device, graph, media, [frame], maker)
                    times.append(round(milliseconds, 2))
                    wrong += wrong_numbers(pixels, video.file, [frame])

    fastest = {name: min(times) for name, times in rows.items()}
    new, again = (fastest[f"{width}x256, whole file, frame 0"] for width in (340, 352))
    first = rows["340x256, excerpt, frame 0"][0]
    findings.fact(
        "video",
        {
            "codec": device.main_codec,
            "ms": rows,
            "wrong": wrong,
            "ms of a new decoder": new - again,
        },
    )
    if wrong:
        findings.bad(f"{device.main_codec} through DALI: {wrong[0]}")
        return
    findings.good(f"{device.main_codec} through DALI: right frames, by excerpts and whole files")
    findings.good(
        f"a new decoder costs about {max(0.0, new - again):.1f} ms, the first one {first:.0f} ms"
    )
    findings.good("; ".join(f"{name}: {value:.1f} ms" for name, value in fastest.items()))


def _look_at_colours(findings: Findings, device: Device, files: MediaFolder) -> None:
    graph = video_graph(device)
    found = {}
    for name, (matrix, colour_range) in _COLOURS.items():
        video = Video(
            device.main_codec, 352, 256, frames=2, matrix=matrix, colour_range=colour_range
        )
        media = media_of(files.video(video))
        pixels, _ = show_frames(device, graph, media, [0, 1])
        found[name] = round(difference(pixels, cpu_video(media, [0, 1])), 2)

    findings.fact("colours", found)
    text = "colours beside the CPU's, mean difference of 255: " + ", ".join(
        f"{name} {value}" for name, value in found.items()
    )
    (findings.good if max(found.values()) <= NEAR else findings.bad)(text)


def _look_at_photo(findings: Findings, device: Device, files: MediaFolder) -> None:
    media = media_of(files.image(7), is_image=True)
    graph = image_graph(device)
    times = []
    for _ in range(_REPEATS):
        pixels, milliseconds = run_timed(device, graph, image_feeds([media]))
        times.append(round(milliseconds, 2))

    row = compare(pixels[0], cpu_image(media), 7, [0])
    findings.fact("photo", {"ms": times, **row})
    name = "JPEG of 500x375"
    if judge_pictures(findings, name, row):
        findings.good(f"{name} through DALI: {min(times):.1f} ms, {row['difference']} of 255 away")
