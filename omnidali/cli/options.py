"""Options that mean the same in all commands."""

from __future__ import annotations

import argparse

from omnidali.errors import UserError


def takes_config(parser: argparse.ArgumentParser, remark: str = "") -> None:
    """``--config``."""
    parser.add_argument("--config", required=True, help=f"YAML file{remark and '; '}{remark}")


def takes_sources(parser: argparse.ArgumentParser, default: str, held_out: bool = True) -> None:
    """``--sources``; ``held_out``: whether the evaluation's may be among them."""
    held_out = ", `evaluation` being the held-out one" if held_out else ""
    parser.add_argument(
        "--sources",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"only these{held_out} (default: {default})",
    )


def takes_settings(parser: argparse.ArgumentParser) -> None:
    """``--set``."""
    parser.add_argument(
        "--set",
        dest="overrides",
        nargs="+",
        default=[],
        metavar="key.path=value",
        help="settings of the config",
    )


def at_least(value: int, least: int, where: str) -> None:
    """Raise UserError for a number that is too small."""
    if value < least:
        raise UserError(where, f"{least} or more", str(value), "Correct the value.")
