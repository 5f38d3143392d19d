"""Figures of an evaluation and of a training run, as PNG bytes, without matplotlib's windows and global state."""

import io
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from cifar_lit.evaluation.calibration import at_temperature, reliability
from cifar_lit.evaluation.evaluation import Evaluation

_INK = "#22313f"
_TRAIN, _VAL = "#8aa4b8", "#d1495b"
_RIGHT, _WRONG = "#2a7f62", "#c1272d"
_DPI = 120
_MANY_CLASSES = 20


def confusion_matrix(evaluation: Evaluation, title: str) -> bytes:
    """A heat map: rows are true classes, shaded by the share of the row; each cell shows its count, where there is room
    for it."""
    counts = evaluation.confusion_matrix
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    are_many = len(evaluation.class_names) > _MANY_CLASSES
    figure = Figure(figsize=(16, 15) if are_many else (8, 7), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    class_names = evaluation.class_names
    places = range(len(class_names))
    axes.set_xticks(places, class_names, rotation=90 if are_many else 45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, class_names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, color=_INK, loc="left")
    axes.tick_params(length=0, labelsize=7 if are_many else "medium")
    axes.spines[:].set_visible(False)
    for row in () if are_many else places:
        for column in places:
            count = int(counts[row, column])
            if count:
                color = "white" if shares[row, column] > 0.5 else _INK
                axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=9)
    bar = figure.colorbar(image, shrink=0.8, label="share of the true class")
    bar.outline.set_visible(False)
    return _png(figure)


def calibration(evaluation: Evaluation, temperature: float) -> bytes:
    """Reliability diagrams before and after the temperature: accuracy by confidence, beside the line on which both are
    equal; below each, how many predictions are that confident."""
    figure = Figure(figsize=(8, 4.6), dpi=_DPI, layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1))
    titles = ("before", f"at temperature {temperature:.3g}")
    for column, (title, divisor) in enumerate(zip(titles, (1.0, temperature), strict=True)):
        bins = reliability(at_temperature(evaluation, divisor))
        width = 1 / len(bins.counts)
        left = [place * width for place in range(len(bins.counts))]
        upper, lower = grid[0][column], grid[1][column]
        upper.bar(left, bins.accuracy.tolist(), width, align="edge", color=_TRAIN, edgecolor="white")
        upper.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":")
        upper.set_title(f"{title}: calibration error {bins.ece:.4f}", fontsize=9, color=_INK, loc="left")
        upper.set_ylim(0, 1)
        lower.bar(left, bins.counts.tolist(), width, align="edge", color=_INK)
        lower.set_xlabel("confidence")
        for axes in (upper, lower):
            axes.set_xlim(0, 1)
            axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("accuracy")
    grid[1][0].set_ylabel("images")
    return _png(figure)


def curves(history: Sequence[Mapping[str, float]], title: str, best_epoch: int | None = None) -> bytes:
    """Loss and accuracy of training and validation over the epochs; the epoch whose weights were kept is marked.

    Args:
        history: one mapping an epoch with `epoch` (from 0) and any of `train/loss`, `val/loss`, `train/acc`, `val/acc`.
        title: above the figure.
        best_epoch: epoch (from 0) to mark.
    """
    figure = Figure(figsize=(10, 4), dpi=_DPI, layout="constrained")
    figure.suptitle(title, color=_INK, x=0.01, ha="left")
    for index, (name, label) in enumerate((("loss", "cross-entropy"), ("acc", "accuracy")), start=1):
        axes = figure.add_subplot(1, 2, index)
        for split, color, words in (("train", _TRAIN, "training, augmented"), ("val", _VAL, "validation")):
            points = [(row["epoch"] + 1, row[f"{split}/{name}"]) for row in history if f"{split}/{name}" in row]
            if points:
                axes.plot(
                    *zip(*points, strict=True), color=color, label=words, marker="." if len(points) < 30 else None
                )
        if best_epoch is not None:
            axes.axvline(
                best_epoch + 1, color=_INK, linewidth=0.8, linestyle=":", label=f"kept: epoch {best_epoch + 1}"
            )
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False)
    return _png(figure)


