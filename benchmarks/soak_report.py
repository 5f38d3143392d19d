"""What half an hour of traffic showed: the rules, and the plot."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from administrator import TOLD_WITHIN_S

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FLAT = ("server_mib", "decoders_mib", "descriptors", "threads", "temp_bytes", "temp_inodes", "registry_inodes")
"""What must not grow."""
BLOCKS = 7
SLACK = 0.01
AFTER_KILL_S = 10.0
LOG_BYTES_EACH = 200
END_S = 15.0
RULES = {
    "flat": f"of the second half's {BLOCKS} medians a least-squares line: its slope is at most 2 standard errors above "
    f"0, or it gains at most {SLACK:.0%} of the mean in that half",
    "good": f"no good request failed, but with 503 within {AFTER_KILL_S:g} s of a decode worker's death",
    "hostile": "no hostile request got a 5xx but 503, none was told of the server's files, nothing was fetched",
    "log": f"at most {LOG_BYTES_EACH} bytes of log for each hostile request, and no traceback",
    "fine-tuning": f"each that was killed is told as failed within {TOLD_WITHIN_S:g} s",
    "end": f"SIGTERM ends the server with status 0 within {END_S:g} s",
}


def trend(values: Sequence[float]) -> dict[str, Any]:
    """Whether a series grows in its second half; gains are of that half, in the series' unit."""
    half = np.asarray(values[len(values) // 2 :], float)
    medians = np.array([np.median(block) for block in np.array_split(half, BLOCKS)])
    x = np.linspace(-0.5, 0.5, BLOCKS)
    slope, mean = np.polyfit(x, medians, 1)
    rest = medians - np.polyval((slope, mean), x)
    error = float(np.sqrt(rest @ rest / (BLOCKS - 2) / (x @ x)))
    passed = bool(slope <= 2 * error or slope <= SLACK * abs(mean))
    return {"mean": round(mean, 1), "gain": round(slope, 2), "standard_error": round(error, 2), "passed": passed}


def verdict(
    rows: list[dict[str, Any]],
    events: list[dict[str, Any]],
    failed: list[dict[str, Any]],
    hostile: dict[str, Any],
    log: dict[str, Any],
    end: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    """By rule: whether it held, and what was found."""
    kills = [event["minute"] for event in events if event["what"] == "decode workers killed"]
    not_excused = [each for each in failed if not (each["wrong"].startswith("503") and _amid(each, kills))]
    trends = {name: trend([row[name] for row in rows]) for name in FLAT}
    statuses = sum((Counter(each) for each in hostile["responses"].values()), Counter[str]())
    errors = {
        status: count
        for status, count in statuses.items()
        if any(part.strip()[:1] == "5" and part.strip() != "503" for part in status.split(":")[-1].split("then"))
    }
    tuned = [event for event in events if event["what"] == "fine-tuning"]
    passed = {
        "flat": all(each["passed"] for each in trends.values()),
        "good": not not_excused,
        "hostile": not errors and not hostile["leaks"] and not hostile["fetched"],
        "log": log["bytes_per_hostile_request"] <= LOG_BYTES_EACH and not log["tracebacks"],
        "fine-tuning": bool(tuned) and all(each.get("state") == "failed" for each in tuned),
        "end": end["status"] == 0 and end["seconds"] <= END_S,
    }
    found: dict[str, Any] = {
        "flat": trends,
        "good": {"failed": len(failed), "not_excused": len(not_excused)},
        "hostile": {"5xx": errors, "leaks": len(hostile["leaks"]), "fetched": hostile["fetched"]},
        "log": {name: log[name] for name in ("bytes_per_hostile_request", "tracebacks")},
        "fine-tuning": Counter(f"{each.get('state')}: {each.get('reason', each.get('error', ''))}" for each in tuned),
        "end": end,
    }
    return {name: {"passed": passed[name], "rule": rule, "found": found[name]} for name, rule in RULES.items()}


def _amid(request: dict[str, Any], kills: list[float]) -> bool:
    """Whether a request was on its way at a kill, or began within `AFTER_KILL_S` after it; minutes have 3 places."""
    began, ended = request["minute"] - 0.001, request["minute"] + request["seconds"] / 60 + 0.001
    return any(began - AFTER_KILL_S / 60 <= kill <= ended for kill in kills)


def plot(rows: list[dict[str, Any]], events: list[dict[str, Any]], title: str, path: Path) -> None:
    def column(name: str) -> np.ndarray:
        return np.array([row[name] for row in rows], float)

    minutes = column("minute")
    step = np.diff(minutes * 60, prepend=0)
    rates = {"good": column("good") / step, "hostile": np.diff(column("hostile"), prepend=0) / step}
    panels: list[tuple[str, dict[str, np.ndarray]]] = [
        ("memory, PSS (MiB)", {"server": column("server_mib"), "decode workers": column("decoders_mib")}),
        ("open descriptors, threads", {"descriptors": column("descriptors"), "threads": column("threads")}),
        ("files (MB)", {"temporary": column("temp_bytes") / 1e6, "home": column("home_bytes") / 1e6}),
        ("inodes", {name: column(f"{name}_inodes") for name in ("temp", "registry", "taught")}),
        ("log (kB)", {"log": column("log_bytes") / 1e3}),
        ("requests a second", {**rates, "failed good ones": column("failed") / step}),
        ("response to an image (ms)", {"p50": column("p50_ms"), "p99": column("p99_ms")}),
        ("memory of fine-tuning, PSS (MiB)", {"its process": column("fine_tuning_mib")}),
    ]
    figure, axes = plt.subplots(4, 2, figsize=(14, 13), sharex=True, layout="constrained")
    for axis, (label, lines) in zip(axes.flat, panels, strict=True):
        for name, values in lines.items():
            axis.plot(minutes, values, label=name, lw=1.4)
        if "(ms)" in label:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
        else:
            axis.set_ylim(bottom=0)
        for what, colour, style in MARKS:
            for event in events:
                if event["what"] == what:
                    axis.axvline(event["minute"], color=colour, ls=style, lw=0.8, alpha=0.5)
        axis.set_ylabel(label)
        axis.grid(alpha=0.25)
        axis.legend(loc="upper left", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("minutes")
    marks = [plt.Line2D([], [], color=colour, ls=style, label=what) for what, colour, style in MARKS]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks))
    figure.suptitle(title)
    figure.savefig(path, dpi=90)


MARKS = (
    ("champion changed", "tab:grey", ":"),
    ("decode workers killed", "tab:red", "--"),
    ("fine-tuning", "tab:purple", "-"),
)
