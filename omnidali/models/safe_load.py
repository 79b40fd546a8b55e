"""Reading of checkpoint files without running code from them."""

import contextlib
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import torch

from omnidali.errors import UserError, start_of
from omnidali.models.foreign_types import STAND_INS, standing_in
from omnidali.models.pickle_check import check_pickles
from omnidali.utils.text_files import parse_json
from omnidali.utils.untrusted_text import for_shell

# Entries under which projects keep the weights.
WEIGHT_ENTRIES = ("state_dict", "model_state", "model_state_dict", "model")
# Metadata of a safetensors file, which is text, that holds the `meta` of other files as JSON.
META = "meta"
_LARGEST_META = 16 * 2**20  # characters
# Files that are programs, and how they are run.
_PROGRAMS = {".onnx": "onnxruntime.InferenceSession", ".pt2": "torch.export.load"}

# Types of Python's own that hold plain values. Its other names can run programs.
_PLAIN_TYPES = re.compile(
    r"(datetime|collections|pathlib|decimal|enum|uuid)\.\w+|argparse\.Namespace"
    r"|types\.SimpleNamespace"
    r"|(builtins\.)?(bool|complex|dict|float|frozenset|int|list|object|range|set|slice|str|tuple)"
)
# Functions with which libraries make their values; all others are named in small letters, too.
_MAKERS = re.compile(
    r"numpy\.(\w+\.)*(_reconstruct|scalar|dtype|ndarray|_mareconstruct|__\w+_ctor)"
    r"|torch\.(_utils|_tensor)\._rebuild_\w+"
)
# Through these a name may reach from a library into Python's own.
_REACHES = frozenset(
    ("builtins", "ctypes", "importlib", "nt", "os", "pickle", "posix", "pty", "runpy", "shutil")
    + ("socket", "subprocess", "sys")
)
_OLDEST_PROTOCOL = 2  # of torch.save, and the only one that torch reads with care
_STRIP = (
    "import sys, torch; c = torch.load(sys.argv[1], 'cpu', weights_only=False);"
    " w = c if hasattr(c, 'state_dict') else"
    f" next((c[k] for k in {WEIGHT_ENTRIES} if k in c), c);"
    " w = w.state_dict() if hasattr(w, 'state_dict') else w;"
    " torch.save({'state_dict': w}, sys.argv[2])"
).replace("'", '"')


def read_entries(path: Path, *, foreign: bool) -> Any:
    """Read what a checkpoint file holds.

    Args:
        path: ``.safetensors``, or a file of torch.save.
        foreign: whether other projects' types may be in it; see
            :mod:`~omnidali.models.foreign_types`.

    Raises:
        UserError: if it is missing or damaged, or holds other objects than tensors and plain data.
            Those of another type are named.
    """
    if path.is_dir():
        raise UserError(
            str(path),
            "a checkpoint file",
            f"a folder{start_of(path)}",
            "Name a file in it, such as checkpoints/best.pt.",
        )
    if path.exists() and not path.is_file():  # reading a pipe would wait for a writer
        raise UserError(str(path), "a checkpoint file", "no regular file", "Name a file.")
    if path.suffix in _PROGRAMS and path.is_file():
        raise UserError(
            str(path),
            "weights",
            "a program",
            f"{_PROGRAMS[path.suffix]} runs it; OmniDALI takes .pth and .safetensors.",
        )

    try:
        _check_size(path)
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        check_pickles(path)
        with standing_in() if foreign else contextlib.nullcontext():
            entries = torch.load(path, map_location="cpu", weights_only=True)
        return _as_plain(entries, {})
    except FileNotFoundError:
        raise UserError(
            str(path),
            "a checkpoint",
            f"no such file{start_of(path)}",
            "Check the path.",
        ) from None
    except Exception as error:  # both readers raise many kinds for damaged files
        raise _refusal(path, str(error), foreign) from None


