"""An evaluation as text and as JSON, for people and for programs."""

from collections.abc import Sequence
from typing import Any

from cifar_lit.evaluation.evaluation import Evaluation


def classification_report(evaluation: Evaluation) -> str:
    """A table of precision, recall, F1 and support, a row a class, then accuracy and the means."""
    columns, class_names = evaluation.per_class, evaluation.class_names
    support = columns["support"]
    width = max(map(len, (*class_names, "weighted mean")))
    lines = [f"{'':{width}}  precision  recall      f1  support"]
    names = ("precision", "recall", "f1")

    def row(title: str, values: Sequence[float], count: int) -> str:
        precision, recall, f1 = values
        return f"{title:{width}}  {precision:9.4f}  {recall:6.4f}  {f1:6.4f}  {count:7d}"

    for index, title in enumerate(class_names):
        lines.append(row(title, [columns[name][index].item() for name in names], int(support[index])))
    metrics, total = evaluation.metrics, int(support.sum())
    weighted = [float((columns[name] * support).sum() / total) for name in names]
    lines += [
        "",
        f"{'accuracy':{width}}  {'':9}  {'':6}  {metrics['acc']:6.4f}  {total:7d}",
        row("macro mean", [metrics[name] for name in names], total),
        row("weighted mean", weighted, total),
        f"{'cross-entropy':{width}}  {'':9}  {'':6}  {metrics['loss']:6.4f}  {total:7d}",
    ]
    return "\n".join(lines) + "\n"


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The metrics, those of each class, and the confusion matrix (rows are true classes), as plain JSON values."""
    columns = {name: values.tolist() for name, values in evaluation.per_class.items()}
    return {
        **evaluation.metrics,
        "count": len(evaluation.labels),
        "per_class": {
            title: {name: values[index] for name, values in columns.items()}
            for index, title in enumerate(evaluation.class_names)
        },
        "confusion_matrix": evaluation.confusion_matrix.tolist(),
    }
