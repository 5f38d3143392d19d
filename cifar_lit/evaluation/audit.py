"""What is wrong with an increment, or may be: a list of findings that a person can act on."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cifar_lit.cifar10 import CLASS_NAMES, NUM_CLASSES
from cifar_lit.data import similar
from cifar_lit.data.image_set import ImageSet
from cifar_lit.evaluation import plots
from cifar_lit.evaluation.evaluation import Evaluation, evaluate

Severity = Literal["error", "warning"]

_SURE = 0.8
"""Probability from which a network counts as sure of a class if no test set tells."""
_LEAST_SURE = 0.5
"""It never does below this, however unsure it is of the test set."""
_MIN_JUDGED = 10
"""Fewer labels than this are never called wrong as a whole."""
_IMBALANCE = 5
_SHOWN = 12


@dataclass(frozen=True)
class Finding:
    """One thing to know about an increment.

    Attributes:
        severity: "error" must be fixed before the increment is learned from; "warning" may be as it should be.
        code: short name for programs.
        message: what was found.
        suggestion: what to do about it.
        rows: the rows concerned, ascending; for doubted labels the most doubtful first. Empty if it concerns them all.
        details: one mapping a row, of plain JSON values, where there is more to say.
    """

    severity: Severity
    code: str
    message: str
    suggestion: str
    rows: tuple[int, ...] = ()
    details: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, eq=False)
class Audit:
    """The findings about one increment.

    Attributes:
        data: the increment.
        findings: errors first.
        not_checked: what could not be checked for want of data or a network.
    """

    data: ImageSet
    findings: tuple[Finding, ...]
    not_checked: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def faulty_rows(self) -> Tensor:
        """int64: rows that an error concerns, ascending."""
        rows = {row for finding in self.findings if finding.severity == "error" for row in finding.rows}
        return torch.tensor(sorted(rows), dtype=torch.int64)

    @property
    def clean_rows(self) -> Tensor:
        """int64: rows that no error concerns and that are no copy of another row or of a test image, ascending."""
        keep = torch.ones(len(self.data), dtype=torch.bool)
        keep[self.faulty_rows] = False
        for code in ("duplicates", "test_overlap"):
            keep[torch.tensor(self._rows(code), dtype=torch.int64)] = False
        return keep.nonzero().squeeze(1)

    @property
    def class_counts(self) -> dict[str, int]:
        counts = torch.bincount(self.data.labels, minlength=NUM_CLASSES).tolist()
        return dict(zip(CLASS_NAMES, counts, strict=True))

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return {
            "count": len(self.data),
            "ok": self.ok,
            "classes": self.class_counts,
            "findings": [
                {
                    "severity": finding.severity,
                    "code": finding.code,
                    "message": finding.message,
                    "suggestion": finding.suggestion,
                    "rows": list(finding.rows),
                    "details": [dict(detail) for detail in finding.details],
                }
                for finding in self.findings
            ],
            "faulty_rows": self.faulty_rows.tolist(),
            "not_checked": list(self.not_checked),
        }

    def text(self) -> str:
        """Everything, for a terminal."""
        counts = ", ".join(f"{name} {count:,}" for name, count in self.class_counts.items() if count)
        lines = textwrap.wrap(f"{_images(len(self.data))}: {counts}", 100)
        for finding in self.findings:
            head = f"{finding.severity}: {finding.message} [{finding.code}]"
            lines += ["", *textwrap.wrap(head, 100, subsequent_indent="  ")]
            lines += textwrap.wrap(_rows_text(finding), 100, initial_indent="  ", subsequent_indent="  ")
            lines += textwrap.wrap(finding.suggestion, 100, initial_indent="  ", subsequent_indent="  ")
        if self.not_checked:
            lines += ["", f"Not checked: {', '.join(self.not_checked)}."]
        errors = sum(finding.severity == "error" for finding in self.findings)
        warnings = len(self.findings) - errors
        lines += ["", f"{_count(errors, 'error')}, {_count(warnings, 'warning')}."]
        return "\n".join(lines) + "\n"

    def doubts_png(self, num_images: int = 40) -> bytes | None:
        """The images whose labels are most doubted, with given and predicted label; none if there are no doubts."""
        doubts = [doubt for finding in self.findings if finding.code == "doubted_labels" for doubt in finding.details]
        if not doubts:
            return None
        shown = doubts[:num_images]
        title = f"{_count(len(doubts), 'doubted label')} of {len(self.data):,}, the most doubtful first"
        captions = [
            (
                f"row {doubt['row']}: {doubt['predicted']} {doubt['predicted_probability']:.0%}",
                f"given: {doubt['label']} {doubt['probability']:.1%}",
            )
            for doubt in shown
        ]
        return plots.captioned_grid(self.data.images[[doubt["row"] for doubt in shown]], captions, title)

    def _rows(self, code: str) -> list[int]:
        return [row for finding in self.findings if finding.code == code for row in finding.rows]


def audit(
    increment: ImageSet, train: ImageSet | None = None, test: ImageSet | None = None, network: nn.Module | None = None
) -> Audit:
    """Checks everything that can be checked with what is at hand.

    Labels are doubted by the criterion of confident learning (Northcutt, Jiang and Chuang, "Confident Learning:
    Estimating Uncertainty in Dataset Labels", JAIR 70, 2021): the network gives another class at least the probability
    that it gives this class, on average, where it is right, and no less than 1/2. These averages come from the test
    set, which the network was not trained on, rather than from the labels in question.

    Args:
        increment: what to check, not empty.
        train: the training images; copies of them are warned of.
        test: the test images; copies of them are warned of, and an error if they are most of the increment.
        network: whose opinion of the labels is asked; usually the champion's.
    """
    origin = similar.duplicates(increment.images)
    flat = similar.flat(increment.images)
    findings = [
        *_balance(increment.labels),
        *_flat(flat),
        *_copies_inside(increment.labels, origin),
        *([] if test is None else _overlap(increment, test, "test")),
        *([] if train is None else _overlap(increment, train, "train")),
        *([] if network is None else _doubts(increment, ~flat, test, network)),
    ]
    not_checked = []
    if train is None:
        not_checked.append("copies of training images")
    if test is None:
        not_checked.append("copies of test images")
    if network is None:
        not_checked.append("doubtful labels")
    findings.sort(key=lambda finding: finding.severity != "error")
    return Audit(increment, tuple(findings), tuple(not_checked))


def _balance(labels: Tensor) -> list[Finding]:
    counts = torch.bincount(labels, minlength=NUM_CLASSES)
    missing = [name for name, count in zip(CLASS_NAMES, counts.tolist(), strict=True) if not count]
    if len(missing) == NUM_CLASSES - 1:
        message = f"there is one class only, {CLASS_NAMES[int(labels[0])]}."
        return [
            Finding("warning", "one_class", message, "Make sure that this is meant: other classes may be forgotten.")
        ]
    findings = []
    if missing:
        message = f"{len(missing)} of the {NUM_CLASSES} classes do not occur: {', '.join(missing)}."
        suggestion = "If this is not meant, add images of them."
        findings.append(Finding("warning", "missing_classes", message, suggestion))
    present = [(count, name) for count, name in zip(counts.tolist(), CLASS_NAMES, strict=True) if count]
    (least, rare), (most, frequent) = min(present), max(present)
    if most >= max(2 * _MIN_JUDGED, _IMBALANCE * least):
        message = f"classes are out of balance: {most:,} of {frequent}, {least:,} of {rare}."
        suggestion = "If this is not meant, add images of the rare ones or leave out some of the frequent ones."
        findings.append(Finding("warning", "unbalanced", message, suggestion))
    return findings


def _flat(flat: Tensor) -> list[Finding]:
    rows = flat.nonzero().squeeze(1).tolist()
    if not rows:
        return []
    most = 2 * len(rows) > len(flat)
    message = f"{_images(len(rows))} of {len(flat):,} {_is(rows)} of one colour: there is nothing to learn from."
    suggestion = "Find out how they came about: black or white frames, or a failed conversion. Leave them out."
    return [Finding("error" if most else "warning", "flat_images", message, suggestion, tuple(rows))]


def _copies_inside(labels: Tensor, origin: Tensor) -> list[Finding]:
    """Copies with the same label, and groups of copies whose labels differ."""
    copies = (origin != torch.arange(len(origin))).nonzero().squeeze(1)
    conflicting = torch.unique(origin[copies[labels[copies] != labels[origin[copies]]]])
    in_conflict = torch.isin(origin, conflicting)
    findings = []
    if len(conflicting):
        rows = in_conflict.nonzero().squeeze(1).tolist()
        message = (
            f"{_count(len(conflicting), 'image')} {'has' if len(conflicting) == 1 else 'have'} different labels in "
            f"different rows ({len(rows):,} rows)."
        )
        suggestion = "Decide which label is right and keep one row of each image. --clean leaves all of them out."
        details = tuple(
            {"row": row, "copy_of": int(origin[row]), "label": CLASS_NAMES[int(labels[row])]} for row in rows
        )
        findings.append(Finding("error", "conflicting_labels", message, suggestion, tuple(rows), details))
    plain = copies[~in_conflict[copies]].tolist()
    if plain:
        message = f"{_images(len(plain))} {_is(plain)} {_copy(plain)} of another in the file, with the same label."
        suggestion = "Keep one of each, or the repeated ones count for more than the others. --clean does so."
        details = tuple({"row": row, "copy_of": int(origin[row])} for row in plain)
        findings.append(Finding("warning", "duplicates", message, suggestion, tuple(plain), details))
    return findings


def _overlap(increment: ImageSet, others: ImageSet, split: Literal["train", "test"]) -> list[Finding]:
    found = similar.matches(increment.images, others.images)
    rows = (found >= 0).nonzero().squeeze(1)
    if not len(rows):
        return []
    theirs = found[rows]
    exact = (increment.images[rows] == others.images[theirs]).flatten(1).all(1)
    differing = int((increment.labels[rows] != others.labels[theirs]).sum())
    details = tuple(
        {
            "row": row,
            "copy_of": other,
            "exact": is_exact,
            "label": CLASS_NAMES[int(increment.labels[row])],
            "label_there": CLASS_NAMES[int(others.labels[other])],
        }
        for row, other, is_exact in zip(rows.tolist(), theirs.tolist(), exact.tolist(), strict=True)
    )
    kind = "test" if split == "test" else "training"
    message = (
        f"{_images(len(rows))} {_is(details)} {_copy(details)} of {kind} images: {int(exact.sum()):,} pixel for pixel, "
        f"{int((~exact).sum()):,} altered a little"
        + (f"; {differing:,} with another label than there." if differing else ".")
    )
    if split == "test":
        # A split has near-copies of its own test images: known ones are no reason to refuse the rest.
        most = 2 * len(rows) > len(increment)
        suggestion = "Fine-tuning leaves them out, and --clean does: they would make every test figure too good."
        return [
            Finding("error" if most else "warning", "test_overlap", message, suggestion, tuple(rows.tolist()), details)
        ]
    suggestion = "They are known already and say little about new data. If new images were meant, leave them out."
    return [Finding("warning", "train_overlap", message, suggestion, tuple(rows.tolist()), details)]


def _doubts(increment: ImageSet, judged: Tensor, test: ImageSet | None, network: nn.Module) -> list[Finding]:
    """Labels that the network is sure are others, and whether it disagrees with most of them; flat images aside."""
    rows = judged.nonzero().squeeze(1)
    if not len(rows):
        return []
    evaluation = evaluate(network, increment.subset(rows))
    known = None if test is None else evaluate(network, test)
    probs, labels = evaluation.probs, evaluation.labels
    sure = torch.where(probs >= _thresholds(known), probs, -1.0)
    confidence, predicted = sure.max(1)
    own = probs.gather(1, labels[:, None]).squeeze(1)
    places = ((confidence >= 0) & (predicted != labels)).nonzero().squeeze(1)
    places = places[own[places].argsort(stable=True)]
    details = tuple(
        {
            "rank": rank,
            "row": int(rows[place]),
            "label": CLASS_NAMES[int(labels[place])],
            "probability": round(float(own[place]), 6),
            "predicted": CLASS_NAMES[int(predicted[place])],
            "predicted_probability": round(float(confidence[place]), 6),
        }
        for rank, place in enumerate(places.tolist(), start=1)
    )
    findings = _wrong_as_a_whole(evaluation, known)
    if details:
        message = (
            f"{_count(len(details), 'label')} of {len(increment):,} {_is(details)} doubtful: the network is sure of "
        )
        message += "another class."
        suggestion = "Look at these images, the most doubtful first, and correct the labels that are wrong."
        ranked = tuple(rows[places].tolist())
        findings.append(Finding("warning", "doubted_labels", message, suggestion, ranked, details))
    return findings


def _thresholds(known: Evaluation | None) -> Tensor:
    """float32 (K,): the probability from which the network counts as sure of each class."""
    thresholds = torch.full((NUM_CLASSES,), _SURE)
    if known is not None:
        for label in set(known.labels.tolist()):
            thresholds[label] = known.probs[known.labels == label, label].mean()
    return thresholds.clamp(min=_LEAST_SURE)


def _wrong_as_a_whole(evaluation: Evaluation, known: Evaluation | None) -> list[Finding]:
    """The network agrees with less than half as many labels as it would if they were right."""
    count = len(evaluation.labels)
    agreement = (evaluation.preds == evaluation.labels).float().mean().item()
    expected = 1.0 if known is None else known.per_class["recall"][evaluation.labels].mean().item()
    if count < _MIN_JUDGED or agreement >= expected / 2:
        return []
    usual = "" if known is None else f", and would with about {expected:.0%} of right ones"
    message = (
        f"THE LABELS AS A WHOLE LOOK WRONG: the network agrees with {agreement:.0%} of them{usual}. They may be "
        "shuffled, shifted, or one label for all; or the images are unlike all that it knows."
    )
    suggestion = "Compare some images with their labels, and find out how images and labels were put together."
    return [Finding("warning", "labels_look_wrong", message, suggestion)]


def _rows_text(finding: Finding) -> str:
    """The first rows of a finding, with what is known of each."""
    if not finding.rows:
        return ""
    details: Sequence[Mapping[str, Any]] = finding.details or [{"row": row} for row in finding.rows]
    shown = "; ".join(_detail_text(finding.code, detail) for detail in details[:_SHOWN])
    more = len(details) - _SHOWN
    return f"Rows: {shown}{f'; and {more:,} more' if more > 0 else ''}."


def _detail_text(code: str, detail: Mapping[str, Any]) -> str:
    row = detail["row"]
    match code:
        case "doubted_labels":
            return (
                f"{row} is {detail['label']} ({detail['probability']:.1%}), seems {detail['predicted']} "
                f"({detail['predicted_probability']:.1%})"
            )
        case "conflicting_labels":
            return f"{row} is {detail['label']}" + ("" if detail["copy_of"] == row else f" like {detail['copy_of']}")
        case "test_overlap" | "train_overlap":
            other = "" if detail["label"] == detail["label_there"] else f" ({detail['label_there']} there)"
            return f"{row} = {code.removesuffix('_overlap')} {detail['copy_of']}{other}"
        case "duplicates":
            return f"{row} = {detail['copy_of']}"
    return str(row)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _images(number: int) -> str:
    return _count(number, "image")


def _is(rows: Sequence[Any]) -> str:
    return "is" if len(rows) == 1 else "are"


def _copy(rows: Sequence[Any]) -> str:
    return "a copy" if len(rows) == 1 else "copies"
