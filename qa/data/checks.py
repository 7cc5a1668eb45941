"""Check one row: turn it into an example, repair what can be repaired, and report what is wrong.

An ``answer_start`` is an offset in characters, from 0. If the answer is not there, the offset is tried in UTF-8 bytes
and in UTF-16 code units; failing that, the answer's only occurrence in the context is used.
"""

import ast
import functools
import re
import reprlib
import warnings
from dataclasses import dataclass

from qa.data.formats import Unreadable, parse_json
from qa.runtime.console import count

UNITS = (("UTF-8 bytes", "utf-8", 1), ("UTF-16 units", "utf-16-le", 2))  # name, codec, bytes per unit
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd]")
brief = reprlib.Repr()
brief.maxstring = brief.maxother = 60


@dataclass(frozen=True)
class Problem:
    """One problem of one question.

    Attributes:
        place: file or dataset, and row, line or article in it.
        id: of the question; empty if it has none.
        reason: the kind of problem, by which problems are counted.
        detail: the problem in full.
        done: "dropped" if the question is not used; else "repaired", "converted", "answer left out" or "kept".
    """

    place: str
    id: str
    reason: str
    detail: str
    done: str


class InvalidRow(Exception):
    """A row that cannot be used; ``reason`` and ``detail`` as in ``Problem``."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


Finding = tuple[str, str, str]  # reason, detail, done


def check_row(row, training: bool) -> tuple[dict, list[Finding]]:
    """Return the example of a row, and the problems that were repaired or can be ignored.

    Training needs answers that occur in the context. Evaluation only compares texts: it keeps other answers too, with
    an ``answer_start`` of -1.

    Raises:
        InvalidRow: it is not a question, or, in training, its answer cannot be located.
    """
    if isinstance(row, Unreadable):
        raise InvalidRow("unreadable", row.why)
    if not isinstance(row, dict):
        raise InvalidRow("unreadable", "is not an object with `question` and `context`")
    findings: list[Finding] = []
    key, question, context = read_id(row), text_field(row, "question"), text_field(row, "context")
    impossible = str(row.get("is_impossible")).strip().lower() in ("true", "1", "1.0")
    if "answers" not in row and not impossible:
        raise InvalidRow("missing field", f"has no `answers`, only {brief.repr(list(row))}")
    if not question.strip():
        raise InvalidRow("empty question", "the question is empty")
    if not context.strip():
        if training:
            raise InvalidRow("empty context", "the context is empty")
        findings.append(("empty context", "the context is empty", "kept"))
    for name, text in (("question", question), ("context", context)):
        if not (text.isascii() and text.isprintable()) and (found := control_character(text)):
            findings.append(("control character", f"`{name}` has {found}", "kept"))
    answers = parse_answers(row.get("answers"))
    if row.get("answers", "") is None and not impossible:
        findings.append(("answers are null", "`answers` is null: treated as no answer", "kept"))
    if impossible and answers:
        answers = []
        detail = "`is_impossible` is true, but there are answers: treated as no answer"
        findings.append(("is_impossible with answers", detail, "kept"))
    texts, starts = check_answers(answers, context, training, findings)
    title = row.get("title")
    example = {
        "id": key,
        "title": title if isinstance(title, str) and not broken_character(title) else "",
        "context": context,
        "question": question,
        "answers": {"text": texts, "answer_start": starts},
    }
    return example, findings


def read_id(row: dict) -> str:
    value = row.get("id")
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        raise InvalidRow(
            "missing field", f"has no `id`, only {brief.repr(list(row))}" if "id" not in row else "has no `id`"
        )
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InvalidRow("field of a wrong type", f"`id` is {brief.repr(value)}, which is neither text nor a number")
    if isinstance(value, str):
        reject_broken_character("id", value)
    return str(value)


def text_field(row: dict, name: str) -> str:
    value = row.get(name)
    if value is None or value != value:  # pandas writes a missing value as NaN
        raise InvalidRow("missing field", f"has no `{name}`")
    if not isinstance(value, str):
        raise InvalidRow(
            "field of a wrong type", f"`{name}` is {brief.repr(value)}; `question` and `context` must be text"
        )
    reject_broken_character(name, value)
    return value


def reject_broken_character(name: str, text: str) -> None:
    if not text.isascii() and broken_character(text):
        raise InvalidRow("broken character", f"`{name}` has {broken_character(text)}; write it as UTF-8")


@functools.lru_cache(maxsize=8)  # the questions of a paragraph share its context
def broken_character(text: str) -> str:
    """Describe the first unpaired surrogate of a text, which no encoding can write; empty if there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"an unpaired surrogate at {error.start}"
    return ""


