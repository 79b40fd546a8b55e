"""What the command lines of all programs share: they take any file name and print any, whatever the
locale says.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from omnidali.utils.text_files import is_text
from omnidali.utils.untrusted_text import for_terminal


def use_utf8() -> None:
    """Start this program anew in Python's UTF-8 mode, unless file names are UTF-8 to it already.

    In other encodings, such as that of LC_ALL=C with PYTHONUTF8=0, the names that lists hold would
    not be found.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONUTF8": "1"})
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class Parser(argparse.ArgumentParser):
    """A parser that refuses arguments which are not UTF-8, as configs and catalogs cannot hold
    them.

    Its errors quote arguments, which a shell may have made of names of files; they are escaped.
    """

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ):
        for text in sys.argv[1:] if args is None else args:
            if not is_text(text):
                self.error(
                    f"{for_terminal(text)}: this name is not UTF-8. Rename the file or folder, or make a link to"
                    " it that has another name"
                )
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        super().error(for_terminal(message, None))
