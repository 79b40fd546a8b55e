"""Escapes of untrusted text, one function a place."""

import ast
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.odd_names import ODD, fits_a_line
from omnidali.cli.error_report import run_reporting_errors
from omnidali.errors import UserError
from omnidali.utils.atomic_write import csv_lines, table_lines
from omnidali.utils.log import LOG
from omnidali.utils.untrusted_text import (
    LONGEST,
    for_csv,
    for_image,
    for_markdown,
    for_tensorboard,
    for_terminal,
    say,
)

ROOT = Path(__file__).parent.parent


ANY = st.characters() | st.sampled_from("\x1b\n\r\t\x00\u202e\ud800\udcff=+-@<>|`*_[]\\;\"'&#")


@given(st.text(ANY, max_size=400))
def test_any_text_is_escaped_everywhere(text):
    for found in (for_terminal(text), for_markdown(text), str(for_csv(text)), for_image(text)):
        assert fits_a_line(found)
        found.encode()
    assert len(for_terminal(text)) <= LONGEST and for_terminal(for_terminal(text)) == for_terminal(
        text
    )
    assert not re.search(
        r"(^|;)\s*[=+@\-＝＋－＠](?![0-9.]*([eE][-+]?[0-9]+)?$)", str(for_csv(text))
    )
    assert not re.search(
        r"[<>|`*\[\]#]|^(\d+[.)]|[-+])\s|://", re.sub(r"\\.|&[a-z]+;", "", for_markdown(text))
    )
    assert for_image(text).isascii() and re.fullmatch(r"[\w./ +-]*", for_tensorboard(text))


def test_harmless_names_are_not_escaped():
    for name in (
        "naïve 猫",
        "a b.jpg",
        "👨‍👩‍👧",
        "نمی‌خواهم",
        "Ünïcödé",
        "a-b=c@d+e;f",
        "-1.5",
        "1e-3",
    ):
        assert for_terminal(name) == for_csv(name) == name
    assert for_csv(None) is None and for_csv(-1.5) == -1.5 and for_csv(True) is True


def test_escapes_tell_names_apart():
    """Escapes name each character, and each byte of a name that is not UTF-8."""
    assert for_terminal(ODD) == "caf\\xe9"
    assert for_terminal("\x1b[31mred\n") == "\\x1b[31mred\\n"
    assert for_terminal("\u202egpj.exe") == "\\u202egpj.exe"
    shown = for_terminal("a" * 400 + "z")
    assert (
        len(shown) == LONGEST and shown.startswith("a") and "..." in shown and shown.endswith("z")
    )


def test_lists_keep_values_that_tables_escape():
    row = ["=A1", "a\nb", -1]
    assert list(csv_lines([row])) == ['=A1,"a\nb",-1\n']
    assert list(table_lines([row])) == ["'=A1,a\\nb,-1\n"]


def test_errors_logs_and_tracebacks_are_escaped(capsys, caplog):
    error = UserError("\x1b]0;x\x07.jpg", "a\nb", ODD, "\u202e.")
    assert str(error) == "\\x1b]0;x\\x07.jpg: expected a\\nb, got caf\\xe9. \\u202e."
    assert (error.where, error.got) == ("\x1b]0;x\x07.jpg", ODD)
    with caplog.at_level("DEBUG", "omnidali"):
        try:
            raise ValueError("\x1b[31mred")
        except ValueError:
            LOG.warning("%s: %s", "a\nb", ODD, exc_info=True)
    assert (
        "a\\nb: caf\\xe9" in caplog.text
        and "\x1b" not in caplog.text
        and "\\x1b[31mred" in caplog.text
    )
    hook = sys.excepthook
    try:
        with pytest.raises(KeyError):
            run_reporting_errors(lambda: {}["\x1b[31mred"])
        sys.excepthook(OSError, OSError("\x1b[31mred " + ODD), None)
    finally:
        sys.excepthook = hook
    say("\x1b", ODD, error=True)
    printed = capsys.readouterr().err
    assert (
        "OSError: \\x1b[31mred caf\\xe9" in printed
        and printed.endswith("\\x1b\ncaf\\xe9\n")
        and "\x1b" not in printed
    )


def calls(name, tree):
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and name == ast.unparse(node.func)
    ]


def test_one_function_prints_and_one_writes_tables():
    """`say` prints lines, `table_lines` writes tables, and the escaping logger logs records."""
    allowed = {
        "print": ("omnidali/utils/untrusted_text.py", "benchmarks/measure_loader.py"),
        "csv.writer": ("omnidali/utils/atomic_write.py",),
        "csv.DictWriter": (),
        "logging.getLogger": ("omnidali/utils/log.py",),
        "csv_lines": (
            "omnidali/utils/atomic_write.py",
            "omnidali/curation/list_lines.py",
            "omnidali/training/csv_log.py",  # numbers
        ),
        "warnings.warn": (),
        "sys.stdout.write": (),
        "sys.stderr.write": (),
        "traceback.print_exc": (),
        "traceback.print_exception": (),
        "cv2.putText": (
            "omnidali/utils/plots.py",
            "omnidali/loading/clip_images.py",
            "omnidali/prediction/timeline.py",
        ),
        "argparse.ArgumentParser": (),
    }
    drawing = ("board.add_scalar", "board.add_image", "writer.add_image", "writer.add_scalar")
    broken = []
    for path in [*ROOT.glob("omnidali/**/*.py"), ROOT / "train.py", ROOT / "evaluate.py"]:
        name = str(path.relative_to(ROOT))
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function, places in allowed.items():
            for call in calls(function, tree):
                to = [
                    ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "file"
                ]
                if name not in places and to != ["answers"]:  # a worker's pipe
                    broken.append(f"{name}:{call.lineno}: {function}")
        for function in drawing:
            broken += [
                f"{name}:{call.lineno}: {function}"
                for call in calls(function, tree)
                if not ast.unparse(call.args[0]).startswith("for_tensorboard(")
            ]
    assert not broken, "\n".join(broken)
