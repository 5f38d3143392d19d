"""No component of the page opens an upload."""

from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.state_holder import SessionState
from starlette.routing import Mount
from starlette.testclient import TestClient

from cifar_lit.page.app import create_app
from cifar_lit.page.guarded import GuardedBlocks
from cifar_lit.serving.app import Options


def test_uploads_stay_closed_also_after_a_session_changed_its_component() -> None:
    seen: list[Any] = []
    with GuardedBlocks(analytics_enabled=False) as page:
        image, files = gr.Image(), gr.File(file_count="multiple")
        image.change(lambda: gr.Image(label="another"), None, image, api_name="change", queue=False)
        image.upload(lambda *values: seen.append(values), [image, files], None, api_name="look", queue=False)
    app = gr.mount_gradio_app(FastAPI(), page, path="/", ssr_mode=False)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        numbers = {each["api_name"]: each["id"] for each in client.get("/config").json()["dependencies"]}

        def run(name: str, data: list[Any]) -> None:
            order = {"data": data, "fn_index": numbers[name], "session_hash": "one"}
            answer = client.post("/gradio_api/run/predict", json=order)
            assert answer.status_code == 200, answer.text

        path = client.post("/gradio_api/upload", files={"files": ("a.png", b"no picture at all")}).json()[0]
        upload = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for _ in range(2):
            run("look", [upload, [upload]])
            run("change", [])
    for picture, (file,) in seen:
        assert type(picture).__name__ == "ImageData"
        assert picture.path == file.path == path
    assert len(seen) == 2


def test_what_the_page_remembers_of_its_components_is_what_gradio_would_find() -> None:
    checkpoints = Path(__file__).parent.parent / "checkpoints"
    app = create_app(Options(registry=checkpoints, decode_workers=1))
    guarded: Any = next(route.app for route in app.routes if isinstance(route, Mount) and route.path == "")
    blocks = guarded.app.get_blocks()
    one, other = SessionState(blocks), SessionState(blocks)
    compared = 0
    for number, block in blocks.blocks.items():
        found = {name: value for name, value in type(block).get_config(block).items() if value is not None}
        assert one.config_values[number]["props"] == other.config_values[number]["props"] == found
        one.config_values[number]["props"]["value"] = "one visitor's own"
        assert other.config_values[number]["props"] == found
        compared += 1
    assert compared > 20
