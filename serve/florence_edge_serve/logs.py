"""Logs as JSON, one object a line."""

import json
import logging
import time
from contextvars import ContextVar

from florence_edge.command import printable

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The request that is being answered; every line that is logged meanwhile carries it."""

_OURS = "fields"  # attribute of a record: what stands beside the message


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time (UTC), level, logger, message, request and more."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": printable(record.getMessage()),
        }
        if (current := request_id.get()) is not None:
            line["request_id"] = current
        line |= getattr(record, _OURS, {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


def fields(**values: object) -> dict[str, dict[str, object]]:
    """What to give a log call as `extra`, for fields beside its message."""
    return {_OURS: values}


def log_as_json(level: int = logging.INFO) -> None:
    """Have everything that is logged written to the standard error as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # ours has more, and no query
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # broken forms: the reply says
