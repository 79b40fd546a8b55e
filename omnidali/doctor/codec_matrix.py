"""Every codec and class of size on both roads: the frame numbers, the colours, the refusals."""

from dataclasses import dataclass

from omnidali.doctor.device import Device
from omnidali.doctor.findings import Findings
from omnidali.doctor.media import MediaFolder, Video
from omnidali.doctor.pictures import compare, cpu_video, judge_pictures, media_of
from omnidali.doctor.roads import show_frames, video_graph
from omnidali.pipelines import Graph

# (width, height): what NVDEC takes of every codec
SIZES = {
    "small": (160, 144),
    "web": (340, 256),
    "tall": (256, 340),
    "multiples of 16": (352, 288),
    "360p": (640, 360),
    "480p": (854, 480),
    "720p": (1280, 720),
    "1080p": (1920, 1080),
}
_QUICK_SIZES = ("web", "multiples of 16", "720p")
_UNSURE = 2  # cases of a codec that the chip may lack
_LARGE = 1000  # pixels of width, from which on a few frames have to do
_B_FRAMES = ("h264", "hevc", "mpeg4")
_ODD = {"vp9": (341, 257), "vp8": (341, 257), "mjpeg": (341, 257)}
_TINY = {"h264": (40, 32), "hevc": (112, 80), "vp9": (112, 80), "av1": (96, 64)}
_4K = {"h264": (3840, 2160), "hevc": (3840, 2160)}


@dataclass(frozen=True)
class Case:
    """A video to decode on both roads.

    Attributes:
        name: for people.
        video: to be made.
        is_sure: whether DALI has to decode it; else what it does is worth knowing.
    """

    name: str
    video: Video
    is_sure: bool = True

    @property
    def frames(self) -> list[int]:
        """The frames that are asked for: two runs, out of order, one of them twice."""
        last = self.video.frames - 1
        return [last, 1, last // 2, 1]


def cases_of(codec: str, quick: bool = False, is_sure: bool = True) -> list[Case]:
    """The videos of a codec.

    Args:
        codec: of the videos.
        quick: only some sizes.
        is_sure: whether this chip has to decode the codec.
    """
    cases = []
    for name, (width, height) in SIZES.items():
        if quick and name not in _QUICK_SIZES:
            continue
        frames = 10 if width >= _LARGE else 24
        video = Video(codec, width, height, frames=frames, gop=8 if frames > 10 else 5)
        cases.append(Case(f"{codec} {width}x{height}", video, is_sure))
    if codec in _B_FRAMES:
        video = Video(codec, 340, 256, b_frames=3)
        cases.append(Case(f"{codec} 340x256 with B-frames", video, is_sure))
    if not is_sure:
        return cases[:_UNSURE]
    cases.append(Case(f"{codec} 340x256, one keyframe", Video(codec, 340, 256, gop=250), is_sure))
    if codec in _4K and not quick:
        video = Video(codec, *_4K[codec], frames=4, gop=2)
        cases.append(Case(f"{codec} 4K", video, is_sure))
    for what, sizes in (("odd", _ODD), ("below NVDEC's limits", _TINY)):
        if codec in sizes:
            width, height = sizes[codec]
            name = f"{codec} {width}x{height} ({what})"
            cases.append(Case(name, Video(codec, width, height), is_sure=False))
    return cases


def look_at_codecs(findings: Findings) -> None:
    """Decode videos of all codecs and sizes on both roads."""
    device = Device(findings.context.device_id)
    files = MediaFolder(findings.context.scratch)
    cases = {
        case.name: case
        for codec in device.codecs
        for case in cases_of(codec, findings.context.quick, device.must_decode(codec))
    }
    files.videos(case.video for case in cases.values())

    right = tried = 0
    graph: Graph | None = None
    for name in findings.cases(cases):
        graph = graph or video_graph(device)
        case = cases[name]
        try:
            row = _compare(device, graph, case, files)
        except Exception as error:
            graph = None  # its state is unknown
            findings.error(name, error, case.is_sure)
            continue
        tried += 1
        findings.fact(name, row)
        right += judge_pictures(findings, name, row, case.is_sure)
    say = findings.good if tried and right == tried else findings.note
    say(f"{right} of {tried} videos are the same on both roads, with the right frames")


def _compare(device: Device, graph: Graph, case: Case, files: MediaFolder) -> dict:
    media = media_of(files.video(case.video))
    frames = case.frames
    by_dali, milliseconds = show_frames(device, graph, media, frames)
    row = compare(by_dali, cpu_video(media, frames), case.video.file, frames)
    return {"codec": media.codec, "ms": round(milliseconds, 2), **row}
