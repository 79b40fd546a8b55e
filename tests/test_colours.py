"""Colours follow the matrix and the range of the file, as FFmpeg converts them exactly.

On the CPU's road they differ by rounding alone. DALI's decoders clamp what they make by BT.601
before the graph corrects it: there the mean difference is at most 2 levels, and colours that are
out of BT.601's reach differ by more.
"""

import itertools

import av
import numpy as np
import pytest
import torch
from nvidia.dali import Pipeline, fn
from nvidia.dali.types import DALIDataType

import omnidali
from conftest import media_of, needs_tool
from helpers.batches import pictures
from helpers.colour_patches import MATRICES, SIDE, middles, patches, write_tagged
from helpers.dali_graphs import as_bytes, box_feeds, video_feeds
from helpers.ffmpeg_rgb import ffmpeg_rgb
from helpers.image_source import make_plan, open_images
from helpers.oriented_images import made_picture
from omnidali.catalog.build import build_catalog
from omnidali.catalog.database.reader import CatalogReader
from omnidali.config.schema import ClipConfig
from omnidali.config.sources import SourceConfig
from omnidali.decoding.colours import rgb_correction, rgb_matrix
from omnidali.decoding.video import decode_video
from omnidali.pipelines import EncodedVideos

LOSSLESS = {"codec": "libvpx-vp9", "options": {"lossless": "1"}}
LIMITED = {"codec": "libvpx", "options": {"crf": "4", "b": "5M"}}
FULL = {"codec": "mjpeg", "options": {"q": "2"}, "pixels": "yuvj420p"}
IDENTITY = np.eye(3, 4, dtype=np.float32)
every_range = pytest.mark.parametrize("is_full", [False, True], ids=["limited", "full"])
every_matrix = pytest.mark.parametrize("matrix", MATRICES)


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize(
    "pixels", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"]
)
@every_range
@every_matrix
def test_colours_equal_ffmpegs_exact_conversion(tmp_path, matrix, is_full, pixels, rotation):
    needs_tool("ffmpeg")
    write_tagged(
        tmp_path / "a.mkv",
        patches(),
        matrix=MATRICES[matrix],
        is_full=is_full,
        pixels=pixels,
        rotation=rotation,
    )
    shown = omnidali.read_frames(tmp_path / "a.mkv", [0])[0]
    wanted = ffmpeg_rgb(tmp_path / "a.mkv", SIDE, SIDE)
    assert np.abs(middles(shown) - middles(wanted)).max() <= 3


@pytest.mark.parametrize(
    "pixels", ["gray", "rgb24", "bgr0", "yuv411p", "yuv410p", "gray16le", "yuva420p"]
)
def test_rare_pixel_formats_equal_ffmpegs_conversion(tmp_path, pixels):
    needs_tool("ffmpeg")
    path = tmp_path / "a.mkv"
    frame = av.VideoFrame.from_ndarray(patches(), format="rgb24")
    with av.open(str(path), "w") as container:
        codec = ("libx264rgb", {"crf": "0"}) if pixels == "rgb24" else ("ffv1", {})
        stream = container.add_stream(codec[0], rate=25, options=codec[1])
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, pixels
        for packet in (*stream.encode(frame.reformat(format=pixels)), *stream.encode(None)):
            container.mux(packet)
    shown, wanted = omnidali.read_frames(path, [0])[0], ffmpeg_rgb(path, SIDE, SIDE)
    assert np.abs(middles(shown) - middles(wanted)).max() <= 3


@pytest.fixture(scope="module")
def graph():
    return EncodedVideos(SIDE, 1, batch=1, threads=1, device_id=None)


def by_dali(graph, path, **changed):
    """The first frame by DALI's CPU decoder and the graph: uint8 (SIDE, SIDE, 3)."""
    feeds = video_feeds(path, [0]) | box_feeds([[0, 0, SIDE, SIDE]], [0]) | changed
    return as_bytes(graph.run(feeds)[0])[0, 0]


def by_cpu(path):
    out = np.zeros((1, 1, SIDE, SIDE, 3), np.uint8)
    decode_video(media_of(path), np.array([0]), np.array([[0, 0, SIDE, SIDE]]), SIDE, out)
    return out[0, 0]


def mean_difference(one, other):
    return np.abs(one.astype(float) - other).mean()


@every_range
@every_matrix
def test_both_roads_give_ffmpegs_colours(tmp_path, graph, matrix, is_full):
    needs_tool("ffmpeg")
    path = tmp_path / "a.webm"
    for picture, chosen in ((patches(), middles), (made_picture(SIDE, SIDE), np.asarray)):
        write_tagged(path, picture, matrix=MATRICES[matrix], is_full=is_full, **LOSSLESS)
        wanted = chosen(ffmpeg_rgb(path, SIDE, SIDE))
        assert mean_difference(chosen(by_cpu(path)), wanted) < 2
        assert mean_difference(chosen(by_dali(graph, path)), wanted) < 2


@pytest.mark.parametrize("matrix", ["bt709", "smpte240m", "bt2020nc"])
def test_dali_alone_converts_all_as_bt601(tmp_path, graph, matrix):
    """Once this fails, DALI has learned it, and the correction must go."""
    path = tmp_path / "a.webm"
    write_tagged(path, patches(), matrix=MATRICES[matrix], is_full=False, **LOSSLESS)
    bare = by_dali(graph, path, colours=[IDENTITY])
    assert mean_difference(middles(bare), middles(by_cpu(path))) > 5


