"""The forgetting report: what a network learned and lost when it was trained further, as text, JSON and figure."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cifar_lit.evaluation import plots
from cifar_lit.evaluation.comparison import Comparison

Comparisons = Mapping[str, Comparison]
"""By the name of the images: "old", "earlier", "new", "learned", "test"; only those that there are."""

_FLIPS_LISTED = 20
_FLIPS_SHOWN = 8

MEANING = {
    "old": "old images, held out from all training",
    "earlier": "images held out of earlier increments",
    "new": "new images, held out",
    "learned": "new images, learned from",
    "test": "test images",
}


def recalls(comparison: Comparison) -> tuple[Tensor, Tensor, Tensor]:
    """Share of each class predicted rightly before and after, float32 (K,) each, and its images, int64 (K,)."""
    before, after = comparison.before.per_class, comparison.after.per_class
    return before["recall"], after["recall"], before["support"]


def forgetting(comparison: Comparison) -> Tensor:
    """float32 (K,): points of accuracy that each class lost, 0 if it lost none or has no images.

    Chaudhry et al., "Riemannian Walk for Incremental Learning" (2018), with the parent as the only step before.
    """
    before, after, _ = recalls(comparison)
    return 100 * (before - after).clamp(min=0)


def text(comparisons: Comparisons) -> str:
    """Tables: accuracy before and after and how many predictions flipped, then the same for each class."""
    tables = [overview(comparisons), *(by_class(name, each) for name, each in comparisons.items())]
    flips = [flip for name, each in comparisons.items() for flip in _flips_text(name, each)]
    return "\n".join([*tables, *flips])


def summary(comparisons: Comparisons) -> str:
    """What was gained, and what was lost of each class of the old images; `text` says it all."""
    old = comparisons.get("old")
    return overview(comparisons) + ("" if old is None else f"\n{by_class('old', old)}")


def overview(comparisons: Comparisons) -> str:
    """A table with a row for each set of images."""
    width = max(map(len, comparisons))
    lines = [f"{'':{width}}  images  before   after  change    lost  gained"]
    for name, each in comparisons.items():
        before, after = each.before.metrics["acc"], each.after.metrics["acc"]
        lines.append(
            f"{name:{width}}  {len(each):6,}  {before:.4f}  {after:.4f}  {each.change:+z6.2f}  {len(each.lost):6,}  "
            f"{len(each.gained):6,}   {MEANING.get(name, '')}".rstrip()
        )
    lines.append("change is in points of accuracy; lost were right before and are wrong now, gained the reverse")
    return "\n".join(lines) + "\n"


def by_class(name: str, comparison: Comparison) -> str:
    """A table with a row for each class that has images."""
    before, after, support = recalls(comparison)
    forgotten, class_names = forgetting(comparison), comparison.before.class_names
    width = max(map(len, [*class_names, "mean forgetting"]))
    lines = [f"{f'{name}, by class':{width}}  images  before   after  change  forgotten"]
    for index, title in enumerate(class_names):
        if support[index]:
            lines.append(
                f"{title:{width}}  {int(support[index]):6,}  {before[index]:.4f}  {after[index]:.4f}  "
                f"{100 * float(after[index] - before[index]):+z6.2f}  {float(forgotten[index]):9.2f}"
            )
    lines.append(f"{'mean forgetting':{width}}  {'':30}  {_mean_forgetting(comparison):9.2f}")
    return "\n".join(lines) + "\n"


def _flips_text(name: str, comparison: Comparison) -> list[str]:
    found, class_names = [], comparison.before.class_names
    for what, rows in (("lost", comparison.lost), ("gained", comparison.gained)):
        if len(rows):
            shown = [
                f"  #{row} {class_names[int(comparison.before.labels[row])]}: "
                f"{class_names[int(comparison.before.preds[row])]} -> {class_names[int(comparison.after.preds[row])]}"
                for row in rows[:_FLIPS_LISTED].tolist()
            ]
            more = len(rows) - len(shown)
            lines = [f"{name}, {what}", *shown, *([f"  and {more:,} more, in forgetting.json"] if more else [])]
            found.append("\n".join(lines) + "\n")
    return found


def flipped_png(comparisons: Comparisons, images: Mapping[str, Tensor], title: str) -> bytes | None:
    """Images whose prediction flipped: gains, then losses, of each set the most confident; none if none flipped.

    Args:
        comparisons: by the name of the images.
        images: uint8 (N, 32, 32, 3), by the same names, in the order of the comparisons' rows.
        title: above the figure.
    """
    groups = []
    for heading, is_good in (("Gained: wrong before, right now", True), ("Lost: right before, wrong now", False)):
        tiles, captions = [], []
        for name, each in comparisons.items():
            class_names = each.before.class_names
            rows = each.gained if is_good else each.lost
            sure = each.after.probs[rows].amax(1).argsort(descending=True)[:_FLIPS_SHOWN]
            for row in rows[sure].tolist():
                before, after = (class_names[int(one.preds[row])] for one in (each.before, each.after))
                tiles.append(images[name][row].cpu())
                captions.append((f"{before} → {after}", f"{name} #{row}, {class_names[int(each.before.labels[row])]}"))
        if tiles:
            groups.append((heading, is_good, torch.stack(tiles), captions))
    return plots.groups_of_images(groups, title) if groups else None


def png(comparisons: Comparisons, title: str) -> bytes:
    """A panel for each set of images: accuracy of every class, and of all together, before and after."""
    panels = []
    for name, each in comparisons.items():
        before, after, support = recalls(each)
        present = (support > 0).nonzero().squeeze(1)
        rows = [("all", each.before.metrics["acc"], each.after.metrics["acc"])]
        rows += [
            (each.before.class_names[index], before[index].item(), after[index].item()) for index in present.tolist()
        ]
        panels.append((f"{MEANING.get(name, name)} ({len(each):,})", rows))
    return plots.before_and_after(panels, title)


def as_json(comparisons: Comparisons) -> dict[str, Any]:
    """The same and the rows that flipped, as plain JSON values."""
    return {name: _as_json(each) for name, each in comparisons.items()}


def _as_json(comparison: Comparison) -> dict[str, Any]:
    before, after, support = recalls(comparison)
    forgotten, class_names = forgetting(comparison), comparison.before.class_names
    flipped = torch.cat([comparison.lost, comparison.gained]).tolist()
    return {
        "count": len(comparison),
        "before": comparison.before.metrics,
        "after": comparison.after.metrics,
        "change_points": comparison.change,
        "mean_forgetting_points": _mean_forgetting(comparison),
        "per_class": {
            title: {
                "count": int(support[index]),
                "before": before[index].item(),
                "after": after[index].item(),
                "forgetting_points": forgotten[index].item(),
            }
            for index, title in enumerate(class_names)
            if support[index]
        },
        "flipped": [
            {
                "row": row,
                "label": class_names[int(comparison.before.labels[row])],
                "before": class_names[int(comparison.before.preds[row])],
                "after": class_names[int(comparison.after.preds[row])],
            }
            for row in flipped
        ],
    }


def _mean_forgetting(comparison: Comparison) -> float:
    present = recalls(comparison)[2] > 0
    return forgetting(comparison)[present].mean().item()
