"""Four graphs with one output: clips of (F, H, W, C), normalised.

| graph | input | decodes |
|---|---|---|
| DecodedClips | pixels cut and scaled on the CPU | nothing |
| EncodedImages | file bytes and boxes | nvJPEG on a GPU, libjpeg-turbo and friends on the CPU |
| MovingImages | file bytes, boxes and a matrix a frame | as EncodedImages; one picture becomes a clip |
| EncodedVideos | file bytes, frame numbers and boxes | NVDEC on a GPU, VP8, VP9 and MJPEG on the CPU |

The layout stays channels-last all the way, which is the memory format that convolutions like best.
Scaling is bilinear with an antialiasing triangle filter where it shrinks.
"""

from __future__ import annotations

from omnidali.pipelines.feeds import Graph
from omnidali.utils.constants import MEAN, STD


def _dali():
    """DALI's operators and its constants, imported with the first graph."""
    from nvidia.dali import fn, types

    return fn, types


class DecodedClips(Graph):
    """Feeds: ``pixels`` uint8 (F, size, size, 3) and ``flip`` int32 (), both once a view and
    sample.
    """

    def __init__(
        self,
        size: int,
        views: int,
        batch: int,
        threads: int,
        device_id: int | None,
        frames: int = 1,
    ):
        super().__init__(size, 1, batch * views, threads, device_id, frames)
        self.capacity = batch

    def define(self):
        fn, types = _dali()
        pixels = fn.external_source(
            name="pixels", dtype=types.UINT8, ndim=4, layout="FHWC", no_copy=True
        )
        if self.on_gpu:
            pixels = pixels.gpu()  # one byte a value crosses the bus, not four
        return [_normalise(pixels, _flip("flip"), self.on_gpu, "FHWC")]


class EncodedImages(Graph):
    """Feeds: ``data`` uint8 (bytes,); for view v ``start{v}``, ``end{v}`` float32 (2,) as (y, x),
    ``flip{v}`` int32 ().

    Boxes are in pixels of the upright picture: the decoder applies EXIF orientation.
    """

    def define(self):
        fn, types = _dali()
        data = fn.external_source(name="data", dtype=types.UINT8, ndim=1, no_copy=True)
        pictures = _pictures(data, self.on_gpu)
        views = [
            _normalise(
                _cut_and_scale(pictures, view, [self.size] * 2),
                _flip(f"flip{view}"),
                self.on_gpu,
                "HWC",
            )
            for view in range(self.views)
        ]
        return [fn.expand_dims(view, axes=0, new_axis_names="F") for view in views]


class MovingImages(Graph):
    """Feeds: ``data``, ``start0``, ``end0``, ``flip0`` as :class:`EncodedImages`, ``sides`` float32
    (2,) as (y, x) and ``matrices`` float32 (frames, 3, 3).

    The box is scaled to ``sides``; a matrix takes a point of the output to a point of that, corners
    at whole numbers. Outside of the picture its edge goes on.
    """

    def define(self):
        fn, types = _dali()
        data = fn.external_source(name="data", dtype=types.UINT8, ndim=1, no_copy=True)
        sides = fn.external_source(name="sides", dtype=types.FLOAT, ndim=1)
        matrices = fn.external_source(name="matrices", dtype=types.FLOAT, ndim=3)
        pictures = _pictures(data, self.on_gpu)
        still = fn.expand_dims(_cut_and_scale(pictures, 0, sides), axes=0, new_axis_names="F")
        clips = fn.experimental.warp_perspective(
            fn.sequence_rearrange(still, new_order=[0] * self.frames),
            matrix=fn.per_frame(matrices),
            size=[self.size, self.size],
            interp_type=types.INTERP_LINEAR,
            pixel_origin="corner",
            border_mode="replicate",
        )
        return [_normalise(clips, _flip("flip0"), self.on_gpu, "FHWC")]


class EncodedVideos(Graph):
    """Feeds: ``data`` uint8 (bytes,), ``frames`` int32 (F,), and per view as in
    :class:`EncodedImages`.

    The decoder knows no rotation metadata: rotated files must not come here.
    """

    def define(self):
        fn, types = _dali()
        data = fn.external_source(name="data", dtype=types.UINT8, ndim=1, no_copy=True)
        frames = fn.external_source(name="frames", dtype=types.INT32, ndim=1)
        video = fn.decoders.video(data, frames=frames, device=_decoder(self.on_gpu))
        return [
            _normalise(
                _cut_and_scale(video, view, [self.size] * 2),
                _flip(f"flip{view}"),
                self.on_gpu,
                "FHWC",
            )
            for view in range(self.views)
        ]


def _pictures(data, on_gpu: bool):
    fn, types = _dali()
    # the JPEG engine and the cores share the work; three quarters to the engine were best in
    # NVIDIA's own measurements
    hints = {"hw_decoder_load": 0.75} if on_gpu else {}
    return fn.decoders.image(data, device=_decoder(on_gpu), output_type=types.RGB, **hints)


def _decoder(on_gpu: bool) -> str:
    return "mixed" if on_gpu else "cpu"


def _flip(name: str):
    fn, types = _dali()
    return fn.external_source(name=name, dtype=types.INT32, ndim=0)


def _cut_and_scale(pictures, view: int, size):
    fn, types = _dali()
    start, end = (
        fn.external_source(name=f"{edge}{view}", dtype=types.FLOAT, ndim=1)
        for edge in ("start", "end")
    )
    return fn.resize(
        pictures,
        size=size,
        roi_start=start,
        roi_end=end,
        interp_type=types.INTERP_LINEAR,
        antialias=True,
        dtype=types.UINT8,
    )


def _normalise(pictures, flip, on_gpu: bool, layout: str):
    fn, types = _dali()
    # half precision on the CPU costs four times as much as single
    return fn.crop_mirror_normalize(
        pictures,
        mirror=flip,
        mean=list(MEAN),
        std=list(STD),
        output_layout=layout,
        dtype=types.FLOAT16 if on_gpu else types.FLOAT,
    )
