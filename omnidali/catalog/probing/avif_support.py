"""Whether OpenCV decodes AVIF here: that depends on how it was built."""

import base64
import functools

# 16 x 8 grey pixels, the left half lighter, with a turn by a quarter that a decoder shall leave to
# its caller.
_PICTURE = base64.b64decode(
    "AAAAGGZ0eXBhdmlmAAAAAGF2aWZtaWYxAAAAy21ldGEAAAAAAAAAIWhkbHIAAAAAAAAAAHBpY3QAAAAAAAAAAAAAAAAA"
    "AAAADnBpdG0AAAAAAAEAAAAeaWxvYwAAAABEAAABAAEAAAABAAAA6wAAACYAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAA"
    "AAABAABhdjAxAAAAAE9pcHJwAAAAMWlwY28AAAAUaXNwZQAAAAAAAAAQAAAACAAAAAxhdjFDgQAMAAAAAAlpcm90AQAA"
    "ABZpcG1hAAAAAAAAAAEAAQOBgoMAAAAubWRhdBIACggYDL+0QENBoTIYGUeHhiGHnnnmgkAA4CNqMNeHKmlVFddJ"
)


@functools.cache
def decodes_avif() -> bool:
    """Whether OpenCV decodes AVIF, and leaves the pictures as they are stored."""
    import cv2
    import numpy as np

    data = np.frombuffer(_PICTURE, np.uint8)
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return False
    if picture is None or picture.shape != (8, 16):
        return False
    return int(picture[:, :8].min()) > 150 > 50 > int(picture[:, 8:].max())
