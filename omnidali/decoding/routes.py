"""Which decoder takes which codec: looked up in a table for each source, printed at the start.

There is no silent fallback: a codec goes where the table says, or the run does not start.
"""

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.probing.probe import DAMAGED
from omnidali.config.schema import key_of
from omnidali.errors import UserError
from omnidali.media_kind import MediaKind

_GOLDEN = (5**0.5 - 1) / 2
CPU = "cpu"
DALI = "dali"
HYBRID = "hybrid"
_CPU_NAMES = {
    MediaKind.VIDEO: "PyAV on the CPU",
    MediaKind.UNTRIMMED: "PyAV on the CPU",
    MediaKind.IMAGE: "nvImageCodec and OpenCV on the CPU",
    MediaKind.FRAMES: "nvImageCodec and OpenCV on the CPU",
}

# What DALI takes. On the CPU it has no H.264, HEVC, AV1 or MPEG-4; on a GPU NVDEC takes 8-bit 4:2:0
# and knows no rotation. Variants ("h264:yuv444p", "vp9:rotated", "jpeg:cmyk") are always the CPU's.
_DALI_ON_CPU = {"vp8", "vp9", "mjpeg", "jpeg", "png", "webp"}
_DALI_ON_GPU = {"h264", "hevc", "vp8", "vp9", "mpeg4", "jpeg", "png", "webp"}
# NVDEC generations with AV1, by compute capability: Ampere GA10x, Ada, Blackwell. A100, H100 and
# H200 lack it.
_AV1_SINCE = {(8, 6), (8, 9), (10, 0), (10, 3), (12, 0), (12, 1)}


def choose_routes(
    table: SourceTable, decode: str, capability: tuple[int, int] | None
) -> dict[str, str]:
    """The decoder of every codec of a source, as {codec: "cpu", "dali" or "hybrid"}.

    Args:
        table: of the source.
        decode: the source's setting: ``auto`` (DALI if there is a GPU that can), ``cpu``,
            ``dali``, or ``hybrid`` (both, by slot, where DALI can).
        capability: compute capability of the GPU, or None without one.

    Raises:
        UserError: if ``decode`` is ``dali`` and DALI cannot take one of the codecs here; if it is
            ``hybrid`` and DALI can take none of them.
    """
    able = _DALI_ON_CPU if capability is None else _DALI_ON_GPU
    if capability in _AV1_SINCE:
        able = able | {"av1"}

    if decode == DALI:
        # A run that has begun must be able to resume after `lint --decode` has found damage.
        able = able | {f"{codec}{DAMAGED}" for codec in able}
        unable = [codec for codec in table.codec_names if codec not in able]
        if unable:
            where = "the CPU" if capability is None else "this GPU"
            raise UserError(
                f"{key_of(table.name)}.decode",
                f"codecs that DALI decodes on {where}",
                ", ".join(unable),
                "Use decode: auto.",
            )
    if decode == HYBRID and not able.intersection(table.codec_names):
        raise UserError(
            f"{key_of(table.name)}.decode",
            "a codec that DALI decodes here",
            ", ".join(table.codec_names),
            "Use decode: auto.",
        )

    route = decode
    if decode == "auto":
        route = CPU if capability is None else DALI
    return {codec: route if codec in able else CPU for codec in table.codec_names}


def on_cpu(slots: np.ndarray, cpu_share: float) -> np.ndarray:
    """Which slots of a hybrid source the CPU decodes: bool (n,). A function of the plan alone.

    Multiples of the golden ratio are spread evenly over every arithmetic sequence of slots, hence
    over all ranks, too.
    """
    return slots * _GOLDEN % 1 < cpu_share


def describe_routes(
    table: SourceTable, routes: dict[str, str], on_gpu: bool, cpu_share: float
) -> str:
    """One line for the start of a run."""
    cpu = _CPU_NAMES[table.kind]
    dali = "DALI on the GPU" if on_gpu else "DALI on the CPU"
    names = {
        CPU: cpu,
        DALI: dali,
        HYBRID: f"{dali} and, of every 100 slots, {100 * cpu_share:g} by {cpu}",
    }
    parts = [f"{codec} by {names[route]}" for codec, route in routes.items()]
    line = f"{table.name}: {', '.join(parts)}"
    if table.kind.has_images and not on_gpu and set(routes.values()) != {CPU}:
        line += " (a damaged photo may crash DALI's own decoder on the CPU: prefer decode: auto)"
    return line
