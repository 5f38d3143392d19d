"""Which class each image file is of, going by the folders that it lies in. Knows nothing of images.

The class folders may lie anywhere below the top, but all in one place: `cat/`, `train/cat/`, `project/data/train/cat/`.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data.class_names import Meaning, meaning_of

_FORMATS = ("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "gif", "bmp", "dib", "avif", "heic", "heif")
ENDINGS = frozenset(f".{each}" for each in _FORMATS)

_TRAIN, _OTHER_SPLITS = "train", {"test", "val", "valid", "validation", "eval"}
_NAMED = 3


@dataclass
class Labelled:
    """What was found.

    Attributes:
        labels: 0..9, by file.
        guesses: what was taken for what, in words, for a person to confirm.
        notes: what was left out, in words.
        problems: what must be fixed, in words.
    """

    labels: dict[PurePosixPath, int] = field(default_factory=dict)
    guesses: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def label_files(names: Sequence[PurePosixPath], top: str) -> Labelled:
    """Finds the class of each image.

    Args:
        names: of files, relative to the top.
        top: name of the folder or archive that they lie in.
    """
    found = Labelled()
    images = [name for name in names if name.suffix.lower() in ENDINGS]
    others = sorted(name for name in names if name.suffix.lower() not in ENDINGS)
    if others:
        found.notes.append(f"left out: {_by_kind(others)}")
    places: dict[PurePosixPath, PurePosixPath] = {}  # of the class folder, by file
    for name in images:
        folder = _class_folder(name)
        if folder is not None:
            places[name] = folder
    base = _one_base(places, found)
    if base is None:
        if not places and not found.problems:
            found.problems.append(_no_class(images, top))
        return found
    inside = {name: folder for name, folder in places.items() if folder.parent == base}
    _tell_stray(images, inside, base, found)
    for folder in sorted(set(inside.values())):
        meaning = _meaning(folder)
        if not meaning.is_sure:
            found.guesses.append(f"the folder {folder.name!r} is taken for {CLASS_NAMES[meaning.label]}")
    found.labels = {name: _meaning(folder).label for name, folder in inside.items()}
    return found


def _class_folder(name: PurePosixPath) -> PurePosixPath | None:
    """The outermost folder of a file that is named like a class; one that only may mean one is second choice."""
    folders = [PurePosixPath(*name.parts[: depth + 1]) for depth in range(len(name.parts) - 1)]
    meant = [(folder, meaning) for folder in folders if (meaning := meaning_of(folder.name)) is not None]
    return next((folder for folder, meaning in meant if meaning.is_sure), meant[0][0] if meant else None)


def _meaning(folder: PurePosixPath) -> Meaning:
    meaning = meaning_of(folder.name)
    assert meaning is not None  # it is a class folder
    return meaning


def _one_base(places: dict[PurePosixPath, PurePosixPath], found: Labelled) -> PurePosixPath | None:
    """The folder that all class folders lie in; of `train` and `test` side by side, `train`."""
    bases = sorted({folder.parent for folder in places.values()})
    if len(bases) < 2:
        return bases[0] if bases else None
    train = [base for base in bases if base.name == _TRAIN]
    rest = [base for base in bases if base.name != _TRAIN]
    if len(train) == 1 and all(base.parent == train[0].parent and base.name in _OTHER_SPLITS for base in rest):
        left_out = sum(folder.parent != train[0] for folder in places.values())
        names = ", ".join(f"{base}/" for base in rest)
        found.notes.append(f"left out: {count_images(left_out)} in {names}, beside {train[0]}/")
        return train[0]
    shown = ", ".join(f"{str(base) + '/' if base.parts else 'the top'}" for base in bases[:10])
    found.problems.append(f"class folders lie in {len(bases)} places: {shown}. Name one of them alone.")
    return None


def _tell_stray(
    images: Sequence[PurePosixPath], inside: dict[PurePosixPath, PurePosixPath], base: PurePosixPath, found: Labelled
) -> None:
    """Images beside the class folders may be a class that is misspelt; elsewhere they are left out."""
    beside: dict[str, list[PurePosixPath]] = defaultdict(list)
    elsewhere = []
    for name in images:
        if name in inside:
            continue
        if name.is_relative_to(base):
            own = name.relative_to(base).parts
            beside[own[0] if len(own) > 1 else ""].append(name)
        elif name.parts[: len(base.parent.parts)] != base.parent.parts or name.parts[len(base.parent.parts)] not in (
            _OTHER_SPLITS
        ):
            elsewhere.append(name)
    if elsewhere:
        found.notes.append(f"left out: {_by_kind(elsewhere)}, outside {base}/")
    for folder, names in sorted(beside.items()):
        if folder:
            found.problems.append(
                f"the folder {folder!r} ({count_images(len(names))}) is none of the ten classes "
                f"{', '.join(CLASS_NAMES)}. Rename, move or remove it."
            )
        else:
            found.problems.append(
                f"{_some(names)} {'lies' if len(names) == 1 else 'lie'} in none of the class folders. Move or remove "
                f"{'it' if len(names) == 1 else 'them'}."
            )


def _no_class(images: Sequence[PurePosixPath], top: str) -> str:
    if not images:
        return f"no image in it, expected <class>/* with files that end in {', '.join(sorted(ENDINGS))}."
    folders = sorted({name.parts[-2] for name in images if len(name.parts) > 1})
    where = f"in {', '.join(map(repr, folders[:10]))}" if folders else "in no folder"
    meaning = meaning_of(top)
    advice = f"Name the folder above {top!r}." if meaning and not folders else "Put them into such folders."
    return f"{count_images(len(images))} {where}, expected <class>/*: {', '.join(CLASS_NAMES)}. {advice}"


def count_images(number: int) -> str:
    return f"{number:,} image{'' if number == 1 else 's'}"


def _by_kind(names: Sequence[PurePosixPath]) -> str:
    kinds: dict[str, list[PurePosixPath]] = defaultdict(list)
    for name in names:
        kinds[name.suffix.lower() or "without ending"].append(name)
    order = Counter({kind: len(found) for kind, found in kinds.items()}).most_common()
    return ", ".join(f"{count:,} {kind} ({_some(kinds[kind])})" for kind, count in order)


def _some(names: Sequence[PurePosixPath]) -> str:
    return ", ".join(map(str, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")
