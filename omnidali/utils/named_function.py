"""Functions that a config names as ``package.module:function``."""

import difflib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from omnidali.errors import UserError

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_function_name(text: str) -> bool:
    """Whether a text has the form ``package.module:function``.

    >>> is_function_name("my_networks:make"), is_function_name("timm/resnet18")
    (True, False)
    """
    return _NAME.fullmatch(text) is not None


def load_function(name: str, where: str) -> Callable[..., Any]:
    """Import what a config names. This runs the module's code.

    A module may also lie in the current folder, as for ``python -m``.

    Args:
        name: ``package.module:function``; a class, or a method of one, will do.
        where: the setting that names it, for errors.

    Raises:
        UserError: if there is no such module or function, the module does not import, or it is no
            function.

    >>> load_function("math:sqrt", "model.backbone")(9.0)
    3.0
    """
    if not is_function_name(name):
        raise UserError(
            where, "package.module:function", name, "Write, for example, my_networks:make_network."
        )
    module_name, _, path = name.partition(":")
    value = _import_module(module_name, where)
    place = module_name
    for part in path.split("."):
        if not hasattr(value, part):
            raise UserError(where, f"a function of {place}", f"no {part}", _suggest(part, value))
        value = getattr(value, part)
        place = f"{place}.{part}"
    if not callable(value):
        raise UserError(
            where,
            "a function",
            f"{name}, of the type {type(value).__name__}",
            "Name a function or a class.",
        )
    return value


def _import_module(name: str, where: str) -> Any:
    """Import a module, whose own mistakes are the user's to correct."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # for good: the module may import others later on
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        is_named = name == missing or name.startswith(f"{missing}.")
        got = f"no module {missing}" if is_named else f"{name}, which imports {missing}: not there"
        raise UserError(
            where,
            "a module that can be imported",
            got,
            f"Install it, correct the name, or start in the folder where it lies (here: {here}).",
        ) from None
    except (Exception, SystemExit) as error:
        raise UserError(
            where,
            "a module that can be imported",
            f"{name}, whose import ends with {describe_error(error)}",
            f'Correct it; python -c "import {name}" shows where it happens.',
        ) from error


def describe_error(error: BaseException, most: int = 300) -> str:
    """The type of an error and the first line of its text.

    >>> describe_error(ValueError("no such size\\nand more"))
    'ValueError: no such size'
    """
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
    return text if len(text) <= most else f"{text[:most]}..."


def _suggest(name: str, owner: object) -> str:
    """Advice for a name that a module or class lacks."""
    names = [other for other in dir(owner) if callable(getattr(owner, other, None))]
    close = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {close[0]}?" if close else "Correct the name."
