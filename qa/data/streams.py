"""Read questions and texts from pipes, which can be read once, and whose format only their content tells."""

import gzip
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet

from qa.data.formats import (
    HEAD_BYTES,
    decoding_error,
    read_csv,
    read_file,
    read_squad_json,
    read_text_file,
    reading_error,
    reject_failed_download,
)
from qa.io.files import STDIO, is_device
from qa.runtime.console import warn
from qa.runtime.errors import UserError, one_line

PLAIN_SUFFIXES = "", ".txt"  # of files whose format their content tells


def is_stream(path: str) -> bool:
    """Return whether a path is ``-`` for standard input, a pipe or another device, such as bash's ``<(...)``."""
    return path == STDIO or is_device(Path(path).expanduser())


def read_text(path: str) -> str:
    """Return a UTF-8 text from a file, as ``read_text_file`` does, or from a stream.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    return decode(name_of(path), read_stream(path)) if is_stream(path) else read_text_file(path)


def read_rows(path: str, plain: bool) -> Iterator[tuple[str, object]]:
    """Yield (place, row) for every question of a file, as ``read_file`` does, or of a stream.

    The format of a stream, and of a file without a known extension, is found in its content: JSON lines, JSON, CSV with
    a column ``question``, Parquet, each also gzipped; otherwise, every line is a question.

    Args:
        plain: whether lines of text may be questions, which have no context of their own.

    Raises:
        UserError: it cannot be read, or is in none of these formats.
    """
    if not is_stream(path) and Path(path.removesuffix(".gz")).suffix.lower() not in PLAIN_SUFFIXES:
        yield from read_file(path)
        return
    name, raw = name_of(path), read_stream(path)
    if raw.startswith(b"PAR1"):
        yield from parquet_rows(name, raw)
        return
    text = decode(name, raw)
    first = next((line for line in text.splitlines() if line.strip()), "")
    if first.lstrip().startswith(("{", "[")):
        yield from read_squad_json(name, text, by_line=True)
    elif "question" in first.replace('"', "").replace(";", ",").replace("\t", ",").split(","):
        yield from read_csv(name, io.StringIO(text, newline=""), notes=[])
    elif first and not plain:
        raise UserError(
            f"{name}: not JSON, nor CSV with a column `question`; lines of text are questions about the text of"
            " --context or --context_file"
        )
    else:
        lines = enumerate(text.splitlines(), 1)
        yield from ((f"{name}, line {number}", {"question": line.strip()}) for number, line in lines if line.strip())


def name_of(path: str) -> str:
    """Return what messages call a path."""
    return "standard input" if path == STDIO else path


def read_stream(path: str) -> bytes:
    """Return the content of a stream or a file, decompressed if it is gzipped."""
    name = name_of(path)
    if path == STDIO and sys.stdin.isatty():
        warn("reading from the terminal; Ctrl-D ends the input (on Windows Ctrl-Z and Enter)")
    try:
        raw = sys.stdin.buffer.read() if path == STDIO else Path(path).expanduser().read_bytes()
        return gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    except (EOFError, OSError) as error:
        raise reading_error(name, error) from None


def decode(name: str, raw: bytes) -> str:
    reject_failed_download(name, raw[:HEAD_BYTES])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise decoding_error(name, raw, error.start) from None


def parquet_rows(name: str, raw: bytes) -> Iterator[tuple[str, object]]:
    try:
        rows = pyarrow.parquet.read_table(io.BytesIO(raw)).to_pylist()
    except Exception as error:  # pyarrow raises many types for corrupt sizes, types and text
        raise UserError(f"{name}: not a Parquet file, or a corrupt one: {one_line(error)}") from None
    yield from ((f"{name}, row {number}", row) for number, row in enumerate(rows, 1))
