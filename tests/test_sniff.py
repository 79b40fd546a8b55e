"""What a file is called that no source reads: in words a user knows."""

import re
import struct
import wave

import av
import numpy as np
import pytest

from helpers.avif_files import box
from helpers.frame_matrix.containers import make_file
from omnidali.catalog.probing.file_span import FileSpan
from omnidali.catalog.probing.formats import HEAD_BYTES
from omnidali.catalog.probing.limits import UnsupportedMediaError
from omnidali.catalog.probing.sniff import refusal_of
from omnidali.catalog.probing.video_probe import probe_video
from omnidali.media_kind import MediaKind
from omnidali.testing.odd_media import write_audio_only

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
FTYP = box(b"ftyp", b"%s", bytes(4), b"mif1")
OTHERS = {
    "empty": (b"", "an empty file"),
    "zeros": (bytes(HEAD_BYTES), "zeros, as of a download that was never finished"),
    "Git LFS": (LFS, "a Git LFS pointer: fetch the file with git lfs pull"),
    "git-annex": (b"/annex/objects/MD5E-s1--a.mp4\n", "a git-annex pointer: fetch"),
    "AppleDouble": (b"\0\5\x16\7\0\2\0\0Mac OS X", "a macOS resource file"),
    "page": (b"\xef\xbb\xbf\n<!DOCTYPE html><title>404</title>", "a web page"),
    "page after a comment": (b"<!-- x --><html><body>", "a web page"),
    "page with a drawing": (b"<!-- x --><html><svg></svg>", "a web page"),
    "page that begins with a script": (b"\n<script>location='/'</script>", "a web page"),
    "page that begins with its head": (b"<head><title>404</title></head>", "a web page"),
    "page that begins with its body": (b"<BODY bgcolor=white>Not found", "a web page"),
    "page without a head": (b"<h1>403 Forbidden</h1>", "a web page"),
    "page of a program": (b"<?php header('Location: /');", "a web page"),
    "text in angle brackets": (b"<author> wrote", "text"),
    "XHTML": (b"<?xml version='1.0'?><!DOCTYPE html><html>", "a web page"),
    "answer of a store": (b"<?xml version='1.0'?><Error><Code>AccessDenied", "an XML error answer"),
    "feed": (b"<?xml version='1.0'?><rss>", "XML"),
    "JSON": (b'{"error": "quota exceeded"}', "a JSON answer"),
    "text": (b"hello\n" * 9, "text"),
    "word that begins like a BMP": (b"BMW is a make of cars, and this is text", "text"),
    "HLS": (b"#EXTM3U\n", "a playlist"),
    "DASH": (b"<?xml version='1.0'?><MPD xmlns='x'>", "a playlist"),
    "PDF": (b"%PDF-1.7", "PDF"),
    "ZIP": (b"PK\3\4" + bytes(30), "ZIP"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "gzip"),
    "7-Zip": (b"7z\xbc\xaf\x27\x1c" + bytes(30), "7-Zip"),
    "RAR": (b"Rar!\x1a\7\1\0", "RAR"),
    "old Office file": (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(30),
        r"an old Office file \(DOC, XLS or PPT\)",
    ),
    "Windows program": (b"MZ\x90\0\3" + bytes(30), "a Windows program"),
    "text that begins like a program": (b"MZ is no name of a program", "text"),
    "tar": (b"a.jpg".ljust(257, b"\0") + b"ustar\0", "tar"),
    "MP3": (b"ID3\4" + bytes(30), r"sound alone \(MP3\)"),
    "MP3 without a tag": (b"\xff\xfb\x90\x64" + bytes(30), r"sound alone \(MP3\)"),
    "AAC": (b"\xff\xf1\x50\x80" + bytes(30), r"sound alone \(AAC\)"),
    "AC-3": (b"\x0b\x77\x8c\x1e\x10\x40" + bytes(30), r"sound alone \(AC-3\)"),
    "FLAC": (b"fLaC" + bytes(30), r"sound alone \(FLAC\)"),
    "Vorbis": (b"OggS" + bytes(24) + b"\1vorbis", r"sound alone \(Vorbis\)"),
    "Opus": (b"OggS" + bytes(24) + b"OpusHead", r"sound alone \(Opus\)"),
    "Ogg of something else": (b"OggS" + bytes(24) + b"BBCD", "Ogg without Theora or VP8"),
    "raw video": (b"\0\0\0\1\x67" + bytes(30), "a raw video without a container"),
    "noise": (b"\x8f\x02\x9c\x13", "unknown bytes"),
}
PICTURES = {
    "TIFF": (b"II*\0\x08\0\0\0" + bytes(30), "TIFF or camera raw"),
    "big-endian TIFF": (b"MM\0*\0\0\0\x08" + bytes(30), "TIFF or camera raw"),
    "CR2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(30), "camera raw (CR2)"),
    "CR3": (FTYP % b"crx ", "camera raw (CR3)"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(30), "JPEG 2000"),
    "JPEG 2000 without boxes": (b"\xff\x4f\xff\x51" + bytes(30), "JPEG 2000"),
    "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30), "JPEG XL"),
    "JPEG XL without boxes": (b"\xff\x0a" + bytes(30), "JPEG XL"),
    "HEIC": (FTYP % b"heic", "HEIC"),
    "HEIC by its general name": (FTYP % b"mif1", "HEIC"),
    "PSD": (b"8BPS\0\1" + bytes(30), "Photoshop (PSD)"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'>", "SVG"),
    "SVG in XML": (b"<?xml version='1.0'?>\n<!-- Inkscape --><svg>", "SVG"),
    "GIF": (b"GIF89a" + bytes(30), "GIF"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_file_that_is_no_medium_is_named(name):
    head, words = OTHERS[name]
    for kind in MediaKind:
        what = "photo" if kind.has_images else "video"
        assert re.match(f"not a {what}: {words}", refusal_of(head, kind))


@pytest.mark.parametrize("name", PICTURES)
def test_picture_that_is_not_read_is_named(name):
    head, words = PICTURES[name]
    refusal = refusal_of(head, MediaKind.IMAGE)
    assert refusal == f"a photo that is not read: {words} (convert it to PNG or JPEG)"
    as_video = None if name == "GIF" else f"not a video: a picture ({words})"
    assert refusal_of(head, MediaKind.VIDEO) == as_video


def test_wav_is_sound_alone(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(100))
    head = (tmp_path / "a.wav").read_bytes()
    assert refusal_of(head, MediaKind.VIDEO) == "not a video: sound alone (WAV)"


def write_wma(path):
    with av.open(str(path), "w", format="asf") as container:
        stream = container.add_stream("wmav2", rate=44100)
        stream.bit_rate = 64_000
        samples = np.zeros((1, 4096), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_containers_of_videos_with_sound_alone_are_named(tmp_path):
    write_audio_only(tmp_path / "a.m4a", 1)
    write_wma(tmp_path / "a.wma")
    for name in ("a.m4a", "a.wma"):
        with pytest.raises(UnsupportedMediaError, match="^sound alone$"):
            probe_video(FileSpan(str(tmp_path / name)))


@pytest.mark.parametrize(
    "codec, words",
    [
        (b"WMV3", r"WMV 9 video \(wmv3\)"),
        (b"WVC1", r"VC-1 video \(vc1\)"),
        (b"MP41", r"MS MPEG-4 version 1 video \(msmpeg4v1\)"),
        (b"RV40", r"video \(rv40\)"),
    ],
)
def test_codec_that_no_test_can_make_is_named(tmp_path, codec, words):
    path = tmp_path / "a.wmv"
    make_file(path, "wmv", "wmv2", "plain")
    data = path.read_bytes()
    assert data.count(b"WMV2") >= 1
    path.write_bytes(data.replace(b"WMV2", codec))
    with pytest.raises(UnsupportedMediaError, match=f"^{words}: not read, convert it to H.264$"):
        probe_video(FileSpan(str(path)))


def test_brands_decide_on_pictures_among_videos():
    def head(*brands):
        return box(b"ftyp", brands[0], struct.pack(">I", 0), *brands[1:])

    for brands in ((b"isom",), (b"qt  ",), (b"mp42", b"avif"), (b"M4V ", b"heic"), (b"msf1",)):
        assert refusal_of(head(*brands), MediaKind.VIDEO) is None
    for brands, name in (
        ((b"avif",), "a photo (AVIF)"),
        ((b"mif1", b"avif"), "a photo (AVIF)"),
        ((b"avis", b"avif"), "an animated picture (AVIF)"),
        ((b"mif1", b"heic"), "a picture (HEIC)"),
    ):
        assert refusal_of(head(*brands), MediaKind.VIDEO) == f"not a video: {name}"
