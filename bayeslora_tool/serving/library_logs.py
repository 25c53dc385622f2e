"""The MCP library's log records, without what a client sent: it quotes what it cannot read."""

from __future__ import annotations

import logging
from pathlib import Path

import mcp

_LIBRARY = str(Path(mcp.__file__).parent)
# Quotes headers alone: which host or origin was refused, and must be allowed if it is yours.
_KEPT = "transport_security"


class _WithoutWords(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.pathname.startswith(_LIBRARY) and record.module != _KEPT:
            kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else "-"
            record.msg = "mcp %s:%d (%s); what it says is left out, since it may quote a client"
            record.args = (record.module, record.lineno, kind)
            record.exc_info = record.exc_text = record.stack_info = None
        return True


_WITHOUT_WORDS = _WithoutWords()


def leave_words_out() -> None:
    """Of each record of the library's, keep where it comes from and the kind of the error."""
    # It logs through the root logger too. A logger's filter sees only what is logged through it.
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "mcp"]
    for logger in (logging.root, *map(logging.getLogger, names)):
        logger.addFilter(_WITHOUT_WORDS)
