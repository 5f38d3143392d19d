"""What a version says of itself: `manifest.json`. Plain values only; nothing here needs torch."""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin

from cifar_lit.errors import VersionDamagedError

SCHEMA = 3
"""Older ones are read too: schema 1 lacks `temperature`, and schemas 1 and 2 call the status `standing`."""

Status = Literal["candidate", "promoted", "rejected"]


@dataclass(frozen=True)
class About:
    """What the maker of a version knows of it, before the registry gives it an id.

    Attributes:
        network: {"name": class name, "args": its arguments}.
        class_names: in label order.
        mean: subtracted from each channel, on the scale 0..1.
        std: each channel is divided by it, on the scale 0..1.
        metrics: by name, `val/acc`, `test/loss` and so on.
        data: fingerprint of the data set: source, counts, sha256, split.
        seed: of the run that made it.
        code: versions of cifar_lit and torch.
        training: how the run went: epochs, the epoch kept, why it ended, seconds.
        parent: the version a fine-tune started from.
        temperature: its logits are divided by this before the softmax; fitted on validation images (Guo et al., 2017).
    """

    network: dict[str, Any]
    class_names: list[str]
    mean: list[float]
    std: list[float]
    metrics: dict[str, float]
    data: dict[str, Any]
    seed: int | None
    code: dict[str, str]
    training: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None
    temperature: float = 1.0


@dataclass(frozen=True)
class Manifest(About):
    """`About`, and what the registry adds.

    Attributes:
        schema: number of this format.
        id: `v0001` and so on.
        status: candidate, promoted or rejected.
        reason: why it has that status.
        created_at: UTC, ISO 8601.
        files: sha256 of every other file of the version, by its path inside.
    """

    schema: int = SCHEMA
    id: str = ""
    status: Status = "candidate"
    reason: str = ""
    created_at: str = ""
    files: dict[str, str] = field(default_factory=dict)

    @property
    def is_calibrated(self) -> bool:
        """Whether its temperature was fitted."""
        return any(name.endswith("/ece") for name in self.metrics)

    def summary(self, champion_id: str | None) -> dict[str, Any]:
        """The version as every list in JSON has it."""
        return {
            "id": self.id,
            "parent": self.parent,
            "status": self.status,
            "champion": self.id == champion_id,
            "metrics": self.metrics,
            "created_at": self.created_at,
            "network": self.network.get("name"),
            "reason": self.reason,
        }

    def to_json(self) -> bytes:
        values = asdict(self)
        order = ["schema", "id", "parent", "status", "reason", "created_at"]
        ordered = {name: values[name] for name in order} | values
        return (json.dumps(ordered, indent=2) + "\n").encode()

    @staticmethod
    def from_json(data: bytes, where: str) -> "Manifest":
        """Reads a manifest, of an older schema too: it comes back in today's.

        Args:
            data: the file's content.
            where: what to call it in an error.

        Raises:
            VersionDamagedError: not JSON, of another schema, or without the expected fields and kinds of values.
        """
        advice = "Restore the version from a copy, or remove its folder."
        try:
            values = json.loads(data)
            schema = values["schema"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise VersionDamagedError(f"{where} is not a manifest ({error!r}). {advice}") from error
        if schema not in range(1, SCHEMA + 1):
            raise VersionDamagedError(
                f"{where} has schema {schema!r}, this code reads 1 to {SCHEMA}. Update cifar_lit."
            )
        names = {item.name for item in fields(Manifest)}
        if schema == 1:
            names.remove("temperature")
        if schema < 3 and "standing" in values:
            values["status"] = values.pop("standing")
        if set(values) != names:
            odd = ", ".join(sorted(set(values) ^ names))
            raise VersionDamagedError(f"{where} has missing or unknown fields: {odd}. {advice}")
        kinds = {item.name: get_origin(item.type) for item in fields(Manifest)}
        wrong = [name for name, kind in kinds.items() if kind in (dict, list) and not isinstance(values[name], kind)]
        if values["status"] not in get_args(Status):
            wrong.append("status")
        temperature = values.get("temperature", 1.0)
        if not (isinstance(temperature, int | float) and 0 < temperature < 1e6):  # false for NaN
            wrong.append("temperature")
        if wrong:
            raise VersionDamagedError(f"{where} has fields with values of the wrong kind: {', '.join(wrong)}. {advice}")
        return Manifest(**values | {"schema": SCHEMA})
