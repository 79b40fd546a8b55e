"""The probe of each kind of media, behind one signature.

Images are probed without any library; the libraries of the others take longer to import than many
images to probe.
"""

from collections.abc import Callable
from dataclasses import dataclass

from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.image_probe import probe_image
from omnidali.catalog.probing.probe import Probe
from omnidali.media_kind import MediaKind


@dataclass(frozen=True)
class ProbeTask:
    """What the files of a batch have in common.

    Attributes:
        kind: of the source.
        pattern: of the names in a folder of frames.
        root: real path of the source's folder.
        decodes_all: whether to decode whole files, and to believe no header.
        seconds: for one file, besides the time to read it.
        bytes_per_second: that the disk is expected to give.
        decoded_bytes_per_second: the same where a whole video is decoded.
    """

    kind: MediaKind
    pattern: str
    root: str
    decodes_all: bool
    seconds: float
    bytes_per_second: int
    decoded_bytes_per_second: int

    def patience(self, size: int | None) -> float:
        """Seconds that a file of ``size`` bytes may take."""
        return self.seconds + (size or 0) / self.bytes_per_second


# Called before a whole video is decoded, which may take long.
BeforeDecoding = Callable[[], object]


def _probe_image(span: FileSpan, task: ProbeTask, before_decoding: BeforeDecoding) -> Probe:
    probe = probe_image(span)
    if not task.decodes_all:
        return probe
    from omnidali.catalog.probing.image_check import check_image

    return check_image(span, probe)


def _probe_folder(span: FileSpan, task: ProbeTask, before_decoding: BeforeDecoding) -> Probe:
    from omnidali.catalog.probing.folder_probe import probe_frames

    probe = probe_frames(span, task.pattern, task.root)
    if not task.decodes_all:
        return probe
    from omnidali.catalog.probing.image_check import check_folder

    return check_folder(span, probe)


def _probe_video(span: FileSpan, task: ProbeTask, before_decoding: BeforeDecoding) -> Probe:
    import av

    from omnidali.catalog.probing.video_probe import probe_video

    if task.decodes_all:  # only FFmpeg's log reports damage that a decoder conceals
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)
    return probe_video(span, before_decoding, task.decodes_all)


# Each raises UnsupportedMediaError with the reason why the catalog leaves the file out, and OSError
# if it cannot be read.
PROBES: dict[MediaKind, Callable[[FileSpan, ProbeTask, BeforeDecoding], Probe]] = {
    MediaKind.IMAGE: _probe_image,
    MediaKind.FRAMES: _probe_folder,
    MediaKind.VIDEO: _probe_video,
    MediaKind.UNTRIMMED: _probe_video,
}
