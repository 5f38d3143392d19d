"""Lines of the log: bounded, and none that a visitor could have written."""

import json
import logging
import sys

import pytest

from cifar_lit.serving import logs
from cifar_lit.serving.logs import JsonFormatter, LineFormatter, set_up_logging

EVIL = "\x1b[2J\r\n2026-01-01 00:00:00,000 forged\x00\u202e\u2028\x85"


def record(message: str, error: Exception | None = None) -> logging.LogRecord:
    found = logging.LogRecord("cifar_lit.tests", logging.WARNING, "", 0, message, None, None)
    if error is not None:
        try:
            raise error
        except type(error):
            found.exc_info = sys.exc_info()
    return found


def test_what_a_terminal_would_obey_is_escaped() -> None:
    line = LineFormatter().format(record(f"{EVIL} ü 猫"))
    assert line.isprintable()
    assert "\\x1b[2J\\r\\n2026" in line
    assert line.endswith(" ü 猫")


def test_a_traceback_is_bounded_and_no_line_of_it_looks_like_one_of_the_log() -> None:
    text = LineFormatter().format(record("failed", ValueError(EVIL + "x" * 10_000 + "\n2026-01-01 forged: the end")))
    first, *lines = text.split("\n")
    assert first.endswith("failed")
    assert sum(map(len, lines)) < 1.2 * logs.MAX_TRACEBACK
    assert all(line.startswith("  ") and line.isprintable() for line in lines)
    assert lines[-1].endswith("the end")


def test_a_long_message_is_cut() -> None:
    assert len(LineFormatter().format(record("x" * 100_000))) < logs.MAX_MESSAGE + 50


def test_a_json_line_tells_all() -> None:
    line = JsonFormatter().format(record(EVIL, ValueError("wrong " + "x" * 10_000)))
    assert line.isascii()
    assert "\n" not in line
    found = json.loads(line)
    assert (found["level"], found["logger"], found["message"]) == ("warning", "cifar_lit.tests", EVIL)
    assert len(found["exception"]) == logs.MAX_TRACEBACK
    assert found["time"].endswith("Z")


@pytest.mark.parametrize(
    ("level", "ours", "others"), [("debug", 2, 1), ("info", 2, 1), ("warning", 1, 1), ("error", 0, 0)]
)
def test_the_level_is_ours_and_other_packages_warn_only(
    level: str, ours: int, others: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("", "cifar_lit", "cifar_lit.access"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
    set_up_logging(level, as_json=True)
    for name in ("cifar_lit.serving", "uvicorn"):
        logging.getLogger(name).info("something")
        logging.getLogger(name).warning("something")
    logging.getLogger("cifar_lit.access").info("a request")
    said = [json.loads(line)["logger"] for line in capsys.readouterr().err.splitlines()]
    assert (said.count("cifar_lit.serving"), said.count("uvicorn")) == (ours, others)
    assert len(said) == ours + others
