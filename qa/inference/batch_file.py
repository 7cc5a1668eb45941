"""Answer many questions, and write the answers to a file or to standard output."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from qa.data.formats import Unreadable
from qa.data.streams import read_rows
from qa.inference.answerer import QuestionAnswerer
from qa.io.files import is_device, writing
from qa.runtime.console import progress, warn
from qa.runtime.errors import UserError


def read_questions(path: str, context: str | None) -> Iterator[dict]:
    """Yield rows with ``question`` and ``context``, the latter replaced by ``context`` if given.

    Args:
        path: a file, or a stream as in ``qa.data.streams``.

    Raises:
        UserError: a row that cannot be read, or lacks one of them.
    """
    for place, row in read_rows(path, plain=context is not None):
        if isinstance(row, Unreadable):
            raise UserError(f"{place}: {row.why}")
        if not isinstance(row, dict):
            raise UserError(f"{place}: not an object with a `question`")
        if context is not None:
            row = row | {"context": context}
        for name in ("question", "context"):
            if not isinstance(row.get(name), str) or (name == "question" and not row[name].strip()):
                advice = "; add it, or give one text for all questions as --context_file" if name == "context" else ""
                raise UserError(f"{place}: has no `{name}`{advice}")
        yield row


def answer_rows(answerer: QuestionAnswerer, rows: list[dict]) -> Iterator[dict]:
    """Yield for each row its id, its question and the answer, or ``answers`` with ``top_k`` above 1."""
    results = answerer.stream((row["question"], row["context"]) for row in rows)
    for row, result in zip(rows, results, strict=True):
        kept = {name: row[name] for name in ("id", "question") if row.get(name) is not None}
        yield kept | ({"answers": result} if isinstance(result, list) else result)


def json_lines(answered: Iterable[dict]) -> Iterator[str]:
    for each in answered:
        yield json.dumps(each, ensure_ascii=False) + "\n"


def csv_lines(answered: Iterable[dict], with_ids: bool) -> Iterator[str]:
    """Yield a header and the answers as CSV; with several answers to a question, each has a row and its ``rank``."""
    names = [*(["id"] if with_ids else []), "question", "rank", "score", "start", "end", "answer"]
    text, several = io.StringIO(), None
    writer = csv.DictWriter(text, names, restval="", extrasaction="ignore", lineterminator="\n")
    for each in answered:
        if several is None:
            several = "answers" in each
            names[:] = [name for name in names if several or name != "rank"]
            writer.writeheader()
        for rank, answer in enumerate(each.get("answers", [each]), 1):
            writer.writerow(each | answer | {"rank": rank})
        yield text.getvalue()
        text.seek(0), text.truncate()


def answer_lines(answerer: QuestionAnswerer, rows: list[dict], path: str, show_progress: bool) -> Iterator[str]:
    """Yield the lines of the answers, as CSV if the name in ``path`` ends in .csv."""
    answered: Iterable[dict] = answer_rows(answerer, rows)
    if show_progress:
        answered = progress(answered, len(rows), "question")
    return (
        csv_lines(answered, any("id" in row for row in rows)) if path.lower().endswith(".csv") else json_lines(answered)
    )


def print_json_lines(answerer: QuestionAnswerer, rows: list[dict]) -> None:
    """Write JSON lines to standard output, in UTF-8, each as soon as it is known."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    for line in answer_lines(answerer, rows, "", show_progress=not sys.stdout.isatty()):
        print(line, end="", flush=True)


def answer_file(answerer: QuestionAnswerer, rows: list[dict], path: Path) -> None:
    """Write the answers to ``path``: CSV if it ends in .csv, otherwise JSON lines.

    They go to ``path`` with the suffix ``.part``, which is renamed when it is complete; Ctrl-C ends the process with
    status 130 and keeps it. A pipe or another device is written directly.
    """
    device = is_device(path)
    part = path if device else path.with_name(path.name + ".part")
    lines = answer_lines(answerer, rows, path.name, show_progress=True)
    with writing(path):
        file = part.open("w", encoding="utf-8", newline="\n")
    try:
        with writing(part, "" if device else "; it has the answers so far"):
            with file:
                file.writelines(lines)
            if not device:
                os.replace(part, path)
    except KeyboardInterrupt:
        warn("interrupted" + ("" if device else f": the answers so far are in {part}"))
        sys.exit(130)
