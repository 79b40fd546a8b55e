"""Images on the CPU: the needed part of a JPEG through nvImageCodec, the rest through OpenCV.

For JPEGs both are libjpeg-turbo underneath and give the same pixels.
"""

import os
import threading

import cv2
import numpy as np

from omnidali.catalog.database.media import Media
from omnidali.catalog.probing.image_header import ImageHeader, read_image_header
from omnidali.catalog.probing.limits import MAX_IMAGE_BYTES, UnsupportedMediaError
from omnidali.decoding.failure_cause import cause_of
from omnidali.decoding.scale import cut_and_scale
from omnidali.errors import DecodeError
from omnidali.planning.camera_motion import through_region

# What it cannot decode is reported by us, with the file's name.
os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
import nvidia.nvimgcodec as nvimgcodec

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
_LOCAL = threading.local()  # a decoder for each thread

_EXIF_WITHIN = 1 << 14  # bytes; by its standard EXIF comes first of all segments
_END_WITHIN = 1 << 10  # bytes; the end's mark, and what some programs append to it

# JPEG decodes at 1/2, 1/4 and 1/8 size for a fraction of the work; the averaging is the transform's
# own.
_REDUCED = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
}
# What nvImageCodec raises; the last two if another version has another interface.
_CODEC_ERRORS = (RuntimeError, ValueError, AttributeError, TypeError)

_FROM_CORNER = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
_TO_CORNER = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])


def decode_image(
    media: Media, boxes: np.ndarray, size: int, out: np.ndarray, motions: np.ndarray | None = None
) -> None:
    """Decode an image, turn it upright by EXIF, and write its crops.

    Args:
        media: the image.
        boxes: int (V, 4), top, left, bottom, right, pixels of the upright picture.
        size: side of each crop, pixels.
        out: uint8 (V, T, size, size, 3), RGB; T is 1 but for a moving picture.
        motions: (T, 3, 3) of :mod:`omnidali.planning.camera_motion`, instead of the boxes; V is 1
            then.

    Raises:
        DecodeError: if no picture comes, or one of another size than at the probe.
    """
    data, header = _read(media)
    factor = _reduction(boxes, size) if header.is_jpeg else 1
    if motions is None:
        picture, inner = _decode_around(data, media, header, boxes.tolist(), factor)
        for box, crop in zip(inner, out[:, 0], strict=True):
            cut_and_scale(picture, box, size, size, crop)
        return

    region, (height, width), matrices = through_region(motions, media.width, media.height, size)
    picture, (box,) = _decode_around(data, media, header, [region.tolist()], factor)
    part = cut_and_scale(picture, box, int(width), int(height))
    for frame, matrix in zip(out[0], matrices, strict=True):
        cv2.warpPerspective(
            part,
            _TO_CORNER @ matrix @ _FROM_CORNER,  # OpenCV counts from the middle of the first pixel
            (size, size),
            dst=frame,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )


def _read(media: Media) -> tuple[bytes, ImageHeader]:
    """The file's bytes and header; the limits are checked again, as it may have been replaced."""
    try:
        if media.span.size is None and os.path.getsize(media.span.path) > MAX_IMAGE_BYTES:
            raise DecodeError(f"larger than {MAX_IMAGE_BYTES >> 20} MiB")
        data = media.span.read_bytes()
        header = read_image_header(data)
    except OSError as error:
        raise cause_of(error).error() from None
    except UnsupportedMediaError as error:
        raise DecodeError(str(error)) from None
    if (header.width, header.height) != (media.width, media.height):
        raise DecodeError(
            f"a picture of {header.width}x{header.height} where it had {media.width}x{media.height}"
        )
    return data, header


def _reduction(boxes: np.ndarray, size: int) -> int:
    """How much smaller than stored the picture may be decoded: 8, 4, 2 or 1 times."""
    # Plain numbers: arrays this small cost more than they save.
    smallest = min(min(bottom - top, right - left) for top, left, bottom, right in boxes.tolist())
    return next((factor for factor in _REDUCED if smallest >= factor * size), 1)


