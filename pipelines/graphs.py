"""Three graphs with one output: clips of (F, H, W, C), normalised.

| graph | input | decodes |
|---|---|---|
| EncodedImages | file bytes and boxes | nvJPEG on a GPU, libjpeg-turbo and friends on the CPU |
| MovingImages | file bytes, boxes, a matrix a frame | as EncodedImages; an image becomes a clip |
| EncodedVideos | excerpts, frames, boxes, colours | NVDEC on a GPU; VP8, VP9, MJPEG on the CPU |

On a GPU the decoder is "mixed": it takes bytes of the host's memory and leaves pixels on the GPU,
where everything after it runs. The small numbers (boxes, flips, sides, colours) are arguments,
which DALI takes from the host.

The layout stays channels-last all the way, which is the memory format that convolutions like best.
Scaling is bilinear with an antialiasing triangle filter if it shrinks.
"""

from collections.abc import Sequence

import numpy as np
from nvidia.dali import fn
from nvidia.dali.data_node import DataNode
from nvidia.dali.types import DALIDataType, DALIImageType, DALIInterpType

from omnidali.pipelines.graph import Feeds, Graph
from omnidali.utils.constants import MEAN, STD


class EncodedImages(Graph):
    """Feeds: ``data`` uint8 (bytes,); for view v ``start{v}``, ``end{v}`` float32 (2,) as (y, x),
    ``flip{v}`` int32 ().

    Boxes are in pixels of the upright image: the decoder applies EXIF orientation.
    """

    def define(self) -> Sequence[DataNode]:
        images = _decode_images(self.on_gpu)
        crops = [_cut_and_scale(images, view, [self.size, self.size]) for view in range(self.views)]
        views = [
            _normalise(crop, f"flip{view}", on_gpu=self.on_gpu, layout="HWC")
            for view, crop in enumerate(crops)
        ]
        return [fn.expand_dims(view, axes=0, new_axis_names="F") for view in views]


class MovingImages(Graph):
    """Feeds: ``data``, ``start0``, ``end0``, ``flip0`` as :class:`EncodedImages`, ``sides`` float32
    (2,) as (y, x) and ``matrices`` float32 (frames, 3, 3).

    The box is scaled to ``sides``; a matrix takes a point of the output to a point of that, corners
    at whole numbers. Outside of the image its edge is repeated.
    """

    def define(self) -> Sequence[DataNode]:
        sides = fn.external_source(name="sides", dtype=DALIDataType.FLOAT, ndim=1)
        matrices = fn.external_source(name="matrices", dtype=DALIDataType.FLOAT, ndim=3)
        regions = _cut_and_scale(_decode_images(self.on_gpu), 0, sides)
        still = fn.expand_dims(regions, axes=0, new_axis_names="F")
        clips = fn.experimental.warp_perspective(
            fn.sequence_rearrange(still, new_order=[0] * self.frames),
            matrix=fn.per_frame(matrices),
            size=[self.size, self.size],
            interp_type=DALIInterpType.INTERP_LINEAR,
            pixel_origin="corner",
            border_mode="replicate",
        )
        return [_normalise(clips, "flip0", on_gpu=self.on_gpu, layout="FHWC")]


