"""Read SQuAD's nested JSON, lists of questions and JSON lines."""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from qa.runtime.errors import UserError, one_line


@dataclass(frozen=True)
class Unreadable:
    """Stand-in for a part of a file that is not a row.

    Attributes:
        why: what is wrong with it, to be printed after its place.
    """

    why: str


def unique_keys(pairs: list[tuple[str, object]]) -> dict:
    """Return a JSON object as a dict; ``json`` alone would silently keep the last value of a repeated key.

    Raises:
        ValueError: a key is repeated with another value.
    """
    result = dict(pairs)
    if len(result) < len(pairs):
        for key, value in pairs:
            if result[key] != value:
                raise ValueError(f"duplicate key `{key}` in one object, with {value!r:.40} and {result[key]!r:.40}")
    return result


def parse_json(text: str):
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON, repeats a key with another value, or is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except RecursionError:
        raise ValueError("nested too deeply for SQuAD data") from None


def read_squad_json(path: str, text: str, by_line: bool = False) -> Iterator[tuple[str, object]]:
    """Yield (place, row) from nested SQuAD JSON, a list of rows, ``{"data": rows}``, or one row per line.

    Args:
        by_line: the file is named .jsonl: it counts as JSON lines if any line is a row, else only if the first is.
    """
    try:
        root = parse_json(text)
    except ValueError as error:
        lines = read_lines(path, text.split("\n"))
        head = list(itertools.islice(lines, None if by_line else 1))
        if any(isinstance(row, dict) and "data" not in row for _, row in head):
            for place, row in itertools.chain(head, lines):
                yield from read_item(place, row)
            return
        if not head:
            raise UserError(f"{path}: the file is empty") from None
        place = f"{path}, line {error.lineno}" if isinstance(error, json.JSONDecodeError) else path
        raise UserError(f"{place}: not JSON: {getattr(error, 'msg', None) or one_line(error)}") from None
    items = root.get("data", [root] if by_line or "question" in root else None) if isinstance(root, dict) else root
    if not isinstance(items, list):
        raise UserError(f"{path}: no list of questions found: expected SQuAD's `data`, or a list of rows")
    for number, item in enumerate(items, 1):
        nested = isinstance(item, dict) and "paragraphs" in item
        yield from read_item(f"{path}, {'article' if nested else 'row'} {number}", item)


def read_lines(path: str, lines: Iterable[str]) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = parse_json(line)
            except ValueError as error:
                row = Unreadable(f"not JSON: {getattr(error, 'msg', None) or one_line(error)}")
            yield f"{path}, line {number}", row


def read_item(place: str, item) -> Iterator[tuple[str, object]]:
    """Yield (place, row) for every question of an article of nested SQuAD JSON, or a flat row unchanged."""
    if not (isinstance(item, dict) and "paragraphs" in item):
        yield place, item
        return
    title = item.get("title")
    for number, paragraph in enumerate(list_field(item, "paragraphs"), 1):
        here = f"{place}, paragraph {number}"
        if isinstance(paragraph, Unreadable):
            yield place, paragraph
            continue
        if not isinstance(paragraph, dict):
            yield here, Unreadable("is not an object with `context` and `qas`")
            continue
        shared = {"title": title} | ({"context": paragraph["context"]} if "context" in paragraph else {})
        questions = list_field(paragraph, "qas")
        if "context" not in paragraph and not questions:
            yield here, Unreadable("has no `context`")
        for question_number, qa in enumerate(questions, 1):
            if isinstance(qa, Unreadable):
                yield here, qa
            else:
                yield f"{here}, question {question_number}", {**qa, **shared} if isinstance(qa, dict) else qa


def list_field(parent: dict, key: str) -> list:
    value = parent.get(key)
    return value if isinstance(value, list) else [Unreadable(f"`{key}` is not a list")]
