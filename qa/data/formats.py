"""Files of questions to rows, each with the place where it stands, whatever the format."""

import codecs
import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet

from qa.io.files import require_file
from qa.runtime.errors import UserError, one_line

FORMATS = (".json", ".jsonl", ".csv", ".parquet")
BLOCK, ROWS = 1 << 20, 1000  # bytes and rows that are read at once
HEAD = 1024  # bytes that tell an error page or a pointer from data


@dataclass(frozen=True)
class Unreadable:
    """Stands in a row's place where the file has something else; ``why`` says what."""

    why: str


def read_file(path: str) -> Iterator[tuple[str, object]]:
    """Yields (where it stands, row) for every question of a file; the rows are not checked.

    Raises:
        UserError: no such file, an unknown format, or a file that is not what its name says.
    """
    path = str(Path(path).expanduser())
    suffix = Path(path.removesuffix(".gz")).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"{path}: unknown format {suffix or 'without an ending'}; known: {', '.join(FORMATS)}")
    if suffix == ".parquet":
        yield from read_parquet(path)
    elif suffix == ".csv":
        with open_text(path, newline="") as file:
            yield from read_csv(path, file)
    elif suffix == ".jsonl" and holds_rows(path):
        with open_text(path, newline="\n") as file:
            yield from (item for place, row in read_lines(path, file) for item in read_item(place, row))
    else:
        yield from read_squad_json(path, read_text_file(path), suffix == ".jsonl")


def refuse_stand_in(path: str, head: bytes) -> None:
    """Raises UserError for what a failed download leaves in the place of a file, whatever its name."""
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a Git LFS pointer, not the data; run `git lfs pull`")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise UserError(f"{path}: an HTML page, not the data; download the file itself")


def read_text_file(path: str) -> str:
    """A text file, gzipped where its name ends in ``.gz``, without its byte order mark."""
    require_file(path)
    try:
        raw = Path(path).read_bytes()
        refuse_stand_in(path, raw[:HEAD])
        if path.endswith(".gz"):
            raw = gzip.decompress(raw)
            refuse_stand_in(path, raw[:HEAD])
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(path, raw, error.start) from None
    except (EOFError, OSError, zlib.error) as error:
        raise cut_off(path, error) from None


def open_text(path: str, newline: str) -> io.TextIOBase:
    """The same as a stream, for what does not fit in memory; read once to its end first, so that it can be read."""
    require_file(path)
    decoder, done = codecs.getincrementaldecoder("utf-8-sig")(), 0
    try:
        with open(path, "rb") as file:
            refuse_stand_in(path, file.read(HEAD))
        opener = gzip.open if path.endswith(".gz") else open
        with opener(path, "rb") as file:
            head = file.read(HEAD)
            refuse_stand_in(path, head)
            for raw in itertools.chain([head], iter(lambda: file.read(BLOCK), b"")):
                pending = len(decoder.getstate()[0])
                try:
                    decoder.decode(raw)
                except UnicodeDecodeError as error:
                    raise not_utf8(path, head, done - pending + error.start) from None
                done += len(raw)
        if decoder.getstate()[0]:
            raise not_utf8(path, head, done - len(decoder.getstate()[0]))
    except (EOFError, OSError, zlib.error) as error:
        raise cut_off(path, error) from None
    return opener(path, "rt", encoding="utf-8-sig", newline=newline)


def not_utf8(path: str, head: bytes, byte: int) -> UserError:
    if head[:2] == b"\x1f\x8b":
        return UserError(f"{path}: gzip data; let its name end in .gz")
    kind = "UTF-16, not UTF-8" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else f"not UTF-8 at byte {byte}"
    return UserError(f"{path}: {kind}; save it as UTF-8")


def cut_off(path: str, error: Exception) -> UserError:
    if isinstance(error, EOFError):
        return UserError(f"{path}: the gzip file is truncated; download it again")
    if isinstance(error, gzip.BadGzipFile) and "Not a gzipped" in str(error):
        return UserError(f"{path}: not gzip data; take the .gz off its name")
    return UserError(f"{path}: cannot be read: {one_line(error)}")


def holds_rows(path: str) -> bool:
    """Whether the first line of a file is a row by itself, so that the others can be read one by one."""
    with open_text(path, newline="\n") as file:
        try:
            row = parse_json(next((line for line in file if line.strip()), ""))
        except ValueError:
            return False
    return isinstance(row, dict) and "data" not in row


def read_parquet(path: str) -> Iterator[tuple[str, dict]]:
    require_file(path)
    try:
        with open(path, "rb") as file:
            refuse_stand_in(path, file.read(HEAD))
        number = 0
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS):
                batch.validate(full=True)
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (UserError, GeneratorExit):
        raise
    except Exception as error:  # what a damaged file makes of sizes, types and text
        raise UserError(f"{path}: not a Parquet file, or a damaged one: {one_line(error)}") from None


def read_csv(path: str, file: Iterable[str]) -> Iterator[tuple[str, object]]:
    """Rows of a CSV file with a header; strict, as a stray quote would swallow the rows after it."""
    csv.field_size_limit(1 << 30)
    reader = csv.DictReader(file, strict=True)
    try:
        names = reader.fieldnames or []
        if len(set(names)) < len(names):
            raise UserError(f"{path}, line 1: two columns have the same name")
        for number, row in enumerate(reader, 1):
            place = f"{path}, row {number}"
            if None in row or None in row.values():
                yield place, Unreadable(f"has not as many values as the header, {len(names)}; quote values with commas")
            else:
                yield place, row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num + 1}: not CSV: {one_line(error)}") from None


def unique_keys(pairs: list[tuple[str, object]]) -> dict:
    """Makes a JSON object; ``json`` would silently take the last of two values for one key."""
    made = dict(pairs)
    if len(made) < len(pairs):
        for key, value in pairs:
            if made[key] != value:
                raise ValueError(f"`{key}` stands twice in one object, as {value!r:.40} and {made[key]!r:.40}")
    return made


def parse_json(text: str):
    """Raises ValueError for all that is not JSON, or not fit to be read."""
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except RecursionError:
        raise ValueError("nested too deep to be SQuAD data") from None


def read_squad_json(path: str, text: str, by_line: bool = False) -> Iterator[tuple[str, object]]:
    """Nested SQuAD JSON, a list of rows, ``{"data": rows}``, or one row on each line.

    Args:
        by_line: the file's name says that it holds a row on each line; else its first line must be one.
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
            raise UserError(f"{path}: is empty") from None
        place = f"{path}, line {error.lineno}" if isinstance(error, json.JSONDecodeError) else path
        raise UserError(f"{place}: not JSON: {getattr(error, 'msg', None) or one_line(error)}") from None
    items = root.get("data", [root] if by_line or "question" in root else None) if isinstance(root, dict) else root
    if not isinstance(items, list):
        raise UserError(f"{path}: no list of questions: expected SQuAD's `data`, or a list of rows")
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
    """The questions of an article of nested SQuAD JSON, or a row as it is."""
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
