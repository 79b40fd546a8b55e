"""What lies beyond the picture in the decoder's output reaches no clip, however garish.

But for one thing: DALI's decoders interpolate colours themselves, and of the picture's last row and
column a quarter of the colour is that of the first sample beyond them.
"""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from helpers.dali_graphs import as_pixels, box_feeds, video_feeds
from omnidali.pipelines import EncodedVideos, PipelineError
from omnidali.testing.numbered_media import numbered_image

WIDTH = 98
HEIGHT = 66
CODED_WIDTH = 112
CODED_HEIGHT = 80
FRAMES = 3
# all of the picture, its corner at the right and the bottom, and a part that touches neither
BOXES = np.array([[0, 0, HEIGHT, WIDTH], [26, 50, HEIGHT, WIDTH], [4, 6, 40, 60]])
FLIPS = [0, 1, 0]


def padded(plane, height, width, *, is_garish):
    """A plane with stripes of black and white, or with its edge repeated, at right and bottom."""
    down, across = height - plane.shape[0], width - plane.shape[1]
    out = np.pad(plane, ((0, down), (0, across)), mode="edge")
    if is_garish:
        beyond = np.ones(out.shape, bool)
        beyond[: plane.shape[0], : plane.shape[1]] = False
        stripes = np.where(np.arange(height) % 2, 255, 0)[:, None]
        out = np.where(beyond, stripes, out).astype(np.uint8)
    return out


def write_planes(path, *, padding):
    """A lossless video of the picture: without padding, or garish in luma, or in colours, too."""
    width, height = (CODED_WIDTH, CODED_HEIGHT) if padding else (WIDTH, HEIGHT)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25, options={"lossless": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(FRAMES):
            picture = numbered_image(5, number, WIDTH, HEIGHT)
            planes = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame = av.VideoFrame(width, height, "yuv420p")
            for place, (source, plane) in enumerate(zip(planes.planes, frame.planes, strict=True)):
                rows = np.frombuffer(source, np.uint8).reshape(-1, source.line_size)
                lines = np.zeros((plane.height, plane.line_size), np.uint8)
                lines[:, : plane.width] = padded(
                    rows[: source.height, : source.width],
                    plane.height,
                    plane.width,
                    is_garish=padding == "garish" or (padding == "striped" and place == 0),
                )
                plane.update(lines.tobytes())
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("padding")
    write_planes(folder / "bare.webm", padding=None)
    for padding in ("striped", "garish"):
        write_planes(folder / f"{padding}.webm", padding=padding)
    return folder


def feeds_of(path, sides, frames=range(FRAMES), boxes=BOXES):
    feeds = video_feeds(path, frames) | box_feeds(boxes, FLIPS[: len(boxes)])
    return feeds | {"sides": [np.array(sides, np.int32)]}


@pytest.mark.parametrize("size", [16, 24, 64, 150])
def test_padding_reaches_no_clip(files, size):
    graph = EncodedVideos(size, len(BOXES), batch=1, threads=1, device_id=None)

    def clips(name, sides):
        return [as_pixels(view).clone() for view in graph.run(feeds_of(files / name, sides))]

    wanted = clips("bare.webm", (HEIGHT, WIDTH))
    shown = clips("striped.webm", (HEIGHT, WIDTH))
    assert all(torch.equal(one, other) for one, other in zip(shown, wanted, strict=True))

    # Without the cut the filter looks across the edge of boxes that touch it.
    uncut = clips("striped.webm", (CODED_HEIGHT, CODED_WIDTH))
    assert not torch.equal(uncut[0], wanted[0]) and not torch.equal(uncut[1], wanted[1])
    assert torch.equal(uncut[2], wanted[2])


def test_garish_colours_reach_the_last_row_and_column_alone(files):
    side = 64  # of a box in the corner, which is not scaled
    box = np.array([[HEIGHT - side, WIDTH - side, HEIGHT, WIDTH]])
    graph = EncodedVideos(side, 1, batch=1, threads=1, device_id=None)
    wanted, shown = (
        as_pixels(graph.run(feeds_of(files / name, (HEIGHT, WIDTH), boxes=box))[0]).clone()
        for name in ("bare.webm", "garish.webm")
    )
    assert torch.equal(shown[..., :-1, :-1, :], wanted[..., :-1, :-1, :])
    assert (shown - wanted).abs().mean() < 2


def test_picture_smaller_than_its_sides_is_an_error(files):
    graph = EncodedVideos(24, len(BOXES), batch=1, threads=1, device_id=None)
    with pytest.raises(PipelineError, match="out of bounds"):
        graph.run(feeds_of(files / "bare.webm", (CODED_HEIGHT, CODED_WIDTH)))
    assert graph.run(feeds_of(files / "bare.webm", (HEIGHT, WIDTH)))


def test_frame_beyond_the_last_one_is_an_error_not_black(files):
    graph = EncodedVideos(24, len(BOXES), batch=1, threads=1, device_id=None)
    sides = (HEIGHT, WIDTH)
    with pytest.raises(PipelineError, match="out-of-bounds frame"):
        graph.run(feeds_of(files / "bare.webm", sides, [0, FRAMES]))
    (view, *_) = graph.run(feeds_of(files / "bare.webm", sides, [0, FRAMES - 1]))
    assert as_pixels(view).shape == (1, 2, 24, 24, 3)
