"""Options that make libx264 turn equal frames into equal packets."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path

# With AVX-512, x264 writes other packets than with SSE4.2 to AVX2, which agree. Above all with
# B-frames they even change from run to run. With AVX2 they do not. x264 does not check the name and
# dies of an instruction that the CPU lacks: AVX2 is named only if Linux lists AVX-512 and every
# instruction set that x264 means by AVX2.
_AVX2_ONLY = "asm=avx2"
_REQUIRED_FLAGS = frozenset({"avx512f", "avx2", "fma", "bmi1", "bmi2", "abm"})


def repeatable(options: Mapping[str, str]) -> dict[str, str]:
    """Add to FFmpeg's options for libx264 what makes every run write the same packets.

    An instruction set that ``options`` name already stays.

    >>> repeatable({"crf": "23", "x264-params": "bframes=0:asm=sse2"})
    {'crf': '23', 'x264-params': 'bframes=0:asm=sse2'}
    """
    params = options.get("x264-params", "")
    if "asm=" in params or not _cpu_flags() >= _REQUIRED_FLAGS:
        return dict(options)
    return {**options, "x264-params": f"{params}:{_AVX2_ONLY}" if params else _AVX2_ONLY}


@functools.cache
def _cpu_flags() -> frozenset[str]:
    """The CPU's flags as Linux lists them; none on other systems and other kinds of CPU."""
    try:
        found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return frozenset()
    return frozenset(found[1].split()) if found else frozenset()
