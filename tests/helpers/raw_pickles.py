"""Checkpoint files with pickles that no torch.save would write."""

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch


class Opcodes(bytes):
    """Opcodes of a pickle, which :func:`opcodes` takes as they are."""


def opcodes(value: object) -> Opcodes:
    """The opcodes of protocol 2 that push plain data; they leave the memo alone."""
    if isinstance(value, Opcodes):
        return value
    if value is None:
        return Opcodes(b"N")
    if isinstance(value, int):
        data = value.to_bytes(9, "little", signed=True)
        return Opcodes(b"\x8a" + bytes([len(data)]) + data)
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        return Opcodes(b"X" + struct.pack("<I", len(data)) + data)
    if isinstance(value, bytes):
        return call(name_of("_codecs", "encode"), value.decode("latin1"), "latin1")
    parts = value.items() if isinstance(value, dict) else [(item,) for item in value]
    inner = b"".join(opcodes(item) for pair in parts for item in pair)
    begin, end = {tuple: (b"(", b"t"), list: (b"](", b"e"), dict: (b"}(", b"u")}[type(value)]
    return Opcodes(begin + inner + end)


def name_of(module: str, name: str) -> Opcodes:
    """Push a class or function."""
    return Opcodes(f"c{module}\n{name}\n".encode())


def call(function: Opcodes, *arguments: object) -> Opcodes:
    """REDUCE: push what a function gives."""
    return Opcodes(function + opcodes(arguments) + b"R")


def new(made: Opcodes, *arguments: object) -> Opcodes:
    """NEWOBJ: push an object of a class."""
    return Opcodes(made + opcodes(arguments) + b"\x81")


def build(made: Opcodes, state: object) -> Opcodes:
    """BUILD: give an object its state."""
    return Opcodes(made + opcodes(state) + b"b")


def numpy_dtype(code: str, order: str = "<") -> Opcodes:
    """A dtype, as NumPy pickles it."""
    made = call(name_of("numpy", "dtype"), code, 0, 1)
    return build(made, (3, order, None, None, None, -1, -1, 0))


def numpy_array(shape: tuple, dtype: Opcodes, data: object, core: str = "numpy._core") -> Opcodes:
    """An array, as NumPy pickles it, with any claims."""
    ndarray = name_of("numpy", "ndarray")
    empty = call(name_of(f"{core}.multiarray", "_reconstruct"), ndarray, (0,), b"b")
    return build(empty, (1, shape, dtype, 0, data))


def edit_pickle(path: Path, edit: Callable[[bytes], bytes]) -> Path:
    """Replace the pickle in a file of torch.save by what ``edit`` makes of it."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, edit(data) if name.endswith("data.pkl") else data)
    return path


def checkpoint_with(path: Path, extra: object) -> Path:
    """Write a checkpoint with good weights and an entry ``extra`` of any opcodes."""
    torch.save({"state_dict": {"a.weight": torch.zeros(2)}, "extra": "PLACE"}, path)
    return edit_pickle(path, lambda data: data.replace(opcodes("PLACE"), opcodes(extra)))
