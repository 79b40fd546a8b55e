"""The loaders of other projects with the same task, as somebody who knows them would write them.

Every peer decodes the wanted frames alone, crops the planned box, scales it bilinearly, flips where
that is planned, and delivers normalised float32 batches. All of them use what is common knowledge:
one decoder thread a worker, bytes rather than floats between processes, normalisation in place.

``pip install -c constraints.txt -e '.[bench]'`` installs decord, spdl and torchcodec. The last two
look for FFmpeg's shared libraries (``apt install ffmpeg``); torchcodec 0.13 goes with torch 2.13.
mmaction2 asks for opencv-python and opencv-contrib-python, which would overwrite our
opencv-python-headless, so it is installed without them::

    pip install -c constraints.txt addict einops importlib_metadata matplotlib rich scipy
    pip install -c constraints.txt termcolor yapf
    pip install -c constraints.txt --no-deps mmaction2 mmcv-lite mmengine

mmaction2 1.2.0 refuses mmcv 2.2, and its wheel lacks ``mmaction.models.localizers.drn``: an empty
module is put in its place before the import.

No torchvision: its wheel on PyPI wants CUDA's torch and does not load beside the CPU one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.peer_clips import decord, opencv, pyav, torchcodec
from benchmarks.peer_pipelines import dali, mmaction2, spdl


@dataclass(frozen=True)
class Peer:
    """A loader to compare with.

    Attributes:
        name: in tables and records.
        package: the module that has to be importable.
        kinds: of tasks that it can do.
        codecs: of videos that it decodes on a CPU, as the catalog calls them; None for whatever
            FFmpeg decodes.
        settings: arguments of ``deliver`` to choose the best of.
        deliver: (task, **settings) -> float32 (N, 3, T, size, size) of each step, in any memory
            layout; raises ImportError at once where the package is missing.
    """

    name: str
    package: str
    kinds: tuple[str, ...]
    codecs: tuple[str, ...] | None
    settings: tuple[dict[str, Any], ...]
    deliver: Callable[..., Iterator[torch.Tensor]]


_BOTH = ("processes", "threads")
# the FFmpeg in their wheels has no decoder for it
_NO_AV1 = ("h264", "hevc", "mpeg4", "vp8", "vp9", "mjpeg")
PEERS = {
    peer.name: peer
    for peer in (
        Peer("decord", "decord", ("video",), _NO_AV1, tuple({"way": way} for way in _BOTH), decord),
        Peer("pyav", "av", ("video",), None, tuple({"way": way} for way in _BOTH), pyav),
        Peer(
            "opencv",
            "cv2",
            ("image", "video"),
            _NO_AV1,
            tuple({"way": way, "jump": jump} for way in _BOTH for jump in (1 << 30, 32)),
            opencv,
        ),
        Peer("dali", "nvidia.dali", ("image", "video"), ("vp8", "vp9", "mjpeg"), ({},), dali),
        Peer(
            "mmaction2",
            "mmaction",
            ("image", "video"),
            _NO_AV1,
            ({"layout": "NCHW"}, {"layout": "NCTHW"}),
            mmaction2,
        ),
        Peer(
            "spdl",
            "spdl",
            ("image", "video"),
            None,
            ({"scale": "opencv"}, {"scale": "ffmpeg"}),
            spdl,
        ),
        Peer(
            "torchcodec",
            "torchcodec",
            ("video",),
            None,
            tuple(
                {"way": way, "seek_mode": mode}
                for way in _BOTH
                for mode in ("approximate", "exact")
            ),
            torchcodec,
        ),
    )
}