class EncodedVideos(Graph):
    """Feeds: ``data`` uint8 (bytes,); ``frames`` int32 (F,), places among the frames that come out;
    ``sides`` int32 (2,), height and width of the picture without padding; ``colours`` float32
    (3, 4) of :func:`~omnidali.decoding.colours.rgb_correction`; and per view as in
    :class:`EncodedImages`.

    A decoder may give padding at the right and at the bottom. It is cut off before anything is
    scaled: the filter looks beyond a box's edge. What is left is the decoder's own interpolation: a
    quarter of the colour of the last row and column comes from the padding, where encoders repeat
    the edge.

    Colours are corrected in the crops, which are smaller than the frames, and clamped as on the
    CPU. What BT.601 cannot show is lost before: on saturated colours of BT.709 up to 40 levels.

    The decoder knows no rotation metadata: rotated files must not come here. It begins anew for
    every repeated frame: each is decoded once, and its crop copied.
    """

    def start(self, feeds: Feeds) -> None:
        """As of :class:`Graph`."""
        distinct = [np.unique(frames, return_inverse=True) for frames in feeds["frames"]]
        frames = [values for values, _ in distinct]
        orders = [order.astype(np.int32) for _, order in distinct]
        super().start({**feeds, "frames": frames, "order": orders})

    def define(self) -> Sequence[DataNode]:
        data = fn.external_source(name="data", dtype=DALIDataType.UINT8, ndim=1, no_copy=True)
        frames = fn.external_source(name="frames", dtype=DALIDataType.INT32, ndim=1)
        order = fn.external_source(name="order", dtype=DALIDataType.INT32, ndim=1)
        sides = fn.external_source(name="sides", dtype=DALIDataType.INT32, ndim=1)
        colours = fn.external_source(name="colours", dtype=DALIDataType.FLOAT, ndim=2)

        # a frame beyond the last one is an error then, not a black picture
        videos = fn.decoders.video(
            data, frames=frames, device=_decoder_device(self.on_gpu), pad_mode="none"
        )
        videos = fn.slice(videos, start=[0, 0], shape=sides, axes=[1, 2])
        crops = [_cut_and_scale(videos, view, [self.size, self.size]) for view in range(self.views)]
        crops = [fn.sequence_rearrange(crop, new_order=order) for crop in crops]
        crops = [fn.coord_transform(crop, MT=colours, dtype=DALIDataType.UINT8) for crop in crops]
        return [
            _normalise(crop, f"flip{view}", on_gpu=self.on_gpu, layout="FHWC")
            for view, crop in enumerate(crops)
        ]


def _decode_images(on_gpu: bool) -> DataNode:
    data = fn.external_source(name="data", dtype=DALIDataType.UINT8, ndim=1, no_copy=True)
    if not on_gpu:
        return fn.decoders.image(data, device="cpu", output_type=DALIImageType.RGB)
    return fn.decoders.image(
        data,
        device="mixed",
        output_type=DALIImageType.RGB,
        # the JPEG engine and the cores share the work; three quarters to the engine were best in
        # NVIDIA's own measurements; its memory grows to the largest photos within the first steps
        hw_decoder_load=0.75,
        # libjpeg-turbo interpolates colours, too: one picture on all roads
        jpeg_fancy_upsampling=True,
    )


def _decoder_device(on_gpu: bool) -> str:
    return "mixed" if on_gpu else "cpu"


def _cut_and_scale(images: DataNode, view: int, size: Sequence[int] | DataNode) -> DataNode:
    start, end = (
        fn.external_source(name=f"{edge}{view}", dtype=DALIDataType.FLOAT, ndim=1)
        for edge in ("start", "end")
    )

    crops = fn.resize(
        images,
        size=size,
        roi_start=start,
        roi_end=end,
        interp_type=DALIInterpType.INTERP_LINEAR,
        antialias=True,
        dtype=DALIDataType.UINT8,
    )
    assert isinstance(crops, DataNode)  # not a list, as `images` is none
    return crops


def _normalise(images: DataNode, flip: str, *, on_gpu: bool, layout: str) -> DataNode:
    """Normalise and mirror; ``flip`` names the feed that says which to mirror."""
    # half precision on the CPU costs four times as much as single
    return fn.crop_mirror_normalize(
        images,
        mirror=fn.external_source(name=flip, dtype=DALIDataType.INT32, ndim=0),
        mean=list(MEAN),
        std=list(STD),
        output_layout=layout,
        dtype=DALIDataType.FLOAT16 if on_gpu else DALIDataType.FLOAT,
    )
