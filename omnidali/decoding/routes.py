"""Which decoder takes which file: facts of the catalog decide, and each file of the CPU's has a
reason.

There is no silent fallback: a file goes where the facts say, the start counts the files by reason,
or the run does not start.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from omnidali.catalog.database.source_table import SourceTable
from omnidali.catalog.probing.probe import IRREGULAR, planned_codec
from omnidali.config.sources import key_of
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
_DALI_ON_GPU = {"av1", "h264", "hevc", "vp8", "vp9", "mpeg4", "jpeg", "png", "webp"}
# GPUs whose NVDEC is known to lack AV1, by compute capability: all before GA10x (Volta, Turing,
# A100), and H100 and H200. A new one is taken to have it, as the trial will show.
_AV1_SINCE = (8, 6)
_NO_AV1 = {(9, 0)}

# Why a variant is the CPU's, as it reads after a number of files.
_VARIANTS = {
    "anamorphic": "with stretched pixels",
    "cmyk": "in CMYK",
    "damaged": "damaged",
    "edited": "with frames left out or settings that change",
    "indirect": "in a container that cuts packets up",
    "interlaced": "interlaced",
    "open-gop": "with open GOPs",
    "rotated": "rotated",
    "uncounted": "whose frames no packet tells apart",
}
FAILED = "that DALI could not decode"
SMALL = "smaller than NVDEC takes"
LARGE = "larger than NVDEC takes"
ODD = "with odd sides"


class _Limits(NamedTuple):
    """The pictures that NVDEC takes: sides in pixels, and macroblocks of 16x16."""

    width: tuple[int, int]
    height: tuple[int, int]
    macroblocks: int


# As cuvidGetDecoderCaps reports them. H.264 and MPEG-4: https://github.com/philipl/nv-video-info,
# pull request 7, of an RTX 3050; the largest sizes of the others: NVIDIA's NVDEC programming guide,
# table 1; their smallest: reports of users.
_NVDEC = {
    "av1": _Limits((128, 8192), (128, 8192), 262_144),
    "h264": _Limits((48, 4096), (16, 4096), 65_536),
    "hevc": _Limits((144, 8192), (144, 8192), 262_144),
    "mpeg4": _Limits((48, 2032), (16, 2032), 8_192),
    "vp8": _Limits((48, 4096), (16, 4096), 65_536),
    "vp9": _Limits((128, 8192), (128, 8192), 262_144),
}


@dataclass(frozen=True, eq=False)
class Routes:
    """What decodes the files of one source.

    Attributes:
        decoders: by codec: "cpu", "dali" or "hybrid" (both, by slot).
        causes: by codec, why it is the CPU's although DALI is asked for; "" if it is not.
        reasons: why files are the CPU's although DALI is asked for; the first one, "", stands for
            files that are not.
        why: uint8 (P,), for each piece the place of its reason.
        by_cpu: bool (P,), which pieces the CPU alone decodes.
    """

    decoders: dict[str, str]
    causes: dict[str, str]
    reasons: list[str]
    why: np.ndarray
    by_cpu: np.ndarray

    @property
    def uses_dali(self) -> bool:
        """Whether a codec is DALI's, if only in part."""
        return set(self.decoders.values()) != {CPU}

    @property
    def is_hybrid(self) -> bool:
        return HYBRID in self.decoders.values()