def _read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors of a file, or with its facts about them the entries of a checkpoint."""
    with safetensors.safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = (file.metadata() or {}).get(META, "")
    meta = None
    if len(text) <= _LARGEST_META:
        with contextlib.suppress(UserError):  # another project's
            meta = parse_json(text, str(path))
    return {"state_dict": tensors, "meta": meta} if isinstance(meta, dict) else tensors


def _as_plain(value: Any, done: dict[int, Any]) -> Any:
    """A value without what a pickle can hang on dicts and tensors: attributes instead of methods.

    Args:
        value: that was read.
        done: the values that have been made plain, by their identity.
    """
    made = done.get(id(value))
    if made is not None:
        return made
    if isinstance(value, dict):
        made = done[id(value)] = {}
        for key, inner in dict.items(value):
            made[key] = _as_plain(inner, done)
    elif isinstance(value, list):
        made = done[id(value)] = []
        made.extend(_as_plain(inner, done) for inner in value)
    elif type(value) is tuple:
        made = done[id(value)] = tuple(_as_plain(inner, done) for inner in value)
    elif isinstance(value, torch.Tensor):
        made = done[id(value)] = torch.Tensor.detach(value)
    else:
        made = value
    return made


def _may_be_type(name: str) -> bool:
    """Whether a pickle may name this to hold values, and not to run a program."""
    first, *inner, last = (name if "." in name else f"builtins.{name}").split(".")
    if first in sys.stdlib_module_names:
        return _PLAIN_TYPES.fullmatch(name) is not None
    is_class = re.match("_*[A-Z]", last) is not None
    return (is_class and not _REACHES.intersection(inner)) or _MAKERS.fullmatch(name) is not None


def _check_size(path: Path) -> None:
    """Raise ValueError for an archive with entries that unpack to more than the file holds.

    torch.save compresses nothing.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        claimed = sum(entry.file_size for entry in archive.infolist())
    size = path.stat().st_size
    if claimed > size:
        raise ValueError(f"entries of {claimed:,} bytes in a file of {size:,}")


def _refusal(path: Path, text: str, foreign: bool) -> UserError:
    """The error about a file that torch or safetensors does not read.

    Args:
        path: of the file.
        text: of their error.
        foreign: as in :func:`read_entries`.
    """
    expected = "a checkpoint that can be read safely"
    named = re.search(r"\bGLOBAL (\S+)", text)
    if named and named[1] in STAND_INS and not foreign:
        advice = "It is another project's: start from its weights by model.pretrained."
        return UserError(str(path), expected, f"an object of {named[1]}", advice)
    if named and not _may_be_type(named[1]):
        advice = "No weights need that: do not load the file by any means."
        return UserError(str(path), expected, f"one that calls {named[1][:200]}", advice)

    protocol = _protocol(path) if "Unsupported operand" in text else _OLDEST_PROTOCOL
    if named or protocol > _OLDEST_PROTOCOL:
        got = f"pickle protocol {protocol}" if named is None else f"an object of {named[1][:200]}"
        return UserError(str(path), expected, got, _how_to_strip(path))

    reason = (text.partition("WeightsUnpickler error: ")[2] or text).strip() or "nothing"
    advice = "The file is damaged or foreign; use another one."
    return UserError(str(path), expected, reason.splitlines()[0][:200], advice)


def _how_to_strip(path: Path) -> str:
    """Advice to keep the weights alone, with a command."""
    out = path.with_name(f"{path.stem}-weights.pth")
    return (
        "If you trust its author, since this runs what the file asks for, keep the weights alone"
        " where the library that wrote it is installed: "
        + for_shell("python", "-c", _STRIP, path, out)
    )


def _protocol(path: Path) -> int:
    """The version of the pickle in a file of torch.save; 0 where there is none."""
    begin = b""
    with contextlib.suppress(OSError, ValueError, zipfile.BadZipFile, RuntimeError):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith("data.pkl")]
                with archive.open(names[0] if names else "") as file:
                    begin = file.read(2)
        else:
            with open(path, "rb") as file:
                begin = file.read(2)
    return begin[1] if begin[:1] == b"\x80" and len(begin) == 2 else 0
