"""Which decoder takes which file, and the reasons that the start counts."""

import numpy as np
import pytest

from helpers.plans import table_with
from omnidali.catalog.database.source_table import SourceTable
from omnidali.decoding.routes import (
    choose_routes,
    describe_codecs,
    describe_files,
    gives_same_pixels,
    on_cpu,
)
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind

HOPPER, ADA = (9, 0), (8, 9)
TAKEN = ""


def table_of(files, kind="video", records=None, starts=None):
    """A table with a row for each (codec, width, height), or with these pieces a row."""
    names = sorted({codec for codec, _, _ in files})
    first = range(len(files)) if starts is None else starts[:-1]
    return SourceTable(
        "web",
        MediaKind(kind),
        np.arange(len(files)) if records is None else np.array(records),
        np.zeros(len(first), np.int32),
        np.array([files[row][1] for row in first], np.uint16),
        np.array([files[row][2] for row in first], np.uint16),
        np.full(len(files), 30, np.int32),
        np.array([names.index(codec) for codec, _, _ in files], np.uint8),
        starts=None if starts is None else np.array(starts),
        codec_names=tuple(names),
    )


def reasons_of(table, decode, capability, **options):
    """By piece, why the CPU decodes it."""
    routes = choose_routes(table, decode, capability, **options)
    assert (routes.by_cpu == ((routes.why > 0) | (not routes.uses_dali))).all()
    return [routes.reasons[why] for why in routes.why]


def test_routes_by_codec_and_device():
    codecs = ("av1", "h264", "h264:rotated", "hevc:yuv420p10le", "vp9")
    cpu_alone = dict.fromkeys(codecs, "cpu")
    assert choose_routes(table_with(codecs), "auto", None).decoders == cpu_alone
    assert choose_routes(table_with(codecs), "cpu", ADA).decoders == cpu_alone
    assert choose_routes(table_with(codecs), "auto", HOPPER).decoders == {
        **cpu_alone,
        "h264": "dali",
        "vp9": "dali",
    }
    assert choose_routes(table_with(["vp9"]), "dali", None).decoders == {"vp9": "dali"}
    hybrid = choose_routes(table_with(codecs), "hybrid", HOPPER)
    assert hybrid.decoders == {**cpu_alone, "h264": "hybrid", "vp9": "hybrid"}
    assert hybrid.is_hybrid and hybrid.uses_dali
    with pytest.raises(UserError, match="a codec that DALI decodes here, got h264"):
        choose_routes(table_with(["h264"]), "hybrid", None)
    with pytest.raises(UserError, match="codecs that DALI decodes on the CPU, got h264"):
        choose_routes(table_with(["h264", "vp9"]), "dali", None)


@pytest.mark.parametrize(
    "capability", [(8, 6), (8, 9), (10, 0), (10, 3), (12, 0), (12, 1), (13, 0)]
)
def test_gpu_has_av1_unless_it_is_known_to_lack_it(capability):
    assert choose_routes(table_with(["av1"]), "auto", capability).decoders == {"av1": "dali"}


@pytest.mark.parametrize("capability", [(7, 0), (7, 5), (8, 0), (9, 0)])
def test_gpu_that_lacks_av1(capability):
    table = table_of([("av1", 640, 360), ("vp9", 640, 360)])
    reason = "in av1, which DALI does not decode on this GPU"
    assert reasons_of(table, "auto", capability) == [reason, TAKEN]
    with pytest.raises(UserError, match="codecs that DALI decodes on this GPU, got av1"):
        choose_routes(table, "dali", capability)


