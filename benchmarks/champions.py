"""What becomes of champions under load: some that change, and some that are broken."""

import asyncio
import json
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from load import CONNECTIONS, ROOT, Server, percentiles

sys.path.insert(0, str(ROOT / "tests"))


async def changes(server: Server, num_requests: int, num_changes: int) -> dict[str, Any]:
    from cifar_lit.registry.registry import Registry

    registry = Registry(server.registry)
    expected = {each: predictions_of(registry, each, server.bodies) for each in ("v0001", "v0002")}
    wrong: Counter[str] = Counter()
    by_version: Counter[str] = Counter()
    done = 0
    latencies: list[float] = []

    async def user() -> None:
        nonlocal done
        connection = await server.connect()
        while done < num_requests:
            number = done
            done += 1
            try:
                reply = await connection.ask(server.request(number))
            except OSError as error:
                wrong[repr(error)] += 1
                connection = await server.connect()
                continue
            latencies.append(reply.seconds)
            if reply.status != 200:
                wrong[f"status {reply.status}"] += 1
                continue
            prediction = json.loads(reply.body)
            by_version[prediction["version"]] += 1
            target = expected[prediction["version"]][number % len(server.bodies)]
            if max(abs(prediction["probabilities"][name] - value) for name, value in target.items()) > 1e-6:
                wrong["probabilities of another version"] += 1
        connection.close()

    async def promoter() -> int:
        made = 0
        for number in range(num_changes):
            while done < (number + 1) * num_requests / (num_changes + 1):
                await asyncio.sleep(0.01)
            version = ("v0002", "v0001")[number % 2]
            await asyncio.to_thread(registry.promote, version, "to see what happens")
            while (await server.get("/version"))["version"] != version:
                await asyncio.sleep(0.02)
            made += 1
        return made

    began = time.perf_counter()
    made, *_ = await asyncio.gather(promoter(), *(user() for _ in range(CONNECTIONS)))
    seconds = time.perf_counter() - began
    return {
        "champion_changes": made,
        "requests": len(latencies),
        "failed_or_wrong": dict(wrong),
        "predictions_by_version": dict(by_version),
        "per_second": round(len(latencies) / seconds, 1),
        **percentiles(latencies),
    }


async def broken(server: Server) -> dict[str, Any]:
    from broken_versions import BROKEN

    from cifar_lit.registry.registry import Registry

    registry = Registry(server.registry)
    expected = predictions_of(registry, "v0001", server.bodies)
    stop = False
    wrong: Counter[str] = Counter()
    latencies: list[float] = []

    async def user(first: int) -> None:
        connection = await server.connect()
        number = first
        while not stop:
            number += 1
            reply = await connection.ask(server.request(number))
            latencies.append(reply.seconds)
            prediction = json.loads(reply.body)
            target = expected[number % len(server.bodies)]
            if reply.status != 200:
                wrong[f"status {reply.status}"] += 1
            elif prediction["version"] != "v0001":
                wrong[f"made by {prediction['version']}"] += 1
            elif max(abs(prediction["probabilities"][name] - value) for name, value in target.items()) > 1e-6:
                wrong["other probabilities"] += 1
        connection.close()

    async def breaker() -> dict[str, str]:
        reasons = {}
        for name, harm in BROKEN.items():
            victim = await asyncio.to_thread(copy_of_first, registry)
            before = (await server.get("/version"))["refused"]
            await asyncio.to_thread(harm, victim)
            until = time.monotonic() + 20
            while True:
                about = await server.get("/version")
                if about["refused"] not in (None, before):
                    reasons[name] = about["refused"]["reason"]
                    break
                if not registry.pointer():  # nothing is named, so there is nothing to refuse
                    await asyncio.sleep(1.5)
                    reasons[name] = "names none: v0001 stays"
                    break
                if time.monotonic() > until:
                    reasons[name] = "NOT REFUSED"
                    break
                await asyncio.sleep(0.05)
            await asyncio.to_thread(restore, registry, victim)
            while (await server.get("/version"))["refused"] is not None and time.monotonic() < until:
                await asyncio.sleep(0.05)
        return reasons

    users = [asyncio.create_task(user(each)) for each in range(CONNECTIONS)]
    reasons = await breaker()
    stop = True
    await asyncio.gather(*users)
    return {
        "kinds": len(reasons),
        "refused": sum(reason != "NOT REFUSED" for reason in reasons.values()),
        "requests": len(latencies),
        "failed_or_wrong": dict(wrong),
        **percentiles(latencies),
        "reasons": reasons,
    }


def predictions_of(registry: Any, version: str, bodies: list[bytes]) -> list[dict[str, float]]:
    from cifar_lit.inference.predictor import Predictor

    predictor = Predictor.from_version(registry.get(version))
    return [predictor.predict_bytes(body).probabilities for body in bodies]


def add_second(root: Path) -> None:
    """v0002: the first one's network with other weights in its last layer."""
    from cifar_lit.registry.registry import Registry
    from cifar_lit.registry.weights import load_network

    registry = Registry(root)
    network = load_network(registry.get("v0001"))
    with torch.no_grad():
        network.head.weight.copy_(network.head.weight.flip(0))  # type: ignore[union-attr,operator]
    publish_as_first(registry, network)


def publish_as_first(registry: Any, network: Any) -> Path:
    from cifar_lit.interop import onnx_model
    from cifar_lit.registry.manifest import About
    from cifar_lit.registry.version import ONNX, WEIGHTS
    from cifar_lit.registry.weights import dump

    first = registry.get("v0001")
    about = About(**{name: getattr(first.manifest, name) for name in About.__dataclass_fields__})
    files = {name: first.read(name) for name in first.manifest.files} | {
        WEIGHTS: dump(network),
        ONNX: onnx_model.dump(network, about.class_names, onnx_model.some_images())[0],
    }
    return Path(registry.publish(files, about).path)


def copy_of_first(registry: Any) -> Path:
    """A new promoted version that is whole and not the champion."""
    from cifar_lit.registry.registry import LATEST
    from cifar_lit.registry.weights import load_network

    folder = publish_as_first(registry, load_network(registry.get("v0001")))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "status": "promoted"}))
    assert registry.resolve(LATEST).id == "v0001"
    return folder


def restore(registry: Any, victim: Path) -> None:
    (registry.root / "champion").unlink(missing_ok=True)
    (registry.root / "champion").write_text("v0001\n")
    if victim.is_dir() and not victim.is_symlink():
        shutil.rmtree(victim)
    else:
        victim.unlink(missing_ok=True)
