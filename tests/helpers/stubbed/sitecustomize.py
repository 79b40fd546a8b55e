"""Imported by Python at its start, where this folder is in PYTHONPATH."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_path = Path(__file__).parent.parent / "torchvision_stubs.py"
_spec = spec_from_file_location("torchvision_stubs", _path)
_module = module_from_spec(_spec)
sys.modules["torchvision_stubs"] = _module
_spec.loader.exec_module(_module)
_module.install()
