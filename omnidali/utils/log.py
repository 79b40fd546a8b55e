"""The library's logger: its messages hold untrusted names, which handlers print unescaped."""

import logging

from omnidali.utils.untrusted_text import for_terminal

LOG = logging.getLogger("omnidali")


def _escape(record: logging.LogRecord) -> bool:
    """Escape the message and traceback of a record for a terminal; no record is left out."""
    record.msg = for_terminal(record.getMessage(), None)
    record.args = ()
    if record.exc_info:
        lines = logging.Formatter().formatException(record.exc_info).split("\n")
        # formatters print a text that is there already as it is
        record.exc_text = "\n".join(for_terminal(line, None) for line in lines)
    return True


LOG.addFilter(_escape)
