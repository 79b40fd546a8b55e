"""Names that files, folders and classes may have, and that no place must show as they are."""

ODD = "caf\udce9"  # what Python makes of b"caf\xe9"
# names that a file, and a folder of a class, may have
NAMES = [
    "=cmd|' C calc'!A0",
    "@SUM",
    "+1+cmd",
    "-2+3",
    "<script>alert(1)<",
    "[x](javascript:y)",
    "|pipe|",
    "naïve 猫",
    "\u202egpj.exe",
    "_x_ `y` *z*",
    "\x9b31m",
    "\u2028b",
    "![i](u)",
]
# of files: they are left out; as classes the first is one
REFUSED = ["\x1b[31mred", "a\nb", "a\rb", "\x07"]
LONG = "n" * 249  # with its ending as long as a name may be
# French, Chinese and Persian text and emoji need these
SPACES = "\u00a0\u3000\u200c\u200d"


def fits_a_line(text):
    """Whether a terminal shows all of it in one line."""
    return all(char.isprintable() or char in SPACES for char in text)
