"""Let torchvision import beside a torch that its operators were not built for.

torchvision's wheel on PyPI goes with CUDA's torch. Beside the CPU's, its library of operators does
not load, and without their definitions the package does not import. Networks need none of them.
Here they are defined as soon as something imports torchvision; where its library loads, nothing
is changed. For tests alone: the product reports such a torchvision as one that does not import.

The tests' conftest installs this for their process. Other processes get it by ``environment()``.
"""

import importlib.abc
import os
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path

# operators whose behaviour torchvision describes when it is imported; it needs their signatures
OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# a folder with a sitecustomize, which Python imports at its start
SITE = Path(__file__).with_name("stubbed")


class StubbingFinder(importlib.abc.MetaPathFinder):
    """Finds nothing, but defines the operators before torchvision is found."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            define_missing_operators()


def install():
    """Define the operators when torchvision is imported, which may be never."""
    names = [type(finder).__name__ for finder in sys.meta_path]  # sitecustomize has its own copy
    if StubbingFinder.__name__ not in names:
        sys.meta_path.insert(0, StubbingFinder())


def environment(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables with which another Python process has the operators, too."""
    others = variables.get("PYTHONPATH")
    paths = [str(SITE), *([others] if others else [])]
    return {**variables, "PYTHONPATH": os.pathsep.join(paths)}


def define_missing_operators():
    """Define the operators unless torchvision's own library loads."""
    spec = PathFinder.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return

    import torch  # not at the start of every process

    try:
        torch.ops.load_library(str(Path(spec.submodule_search_locations[0], "_C.so")))
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for signature in OPERATORS:
            library.define(signature)
        _kept.append(library)


_kept: list[object] = []  # a library that is garbage takes its operators along
