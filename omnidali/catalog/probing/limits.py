"""The limits of what the catalog takes: a small file may claim far more than a machine holds."""

# Of images.
MAX_PIXELS = 89_478_485  # about 256 MiB as RGB
MAX_SIDE = 65_535  # of JPEG's format, and of the catalog's columns
MAX_IMAGE_BYTES = 1 << 28  # an image is read whole; as much as the largest one has as RGB
MAX_HEADER_BYTES = 1 << 24  # metadata: profiles, thumbnails and depth maps take a few megabytes
# Of a JPEG before its picture, or of a PNG or WebP; a 16 MiB header in full ones has 256.
MAX_SEGMENTS = 4096
# A scan of 20 bytes passes over all blocks of a JPEG: up to 0.2 s at the largest picture, 20 s for
# 100 of them, well within what a file may take. Encoders write about 10.
MAX_SCANS = 100

# Of videos.
# A frame of level 6.2, the highest of HEVC and AV1; decoders hold up to 16 of them.
MAX_VIDEO_PIXELS = 35_651_584
MAX_VIDEO_SECONDS = 48 * 3600  # windows are cut along timestamps: a claim would become memory
MAX_VIDEO_FRAMES = 1 << 22  # 19 hours at 60 a second; the probe keeps 500 bytes a packet
# A packet is decoded in one go, and what nothing shows costs time, too: slices of 14 bytes take 4
# ms each at the largest frame. Encoders write a slice a row or for each 1,500 bytes, and hide up to
# 15 frames.
MAX_UNITS = 4096
MAX_HIDDEN = 64
MAX_STREAMS = 64  # of a container; a film with all its dubs has fewer


class UnsupportedMediaError(Exception):
    """A file that stays out of the catalog; the text is the reason."""


def check_size(width: int, height: int, pixels: int = MAX_PIXELS) -> None:
    """Check the size of a picture.

    Args:
        width: in pixels.
        height: in pixels.
        pixels: the limit of their product.

    Raises:
        UnsupportedMediaError: for pictures without area and for those over the limits.
    """
    if width < 1 or height < 1:
        raise UnsupportedMediaError(f"no picture: {width}x{height}")
    if width * height > pixels or max(width, height) > MAX_SIDE:
        raise UnsupportedMediaError(f"too large: {width}x{height}")


def check_video(seconds: float, frames: int) -> None:
    """Raise UnsupportedMediaError for more time or frames than a video has."""
    if frames > MAX_VIDEO_FRAMES:
        raise UnsupportedMediaError(f"more than {MAX_VIDEO_FRAMES:,} frames")
    if not abs(seconds) <= MAX_VIDEO_SECONDS:
        raise UnsupportedMediaError(f"longer than {MAX_VIDEO_SECONDS // 3600} hours")
