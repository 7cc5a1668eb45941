"""Check one row: turn it into an example, repair what can be repaired, and report what is wrong.

An ``answer_start`` is an offset in characters, from 0. If the answer is not there, the shift that most wrong offsets of
the source share is tried, then the offset in UTF-8 bytes and in UTF-16 code units; failing that, the answer's only
occurrence in the context is used.
"""

import functools
import re
from dataclasses import dataclass

from qa.data.answers import InvalidRow, brief, has_answers, read_answers
from qa.data.squad_json import Unreadable

MISPLACED, OUT_OF_RANGE = "answer not at its offset", "answer_start out of range"
SHIFTED = "offset shifted:"  # begins the reason of an answer that was located by the shift of its source
UNITS = (("UTF-8 bytes", "utf-8", 1), ("UTF-16 units", "utf-16-le", 2))  # name, codec, bytes per unit
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd]")


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


Finding = tuple[str, str, str]  # reason, detail, done


def check_row(row, training: bool, shift: int = 0) -> tuple[dict, list[Finding], int]:
    """Return the example of a row, the problems that were repaired or can be ignored, and how many answers are shifted.

    Training needs answers that occur in the context. Evaluation only compares texts: it keeps other answers too, with
    an ``answer_start`` of -1.

    Args:
        shift: characters that most wrong offsets of the source lack (``offset_shift.find_shift``); 0: no such shift.

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
    if not impossible and not has_answers(row):
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
    answers = read_answers(row)
    if row.get("answers", "") is None and not impossible:
        findings.append(("answers are null", "`answers` is null: treated as no answer", "kept"))
    if impossible and answers:
        answers = []
        detail = "`is_impossible` is true, but there are answers: treated as no answer"
        findings.append(("is_impossible with answers", detail, "kept"))
    texts, starts, shifted = check_answers(answers, context, training, shift, findings)
    title = row.get("title")
    example = {
        "id": key,
        "title": title if isinstance(title, str) and not broken_character(title) else "",
        "context": context,
        "question": question,
        "answers": {"text": texts, "answer_start": starts},
    }
    return example, findings, shifted


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
        others = f", only {brief.repr(list(row))}; --columns {name}=NAME maps another name" if name not in row else ""
        raise InvalidRow("missing field", f"has no `{name}`{others}")
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


def check_answers(
    answers: list[tuple[str, object]], context: str, training: bool, shift: int, findings: list[Finding]
) -> tuple[list[str], list[int], int]:
    """Return texts and starts of the answers that are kept, and how many of them were located by ``shift``.

    Adds one entry to ``findings`` for each kind of problem.

    Raises:
        InvalidRow: there are answers, but none can be kept.
    """
    texts, starts, shifted = [], [], 0
    problems: dict[tuple[str, str], str] = {}
    for text, start in answers:
        reject_broken_character("answers", text)
        if not text or text.isspace():
            problems.setdefault(("answer only white space", "answer left out"), "an answer is only whitespace")
            continue
        at, reason = locate(context, text, start, shift)
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
            shifted += reason is not None and reason.startswith(SHIFTED)
    if answers and not texts:
        (reason, _), detail = next(iter(problems.items()))
        raise InvalidRow(reason, detail)
    findings += [(reason, detail, done) for (reason, done), detail in problems.items()]
    return texts, starts, shifted


def locate(context: str, text: str, start, shift: int = 0) -> tuple[int, str | None]:
    """Return the offset of an answer in its context (-1: uncertain) and what is wrong with ``start``, or None.

    Args:
        shift: what to add to ``start`` if the text is not there; the text must be exactly at the sum.
    """
    if type(start) is int and start >= 0 and context.startswith(text, start):
        return start, None
    whole = False
    if start is None:
        start, reason = -1, "no answer_start"
    elif (
        isinstance(start, bool) or not isinstance(start, (int, float)) or start % 1 != 0
    ):  # also true of NaN and infinity
        start, reason = -1, "answer_start not a whole number"
    else:
        start, whole = int(start), True
        reason = MISPLACED if 0 <= start < len(context) else OUT_OF_RANGE
    if start >= 0 and context.startswith(text, start):
        return start, None
    if shift and whole and start + shift >= 0:
        if context.startswith(text, start + shift):
            return start + shift, f"{SHIFTED} {describe_shift(shift)}"
        shifted = {} if context.isascii() else dict(count_units(context, text, start + shift))
        if len(shifted) == 1:
            return next(iter(shifted)), f"{SHIFTED} {describe_shift(shift)}"
    counted = {} if start < 0 or context.isascii() else dict(count_units(context, text, start))
    if len(counted) == 1:
        return next(iter(counted.items()))
    first = context.find(text)
    return (first if first >= 0 and context.find(text, first + 1) < 0 else -1), reason


def describe_shift(shift: int) -> str:
    """Return in words where an offset is to which ``shift`` characters must be added."""
    count = abs(shift)
    return f"{count:,} character{'s' * (count > 1)} {'early' if shift > 0 else 'late'}"


def count_units(context: str, text: str, start: int):
    """Yield (offset in characters, unit) for each unit in which the text is at offset ``start`` in the context."""
    for name, codec, width in UNITS:
        coded = encoded(context, codec)
        if coded.startswith(text.encode(codec), start * width):
            yield len(coded[: start * width].decode(codec)), f"offset in {name}"


@functools.lru_cache(maxsize=2)
def encoded(text: str, codec: str) -> bytes:
    return text.encode(codec)
