"""A version's model card, made of its manifest, in Hugging Face's form: YAML at the top, then Markdown.

What changes later, such as whether the version is served, is not in it.
"""

import json
from typing import Any

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.registry.manifest import Manifest

CARD = "README.md"

_TASK = {"type": "image-classification", "name": "Image Classification"}
_SPLITS = {"test": "test images", "val": "validation images held out from training"}
_MEASURES = {
    "acc": "accuracy",
    "precision": "precision (mean over classes)",
    "recall": "recall (mean over classes)",
    "f1": "F1 (mean over classes)",
    "loss": "cross-entropy (nats)",
    "ece": "expected calibration error",
    "ece_raw": "the same without the temperature",
}


def render(manifest: Manifest) -> bytes:
    """The card, UTF-8."""
    sections = [
        f"---\n{_front_matter(manifest)}---\n",
        f"# {'CIFAR-10' if _is_of_cifar10(manifest) else 'Image'} classifier, {manifest.id}\n",
        f"{_about(manifest)}\n",
        f"## Data\n\n{_data(manifest)}\n",
        f"## Metrics\n\n{_metrics(manifest)}\n",
        f"## Intended use and limits\n\n{_limits(manifest)}\n",
        f"## How to load it\n\n{_loading(manifest)}",
    ]
    return "\n".join(sections).encode()


def _front_matter(manifest: Manifest) -> str:
    """YAML; JSON values are YAML too."""
    results: list[dict[str, Any]] = []
    if "test/acc" in manifest.metrics:
        figures = [
            {"type": kind, "value": manifest.metrics[f"test/{name}"]}
            for name, kind in (("acc", "accuracy"), ("f1", "f1"), ("loss", "loss"))
            if f"test/{name}" in manifest.metrics
        ]
        dataset = {**_dataset(manifest), "split": "test"}
        results = [{"task": _TASK, "dataset": dataset, "metrics": figures}]
    values = {
        "library_name": "cifar_lit",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", *(["cifar10"] if _is_of_cifar10(manifest) else []), "pytorch"],
        **({"datasets": ["cifar10"]} if _is_of_cifar10(manifest) else {}),
        "metrics": ["accuracy", "f1"],
        "model-index": [{"name": f"cifar_lit {manifest.id}", "results": results}],
    }
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in values.items())


def _is_of_cifar10(manifest: Manifest) -> bool:
    return tuple(manifest.class_names) == CLASS_NAMES


def _dataset(manifest: Manifest) -> dict[str, str]:
    if _is_of_cifar10(manifest):
        return {"name": "CIFAR-10", "type": "cifar10"}
    return {"name": str(manifest.data.get("source", "unknown")), "type": "image-classification"}


def _about(manifest: Manifest) -> str:
    name, args = manifest.network.get("name"), manifest.network.get("args")
    origin = f"fine-tuned from {manifest.parent}" if manifest.parent else "trained from scratch"
    if "imported_from" in manifest.training:
        origin = f"imported from {manifest.training['imported_from']}"
    code = ", ".join(f"{name} {value}" for name, value in manifest.code.items())
    return (
        f"`{name}` with {json.dumps(args)}, {origin}; made {manifest.created_at} with {code}, seed {manifest.seed}. "
        f"It tells {len(manifest.class_names)} classes apart: {', '.join(manifest.class_names)}."
    )


def _data(manifest: Manifest) -> str:
    lines = [f"- Training set: {manifest.data.get('source', 'unknown')}{_fingerprint(manifest.data.get('train'))}"]
    split = manifest.data.get("split") or {}
    if split.get("val_fraction") is not None:
        lines.append(f"- Held out for validation: {split['val_fraction']:.0%} of each class, seed {split.get('seed')}")
    lines.append(f"- Test set{_fingerprint(manifest.data.get('test'))}")
    for kind, title in (("increments", "Learned besides"), ("old_increments", "Replayed besides")):
        for each in manifest.data.get(kind) or []:
            lines.append(f"- {title}: {each['name']}{_fingerprint(each)}")
    return "\n".join(lines)


def _fingerprint(about: Any) -> str:
    if not isinstance(about, dict) or about.get("sha256") is None:
        return ", not known"
    return f", {about.get('count'):,} images, sha256 `{about['sha256']}`"


def _metrics(manifest: Manifest) -> str:
    splits = [split for split in _SPLITS if any(name.startswith(f"{split}/") for name in manifest.metrics)]
    if not splits:
        return "Not measured."
    lines = [f"| | {' | '.join(_SPLITS[split] for split in splits)} |", f"|---{'|---' * len(splits)}|"]
    for name, title in _MEASURES.items():
        values = [manifest.metrics.get(f"{split}/{name}") for split in splits]
        if any(value is not None for value in values):
            lines.append(f"| {title} | {' | '.join('-' if value is None else f'{value:.4f}' for value in values)} |")
    return "\n".join(
        [*lines, "", "Single view of each image, of the data named above; other copies of CIFAR-10 differ."]
    )


def _limits(manifest: Manifest) -> str:
    of_cifar10 = _is_of_cifar10(manifest)
    classes = "the ten classes of CIFAR-10" if of_cifar10 else f"{len(manifest.class_names)} classes"
    biases = " CIFAR-10's images come from web searches, with the biases that this brings." if of_cifar10 else ""
    return (
        f"For learning, teaching and research: it classifies small images of {classes}. The network sees 32x32 pixels "
        "(of a larger image the central square, scaled). It assigns one of these classes to any image, often "
        "confidently, and can't say that an image is of none of them. Not for decisions about people, nor where a "
        f"mistake does harm.{biases}"
    )


def _loading(manifest: Manifest) -> str:
    name, own = manifest.network.get("name"), manifest.network.get("import_path")
    module, build = "cifar_lit.models.networks", name
    if own:
        module, build = own.rpartition(".")[0], f"as_network({name})"
    also = "from cifar_lit.models.own_network import as_network\n" if own else ""
    return (
        "```sh\n"
        f"cifar-lit predict image.jpg --from {manifest.id}\n"
        "```\n\n"
        "```python\n"
        f"{also}from {module} import {name}\n"
        "from safetensors.torch import load_file\n\n"
        f"network = {build}(**{manifest.network.get('args')!r}, mean={manifest.mean!r}, std={manifest.std!r}).eval()\n"
        'network.load_state_dict(load_file("model.safetensors"))\n'
        "logits = network(images)  # (N, 3, 32, 32), RGB, 0..255, uint8 or float\n"
        f"probabilities = (logits / {manifest.temperature}).softmax(1)\n"
        "```\n"
    )
