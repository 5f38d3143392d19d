import json

import pytest
from starlette.exceptions import HTTPException

from cifar_lit.errors import (
    CifarLitError,
    DeadlineError,
    ImageError,
    NpzError,
    OverloadedError,
    RegistryError,
    VersionNotFoundError,
)
from cifar_lit.serving.replies import RequestError, error_reply, reply, status_of


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ImageError("x", "malformed"), 400),
        (ImageError("x", "too_large"), 413),
        (ImageError("x", "unsupported"), 415),
        (ImageError("x", "invalid"), 422),
        (NpzError("x", "too_large"), 413),
        (RequestError(408, "x"), 408),
        (VersionNotFoundError("x"), 404),
        (OverloadedError("x"), 503),
        (DeadlineError("x"), 504),
        (RegistryError("x"), 500),
        (CifarLitError("x"), 500),
        (ValueError("x"), 500),
        (KeyError("x"), 500),
    ],
)
def test_an_error_has_its_status(error: Exception, status: int) -> None:
    assert status_of(error) == status
    assert error_reply(error).status_code == status


@pytest.mark.parametrize("error", [ImageError("too odd", "malformed"), RequestError(401, "too odd")])
def test_an_error_of_ours_is_told(error: Exception) -> None:
    assert json.loads(bytes(error_reply(error).body)) == {"detail": "too odd"}
    assert json.loads(bytes(error_reply(error, field="error").body)) == {"error": "too odd"}


@pytest.mark.parametrize("error", [ValueError("/srv/secret.py"), RegistryError("/srv/checkpoints is gone")])
def test_what_is_no_error_of_the_clients_is_not_told(error: Exception) -> None:
    body = error_reply(error).body
    assert b"/srv" not in body
    assert json.loads(bytes(body)) == {
        "detail": "the server failed. The log knows more, by this response's X-Request-ID."
    }


def test_a_client_that_may_come_again_is_told_when() -> None:
    assert error_reply(OverloadedError("x")).headers["retry-after"] == "1"
    assert error_reply(RequestError(503, "x")).headers["retry-after"] == "1"
    assert error_reply(RequestError(429, "x", retry_after_s=7)).headers["retry-after"] == "7"
    assert "retry-after" not in error_reply(RequestError(400, "x")).headers


def test_a_request_error_is_one_that_other_applications_know() -> None:
    error = RequestError(413, "too large")
    assert isinstance(error, HTTPException)
    assert (error.status_code, error.detail, str(error)) == (413, "too large", "too large")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_not_sent(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        reply({"confidence": value})


def test_text_is_sent_as_it_is() -> None:
    answer = reply({"filename": "Kätzchen \u202e🐈\r\n\0"})
    assert answer.headers["content-type"] == "application/json"
    assert "Kätzchen".encode() in answer.body
    assert b"\n" not in answer.body
    assert json.loads(bytes(answer.body)) == {"filename": "Kätzchen \u202e🐈\r\n\0"}


def test_half_a_surrogate_pair_that_a_request_had_in_its_json_can_be_told() -> None:
    assert json.loads(bytes(error_reply(ImageError("what is '\ud83d'?", "invalid")).body)) == {
        "detail": "what is '\ud83d'?"
    }
