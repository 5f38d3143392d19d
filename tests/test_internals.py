"""What the server uses of other packages beyond their public interfaces is still there: docs/architecture.md lists it.

A new release of one of them may rename any of it. Its bound in pyproject.toml is raised when this passes.
"""

import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import uvicorn
from gradio.blocks import Block
from packaging.requirements import Requirement
from starlette.formparsers import MultiPartParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

ROOT = Path(__file__).parent.parent
LISTED = (
    (ROOT / "docs" / "architecture.md").read_text().partition("## Internals of other packages")[2].partition("\n## ")[0]
)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("package", ["gradio", "starlette", "uvicorn"])
def test_a_package_whose_internals_are_used_has_an_upper_bound(package: str) -> None:
    (found,) = (each for each in map(Requirement, EXTRAS["serve"]) if each.name == package)
    assert any(each.operator == "<" for each in found.specifier)
    assert version(package) in found.specifier


def test_at_most_five_are_used() -> None:
    rows = re.findall(r"^\| `", LISTED, re.MULTILINE)
    assert 0 < len(rows) <= 5


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (gr.Blocks.process_api, {"block_fn", "request"}),
        (gr.Blocks.preprocess_data, {"block_fn", "inputs", "state", "explicit_call"}),
        (gr.Image.preprocess, {"payload"}),
        (gr.File.preprocess, {"payload"}),
        (Block.get_config, set[str]()),
        (uvicorn.Server.startup, {"sockets"}),
        (uvicorn.Server.shutdown, {"sockets"}),
        (uvicorn.Server.handle_exit, {"sig", "frame"}),
    ],
)
def test_methods_that_are_overridden_take_what_ours_take(method: Any, arguments: set[str]) -> None:
    assert arguments <= set(inspect.signature(method).parameters)


def test_gradio_asks_for_what_is_set_on_its_blocks() -> None:
    with gr.Blocks() as blocks:
        pass
    for name in ("has_launched", "is_running", "state_session_capacity", "upload_file_set", "_queue"):
        assert hasattr(blocks, name), name
    for name in ("event_ids_to_events", "pending_event_ids_session", "pending_messages_per_session"):
        assert hasattr(blocks._queue, name), name
    for name in ("ANALYTICS_MAX_EVENTS", "ANAYLTICS_CACHE_FREQUENCY", "__len__"):
        assert hasattr(blocks._queue, name), name


def test_uvicorn_calls_what_our_protocol_overrides() -> None:
    ours = (
        "connection_made data_received connection_lost pause_writing resume_writing on_message_begin "
        "on_headers_complete on_body on_message_complete on_response_complete send_400_response shutdown "
        "timeout_keep_alive_handler _unsupported_upgrade_warning _unset_keepalive_if_required"
    )
    assert not [name for name in ours.split() if not callable(getattr(HttpToolsProtocol, name, None))]
    held = set(HttpToolsProtocol.__init__.__code__.co_names)
    assert held >= {"config", "app", "loop", "connections", "parser", "transport", "client", "headers", "cycle"}
    assert set(RequestResponseCycle.__init__.__code__.co_names) >= {
        "body",
        "keep_alive",
        "transport",
        "response_complete",
    }
    assert hasattr(ServerState(), "connections")
    assert "loaded_app" in inspect.getsource(HttpToolsProtocol.__init__)


def test_starlettes_parser_asks_for_the_bytes_in_memory() -> None:
    assert "max_size=self.spool_max_size" in inspect.getsource(MultiPartParser.on_headers_finished)
