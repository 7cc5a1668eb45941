"""Read tables as spreadsheets, pandas and databases write them: any usual separator, empty columns and rows."""

import csv
import itertools
import re
from collections.abc import Iterable, Iterator

from qa.data.squad_json import Unreadable
from qa.options.arguments import COLUMNS
from qa.runtime.errors import UserError, one_line

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
PLURALS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
USUAL_NAMES = {*COLUMNS, "answer", "answer_text", "answer_start", "text"}
SEPARATOR_LINE = re.compile(r"sep=(.)\s*")  # Excel reads and writes it above the header
FIELD_LIMIT = 1 << 30  # characters; 131,072 unless set, less than a long document has
HEADER_LINES = 100  # that one header with quoted line breaks may have


def read_csv(path: str, lines: Iterable[str], notes: list[str]) -> Iterator[tuple[str, object]]:
    """Yield the rows of a table with a header; strict, because a stray quote would swallow the rows after it.

    Columns without a name may be empty, or the first may be the index that pandas writes; empty rows are skipped.

    Args:
        lines: with their line ends, as a file opened with ``newline=""`` yields them.
        notes: gets the separator and the number of columns.

    Raises:
        UserError: the file is not CSV, or two columns have the same name.
    """
    csv.field_size_limit(FIELD_LIMIT)
    lines = iter(lines)
    head, skipped = read_header_lines(lines), 0
    declared = SEPARATOR_LINE.fullmatch(head[0]) if head else None
    if declared:
        head, skipped = read_header_lines(lines), 1
    separator = declared[1] if declared else choose_separator(head)
    reader, record_end = csv.reader(itertools.chain(head, lines), delimiter=separator, strict=True), 0
    try:
        names = our_names(next(reader, []))
        named = [name for name in names if name]
        if len(set(named)) < len(named):
            raise UserError(f"{path}, line {skipped + 1}: two columns have the same name")
        notes.append(f"{SEPARATORS.get(separator, repr(separator))}-separated")
        notes.append(f"{len(named)} column{'s' * (len(named) != 1)}")
        if names and not names[0]:
            notes.append("unnamed first column ignored")
        number, record_end = 0, reader.line_num
        for values in reader:
            record_end = reader.line_num
            if any(map(str.strip, values)):
                number += 1
                quoting = f"quote values that contain {PLURALS.get(separator, repr(separator))}"
                why = f"does not have as many values as the header ({len(named)}); {quoting}"
                yield f"{path}, row {number}", named_values(names, values) or Unreadable(why)
    except csv.Error as error:
        raise UserError(f"{path}, line {skipped + record_end + 1}: not CSV: {one_line(error)}") from None


def named_values(names: list[str], values: list[str]) -> dict[str, str] | None:
    """Return a row by column; None if a value is missing, or a column without a name other than the first has one."""
    pairs = list(itertools.zip_longest(names, values))
    if any(value is None if name else column and (value or "").strip() for column, (name, value) in enumerate(pairs)):
        return None
    return {name: value for name, value in pairs if name}


def our_names(header: list[str]) -> list[str]:
    """Return column names without spaces around them, ours in lower case unless that name is another column's."""
    names = [name.strip() for name in header]
    lower = [name.lower() for name in names]
    return [
        low if low in USUAL_NAMES and lower.count(low) == 1 else name for name, low in zip(names, lower, strict=True)
    ]


def read_header_lines(lines: Iterator[str]) -> list[str]:
    """Return the first record as lines, empty lines before it left out: more than one if it has quoted line breaks."""
    head: list[str] = []
    for line in lines:
        if head or line.strip():
            head.append(line)
            if sum(part.count('"') for part in head) % 2 == 0 or len(head) == HEADER_LINES:
                break
    return head


def choose_separator(head: list[str]) -> str:
    """Return the separator by which a header has the most usual names, and of several such, the most columns."""

    def rank(separator: str) -> tuple[int, int]:
        try:
            names = next(csv.reader(head, delimiter=separator, strict=True), [])
        except csv.Error:
            return -1, 0
        return sum(name.strip().lower() in USUAL_NAMES for name in names), len(names)

    return max(SEPARATORS, key=rank)
