"""The application as two replicas of Ray Serve."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import yaml

from cifar_lit.inference.predictor import Predictor
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version

ROOT = Path(__file__).parent.parent
CAT = ROOT / "docs" / "cat.jpg"

_SCRIPT = """
import json, sys
import ray
from ray import serve
from ray.serve.schema import ServeDeploySchema
from cifar_lit.serving.ray_app import Arguments, build_app

config = json.loads(sys.argv[1])
(application,) = config["applications"]
(deployment,) = application["deployments"]
options = {name: value for name, value in deployment.items() if name != "name"}
ServeDeploySchema.model_validate(config)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options=config["http_options"])
app = build_app(Arguments(**application["args"]))
app._bound_deployment = app._bound_deployment.options(**options)
serve.run(app, name=application["name"], route_prefix=application["route_prefix"])
states = serve.status().applications["cifar10"].deployments["cifar10"].replica_states
print(json.dumps({str(state): count for state, count in states.items()}), flush=True)
sys.stdin.read()
serve.shutdown()
ray.shutdown()
"""


@pytest.mark.slow
def test_two_replicas_answer_and_follow_the_champion(registry: Registry, publish: Callable[..., Version]) -> None:
    pytest.importorskip("ray", reason="needs the extra [ray]")
    publish(promote=True)
    second = publish(seed=1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = yaml.safe_load((ROOT / "configs" / "ray.yaml").read_text())
    config["http_options"]["port"] = port
    config["applications"][0]["args"]["registry"] = str(registry.root)
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, json.dumps(config)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        states = json.loads(process.stdout.readline() or "null")
        assert states == {"RUNNING": 2}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            expected = Predictor.from_version(registry.get("v0001")).predict_bytes(CAT.read_bytes())
            for _ in range(20):
                answer = client.post("/predict", files={"file": ("cat.jpg", CAT.read_bytes())}).json()
                assert answer["version"] == "v0001"
                assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
            assert client.post("/predict", files={"file": ("a.jpg", b"II*\0")}).status_code == 415
            registry.promote(second.id, "it is better")
            answered = {client.get("/version").json()["version"] for _ in range(200)}
            assert second.id in answered
    finally:
        try:
            process.communicate("", timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
