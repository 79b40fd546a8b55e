"""The table of formats is true: what it names is there, and what is there is in it."""

import io

import av
import cv2
import pytest

from conftest import needs_tool
from helpers.frame_matrix.containers import make_file
from helpers.frame_matrix.encoding import BY_PROGRAM, encode
from helpers.frame_matrix.matrix import CODECS
from omnidali.catalog.probing import avif_support
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.formats import (
    HEAD_BYTES,
    IMAGE_ENDINGS,
    PHOTOS,
    VIDEO_ENDINGS,
    VIDEOS,
)
from omnidali.catalog.probing.sniff import refusal_of, sniff_photo, sniff_video
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.media_kind import MediaKind
from omnidali.testing.numbered_media import numbered_image

# A kind of the frame matrix for each ending of a video.
KINDS = {
    ".mp4": ("mp4", "h264"),
    ".m4v": ("mp4", "mpeg4"),
    ".mov": ("mov", "mjpeg"),
    ".qt": ("mov", "h264"),
    ".3gp": ("3gp", "h263"),
    ".3g2": ("3gp", "mpeg4"),
    ".mkv": ("mkv", "h264"),
    ".webm": ("webm", "vp8"),
    ".avi": ("avi", "wmv2"),
    ".divx": ("avi", "mpeg4"),
    ".flv": ("flv", "flv1"),
    ".mpg": ("mpg", "mpeg1"),
    ".mpeg": ("mpg", "mpeg2"),
    ".vob": ("mpg", "mpeg2"),
    ".ts": ("ts", "h264"),
    ".m2ts": ("m2ts", "h264"),
    ".mts": ("m2ts", "h264"),
    ".ivf": ("ivf", "vp8"),
    ".ogv": ("ogv", "vp8"),
    ".ogg": ("ogv", "vp8"),
    ".wmv": ("wmv", "wmv2"),
    ".asf": ("wmv", "msmpeg4v3"),
    ".gif": ("gif", "gif"),
}


def write_kind(path, container, codec):
    """A small video; two containers are not of the matrix."""
    if container not in ("ivf", "m2ts"):
        make_file(path, container, codec, "plain")
        return
    options = {"mpegts_m2ts_mode": "1"} if container == "m2ts" else {}
    template = io.BytesIO(encode(codec, "plain", False).template)
    form = "mpegts" if container == "m2ts" else "ivf"
    with av.open(template) as source, av.open(str(path), "w", format=form, options=options) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)


@pytest.mark.parametrize("ending", sorted(VIDEO_ENDINGS))
def test_ending_of_a_video_leads_to_its_container(tmp_path, ending):
    (form,) = [form for form in VIDEOS if ending in form.endings]
    path = tmp_path / f"a{ending}"
    write_kind(path, *KINDS[ending])
    head = path.read_bytes()[:HEAD_BYTES]
    assert sniff_video(head) == form.container
    assert refusal_of(head, MediaKind.VIDEO) is None
    assert refusal_of(head, MediaKind.UNTRIMMED) is None
    assert refusal_of(head, MediaKind.IMAGE).startswith(
        ("not a photo: a video", "a photo that is not")
    )
    assert av.format.ContainerFormat(form.container, "r").is_input
    assert probe_video(FileSpan(str(path))).frames == 28


@pytest.mark.parametrize("ending", sorted(IMAGE_ENDINGS))
def test_ending_of_a_photo_leads_to_its_format(ending):
    (form,) = [form for form in PHOTOS if ending in form.endings]
    if form.container == "avif":
        data = avif_support._PICTURE
    else:
        data = cv2.imencode(form.endings[0], numbered_image(1, 0, 40, 30))[1].tobytes()
    head = data[:HEAD_BYTES]
    assert sniff_photo(head) == form.container
    assert refusal_of(head, MediaKind.IMAGE) is refusal_of(head, MediaKind.FRAMES) is None
    assert refusal_of(head, MediaKind.VIDEO) == f"not a video: a photo ({form.name})"


def test_every_decoder_is_reached_by_a_file_of_the_tests():
    needs_tool("ffmpeg")
    reached = set()
    for codec in CODECS:
        more = {} if codec in BY_PROGRAM else {"count": 2}
        with av.open(io.BytesIO(encode(codec, "plain", True, **more).template)) as video:
            reached.add(video.streams.video[0].codec_context.codec.name)
    assert reached == {name for form in VIDEOS for name in form.decoders}


def test_no_container_is_named_twice():
    for formats in (PHOTOS, VIDEOS):
        endings = [ending for form in formats for ending in form.endings]
        assert len(set(endings)) == len(endings)
        assert len({form.container for form in formats}) == len(formats)
    assert not IMAGE_ENDINGS & VIDEO_ENDINGS
