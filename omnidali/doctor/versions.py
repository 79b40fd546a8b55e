"""The packages that the project needs: whether they load, and in which versions."""

import importlib
import importlib.metadata
import platform
import sys
from typing import NamedTuple

import omnidali
from omnidali.doctor.findings import Findings, reason_of


class _Package(NamedTuple):
    distribution: str
    module: str
    why: str
    is_needed: bool = True


_PACKAGES = (
    _Package("numpy", "numpy", "everything"),
    _Package("torch", "torch", "training and loading"),
    _Package("av", "av", "video on the CPU, and the probe of every video"),
    _Package("opencv-python-headless", "cv2", "photos, scaling and colours on the CPU"),
    _Package("nvidia-nvimgcodec-cu12", "nvidia.nvimgcodec", "JPEG on the CPU"),
    _Package("nvidia-dali-cuda120", "nvidia.dali", "decoding on a GPU", is_needed=False),
    _Package("pyyaml", "yaml", "configs"),
    _Package("tqdm", "tqdm", "progress bars of probes"),
    _Package("safetensors", "safetensors", "weights"),
    _Package("tensorboard", "tensorboard", "curves of a training"),
)


def look_at_versions(findings: Findings) -> None:
    """Import every package."""
    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        "omnidali": omnidali.__version__,
    }
    versions |= {package.distribution: _version(package.distribution) for package in _PACKAGES}
    findings.fact("versions", versions)
    findings.fact("omnidali folder", list(omnidali.__path__)[0])
    shown = ", ".join(f"{name} {version}" for name, version in versions.items() if version)

    packages = {package.distribution: package for package in _PACKAGES}
    missing = []
    for name in findings.cases(packages):
        package = packages[name]
        try:
            importlib.import_module(package.module)
        except Exception as error:  # an extension module may raise anything
            missing.append(name)
            say = findings.bad if package.is_needed else findings.note
            say(f"{name} does not load ({reason_of(error)}); needed for {package.why}")
    findings.fact("missing", missing)
    if missing:
        findings.note(f"install what is missing: {_command(missing)}")
    findings.good(shown)
    if "torch" in sys.modules:
        _look_at_torch(findings)


def _look_at_torch(findings: Findings) -> None:
    torch = sys.modules["torch"]
    sees_gpu = torch.cuda.is_available()
    findings.fact(
        "torch",
        {
            "cuda": torch.version.cuda,
            "sees a GPU": sees_gpu,
            "devices": torch.cuda.device_count(),
            "threads": torch.get_num_threads(),
        },
    )
    if findings.context.device_id is None or sees_gpu:
        return
    if torch.version.cuda is None:
        findings.bad("this build of torch has no CUDA: install the one that fits your driver")
    else:
        findings.bad(
            f"torch, built for CUDA {torch.version.cuda}, sees no GPU:"
            " look at the driver's version and CUDA_VISIBLE_DEVICES"
        )


def _command(packages: list[str]) -> str:
    return f"python -m pip install {' '.join(packages)} (or add them to the folder on PYTHONPATH)"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