@pytest.mark.parametrize("encoding", [LIMITED, FULL], ids=["vp8", "mjpeg"])
def test_ordinary_colours_of_both_roads(tmp_path, graph, encoding):
    path = tmp_path / ("a.webm" if encoding is LIMITED else "a.avi")
    write_tagged(path, patches(), matrix=5, is_full=encoding is FULL, **encoding)
    assert np.array_equal(video_feeds(path, [0])["colours"][0], IDENTITY)
    assert mean_difference(middles(by_dali(graph, path)), middles(by_cpu(path))) < 0.5


@every_range
def test_identity_keeps_the_bits_of_the_decoder(tmp_path, graph, is_full):
    path = tmp_path / "a.webm"
    write_tagged(path, made_picture(SIDE, SIDE), matrix=6, is_full=is_full, **LOSSLESS)
    assert np.array_equal(rgb_correction(6, is_full), IDENTITY)

    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipeline:
        data = fn.external_source(name="data", dtype=DALIDataType.UINT8, ndim=1)
        pipeline.set_outputs(fn.decoders.video(data, frames=[0], device="cpu"))
    pipeline.feed_input("data", [np.fromfile(path, np.uint8)])
    (bare,) = pipeline.run()
    assert np.array_equal(by_dali(graph, path), np.array(bare.at(0))[0])


@pytest.mark.parametrize("matrix", [*MATRICES.values(), 0, 2, 10])
@every_range
def test_correction_takes_bt601_to_the_right_colours(matrix, is_full):
    levels = np.array([*itertools.product((16, 80, 235), repeat=3)], float)
    planes = np.column_stack([levels, np.ones(len(levels))])
    done = planes @ rgb_matrix(5, is_full).T
    right = planes @ rgb_matrix(matrix, is_full).T
    correction = rgb_correction(matrix, is_full)
    assert (correction.shape, correction.dtype) == ((3, 4), np.float32)
    assert np.allclose(done @ correction[:, :3].T + correction[:, 3], right, atol=1e-2)
    assert np.array_equal(correction, IDENTITY) == (matrix in (5, 6, 0, 2))


GPU_SIDE = 160  # pixels: NVDEC takes no HEVC below 144
GPU_ENCODINGS = {
    "h264": {"codec": "libx264", "options": {"qp": "4"}},
    "hevc": {"codec": "libx265", "options": {"x265-params": "qp=4:log-level=none"}},
    "vp9": LOSSLESS,
}


@pytest.mark.needs_gpu
@pytest.mark.parametrize("codec", GPU_ENCODINGS)
@every_range
@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "smpte240m", "bt2020nc"])
def test_gpu_gives_the_colours_of_the_cpu(tmp_path, matrix, is_full, codec):
    """Each tag is in the stream itself, where NVIDIA's parser looks for it."""
    path = tmp_path / "a.mkv"
    picture = made_picture(GPU_SIDE, GPU_SIDE)
    write_tagged(path, picture, matrix=MATRICES[matrix], is_full=is_full, **GPU_ENCODINGS[codec])
    graph = EncodedVideos(GPU_SIDE, 1, batch=1, threads=1, device_id=0)
    (output,) = graph.run(video_feeds(path, [0]) | box_feeds([[0, 0, GPU_SIDE, GPU_SIDE]], [0]))
    assert torch.from_dlpack(output).is_cuda

    wanted = np.zeros((1, 1, GPU_SIDE, GPU_SIDE, 3), np.uint8)
    box = np.array([[0, 0, GPU_SIDE, GPU_SIDE]])
    decode_video(media_of(path), np.array([0]), box, GPU_SIDE, wanted)
    assert mean_difference(as_bytes(output)[0, 0], wanted[0, 0]) < 2


def test_clips_of_a_mixed_source_have_the_same_colours_on_both_roads(tmp_path):
    """A loader feeds the matrix of each file, end to end."""
    for number in range(8):
        path = tmp_path / "v" / str(number % 2) / f"{number}.webm"
        path.parent.mkdir(parents=True, exist_ok=True)
        matrix = (1, 5, 7, 9)[number // 2]
        write_tagged(
            path, made_picture(240, 200), matrix=matrix, is_full=number % 3 == 0, **LOSSLESS
        )

    clips = {}
    for decode in ("dali", "cpu"):
        source = {"v": SourceConfig(kind="video", root="v", decode=decode)}
        build_catalog(tmp_path / f"{decode}.sqlite", source, tmp_path, progress=False)
        table = CatalogReader(tmp_path / f"{decode}.sqlite").table("v")
        plan = make_plan([table], source, ClipConfig(num_clips=2, size=56), batch=4)
        with open_images(table, source, plan) as loader:
            groups = [group for batch in loader for group in batch.groups]
            clips[decode] = [(group.record.tolist(), pictures(group.clips)) for group in groups]
    for (records, shown), (same, wanted) in zip(clips["dali"], clips["cpu"], strict=True):
        assert records == same
        assert mean_difference(shown, wanted) < 2
