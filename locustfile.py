"""Loads a running server as visitors do: `locust --host http://127.0.0.1:7860`, or `make loadtest`.

RestUser posts images to /predict; PageUser speaks the page's own protocol. Both send real images in several sizes
and formats, wait 1 to 3 s, and look at every response: a wrong one counts as a failure, whatever its status says.
This is a client: it shares no code with the server.
"""

import io
import os
import random
from pathlib import Path
from typing import Any

from locust import FastHttpUser, between, events, task
from locust.env import Environment
from PIL import Image

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
P95_LIMIT_MS = float(os.environ.get("CIFAR_LIT_P95_LIMIT_MS", "50"))
SIZES = [int(size) for size in os.environ.get("CIFAR_LIT_SIZES", "32,64,128,224").split(",")]
"""Widths in pixels."""
FORMATS = ("jpeg", "png", "webp")


def images() -> list[tuple[str, bytes]]:
    """Names and contents: the photographs of CIFAR_LIT_IMAGES (a folder), else the one in docs/."""
    folder = Path(os.environ.get("CIFAR_LIT_IMAGES", Path(__file__).parent / "docs"))
    found = sorted(
        path for path in folder.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png") and "page" not in path.name
    )
    if not found:
        raise SystemExit(f"{folder}: there is no .jpg or .png in it. Name another folder in CIFAR_LIT_IMAGES.")
    made = []
    for number, path in enumerate(found[:20]):
        photograph = Image.open(path).convert("RGB")
        for size in SIZES:
            kind = FORMATS[(number + SIZES.index(size)) % len(FORMATS)]
            content = io.BytesIO()
            photograph.resize((size, size * photograph.height // photograph.width)).save(content, kind)
            made.append((f"{path.stem}_{size}.{kind}", content.getvalue()))
    return made


IMAGES = images()


def complaint(response: Any, filename: str | None = None) -> str | None:
    """What is wrong with a response; None if nothing is."""
    if not isinstance(response, dict):
        return f"not an object: {str(response)[:100]}"
    probs = response.get("probabilities")
    if not isinstance(probs, dict) or tuple(sorted(probs)) != CLASS_NAMES:
        return f"not the ten classes: {str(probs)[:100]}"
    if abs(sum(probs.values()) - 1) > 1e-6:
        return f"probabilities sum to {sum(probs.values())}"
    best = max(probs, key=probs.__getitem__)
    if response.get("prediction") != best or response.get("confidence") != probs[best]:
        return f"predicts {response.get('prediction')}, but {best} is the most probable"
    if not str(response.get("version", "")).startswith("v"):
        return "names no version"
    if filename is not None and response.get("filename") != filename:
        return f"is about {response.get('filename')}, asked was {filename}"
    return None


class RestUser(FastHttpUser):
    """Posts an image to /predict."""

    weight = 3
    wait_time = between(1, 3)

    @task
    def predict(self) -> None:
        name, content = random.choice(IMAGES)
        with self.client.post(
            "/predict", files={"file": (name, content)}, name="REST", catch_response=True
        ) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {response.text[:200]}")
            elif wrong := complaint(response.json(), name):
                response.failure(wrong)


class PageUser(FastHttpUser):
    """Does what the page does in a browser: uploads an image, and runs the event that classifies it."""

    weight = 1
    wait_time = between(1, 3)

    def on_start(self) -> None:
        config = self.client.get("/config", name="page: opened").json()
        self.function = next(each["id"] for each in config["dependencies"] if each["api_name"] == "predict")

    @task
    def classify(self) -> None:
        name, content = random.choice(IMAGES)
        uploaded = self.client.post("/gradio_api/upload", files={"files": (name, content)}, name="page: upload").json()
        image = {"path": uploaded[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        order = {"data": [image], "fn_index": self.function, "session_hash": f"{random.getrandbits(64):x}"}
        with self.client.post(
            "/gradio_api/run/predict", json=order, name="page: predict", catch_response=True
        ) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {response.text[:200]}")
            elif wrong := self._complaint(response.json()):
                response.failure(wrong)

    def _complaint(self, response: Any) -> str | None:
        try:
            label, sentence = response["data"][:2]
            probs = {each["label"]: each["confidence"] for each in label["confidences"]}
        except (KeyError, TypeError, ValueError):
            return f"no prediction: {str(response)[:200]}"
        version = sentence.rsplit(" ", 1)[-1].rstrip(".")
        shown = {"prediction": label["label"], "confidence": max(probs.values()), "probabilities": probs}
        return complaint({**shown, "version": version})


@events.quitting.add_listener
def judge(environment: Environment, **_: Any) -> None:
    """Ends with status 1 after any failure, or if 95 % of REST's responses took longer than the limit."""
    total = environment.stats.total
    for name in sorted({each for each, _ in environment.stats.entries}):
        (entry,) = [value for (each, _), value in environment.stats.entries.items() if each == name]
        p50, p95, p99 = (entry.get_response_time_percentile(share) for share in (0.5, 0.95, 0.99))
        print(f"{name}: {entry.num_requests} requests, p50 {p50} ms, p95 {p95} ms, p99 {p99} ms")
    rest = environment.stats.get("REST", "POST").get_response_time_percentile(0.95)
    if total.num_requests == 0 or total.num_failures:
        print(f"FAILED: {total.num_failures} of {total.num_requests} requests failed.")
        environment.process_exit_code = 1
    elif rest > P95_LIMIT_MS:
        print(f"FAILED: REST's p95 is {rest} ms, at most {P95_LIMIT_MS:g} ms are allowed.")
        environment.process_exit_code = 1
    else:
        print(f"Passed: no failure, REST's p95 is {rest} ms (limit {P95_LIMIT_MS:g} ms).")
        environment.process_exit_code = 0