def choose_routes(
    table: SourceTable,
    decode: str,
    capability: tuple[int, int] | None,
    *,
    tried: Mapping[str, str] | None = None,
    failed: Sequence[int] = (),
) -> Routes:
    """Choose what decodes each file of a source.

    Args:
        table: of the source.
        decode: the source's setting: ``auto`` (DALI if there is a GPU), ``cpu``, ``dali``, or
            ``hybrid`` (both, by slot, where DALI can).
        capability: compute capability of the GPU, or None without one.
        tried: by codec, why a trial left it to the CPU; "" if it did not.
        failed: catalog ids of files that DALI failed to decode.

    Raises:
        UserError: if ``decode`` is ``dali`` and DALI cannot take one of the codecs here; if it is
            ``hybrid`` and DALI can take none of them.
    """
    route = decode
    if decode == "auto":
        route = CPU if capability is None else DALI
    if route == CPU:
        none = np.zeros(len(table.records), np.uint8)
        decoders = dict.fromkeys(table.codec_names, CPU)
        causes = dict.fromkeys(table.codec_names, "")
        return Routes(decoders, causes, reasons=[""], why=none, by_cpu=np.ones(len(none), bool))

    able = dali_codecs(capability)
    _check_able(table, decode, able, capability)
    tried = tried or {}
    causes = {codec: _cause(codec, able, capability, tried) for codec in table.codec_names}
    reasons = list(dict.fromkeys(["", *causes.values(), FAILED, SMALL, LARGE, ODD]))

    why = np.array([reasons.index(cause) for cause in causes.values()], np.uint8)[table.codecs]
    if capability is not None and not table.kind.has_images:
        _mark_sizes(table, why, reasons)
    if len(failed):
        why[(why == 0) & np.isin(table.records, failed)] = reasons.index(FAILED)
    decoders = {codec: CPU if cause else route for codec, cause in causes.items()}
    return Routes(decoders, causes, reasons=reasons, why=why, by_cpu=why > 0)


def dali_codecs(capability: tuple[int, int] | None) -> set[str]:
    """The codecs that DALI decodes on a GPU of this compute capability, or, None, on the CPU."""
    if capability is None:
        return _DALI_ON_CPU
    has_av1 = capability >= _AV1_SINCE and capability not in _NO_AV1
    return _DALI_ON_GPU if has_av1 else _DALI_ON_GPU - {"av1"}


def _check_able(
    table: SourceTable, decode: str, able: set[str], capability: tuple[int, int] | None
) -> None:
    """Refuse a setting that DALI cannot fulfil."""
    if decode == DALI:
        # a run that has begun must be able to resume after `lint --decode` has found damage, or a
        # new version has looked closer
        names = {codec: planned_codec(_regular(codec)) for codec in table.codec_names}
        unable = [codec for codec, name in names.items() if name not in able]
        if unable:
            where = "the CPU" if capability is None else "this GPU"
            raise UserError(
                f"{key_of(table.name)}.decode",
                f"codecs that DALI decodes on {where}",
                ", ".join(unable),
                "Use decode: auto.",
            )
    if decode == HYBRID and not able.intersection(map(_regular, table.codec_names)):
        raise UserError(
            f"{key_of(table.name)}.decode",
            "a codec that DALI decodes here",
            ", ".join(table.codec_names),
            "Use decode: auto.",
        )


def _cause(
    codec: str, able: set[str], capability: tuple[int, int] | None, tried: Mapping[str, str]
) -> str:
    """Why a codec is the CPU's; "" if it is not."""
    name, _, variant = _regular(codec).partition(":")
    if variant:
        return _VARIANTS.get(variant, f"in {variant}, which is not 8-bit 4:2:0")
    if name not in able:
        where = "on the CPU" if capability is None else "on this GPU"
        return f"in {name}, which DALI does not decode {where}"
    return tried.get(codec, "")


def _regular(codec: str) -> str:
    """A codec without the mark of files whose timestamps do not identify frames.

    Excerpts need none: packets do.
    """
    return codec.removesuffix(IRREGULAR)


