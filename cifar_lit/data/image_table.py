"""Labels from a CSV of file and label; the files lie beside it."""

import csv
from pathlib import Path, PurePosixPath

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data.class_names import meaning_of
from cifar_lit.data.image_labels import ENDINGS, Labelled
from cifar_lit.errors import DataError
from cifar_lit.files import read_file

_MAX_BYTES = 64 * 2**20
_FILE_COLUMNS = ("file", "filename", "file_name", "path", "image", "image_path", "name", "id")
_LABEL_COLUMNS = ("label", "class", "class_name", "category", "target", "y")
_FOLDERS = ("", "train", "images")
"""Where files are looked for, beside the table."""
_NAMED = 5


def read_table(path: Path) -> Labelled:
    """The files that a table names, relative to the table's folder, and their labels.

    Commas, semicolons or tabs divide the columns. With a header, the columns are found by name; else they are the first
    two. Names may lack their ending, as in Kaggle's `trainLabels.csv`.

    Raises:
        DataError: it can't be read or has no row.
    """
    try:
        text = read_file(path, _MAX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: it can't be read ({error}). Save it as CSV in UTF-8.") from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"{path}: it is no CSV ({error}). Save it again.") from error
    if not rows:
        raise DataError(f"{path}: it has no row, expected file,label.")
    header = [cell.strip().casefold() for cell in rows[0]]
    file_column = next((header.index(name) for name in _FILE_COLUMNS if name in header), None)
    label_column = next((header.index(name) for name in _LABEL_COLUMNS if name in header), None)
    start = 1
    if file_column is None or label_column is None:
        file_column, label_column, start = 0, 1, 0
    return _label_rows(path.parent, rows, start, file_column, label_column)


def _label_rows(folder: Path, rows: list[list[str]], start: int, file_column: int, label_column: int) -> Labelled:
    found = Labelled()
    missing, unknown, short, twice, numbers = [], [], [], [], False
    for number, row in enumerate(rows[start:], start=start + 1):
        if len(row) <= max(file_column, label_column):
            short.append(str(number))
            continue
        word = row[label_column].strip()
        meaning, file = meaning_of(word), _find(folder, row[file_column].strip())
        if meaning is None:
            unknown.append(f"{word!r} in row {number}")
        if file is None:
            missing.append(f"{row[file_column]!r} in row {number}")
        if meaning is None or file is None:
            continue
        if found.labels.setdefault(file, meaning.label) != meaning.label:
            twice.append(str(file))
        numbers |= word.isdigit()
        guess = f"the label {word!r} is taken for {CLASS_NAMES[meaning.label]}"
        if not meaning.is_sure and not word.isdigit() and guess not in found.guesses:
            found.guesses.append(guess)
    if numbers:
        found.guesses.append("numbers 0..9 are taken for the classes from airplane to truck")
    for what, where in (
        ("have no second column", short),
        (f"are none of the ten classes {', '.join(CLASS_NAMES)}", unknown),
        ("are no files beside the table", missing),
        ("have two labels", twice),
    ):
        if where:
            more = f" and {len(where) - _NAMED:,} more" if len(where) > _NAMED else ""
            rows_word = "rows " if where is short else ""
            found.problems.append(f"{rows_word}{', '.join(where[:_NAMED])}{more} {what}.")
    return found


def _find(folder: Path, name: str) -> PurePosixPath | None:
    """The file that a cell names."""
    if not name or "\0" in name:
        return None
    endings = ("",) if Path(name).suffix.lower() in ENDINGS else ("", *sorted(ENDINGS))
    for place in _FOLDERS:
        for ending in endings:
            found = PurePosixPath(place, f"{name}{ending}")
            if (folder / found).is_file():
                return found
    return None
