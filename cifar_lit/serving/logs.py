"""How the log is written: lines that nobody can forge, in words or as JSON."""

import json
import logging
import time
from types import TracebackType

LEVELS = ("debug", "info", "warning", "error")
MAX_MESSAGE, MAX_TRACEBACK = 4_000, 2_000
"""Characters. Of a traceback the end is kept, where the exception is."""

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class LineFormatter(logging.Formatter):
    """`2026-11-27 12:00:00,000 message`, and a traceback below it; what a terminal would obey is escaped."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _plain(record.message[:MAX_MESSAGE])
        return super().formatMessage(record)

    def formatException(self, ei: _ExcInfo) -> str:
        lines = super().formatException(ei)[-MAX_TRACEBACK:].split("\n")
        return "\n".join(f"  {_plain(line)}" for line in lines)  # no line of it looks like one of the log's


class JsonFormatter(logging.Formatter):
    """A JSON object a line: time (UTC), level, logger, message, and exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:MAX_MESSAGE],
        }
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)[-MAX_TRACEBACK:]
        return json.dumps(content)


def set_up_logging(level: str, *, as_json: bool = False, access: bool = False) -> None:
    """Has this process log to stderr.

    Args:
        level: one of `LEVELS`; other packages' messages are warnings at least.
        as_json: see `JsonFormatter`.
        access: a line a request too.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if as_json else LineFormatter())
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(logging.WARNING, number), handlers=[handler])
    logging.getLogger("cifar_lit").setLevel(number)
    logging.getLogger("cifar_lit.access").setLevel(logging.INFO if access else logging.WARNING)


def _plain(text: str) -> str:
    """Printable characters, in one line; others as Python escapes them."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
