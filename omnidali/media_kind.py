"""The kinds of media that a source may hold, and the facts by which they differ.

Every package keeps its functions for the kinds in one table, with the kind as its key. Code that
depends on a fact, and not on the kind itself, asks for the fact.
"""

import enum


class MediaKind(enum.StrEnum):
    """The kind of a source's items; equal to the text that a config and a catalog hold.

    Attributes:
        is_still: an item is one image and has no time.
        is_folder: an item is a folder of frames, each an image file of its own.
        has_images: the files hold images, not coded video.
        has_pieces: an item is a long video; each clip shows a piece of it.
        fits_tars: files of the kind may lie in WebDataset tars.

    >>> MediaKind("untrimmed").has_pieces, MediaKind.FRAMES.has_images, MediaKind.IMAGE == "image"
    (True, True, True)
    """

    VIDEO = "video"
    IMAGE = "image"
    UNTRIMMED = "untrimmed"
    FRAMES = "frames"

    @property
    def is_still(self) -> bool:
        return self is MediaKind.IMAGE

    @property
    def is_folder(self) -> bool:
        return self is MediaKind.FRAMES

    @property
    def has_images(self) -> bool:
        return self in (MediaKind.IMAGE, MediaKind.FRAMES)

    @property
    def has_pieces(self) -> bool:
        return self is MediaKind.UNTRIMMED

    @property
    def fits_tars(self) -> bool:
        return self in (MediaKind.IMAGE, MediaKind.VIDEO)