@pytest.mark.parametrize(
    "codec, width, height, reason",
    [
        ("h264", 340, 256, TAKEN),
        ("h264", 4096, 4096, TAKEN),
        ("h264", 48, 16, TAKEN),
        ("h264", 46, 256, "smaller than NVDEC takes"),
        ("h264", 256, 14, "smaller than NVDEC takes"),
        ("h264", 4098, 256, "larger than NVDEC takes"),
        ("h264", 341, 256, "with odd sides"),
        ("h264", 340, 255, "with odd sides"),
        ("hevc", 142, 256, "smaller than NVDEC takes"),
        ("hevc", 256, 142, "smaller than NVDEC takes"),
        ("hevc", 8192, 4320, TAKEN),
        ("vp9", 126, 256, "smaller than NVDEC takes"),
        ("vp9", 112, 81, "smaller than NVDEC takes"),
        ("vp8", 112, 80, TAKEN),
        ("vp8", 4112, 80, "larger than NVDEC takes"),
        ("mpeg4", 1920, 1080, TAKEN),
        ("mpeg4", 2032, 2032, "larger than NVDEC takes"),
        ("av1", 640, 360, TAKEN),
        ("av1", 126, 360, "smaller than NVDEC takes"),
        ("mjpeg", 640, 360, "in mjpeg, which DALI does not decode on this GPU"),
        ("h264:rotated", 4098, 3, "rotated"),
        ("h264:interlaced", 640, 360, "interlaced"),
        ("h264:open-gop", 640, 360, "with open GOPs"),
        ("h264:indirect", 640, 360, "in a container that cuts packets up"),
        ("h264:irregular", 640, 360, TAKEN),
        ("h264:irregular", 639, 360, "with odd sides"),
        ("h264:open-gop:irregular", 640, 360, "with open GOPs"),
        ("h264:uncounted:irregular", 640, 360, "whose frames no packet tells apart"),
        ("h264:edited", 640, 360, "with frames left out or settings that change"),
        ("h264:damaged", 640, 360, "damaged"),
        ("h264:anamorphic", 640, 360, "with stretched pixels"),
        ("hevc:yuv420p10le", 640, 360, "in yuv420p10le, which is not 8-bit 4:2:0"),
    ],
)
def test_facts_decide_for_each_file(codec, width, height, reason):
    table = table_of([(codec, width, height), ("h264", 640, 360)])
    assert reasons_of(table, "auto", ADA) == [reason, TAKEN]
    assert reasons_of(table, "auto", None) == [TAKEN, TAKEN]  # nobody asks for DALI


@pytest.mark.parametrize(
    "kind, codec, cause",
    [
        ("image", "avif", "in avif, which DALI does not decode on this GPU"),
        ("image", "avif:rotated", "rotated"),
        ("image", "bmp", "in bmp, which DALI does not decode on this GPU"),
        ("video", "gif", "in gif, which DALI does not decode on this GPU"),
    ],
)
def test_dali_gets_no_file_of_a_format_that_it_does_not_decode(kind, codec, cause):
    taken = "jpeg" if kind == "image" else "h264"
    routes = choose_routes(table_with([codec, taken], kind), "auto", HOPPER)
    assert routes.decoders == {codec: "cpu", taken: "dali"}
    assert routes.causes[codec] == cause


def test_limits_of_the_gpu_do_not_bind_the_cpu():
    table = table_of([("vp9", 111, 81), ("vp9", 640, 360)])
    assert reasons_of(table, "dali", None) == [TAKEN, TAKEN]
    assert reasons_of(table, "dali", ADA) == ["smaller than NVDEC takes", TAKEN]


def test_size_of_a_photo_is_no_matter():
    table = table_of([("jpeg", 5, 7), ("png:rotated", 60, 50), ("jpeg:cmyk", 60, 50)], "image")
    assert reasons_of(table, "auto", ADA) == [TAKEN, "rotated", "in CMYK"]


def test_known_damage_is_the_cpus_and_refuses_no_run():
    table = table_of([("vp9", 640, 360), ("vp9:damaged", 640, 360)])
    for decode in ("dali", "hybrid"):
        assert reasons_of(table, decode, None) == [TAKEN, "damaged"]
        assert reasons_of(table, decode, ADA) == [TAKEN, "damaged"]
    with pytest.raises(UserError, match="got h264:damaged"):
        choose_routes(table_with(["h264:damaged"]), "dali", None)


def test_what_a_closer_look_finds_refuses_no_run():
    """It is the CPU's; other variants are refused, as they were by earlier versions."""
    variants = ("interlaced", "open-gop", "indirect", "edited", "open-gop:irregular")
    table = table_of([(f"h264:{name}", 640, 360) for name in variants])
    assert TAKEN not in reasons_of(table, "dali", ADA)
    for variant in ("rotated", "uncounted:irregular", "yuv444p"):
        with pytest.raises(UserError, match=f"got h264:{variant}"):
            choose_routes(table_with(["h264", f"h264:{variant}"]), "dali", ADA)


