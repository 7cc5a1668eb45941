"""Read files of questions in any supported format, one row at a time, each with its place in the file."""

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
BLOCK_BYTES, BATCH_ROWS = 1 << 20, 1000  # read at a time
HEAD_BYTES = 1024  # enough to recognize an error page or a Git LFS pointer


@dataclass(frozen=True)
class Unreadable:
    """Stand-in for a part of a file that is not a row.

    Attributes:
        why: what is wrong with it, to be printed after its place.
    """

    why: str


def read_file(path: str) -> Iterator[tuple[str, object]]:
    """Yield (place, row) for every question of a file; rows are not checked.

    Args:
        path: .json, .jsonl or .csv, each also gzipped (.gz), or .parquet.

    Raises:
        UserError: the file does not exist, or its format is unknown or does not match its name.
    """
    path = str(Path(path).expanduser())
    suffix = Path(path.removesuffix(".gz")).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"{path}: unknown format {suffix or '(no file extension)'}; supported: {', '.join(FORMATS)}")
    if suffix == ".parquet":
        yield from read_parquet(path)
    elif suffix == ".csv":
        with open_text(path, newline="") as file:
            yield from read_csv(path, file)
    elif suffix == ".jsonl" and is_json_lines(path):
        with open_text(path, newline="\n") as file:
            yield from (item for place, row in read_lines(path, file) for item in read_item(place, row))
    else:
        yield from read_squad_json(path, read_text_file(path), suffix == ".jsonl")


def reject_failed_download(path: str, head: bytes) -> None:
    """Check that a file does not begin like what a failed download leaves behind.

    Raises:
        UserError: it is a Git LFS pointer or an HTML page.
    """
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a Git LFS pointer, not the data; run `git lfs pull`")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise UserError(f"{path}: an HTML page, not the data; download the file itself")


def read_text_file(path: str) -> str:
    """Return the content of a UTF-8 file without its byte order mark; decompress it if its name ends in ``.gz``.

    Raises:
        UserError: the file cannot be read or is not UTF-8.
    """
    require_file(path)
    try:
        raw = Path(path).read_bytes()
        reject_failed_download(path, raw[:HEAD_BYTES])
        if path.endswith(".gz"):
            raw = gzip.decompress(raw)
            reject_failed_download(path, raw[:HEAD_BYTES])
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise decoding_error(path, raw, error.start) from None
    except (EOFError, OSError, zlib.error) as error:
        raise reading_error(path, error) from None


def open_text(path: str, newline: str) -> io.TextIOBase:
    """Open a text file as ``read_text_file`` reads it, for files larger than memory.

    The whole file is decoded once beforehand, so that reading the stream cannot fail later.
    """
    require_file(path)
    decoder, done = codecs.getincrementaldecoder("utf-8-sig")(), 0
    try:
        with open(path, "rb") as file:
            reject_failed_download(path, file.read(HEAD_BYTES))
        opener = gzip.open if path.endswith(".gz") else open
        with opener(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            reject_failed_download(path, head)
            for raw in itertools.chain([head], iter(lambda: file.read(BLOCK_BYTES), b"")):
                pending = len(decoder.getstate()[0])
                try:
                    decoder.decode(raw)
                except UnicodeDecodeError as error:
                    raise decoding_error(path, head, done - pending + error.start) from None
                done += len(raw)
        if decoder.getstate()[0]:
            raise decoding_error(path, head, done - len(decoder.getstate()[0]))
    except (EOFError, OSError, zlib.error) as error:
        raise reading_error(path, error) from None
    return opener(path, "rt", encoding="utf-8-sig", newline=newline)


def decoding_error(path: str, head: bytes, byte: int) -> UserError:
    if head[:2] == b"\x1f\x8b":
        return UserError(f"{path}: gzip data; rename it so that it ends in .gz")
    kind = "UTF-16, not UTF-8" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else f"not UTF-8 at byte {byte}"
    return UserError(f"{path}: {kind}; save it as UTF-8")


def reading_error(path: str, error: Exception) -> UserError:
    if isinstance(error, EOFError):
        return UserError(f"{path}: the gzip file is truncated; download it again")
    if isinstance(error, gzip.BadGzipFile) and "Not a gzipped" in str(error):
        return UserError(f"{path}: not gzip data; remove .gz from its name")
    return UserError(f"{path}: cannot be read: {one_line(error)}")


def is_json_lines(path: str) -> bool:
    """Return whether the first line of a file is a complete row, so that the file can be read line by line."""
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
            reject_failed_download(path, file.read(HEAD_BYTES))
        number = 0
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                batch.validate(full=True)
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (UserError, GeneratorExit):
        raise
    except Exception as error:  # pyarrow raises many types for corrupt sizes, types and text
        raise UserError(f"{path}: not a Parquet file, or a corrupt one: {one_line(error)}") from None


def read_csv(path: str, file: Iterable[str]) -> Iterator[tuple[str, object]]:
    """Yield the rows of a CSV file with a header; strict, because a stray quote would swallow the rows after it."""
    csv.field_size_limit(1 << 30)
    reader = csv.DictReader(file, strict=True)
    try:
        names = reader.fieldnames or []
        if len(set(names)) < len(names):
            raise UserError(f"{path}, line 1: two columns have the same name")
        for number, row in enumerate(reader, 1):
            place = f"{path}, row {number}"
            if None in row or None in row.values():
                why = f"does not have as many values as the header ({len(names)}); quote values that contain commas"
                yield place, Unreadable(why)
            else:
                yield place, row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num + 1}: not CSV: {one_line(error)}") from None


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
