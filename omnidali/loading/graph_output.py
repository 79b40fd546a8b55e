"""From what one of DALI's graphs made to the clips of a step."""

from collections.abc import Sequence

import torch

from omnidali.loading.backend import PendingSamples
from omnidali.loading.device_work import DeviceWork, HeldMemory

_CHECKED = 8  # of so many rows and columns of a frame, one is looked at


def write_views(
    pending: PendingSamples,
    places: Sequence[int],
    *,
    outputs: Sequence[object],
    device: DeviceWork,
    is_video: bool,
) -> list[int]:
    """Write what a graph made, and wait until that is done.

    Args:
        pending: the samples.
        places: of those that the graph decoded.
        outputs: of the graph, one a view.
        device: that has them.
        is_video: whether frames may be missing.

    Returns:
        The places of videos with a frame of one colour. It may be right; but DALI makes up such a
        frame for one that is missing, so that another decoder has to look.

    Raises:
        PipelineError: if clips are too short.
    """
    # imports DALI, which takes a second
    from omnidali.pipelines import PipelineError

    frames = pending.out.shape[2]
    blank = device.host_memory((len(places),), torch.bool)
    blank.zero_()
    with HeldMemory(device, outputs):
        for view, output in enumerate(outputs):
            clips = torch.from_dlpack(output)
            clips = clips.view(len(places), 1, -1, *clips.shape[2:])
            if clips.shape[2] != frames and (is_video or clips.shape[2] != 1):
                raise PipelineError(f"DALI gave {clips.shape[2]} frames instead of {frames}")
            pending.write(places, clips, slice(view, view + 1))
            if is_video and view == 0:
                blank.copy_(_have_blank_frame(clips), non_blocking=True)
    return [place for place, is_blank in zip(places, blank.tolist(), strict=True) if is_blank]


def _have_blank_frame(clips: torch.Tensor) -> torch.Tensor:
    """Which of the clips, (n, 1, T, S, S, 3), have a frame of one colour: bool (n,)."""
    pixels = clips[:, 0, :, ::_CHECKED, ::_CHECKED].flatten(2, 3)
    low, high = pixels.amin(dim=2), pixels.amax(dim=2)
    return (low == high).all(dim=2).any(dim=1)
