"""Parsing of command lines: any file name is accepted and printed, whatever the locale."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from omnidali.utils.text_files import is_text
from omnidali.utils.untrusted_text import for_terminal


def use_utf8() -> None:
    """Restart this program in Python's UTF-8 mode where file names are not UTF-8 to it.

    In other encodings, such as that of LC_ALL=C with PYTHONUTF8=0, the file names in lists would
    not be found.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONUTF8": "1"})

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class Parser(argparse.ArgumentParser):
    """A parser that refuses arguments that are not UTF-8: configs and catalogs cannot hold them.

    Its errors quote the arguments with control characters escaped: a shell may have made them of
    file names.
    """

    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        args = sys.argv[1:] if args is None else list(args)
        for text in args:
            if not is_text(text):
                self.error(
                    f"{for_terminal(text)}: this name is not UTF-8. Rename the file or folder, or"
                    " make a link to it that has another name"
                )
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        super().error(for_terminal(message, None))
