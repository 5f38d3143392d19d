"""Two networks' predictions for the same images side by side: as text, as JSON and as a figure."""

from typing import Any

from torch import Tensor

from cifar_lit.evaluation import plots
from cifar_lit.evaluation.calibration import Reliability, at_temperature, reliability
from cifar_lit.evaluation.comparison import Comparison
from cifar_lit.evaluation.evaluation import Evaluation

_LISTED = 20
_SHOWN = 40


def mcnemar_p_value(comparison: Comparison) -> float:
    """Chance of as uneven a share of gains and losses, or more, if the two networks were equally good; two-sided."""
    return min(1.0, 2 * min(comparison.rise_p_value(), comparison.fall_p_value()))


def disagreements(comparison: Comparison) -> Tensor:
    """int64: rows to which the two predict different classes, whether or not one of them is right."""
    return (comparison.before.preds != comparison.after.preds).nonzero().squeeze(1)


def text(comparison: Comparison, names: tuple[str, str], temperatures: tuple[float, float]) -> str:
    """Accuracies with the paired test, calibration, classes, and the first images of disagreement.

    Args:
        comparison: `before` is the first network's.
        names: of the two.
        temperatures: at which their confidences are looked at.
    """
    first, second = names
    class_names = comparison.before.class_names
    width = max(len(first), len(second), *map(len, class_names))
    lines = [f"{'':{width}}  accuracy  cross-entropy  calibration error"]
    for name, each, bins in zip(names, _both(comparison), _bins(comparison, temperatures), strict=True):
        lines.append(f"{name:{width}}  {each.metrics['acc']:8.4f}  {each.metrics['loss']:13.4f}  {bins.ece:17.4f}")
    lines += [
        "",
        f"Of {len(comparison):,} images, {len(comparison.gained):,} are right with {second} alone and "
        f"{len(comparison.lost):,} with {first} alone (McNemar's test, exact, two-sided: "
        f"p = {mcnemar_p_value(comparison):.2g}).",
        "",
        f"{'recall':{width}}  images  {first:>8}  {second:>8}  difference",
    ]
    for name, row in zip(class_names, _recalls(comparison), strict=True):
        images, before, after = row
        lines.append(f"{name:{width}}  {images:6,}  {before:8.4f}  {after:8.4f}  {100 * (after - before):+10.2f}")
    rows = disagreements(comparison)
    lines += ["", f"{len(rows):,} predictions differ{f', the first {_LISTED}' if len(rows) > _LISTED else ''}:"]
    for row in rows[:_LISTED].tolist():
        true, *said = _named(comparison, row)
        lines.append(f"  image {row}, {true}: {first} says {said[0]}, {second} {said[1]}")
    return "\n".join(lines) + "\n"


def as_json(comparison: Comparison, names: tuple[str, str], temperatures: tuple[float, float]) -> dict[str, Any]:
    """The same as plain JSON values, with every row of disagreement and the reliability curves."""
    bins = _bins(comparison, temperatures)
    return {
        "count": len(comparison),
        "versions": [
            {"name": name, **each.metrics, "temperature": temperature, "ece": found.ece, "reliability": _curve(found)}
            for name, each, temperature, found in zip(names, _both(comparison), temperatures, bins, strict=True)
        ],
        "gained": len(comparison.gained),
        "lost": len(comparison.lost),
        "mcnemar_p_value": mcnemar_p_value(comparison),
        "recall": {
            name: {"images": images, "recalls": [before, after]}
            for name, (images, before, after) in zip(comparison.before.class_names, _recalls(comparison), strict=True)
        },
        "disagreements": [
            {"row": row, **dict(zip(("label", "first", "second"), _named(comparison, row), strict=True))}
            for row in disagreements(comparison).tolist()
        ],
    }


def png(images: Tensor, comparison: Comparison, names: tuple[str, str]) -> bytes:
    """Images of disagreement: the two predictions above, the label below.

    Args:
        images: uint8 (N, 32, 32, 3), in the order of the comparison's rows.
        comparison: `before` is the first network's.
        names: of the two.
    """
    rows = disagreements(comparison)[:_SHOWN]
    named = [_named(comparison, row) for row in rows.tolist()]
    captions = [(f"{before} / {after}", f"is: {true}") for true, before, after in named]
    return plots.captioned_grid(images[rows], captions, f"{names[0]} / {names[1]}")


def _both(comparison: Comparison) -> tuple[Evaluation, Evaluation]:
    return comparison.before, comparison.after


def _named(comparison: Comparison, row: int) -> tuple[str, str, str]:
    """Label, first prediction and second prediction."""
    class_names = comparison.before.class_names
    before, after = _both(comparison)
    return class_names[int(before.labels[row])], class_names[int(before.preds[row])], class_names[int(after.preds[row])]


def _bins(comparison: Comparison, temperatures: tuple[float, float]) -> list[Reliability]:
    return [
        reliability(at_temperature(each, temperature))
        for each, temperature in zip(_both(comparison), temperatures, strict=True)
    ]


def _curve(bins: Reliability) -> list[dict[str, float]]:
    """Points of the reliability curve; empty bins are left out."""
    filled = bins.counts.nonzero().squeeze(1).tolist()
    return [
        {
            "count": int(bins.counts[each]),
            "confidence": round(float(bins.confidence[each]), 6),
            "accuracy": round(float(bins.accuracy[each]), 6),
        }
        for each in filled
    ]


def _recalls(comparison: Comparison) -> list[tuple[int, float, float]]:
    """Of each class: images, and the share of them that each network gets right."""
    before, after = comparison.before.per_class, comparison.after.per_class
    columns = (before["support"], before["recall"], after["recall"])
    return [(int(images), float(first), float(second)) for images, first, second in zip(*columns, strict=True)]