@functools.lru_cache(maxsize=8)
def control_character(text: str) -> str:
    """Describe the first control character of a text; empty if there is none."""
    found = CONTROL.search(text)
    return f"U+{ord(found[0]):04X} at {found.start()}" if found else ""


def parse_answers(value) -> list[tuple[str, object]]:
    """Return (text, answer_start) pairs from any of the usual representations of answers; offsets are not checked.

    Raises:
        InvalidRow: the value has none of these forms.
    """
    if isinstance(value, str) and value.strip():
        for parse in (parse_json, parse_literal):
            try:
                parsed = parse(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            return parse_answers(parsed)
        raise InvalidRow(
            "malformed answers",
            f"`answers` is text that is not JSON: {brief.repr(value)}; write it as"
            ' {"text": ["..."], "answer_start": [0]}',
        )
    if value is None or isinstance(value, str) or (isinstance(value, float) and value != value):
        return []
    if isinstance(value, dict) and {"text", "answer_start"} & value.keys():
        texts, starts = as_list(value.get("text")), as_list(value.get("answer_start"))
        if value.get("answer_start") is None:
            starts = [None] * len(texts)
        if len(texts) != len(starts):
            raise InvalidRow(
                "malformed answers", f"`answers` has {count(len(texts), 'text')} and {count(len(starts), 'start')}"
            )
        pairs = list(zip(texts, starts, strict=True))
    elif isinstance(value, list) and {type(answer) for answer in value} <= {dict}:
        pairs = [(answer.get("text"), answer.get("answer_start")) for answer in value]
    else:
        raise InvalidRow("malformed answers", f"`answers` must hold `text` and `answer_start`, not {brief.repr(value)}")
    for text, _ in pairs:
        if not isinstance(text, str):
            raise InvalidRow("malformed answers", f"the text of an answer is {brief.repr(text)}, which is not text")
    return pairs if any(text for text, _ in pairs) else []  # some datasets write [""] for no answer


def as_list(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def parse_literal(text: str):
    """Return the value of a Python literal, as pandas writes a column of dicts to CSV."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about backslashes in the text
        return ast.literal_eval(text)


def check_answers(
    answers: list[tuple[str, object]], context: str, training: bool, findings: list[Finding]
) -> tuple[list[str], list[int]]:
    """Return texts and starts of the answers that are kept; add one entry to ``findings`` for each kind of problem.

    Raises:
        InvalidRow: there are answers, but none can be kept.
    """
    texts, starts = [], []
    problems: dict[tuple[str, str], str] = {}
    for text, start in answers:
        reject_broken_character("answers", text)
        if not text or text.isspace():
            problems.setdefault(("answer only white space", "answer left out"), "an answer is only whitespace")
            continue
        at, reason = locate(context, text, start)
        if reason:
            detail = f"{brief.repr(text)} is not at {brief.repr(start)}"
            if at >= 0:
                detail, done = f"{detail} but at {at}", "converted" if reason.startswith("offset in") else "repaired"
            else:
                detail += " and occurs more than once" if text in context else " or anywhere else in the context"
                done = "answer left out" if training else "kept"
            problems.setdefault((reason, done), detail)
        if at >= 0 or not training:
            texts.append(text)
            starts.append(at)
    if answers and not texts:
        (reason, _), detail = next(iter(problems.items()))
        raise InvalidRow(reason, detail)
    findings += [(reason, detail, done) for (reason, done), detail in problems.items()]
    return texts, starts


def locate(context: str, text: str, start) -> tuple[int, str | None]:
    """Return the offset of an answer in its context (-1: uncertain) and what is wrong with ``start``, or None."""
    if type(start) is int and start >= 0 and context.startswith(text, start):
        return start, None
    if start is None:
        start, reason = -1, "no answer_start"
    elif (
        isinstance(start, bool) or not isinstance(start, (int, float)) or start % 1 != 0
    ):  # also true of NaN and infinity
        start, reason = -1, "answer_start not a whole number"
    else:
        start = int(start)
        reason = "answer not at its offset" if 0 <= start < len(context) else "answer_start out of range"
    if start >= 0 and context.startswith(text, start):
        return start, None
    counted = {} if start < 0 or context.isascii() else dict(count_units(context, text, start))
    if len(counted) == 1:
        return next(iter(counted.items()))
    first = context.find(text)
    return (first if first >= 0 and context.find(text, first + 1) < 0 else -1), reason


def count_units(context: str, text: str, start: int):
    """Yield (offset in characters, unit) for each unit in which the text is at offset ``start`` in the context."""
    for name, codec, width in UNITS:
        coded = encoded(context, codec)
        if coded.startswith(text.encode(codec), start * width):
            yield len(coded[: start * width].decode(codec)), f"offset in {name}"


@functools.lru_cache(maxsize=2)
def encoded(text: str, codec: str) -> bytes:
    return text.encode(codec)