def _decode_around(
    data: bytes, media: Media, header: ImageHeader, boxes: list[list[int]], factor: int
) -> tuple[np.ndarray, list[list[int]]]:
    """Decode at least what the boxes show; returns the picture and where the boxes lie in it."""
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    top, left = min(tops), min(lefts)
    picture = None
    if media.codec == header.codec == "jpeg" and factor == 1:
        picture = _decode_part(data, media, (top, left, max(bottoms), max(rights)))
    if picture is None:
        picture = _decode_whole(data, media, factor, header)
        top, left = 0, 0
    return picture, [
        [
            (y0 - top) // factor,
            (x0 - left) // factor,
            max(1, (y1 - top) // factor),
            max(1, (x1 - left) // factor),
        ]
        for y0, x0, y1, x1 in boxes
    ]


def orientation_flag(header: ImageHeader) -> int:
    """OpenCV's flag, which adds to that of the colours.

    OpenCV turns a JPEG itself. Which other pictures it turns depends on its version, so that it
    shall leave them to :func:`as_shown`.
    """
    return 0 if header.is_jpeg else cv2.IMREAD_IGNORE_ORIENTATION


def as_shown(picture: np.ndarray, header: ImageHeader) -> np.ndarray:
    """What a viewer shows of a decoded picture (H, W, 3), upright."""
    if header.green_bits:  # OpenCV leaves the low bits at 0, and white grey
        picture = picture | picture >> np.array([5, header.green_bits, 5], np.uint8)
    return upright(header.cut(picture), header.orientation)


def upright(picture: np.ndarray, orientation: int) -> np.ndarray:
    """A decoded picture (H, W, C) as EXIF's orientation, 1 to 8, says that it is seen.

    From 5 on the first row is seen as a column.

    >>> upright(np.array([[[1], [2], [3]]]), 6).tolist()
    [[[1]], [[2]], [[3]]]
    """
    if orientation >= 5:
        picture = picture.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


def has_readable_header(data: bytes) -> bool:
    """Whether nvImageCodec, DALI's decoder, reads the header, too.

    If it does not, DALI 2.x on the CPU may crash the process: the batch ends while its threads
    are still at it.
    """
    try:
        return nvimgcodec.CodeStream(data).width > 0
    except _CODEC_ERRORS:
        return False


def is_cut_off(data: bytes) -> bool:
    """Whether a JPEG lacks its end."""
    return data.rfind(b"\xff\xd9", -_END_WITHIN) < 0


def _decode_part(data: bytes, media: Media, box: tuple[int, int, int, int]) -> np.ndarray | None:
    """Decode a region alone: a quarter of the work less, on average.

    None if the file is better left to OpenCV: broken or cut off, or with an orientation that
    would turn the region.
    """
    if data.find(b"Exif\0\0", 0, _EXIF_WITHIN) >= 0 or is_cut_off(data):
        return None
    try:
        if not hasattr(_LOCAL, "decoder"):
            _LOCAL.decoder = nvimgcodec.Decoder(
                device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
                max_num_cpu_threads=1,
                backends=[nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)],
            )
        stream = nvimgcodec.CodeStream(data)
        if (stream.width, stream.height) != (media.width, media.height):
            return None
        part = stream.get_sub_code_stream(region=nvimgcodec.Region(*box))
        image = _LOCAL.decoder.decode(part)
    except _CODEC_ERRORS:
        return None
    if image is None:
        return None

    # np.asarray takes __array_interface__, which keeps 32 bytes for ever in nvImageCodec 0.9.
    picture = image.__array__()
    top, left, bottom, right = box
    return picture if picture.shape == (bottom - top, right - left, 3) else None


def _decode_whole(data: bytes, media: Media, factor: int, header: ImageHeader) -> np.ndarray:
    # The reduced modes know no RGB. OpenCV 5.0 forgets it at an AVIF with transparency.
    is_swapped = factor > 1 or header.container == "avif"
    flags = cv2.IMREAD_COLOR if is_swapped else cv2.IMREAD_COLOR_RGB
    flags |= orientation_flag(header)
    try:
        content = np.frombuffer(header.without_metadata(data), np.uint8)
        picture = cv2.imdecode(content, _REDUCED.get(factor, flags))
        if is_swapped and picture is not None:
            picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    except cv2.error as error:
        raise cause_of(error).error() from None
    if picture is None:
        raise DecodeError("OpenCV reads no picture in it")
    picture = as_shown(picture, header)

    height, width = -(-media.height // factor), -(-media.width // factor)
    if picture.shape[:2] != (height, width):
        raise DecodeError(
            f"{picture.shape[1]}x{picture.shape[0]} pixels where the header said {width}x{height}"
        )
    return picture
