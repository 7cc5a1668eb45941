"""Answer the questions of a file, and write the answers to another."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from qa.data.formats import Unreadable, read_file
from qa.inference.answerer import QuestionAnswerer
from qa.runtime.console import progress, warn
from qa.runtime.errors import UserError


def read_questions(path: str, context: str | None) -> Iterator[dict]:
    """Yield rows with ``question`` and ``context``, the latter replaced by ``context`` if given.

    Raises:
        UserError: a row that cannot be read, or lacks one of them.
    """
    for place, row in read_file(path):
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


def answer_file(answerer: QuestionAnswerer, rows: list[dict], path: Path) -> None:
    """Write a JSON line for each row: its id, its question and the answer, or ``answers`` with ``top_k`` above 1.

    The lines go to ``path`` with the suffix ``.part``, which is renamed when it is complete; Ctrl-C ends the process
    with status 130 and keeps it.
    """
    part = path.with_name(path.name + ".part")
    try:
        file = part.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    pairs = ((row["question"], row["context"]) for row in rows)
    try:
        with file:
            results = zip(rows, answerer.stream(pairs), strict=True)
            for row, result in progress(results, len(rows), "question"):
                kept = {name: row[name] for name in ("id", "question") if row.get(name) is not None}
                kept |= {"answers": result} if isinstance(result, list) else result
                file.write(json.dumps(kept, ensure_ascii=False) + "\n")
    except KeyboardInterrupt:
        warn(f"interrupted: the answers so far are in {part}")
        sys.exit(130)
    except OSError as error:
        raise UserError(f"{part}: cannot be written: {error.strerror}; it has the answers so far") from None
    os.replace(part, path)