def sample_grid(images: Tensor, evaluation: Evaluation, title: str, num_images: int = 40) -> bytes:
    """Images with their predictions: half of them the first right ones, half the most confident mistakes.

    Args:
        images: uint8 (N, 32, 32, 3), in the order of the evaluation's rows.
        evaluation: what the network predicted for them.
        title: above the figure.
        num_images: how many to show, at most.
    """
    right = evaluation.preds == evaluation.labels
    confidence = evaluation.probs.amax(1)
    wrong_rows = (~right).nonzero().squeeze(1)
    wrong_rows = wrong_rows[confidence[wrong_rows].argsort(descending=True)][: num_images // 2]
    right_rows = right.nonzero().squeeze(1)[: num_images - len(wrong_rows)]
    rows = torch.cat([right_rows, wrong_rows])
    captions = []
    for row in rows.tolist():
        predicted, true = (evaluation.class_names[int(each[row])] for each in (evaluation.preds, evaluation.labels))
        below = "" if predicted == true else f"is: {true}"
        captions.append((f"{predicted} {confidence[row]:.0%}", below, _RIGHT if predicted == true else _WRONG))
    return _tiles(images[rows], captions, title)


def captioned_grid(images: Tensor, captions: Sequence[tuple[str, str]], title: str) -> bytes:
    """Images with a line above and a line below each.

    Args:
        images: uint8 (N, 32, 32, 3).
        captions: above and below, for each image.
        title: above the figure.
    """
    return _tiles(images, [(above, below, _INK) for above, below in captions], title, columns=8, width=1.7)


def groups_of_images(groups: Sequence[tuple[str, bool, Tensor, Sequence[tuple[str, str]]]], title: str) -> bytes:
    """Groups of images under each other, with a line above and a line below each image.

    Args:
        groups: heading, whether it is good (green) or bad (red), uint8 images (N, 32, 32, 3) with N > 0, and what
            stands above and below each.
        title: above the figure.
    """
    width, columns = 1.7, 8
    lines = [-(-len(images) // columns) for _, _, images, _ in groups]
    size = (width * columns, (width + 0.4) * sum(lines) + 0.5 * (len(groups) + 1))
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    figure.suptitle(title, color=_INK, x=0.01, ha="left")
    parts = figure.subfigures(len(groups), 1, height_ratios=lines, squeeze=False)[:, 0]
    for part, (heading, is_good, images, captions) in zip(parts, groups, strict=True):
        color = _RIGHT if is_good else _WRONG
        part.suptitle(heading, color=color, x=0.01, ha="left", fontsize=11)
        _draw_tiles(part, images, [(above, below, color) for above, below in captions], columns)
    return _png(figure)


def before_and_after(panels: Sequence[tuple[str, Sequence[tuple[str, float, float]]]], title: str) -> bytes:
    """A panel each: a line a row, from its value before to its value after, green if it rose and red if it fell.

    Args:
        panels: heading, and rows of name, value before and value after, 0..1.
        title: above the figure.
    """
    tallest = max(len(rows) for _, rows in panels)
    figure = Figure(figsize=(4.2 * len(panels), 0.32 * tallest + 1.4), dpi=_DPI, layout="constrained")
    figure.suptitle(title, color=_INK, x=0.01, ha="left")
    for index, (heading, rows) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), index)
        for place, (_, before, after) in enumerate(rows):
            color = _RIGHT if after >= before else _WRONG
            axes.plot([before, after], [place, place], color=color, linewidth=2, zorder=1)
            axes.scatter([before], [place], s=28, facecolor="white", edgecolor=_INK, zorder=2)
            axes.scatter([after], [place], s=28, color=color, zorder=3)
            axes.annotate(
                f"{100 * (after - before):+z.1f}",
                (max(before, after), place),
                (7, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=color,
            )
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.set_ylim(tallest - 0.5, -0.5)
        axes.margins(x=0.2)
        axes.set_title(heading, fontsize=9, color=_INK, loc="left")
        axes.set_xlabel("accuracy; circle: before, dot: after", fontsize=8)
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False, labelsize=8)
    return _png(figure)


def _tiles(
    images: Tensor, captions: Sequence[tuple[str, str, str]], title: str, columns: int = 10, width: float = 1.35
) -> bytes:
    """Images in lines; captions are above, below and the colour of the former and the frame."""
    lines = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(width * columns, (width + 0.4) * lines + 0.5), dpi=_DPI, layout="constrained")
    figure.suptitle(title, color=_INK, x=0.01, ha="left")
    _draw_tiles(figure, images, captions, columns)
    return _png(figure)


def _draw_tiles(figure: FigureBase, images: Tensor, captions: Sequence[tuple[str, str, str]], columns: int) -> None:
    lines = max(1, -(-len(images) // columns))
    for place, (image, (above, below, color)) in enumerate(zip(images, captions, strict=True), start=1):
        axes = figure.add_subplot(lines, columns, place)
        axes.imshow(image.numpy(), interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(above, fontsize=9, color=color)
        axes.set_xlabel(below, fontsize=9, color=_INK)
        axes.spines[:].set_color(color)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # No creation date or software version inside: equal figures give equal bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
