"""Values between processes as JSON; pickles would let a file that took one of them over run code in
the other.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib
from pathlib import Path

import numpy as np


def to_plain(value: object) -> object:
    """Numbers, text, bytes, paths, arrays, lists, and dataclasses of ours as JSON takes them."""
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, np.ndarray):
        return {
            "array": base64.b64encode(value.tobytes()).decode(),
            "dtype": value.dtype.str,
            "shape": value.shape,
        }
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [to_plain(part) for part in value]
    if dataclasses.is_dataclass(value):
        kind = type(value)
        return {
            "class": f"{kind.__module__}:{kind.__qualname__}",
            "fields": {
                field.name: to_plain(getattr(value, field.name))
                for field in dataclasses.fields(value)
            },
        }
    return value


def from_plain(plain: object, trusted: bool) -> object:
    """The inverse of :func:`to_plain`, with lists for tuples.

    Args:
        trusted: whether it may name dataclasses, whose modules are imported.

    Raises:
        ValueError, TypeError, KeyError: if it is none.
    """
    if isinstance(plain, list):
        return [from_plain(part, trusted) for part in plain]
    if not isinstance(plain, dict):
        return plain
    if "bytes" in plain:
        return base64.b64decode(plain["bytes"])
    if "path" in plain:
        return Path(plain["path"])
    if "array" in plain:
        return np.frombuffer(base64.b64decode(plain["array"]), plain["dtype"]).reshape(
            plain["shape"]
        )
    if not trusted:
        raise ValueError("a value of no known kind")
    fields = {name: from_plain(part, trusted) for name, part in plain["fields"].items()}
    # those of lists here are tuples in the dataclasses
    return named(plain["class"])(
        **{name: tuple(part) if isinstance(part, list) else part for name, part in fields.items()}
    )


def named(name: str) -> object:
    """What ``module:name`` stands for.

    Raises:
        ValueError: if it is outside of this package.
    """
    module, _, attribute = name.partition(":")
    if module.partition(".")[0] != __package__.partition(".")[0]:
        raise ValueError(f"a module of another package: {module}")
    return getattr(importlib.import_module(module), attribute)
