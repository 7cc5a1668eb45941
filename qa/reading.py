"""Files of questions to rows, each with the place where it stands, whatever the format."""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet

from qa.errors import UserError, one_line

FORMATS = (".json", ".jsonl", ".csv", ".parquet")


def read_file(path: str) -> Iterator[tuple[str, dict]]:
    """Yields (where it stands, row) for every question of a file.

    Raises:
        UserError: no such file, an unknown format, or a file that is not what its name says.
    """
    path = str(Path(path).expanduser())
    name = path.removesuffix(".gz")
    suffix = Path(name).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"{path}: unknown format {suffix or 'without an ending'}; known: {', '.join(FORMATS)}")
    require_file(path)
    if suffix == ".parquet":
        try:
            for number, row in enumerate(pyarrow.parquet.read_table(path).to_pylist()):
                yield f"{path}, row {number + 1}", row
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not a Parquet file: {one_line(error)}") from None
        return
    text = read_text(path)
    if suffix == ".csv":
        csv.field_size_limit(1 << 30)
        for number, row in enumerate(csv.DictReader(io.StringIO(text, newline=""))):
            yield f"{path}, row {number + 1}", row
    else:
        yield from read_json(path, text)


def require_file(path: str) -> None:
    if not Path(path).is_file():
        raise UserError(f"{path}: {'is a folder, not a file' if Path(path).is_dir() else 'no such file'}")


def read_text(path: str) -> str:
    opener = gzip.open if path.endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except EOFError:
        raise UserError(f"{path}: the gzip file is truncated; download it again") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from None
    if text.startswith("version https://git-lfs"):
        raise UserError(f"{path}: a Git LFS pointer, not the data; run `git lfs pull`")
    if text.lstrip()[:14].lower().startswith(("<!doctype html", "<html")):
        raise UserError(f"{path}: an HTML page, not the data; download the file itself")
    return text


def read_json(path: str, text: str) -> Iterator[tuple[str, dict]]:
    """Nested SQuAD JSON, a list of rows, ``{"data": rows}``, or one row on each line."""
    try:
        root = json.loads(text)
    except json.JSONDecodeError as whole:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        try:
            rows = []
            for number, line in lines:
                rows.append((f"{path}, line {number}", json.loads(line)))
        except json.JSONDecodeError as single:
            place, reason = (f"line {number}", single.msg) if rows else (f"line {whole.lineno}", whole.msg)
            raise UserError(f"{path}, {place}: not JSON: {reason}") from None
        if not rows:
            raise UserError(f"{path}: is empty") from None
        yield from rows
        return
    except RecursionError:
        raise UserError(f"{path}: nested too deep to be SQuAD data") from None
    items = root.get("data", [root] if "question" in root else None) if isinstance(root, dict) else root
    if not isinstance(items, list):
        raise UserError(f"{path}: no list of questions: expected SQuAD's `data`, or a list of rows")
    for number, item in enumerate(items, 1):
        if isinstance(item, dict) and "paragraphs" in item:
            yield from read_article(f"{path}, article {number}", item)
        else:
            yield f"{path}, row {number}", item


def read_article(place: str, article: dict) -> Iterator[tuple[str, dict]]:
    title = article.get("title")
    for number, paragraph in enumerate(as_list(place, article, "paragraphs"), 1):
        here = f"{place}, paragraph {number}"
        if not isinstance(paragraph, dict) or "context" not in paragraph:
            raise UserError(f"{here}: has no `context`")
        for question_number, qa in enumerate(as_list(here, paragraph, "qas"), 1):
            if not isinstance(qa, dict):
                raise UserError(f"{here}, question {question_number}: is not an object")
            yield f"{here}, question {question_number}", {**qa, "context": paragraph["context"], "title": title}


def as_list(place: str, parent: dict, key: str) -> list:
    value = parent.get(key)
    if not isinstance(value, list):
        raise UserError(f"{place}: `{key}` is not a list")
    return value
