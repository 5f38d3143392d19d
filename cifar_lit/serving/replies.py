"""What an error becomes on the wire: a status and a sentence, in one place."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from cifar_lit.errors import CifarLitError, DeadlineError, Fault, InputError, OverloadedError, VersionNotFoundError

RETRY_AFTER_S = 1

_OF_FAULT: Mapping[Fault, int] = {"malformed": 400, "too_large": 413, "unsupported": 415, "invalid": 422}


class RequestError(CifarLitError, HTTPException):
    """A request is turned away for what it is, not for the image it brings.

    It is an HTTPException too, so that the page's own application handles it as ours does.

    Args:
        status: HTTP status.
        message: what was wrong, what was expected, how to fix it.
        retry_after_s: when the same request may succeed, where that is known.
    """

    def __init__(self, status: int, message: str, *, retry_after_s: int | None = None) -> None:
        headers = None if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        HTTPException.__init__(self, status, message, headers)

    def __str__(self) -> str:
        return self.detail


def status_of(error: Exception) -> int:
    """The HTTP status of an error; 500 for what is no error of ours."""
    match error:
        case RequestError():
            return error.status_code
        case InputError():
            return _OF_FAULT[error.fault]
        case OverloadedError():
            return 503
        case DeadlineError():
            return 504
        case VersionNotFoundError():
            return 404
    return 500


def reply(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON; NaN and infinity are not valid in it."""
    text = json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    body = text.encode(errors="backslashreplace")  # half a surrogate pair, repeated from a request, as JSON has it
    return Response(body, status, headers, "application/json")


def error_reply(error: Exception, *, field: str = "detail") -> Response:
    """{"detail": message}; what is no error of ours is told nothing of."""
    status = status_of(error)
    message = str(error) if status != 500 else "the server failed. The log knows more, by this response's X-Request-ID."
    headers = error.headers if isinstance(error, RequestError) else None
    if status == 503:
        headers = {"Retry-After": str(RETRY_AFTER_S), **(headers or {})}
    return reply({field: message}, status, headers)
