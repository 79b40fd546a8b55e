"""A copy is compared with its original, frame by frame."""

import av
import numpy as np
import pytest

from conftest import media_of
from helpers.copies import PLAIN, SHORT
from omnidali.curation.copies import encode
from omnidali.curation.copies.encode import RECIPES, encode_video
from omnidali.errors import DecodeError
from omnidali.testing.numbered_media import write_video


def swapped(frames):
    """Frames with each pair swapped."""
    frames = list(frames)
    for place in range(0, len(frames) - 1, 2):
        frames[place], frames[place + 1] = frames[place + 1], frames[place]
    return frames


@pytest.mark.parametrize(
    "mistake",
    [
        swapped,
        lambda frames: [frames[0], *frames[:-1]],
        lambda frames: [*frames[1:], frames[-1]],
        lambda frames: [*frames[:6], frames[7], *frames[7:]],
    ],
    ids=["swapped", "late", "early", "one frame"],
)
def test_copy_with_other_frames_is_refused(tmp_path, monkeypatch, mistake):
    write_video(tmp_path / "a.mp4", 1, frames=16, **PLAIN)
    made = encode.scaled_frames
    monkeypatch.setattr(encode, "scaled_frames", lambda *arguments: mistake(list(made(*arguments))))
    with pytest.raises(
        DecodeError, match="of the copy is nearer to another frame of the original than to its own"
    ):
        encode_video(media_of(tmp_path / "a.mp4"), tmp_path / "b", RECIPES["fast"], SHORT)


@pytest.mark.parametrize("step", [0, 1, 2, 4])
def test_copies_of_still_and_fading_videos_pass(tmp_path, step):
    """Frames that differ by less than encoding loses."""
    grey = np.tile(np.linspace(40, 200, 144), (96, 1))
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 144, 96, "yuv420p"
        for number in range(14):
            shown = (
                np.repeat((grey + step * number)[:, :, None], 3, axis=2)
                .clip(0, 255)
                .astype(np.uint8)
            )
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode(None))
    for recipe in RECIPES.values():
        assert encode_video(media_of(tmp_path / "a.mp4"), tmp_path / "b", recipe, SHORT) == 0