def _mark_sizes(table: SourceTable, why: np.ndarray, reasons: list[str]) -> None:
    """Mark the videos whose sides NVDEC does not take; a file is of its row's size."""
    widths, heights = (sides.astype(np.int64) for sides in (table.widths, table.heights))
    if table.starts is not None:
        counts = np.diff(table.starts)
        widths, heights = np.repeat(widths, counts), np.repeat(heights, counts)

    for place, codec in enumerate(table.codec_names):
        here = (table.codecs == place) & (why == 0)
        name = _regular(codec)
        if name not in _NVDEC or not here.any():
            continue
        limits = _NVDEC[name]
        small = (widths < limits.width[0]) | (heights < limits.height[0])
        large = (widths > limits.width[1]) | (heights > limits.height[1])
        large |= -(-widths // 16) * -(-heights // 16) > limits.macroblocks
        for reason, marked in ((ODD, (widths | heights) % 2 == 1), (LARGE, large), (SMALL, small)):
            why[here & marked] = reasons.index(reason)


def on_cpu(slots: np.ndarray, cpu_share: float) -> np.ndarray:
    """Which slots of a hybrid source the CPU decodes: bool (n,). A function of the plan alone.

    Multiples of the golden ratio are spread evenly over every arithmetic sequence of slots, hence
    over all ranks, too.
    """
    return slots * _GOLDEN % 1 < cpu_share


def describe_files(table: SourceTable, routes: Routes, on_gpu: bool, cpu_share: float) -> str:
    """A line for the start of a run: how many files go where, and why the CPU gets some.

    Args:
        table: of the source.
        routes: of its files.
        on_gpu: whether DALI decodes on a GPU.
        cpu_share: of the slots of a hybrid source.
    """
    _, firsts = np.unique(table.records, return_index=True)  # pieces of one file count once
    counts = np.bincount(routes.why[firsts], minlength=len(routes.reasons)).tolist()
    by_reason = dict(zip(routes.reasons, counts, strict=True))
    names = _decoder_names(table, on_gpu, cpu_share)

    parts = []
    taken = by_reason.pop("")
    if taken:
        mine = DALI if routes.uses_dali else CPU
        mine = HYBRID if routes.is_hybrid else mine
        codecs = [codec for codec in table.codec_names if (routes.decoders[codec] == mine)]
        noun = "folder" if table.kind.is_folder else "file"
        noun += "" if taken == 1 else "s"
        parts.append(f"{taken:,} {noun} ({', '.join(codecs)}): {names[mine]}")
    others = [f"{count:,} {reason}" for reason, count in by_reason.items() if count]
    if others:
        parts.append(f"{', '.join(others)}: {names[CPU]}")

    line = f"{table.name}: {'; '.join(parts)}"
    if table.kind.has_images and not on_gpu and taken and routes.uses_dali:
        line += " (a damaged photo may crash DALI's own decoder on the CPU: prefer decode: auto)"
    return line


def describe_codecs(table: SourceTable, routes: Routes, on_gpu: bool, cpu_share: float) -> str:
    """What decodes each codec, on which the pixels depend; arguments as of :func:`describe_files`.

    A checkpoint keeps it.
    """
    names = _decoder_names(table, on_gpu, cpu_share)
    parts = [f"{codec} by {names[route]}" for codec, route in routes.decoders.items()]
    return f"{table.name}: {', '.join(parts)}"


def gives_same_pixels(before: str, now: str) -> bool:
    """Whether two lines of :func:`describe_codecs` have the same decoder for each codec.

    A variant that was not known before counts as its codec.

    >>> gives_same_pixels("a: vp9 by PyAV", "a: vp9 by PyAV, vp9:damaged by PyAV")
    True
    >>> gives_same_pixels("a: vp9 by DALI", "a: vp9 by DALI, vp9:damaged by PyAV")
    False
    """
    known = _by_codec(before)
    for codec, decoder in _by_codec(now).items():
        if known.get(codec, known.get(codec.partition(":")[0], decoder)) != decoder:
            return False
    return True


def _by_codec(line: str) -> dict[str, str]:
    """The decoder of each codec in a line of :func:`describe_codecs`."""
    # an older line may end with a warning
    text, _, device = line.partition(" (")[0].partition(", finished on ")
    # a share of a hybrid source is a number, no codec
    parts = re.split(r"(?:: |, )([a-z][\w:.-]*) by ", text)
    decoders = [f"{decoder}, {device}" for decoder in parts[2::2]]
    return dict(zip(parts[1::2], decoders, strict=True))


def _decoder_names(table: SourceTable, on_gpu: bool, cpu_share: float) -> dict[str, str]:
    cpu = _CPU_NAMES[table.kind]
    dali = "DALI on the GPU" if on_gpu else "DALI on the CPU"
    return {
        CPU: cpu,
        DALI: dali,
        HYBRID: f"{dali} and, of every 100 slots, {100 * cpu_share:g} by {cpu}",
    }
