"""What happened to the versions of a registry, and when: one JSON object a line, only ever appended."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cifar_lit.files import append_line


class History:
    """Every publish, promotion, rejection and rollback.

    Args:
        path: the file; made by the first entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All entries, oldest first: `time` (UTC), `event`, `id`, `reason`. A line torn by a crash is left out."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        events = []
        for line in lines:
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        return [event for event in events if isinstance(event, dict) and "id" in event]

    def record(self, event: str, version_id: str, reason: str, **details: str | None) -> None:
        """Appends an entry and makes it durable. The caller holds the registry's lock."""
        entry = {"time": utc_now(), "event": event, "id": version_id, "reason": reason, **details}
        append_line(self.path, json.dumps(entry).encode())


def utc_now() -> str:
    """The time, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
