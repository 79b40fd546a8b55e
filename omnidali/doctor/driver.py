"""The GPU's driver, and whether its video decoder can be found."""

import ctypes
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

from omnidali.doctor.cuvid import (
    CHROMAS,
    CODECS,
    CUDA_LIBRARY,
    DEPTHS,
    DecoderLimits,
    Driver,
    DriverError,
    decoder_limits,
)
from omnidali.doctor.findings import Findings
from omnidali.doctor.machine import read_text
from omnidali.utils.constants import CUVID_LIBRARY, VIDEO_CAPABILITY

_SEARCH_SECONDS = 3.0
_FIRST = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/local/nvidia",
    "/usr/local/cuda",
    "/usr/lib/wsl",
    "/opt",
    "/run",
)
_NEVER = {"/proc", "/sys", "/dev"}
_NO_VIDEO = (
    "Containers get it only with the driver's `video` capability: start them with"
    f" {VIDEO_CAPABILITY} (Docker's default lacks video)."
    " Until then videos are decoded by the CPU."
)


def look_at_driver(findings: Findings) -> None:
    """Driver, device, libnvcuvid, and what NVDEC says that it takes."""
    text = read_text(Path("/proc/driver/nvidia/version"))
    findings.fact("kernel driver", text)
    findings.fact("capabilities", os.environ.get("NVIDIA_DRIVER_CAPABILITIES"))
    try:
        cuda = ctypes.CDLL(CUDA_LIBRARY)
        driver = Driver(cuda, findings.context.device_id or 0)
        capability = f"{driver.attribute('major')}.{driver.attribute('minor')}"
        device = {
            "name": driver.device_name,
            "devices": driver.device_count,
            "compute capability": capability,
            "multiprocessors": driver.attribute("multiprocessors"),
            "memory bytes": driver.memory,
            "cuda of the driver": driver.cuda_version,
        }
    except (OSError, AttributeError, DriverError) as error:
        findings.bad(
            f"the NVIDIA driver does not work: {error}. Start a container with its GPUs"
            " (docker run --gpus all); on the machine itself, look at `nvidia-smi`."
        )
        return
    findings.fact("device", device)
    findings.good(
        f"{device['name']}, {driver.memory >> 30} GiB, compute capability {capability},"
        f" driver for CUDA up to {driver.cuda_version}, {driver.device_count} device(s)"
    )
    _look_at_video_decoder(findings)


def _look_at_video_decoder(findings: Findings) -> None:
    try:
        cuvid = ctypes.CDLL(CUVID_LIBRARY)
    except OSError as error:
        places = list(find_library(CUVID_LIBRARY.removesuffix(".1")))
        findings.fact("libnvcuvid", {"loads": False, "error": str(error), "places": places})
        if places:
            folder = os.path.dirname(places[0])
            findings.bad(
                f"libnvcuvid lies at {places[0]}, where it is not found."
                f" Add its folder: export LD_LIBRARY_PATH={folder}:$LD_LIBRARY_PATH"
            )
        else:
            findings.bad(f"libnvcuvid is missing: no NVDEC. {_NO_VIDEO}")
        return

    findings.fact("libnvcuvid", {"loads": True, "path": _loaded_path("libnvcuvid")})
    findings.good(f"libnvcuvid: {_loaded_path('libnvcuvid')}")
    limits: dict[str, DecoderLimits] = {}
    for codec, chroma, depth in itertools.product(CODECS, CHROMAS, DEPTHS):
        try:
            found = decoder_limits(cuvid, codec, chroma, depth)
        except DriverError as error:
            # some drivers refuse to answer for what no chip decodes
            if (chroma, depth) == ("4:2:0", 8):
                findings.bad(f"NVDEC, {codec}: {error}")
            continue
        if found.is_supported:
            limits[f"{codec} {chroma} {depth} bits"] = found
    findings.fact("decoder limits", {name: vars(found) for name, found in limits.items()})

    for codec in CODECS:
        usual = limits.get(f"{codec} 4:2:0 8 bits")
        others = [name.partition(" ")[2] for name in limits if name.startswith(f"{codec} ")][1:]
        if usual is None:
            findings.note(f"NVDEC, {codec}: not supported; the CPU decodes it")
            continue
        smallest, largest = ("x".join(map(str, side)) for side in (usual.smallest, usual.largest))
        findings.good(
            f"NVDEC, {codec}: {smallest} to {largest}, {usual.engines} engine(s)"
            + (f"; also {', '.join(others)}" if others else "")
        )


def find_library(name: str, roots: tuple[str, ...] = (*_FIRST, "/")) -> Iterator[str]:
    """Yield the paths of files whose names begin with ``name``, for a few seconds at most."""
    end = time.monotonic() + _SEARCH_SECONDS
    seen = set(_NEVER)
    for root in roots:
        for folder, folders, names in os.walk(root):
            if time.monotonic() > end:
                return
            folders[:] = [one for one in folders if os.path.join(folder, one) not in seen]
            yield from (os.path.join(folder, one) for one in names if one.startswith(name))
        seen.add(root)


def has_gpu() -> bool:
    """Whether this process may see an NVIDIA GPU, working or not."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    if os.path.exists("/dev/nvidiactl") or os.path.exists("/proc/driver/nvidia/version"):
        return True
    try:  # under WSL there are neither
        cuda = ctypes.CDLL(CUDA_LIBRARY)
        return cuda.cuInit(0) == 0
    except (OSError, AttributeError):
        return False


def _loaded_path(name: str) -> str:
    """Where a loaded library lies."""
    lines = read_text(Path("/proc/self/maps")).splitlines()
    return next((line.split()[-1] for line in lines if name in line), name)
