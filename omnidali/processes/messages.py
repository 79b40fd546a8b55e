"""Values between processes as JSON: pickles would let a hostile file run code in the parent."""

import base64
import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np


def encode_message(value: object) -> object:
    """Encode numbers, text, bytes, paths, arrays, lists, and dataclasses of ours for JSON."""
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
        return [encode_message(part) for part in value]

    if dataclasses.is_dataclass(value):
        kind = type(value)
        return {
            "class": f"{kind.__module__}:{kind.__qualname__}",
            "fields": {
                field.name: encode_message(getattr(value, field.name))
                for field in dataclasses.fields(value)
            },
        }
    return value


def decode_message(message: object, trusted: bool) -> object:
    """Decode the result of :func:`encode_message`, with lists for tuples.

    Args:
        message: as parsed from JSON.
        trusted: whether it may name dataclasses, whose modules are imported.

    Raises:
        ValueError, TypeError, KeyError: if it is no such message.
    """
    if isinstance(message, list):
        return [decode_message(part, trusted) for part in message]
    if not isinstance(message, dict):
        return message
    if "bytes" in message:
        return base64.b64decode(message["bytes"])
    if "path" in message:
        return Path(message["path"])
    if "array" in message:
        data = base64.b64decode(message["array"])
        return np.frombuffer(data, message["dtype"]).reshape(message["shape"])
    if not trusted:
        raise ValueError("a value of no known kind")

    fields = {name: decode_message(part, trusted) for name, part in message["fields"].items()}
    # lists in a message are tuples in the dataclasses
    return resolve_name(message["class"])(
        **{name: tuple(part) if isinstance(part, list) else part for name, part in fields.items()}
    )


def resolve_name(name: str) -> Callable[..., object]:
    """Import the function or class ``module:name``.

    Raises:
        ValueError: if it is outside of this package.
    """
    module, _, attribute = name.partition(":")
    if module.partition(".")[0] != __package__.partition(".")[0]:
        raise ValueError(f"a module of another package: {module}")
    return getattr(importlib.import_module(module), attribute)
