"""The library's logger. Its messages hold names of strangers, and handlers write them to terminals
as they are.
"""

from __future__ import annotations

import logging

from omnidali.utils.untrusted_text import for_terminal

LOG = logging.getLogger("omnidali")


def _escape(record: logging.LogRecord) -> bool:
    """Make message and traceback of a record fit for a terminal; no record is left out."""
    record.msg, record.args = for_terminal(record.getMessage(), None), ()
    if record.exc_info:
        lines = logging.Formatter().formatException(record.exc_info).split("\n")
        # formatters take it as it is
        record.exc_text = "\n".join(for_terminal(line, None) for line in lines)
    return True


LOG.addFilter(_escape)
