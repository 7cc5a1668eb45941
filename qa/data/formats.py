"""Read files of questions in any supported format, one row at a time, each with its place in the file."""

import codecs
import gzip
import io
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet

from qa.data.annotation_tools import convert_exports
from qa.data.csv_tables import read_csv
from qa.data.squad_json import Unreadable, parse_json, read_item, read_lines, read_squad_json
from qa.io.files import require_file
from qa.runtime.errors import UserError, one_line

__all__ = ["FORMATS", "Unreadable", "parse_json", "read_file", "read_text_file"]

FORMATS = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
ADVICE = {  # for files that people have instead
    **dict.fromkeys(
        (".xlsx", ".xls", ".xlsm", ".ods", ".numbers"),
        "a spreadsheet; save its sheet as CSV in UTF-8 (Excel: Save As > CSV UTF-8; LibreOffice: Save As > Text CSV)",
    ),
    **dict.fromkeys((".zip", ".7z", ".rar", ".tar", ".tgz"), "an archive; unpack it, and give the file inside"),
    ".txt": "if it is a table, such as Excel's Unicode Text, rename it to .tsv or .csv; if JSON lines, to .jsonl",
}
BLOCK_BYTES, BATCH_ROWS = 1 << 20, 1000  # read at a time
HEAD_BYTES = 1024  # enough to recognize an error page or a Git LFS pointer


def read_file(path: str, notes: list[str] | None = None) -> Iterator[tuple[str, object]]:
    """Yield (place, row) for every question of a file; rows are not checked.

    Args:
        path: .json, .jsonl, .csv or .tsv, each also gzipped (.gz), or .parquet.
        notes: gets what was recognized in the file, such as "semicolon-separated", before the first row is yielded.

    Raises:
        UserError: the file does not exist, or its format is unknown or does not match its name.
    """
    notes = [] if notes is None else notes
    return convert_exports(read_rows(path, notes), notes)


def read_rows(path: str, notes: list[str]) -> Iterator[tuple[str, object]]:
    """Yield the rows as ``read_file`` does, those of annotation tools unchanged."""
    if path.startswith(("http://", "https://")):
        raise UserError(
            f"{path}: a link, not a file; download it and give the file (Google Sheets: File > Download > CSV)"
        )
    path = str(Path(path).expanduser())
    suffix = Path(path.removesuffix(".gz")).suffix.lower()
    if suffix not in FORMATS:
        kind = f"unknown format {suffix or '(no file extension)'}"
        supported = f"supported: {', '.join(FORMATS)}"
        raise UserError(f"{path}: {kind}: {ADVICE[suffix]}" if suffix in ADVICE else f"{path}: {kind}; {supported}")
    if suffix == ".parquet":
        yield from read_parquet(path)
    elif suffix in (".csv", ".tsv"):
        with open_text(path, newline="", is_table=True) as file:
            if file.encoding == "utf-16":
                notes.append("UTF-16")
            yield from read_csv(path, file, notes)
    elif suffix == ".jsonl" and is_json_lines(path):
        with open_text(path, newline="\n") as file:
            yield from (item for place, row in read_lines(path, file) for item in read_item(place, row))
    else:
        yield from read_squad_json(path, read_text_file(path), suffix == ".jsonl")


def reject_failed_download(path: str, head: bytes) -> None:
    """Check that a file does not begin like what a failed download leaves behind.

    Raises:
        UserError: it is a Git LFS pointer, an HTML page or a ZIP archive, as every .xlsx and .ods file is.
    """
    if head.startswith(b"PK\x03\x04"):
        raise UserError(f"{path}: a spreadsheet or ZIP archive in spite of its name; save it as CSV, or unpack it")
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


def open_text(path: str, newline: str, is_table: bool = False) -> io.TextIOWrapper:
    """Open a text file as ``read_text_file`` reads it, for files larger than memory.

    The whole file is decoded once beforehand, so that reading the stream cannot fail later.

    Args:
        is_table: UTF-16 with a byte order mark is decoded too: spreadsheets write it.
    """
    require_file(path)
    encoding, done = "utf-8-sig", 0
    try:
        with open(path, "rb") as file:
            reject_failed_download(path, file.read(HEAD_BYTES))
        opener = gzip.open if path.endswith(".gz") else open
        with opener(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            reject_failed_download(path, head)
            if is_table and head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                encoding = "utf-16"
            elif is_table and b"\0" in head[:2]:
                raise UserError(f"{path}: UTF-16 without a byte order mark; save it as UTF-8")
            decoder = codecs.getincrementaldecoder(encoding)()
            for raw in itertools.chain([head], iter(lambda: file.read(BLOCK_BYTES), b"")):
                pending = len(decoder.getstate()[0])
                try:
                    decoder.decode(raw)
                except UnicodeDecodeError as error:
                    raise decoding_error(path, head, done - pending + error.start, is_table) from None
                done += len(raw)
        if decoder.getstate()[0]:
            raise decoding_error(path, head, done - len(decoder.getstate()[0]), is_table)
    except (EOFError, OSError, zlib.error) as error:
        raise reading_error(path, error) from None
    return opener(path, "rt", encoding=encoding, newline=newline)


def decoding_error(path: str, head: bytes, byte: int, is_table: bool = False) -> UserError:
    if head[:2] == b"\x1f\x8b":
        return UserError(f"{path}: gzip data; rename it so that it ends in .gz")
    utf_16 = head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if utf_16:
        kind = f"not UTF-16 at byte {byte}, as its beginning says" if is_table else "UTF-16, not UTF-8"
    else:
        kind = f"not UTF-8 at byte {byte}"
    excel = " (Excel: Save As > CSV UTF-8; its plain CSV is in the encoding of that computer)" if is_table else ""
    return UserError(f"{path}: {kind}; save it as UTF-8{excel}")


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