def test_pieces_of_a_long_video_have_its_size():
    files = [("h264", 640, 360)] * 2 + [("h264", 30, 360)] * 3 + [("hevc", 640, 360)]
    table = table_of(files, "untrimmed", records=[1, 2, 3, 3, 3, 4], starts=[0, 2, 5, 6])
    assert reasons_of(table, "auto", ADA) == [TAKEN] * 2 + ["smaller than NVDEC takes"] * 3 + [
        TAKEN
    ]
    # the three pieces are of one file
    line = describe_files(table, choose_routes(table, "auto", ADA), True, 0.0)
    assert line == (
        "web: 3 files (h264, hevc): DALI on the GPU; 1 smaller than NVDEC takes: PyAV on the CPU"
    )


def test_start_counts_files_by_reason():
    files = [("h264", 640, 360)] * 1203 + [("h264:rotated", 360, 640)] * 40 + [("vp9", 90, 90)] * 3
    table = table_of(files + [("vp9", 640, 360)] * 2)
    tried = {"vp9": "in vp9, which DALI does not decode here"}

    def line(decode, capability, **options):
        routes = choose_routes(table, decode, capability, **options)
        return describe_files(table, routes, capability is not None, 0.25)

    assert line("auto", ADA, failed=[3, 5, 1203]) == (
        "web: 1,203 files (h264, vp9): DALI on the GPU; 40 rotated, 2 that DALI could not decode,"
        " 3 smaller than NVDEC takes: PyAV on the CPU"
    )
    assert line("auto", ADA, tried=tried) == (
        "web: 1,203 files (h264): DALI on the GPU; 40 rotated, 5 in vp9, which DALI does not decode"
        " here: PyAV on the CPU"
    )
    assert line("hybrid", ADA).startswith(
        "web: 1,205 files (h264, vp9): DALI on the GPU and, of every 100 slots, 25 by PyAV on the"
        " CPU; 40 rotated, 3"
    )
    for decode, capability in (("auto", None), ("cpu", ADA)):
        assert line(decode, capability) == (
            "web: 1,248 files (h264, h264:rotated, vp9): PyAV on the CPU"
        )


def test_trial_takes_a_codec_away():
    table = table_of([("h264", 640, 360), ("vp9", 640, 360), ("vp9:damaged", 640, 360)])
    routes = choose_routes(table, "auto", ADA, tried={"vp9": "in vp9, and slow", "h264": ""})
    assert routes.decoders == {"h264": "dali", "vp9": "cpu", "vp9:damaged": "cpu"}
    assert routes.causes == {"h264": "", "vp9": "in vp9, and slow", "vp9:damaged": "damaged"}
    assert routes.by_cpu.tolist() == [False, True, True]


def test_slots_of_the_cpu_are_spread_over_all_ranks():
    for share in (0, 0.25, 0.6, 1):
        for rank in range(8):
            assert abs(on_cpu(np.arange(rank, 8000, 8), share).sum() - 1000 * share) <= 10


def test_other_decoders_are_told_from_new_names():
    """A catalog that names a variant of its own gives no other pixels, if the decoder stays."""
    before, after = table_with(["h264", "vp9"]), table_with(["h264", "h264:open-gop", "vp9"])

    def line(table, decode, capability, share=0.25, finished=""):
        routes = choose_routes(table, decode, capability)
        return describe_codecs(table, routes, capability is not None, share) + finished

    on_gpu = ", finished on cuda"
    assert gives_same_pixels(line(before, "auto", None), line(after, "auto", None))
    assert not gives_same_pixels(line(before, "auto", ADA), line(after, "auto", ADA))
    assert not gives_same_pixels(line(before, "hybrid", ADA), line(before, "hybrid", ADA, 0.5))
    assert gives_same_pixels(line(before, "hybrid", ADA), line(before, "hybrid", ADA))
    assert not gives_same_pixels(line(before, "cpu", ADA, finished=on_gpu), line(after, "cpu", ADA))
    assert gives_same_pixels(
        line(before, "cpu", ADA, finished=on_gpu), line(after, "cpu", ADA, finished=on_gpu)
    )
