"""What libx264 is told so that equal frames become equal packets."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path

# With AVX-512, x264 writes other packets than with SSE4.2 to AVX2, which agree; above all with
# B-frames they even change from run to run. Held to AVX2 it does neither. It takes a name unchecked
# and dies of an instruction that the CPU lacks: AVX2 is named only where Linux lists AVX-512, and
# all that x264 means by AVX2.
_HELD = "asm=avx2"
_MEANT = frozenset({"avx512f", "avx2", "fma", "bmi1", "bmi2", "abm"})


def repeatable(options: Mapping[str, str]) -> dict[str, str]:
    """FFmpeg's options for libx264, with what makes every run write the same packets.

    Instructions that ``options`` name themselves stay.

    >>> repeatable({"crf": "23", "x264-params": "bframes=0:asm=sse2"})
    {'crf': '23', 'x264-params': 'bframes=0:asm=sse2'}
    """
    params = options.get("x264-params", "")
    if "asm=" in params or not _cpu_flags() >= _MEANT:
        return dict(options)
    return {**options, "x264-params": f"{params}:{_HELD}" if params else _HELD}


@functools.cache
def _cpu_flags() -> frozenset[str]:
    """What Linux lists of the CPU; nothing on other systems and other kinds of CPU."""
    try:
        listed = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return frozenset()
    return frozenset(listed[1].split()) if listed else frozenset()
