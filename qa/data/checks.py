"""One row to one example: what is wrong with it, and what can be done about that.

An ``answer_start`` counts characters from 0. One that does not lead to its text is read as UTF-8 bytes or
UTF-16 units where the text stands exactly there, else the text's only occurrence is taken.
"""

import ast
import functools
import re
import reprlib
import warnings
from dataclasses import dataclass

from qa.data.formats import Unreadable, parse_json

UNITS = (("UTF-8 bytes", "utf-8", 1), ("UTF-16 units", "utf-16-le", 2))  # name, codec, bytes in a unit
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd]")
brief = reprlib.Repr()
brief.maxstring = brief.maxother = 60


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one question.

    Attributes:
        reason: what is counted together; ``detail`` is the same in full.
        done: "dropped" where the question is not used; else "repaired", "converted", "answer left out" or "kept".
    """

    place: str
    id: str
    reason: str
    detail: str
    done: str


class Unusable(Exception):
    """A question that cannot be used: ``reason`` to count by, and the ``detail``."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


Finding = tuple[str, str, str]  # reason, detail, done


def check_row(row, training: bool) -> tuple[dict, list[Finding]]:
    """The example that a row makes, and what was wrong with it but could be mended or kept.

    Training needs an answer that stands in the context; evaluation only scores texts, and keeps the others
    with an ``answer_start`` of -1.

    Raises:
        Unusable: it is not a question, or, for training, one that cannot be labelled.
    """
    if isinstance(row, Unreadable):
        raise Unusable("unreadable", row.why)
    if not isinstance(row, dict):
        raise Unusable("unreadable", "is not an object with question and context")
    findings: list[Finding] = []
    key, question, context = read_id(row), text_field(row, "question"), text_field(row, "context")
    impossible = str(row.get("is_impossible")).strip().lower() in ("true", "1", "1.0")
    if "answers" not in row and not impossible:
        raise Unusable("missing field", f"has no `answers`, only {brief.repr(list(row))}")
    if not question.strip():
        raise Unusable("empty question", "its question is empty")
    if not context.strip():
        if training:
            raise Unusable("empty context", "its context is empty")
        findings.append(("empty context", "its context is empty", "kept"))
    for name, text in (("question", question), ("context", context)):
        if not (text.isascii() and text.isprintable()) and (found := control_character(text)):
            findings.append(("control character", f"`{name}` has {found}", "kept"))
    answers = parse_answers(row.get("answers"))
    if row.get("answers", "") is None and not impossible:
        findings.append(("answers are null", "`answers` is null, taken for no answer", "kept"))
    if impossible and answers:
        answers = []
        findings.append(("is_impossible with answers", "is_impossible, yet it has answers: taken for none", "kept"))
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
        raise Unusable(
            "missing field", f"has no `id`, only {brief.repr(list(row))}" if "id" not in row else "has no `id`"
        )
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Unusable("field of a wrong type", f"`id` is {brief.repr(value)}, neither text nor a number")
    if isinstance(value, str):
        refuse_broken("id", value)
    return str(value)


def text_field(row: dict, name: str) -> str:
    value = row.get(name)
    if value is None or value != value:  # NaN is what pandas writes for nothing
        raise Unusable("missing field", f"has no `{name}`")
    if not isinstance(value, str):
        raise Unusable(
            "field of a wrong type", f"`{name}` is {brief.repr(value)}; `question` and `context` must be text"
        )
    refuse_broken(name, value)
    return value


def refuse_broken(name: str, text: str) -> None:
    if not text.isascii() and broken_character(text):
        raise Unusable("broken character", f"`{name}` has {broken_character(text)}; write it as UTF-8")


@functools.lru_cache(maxsize=8)  # the questions of a paragraph share its context
def broken_character(text: str) -> str:
    """Half of a UTF-16 pair, which no encoding can write; empty where there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half a character at {error.start}"
    return ""


@functools.lru_cache(maxsize=8)
def control_character(text: str) -> str:
    """The first character that no text should hold, and where; empty where there is none."""
    found = CONTROL.search(text)
    return f"U+{ord(found[0]):04X} at {found.start()}" if found else ""


def parse_answers(value) -> list[tuple[object, object]]:
    """Answers in any of their usual shapes, as (text, answer_start), neither of them checked.

    Raises:
        Unusable: none of these shapes.
    """
    if isinstance(value, str) and value.strip():
        for parse in (parse_json, literal):
            try:
                parsed = parse(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            return parse_answers(parsed)
        raise Unusable(
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
            raise Unusable("malformed answers", f"`answers` has {len(texts)} texts and {len(starts)} starts")
        pairs = list(zip(texts, starts, strict=True))
    elif isinstance(value, list) and {type(answer) for answer in value} <= {dict}:
        pairs = [(answer.get("text"), answer.get("answer_start")) for answer in value]
    else:
        raise Unusable("malformed answers", f"`answers` must hold `text` and `answer_start`, not {brief.repr(value)}")
    for text, _ in pairs:
        if not isinstance(text, str):
            raise Unusable("malformed answers", f"the text of an answer is {brief.repr(text)}, which is not text")
    return pairs if any(text for text, _ in pairs) else []  # [""] is one way to write no answer


def as_list(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def literal(text: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of backslashes in the text
        return ast.literal_eval(text)


def check_answers(
    answers: list[tuple[str, object]], context: str, training: bool, findings: list[Finding]
) -> tuple[list[str], list[int]]:
    """Texts and starts of the answers that are kept; ``findings`` gets one entry for each kind of flaw."""
    texts, starts = [], []
    flaws: dict[tuple[str, str], str] = {}
    for text, start in answers:
        refuse_broken("answers", text)
        if not text or text.isspace():
            flaws.setdefault(("answer only white space", "answer left out"), "an answer is only white space")
            continue
        at, reason = locate(context, text, start)
        if reason:
            detail = f"{brief.repr(text)} is not at {brief.repr(start)}"
            if at >= 0:
                detail, done = f"{detail} but at {at}", "converted" if reason.startswith("offset in") else "repaired"
            else:
                detail += " and stands in several places" if text in context else " nor anywhere else"
                done = "answer left out" if training else "kept"
            flaws.setdefault((reason, done), detail)
        if at >= 0 or not training:
            texts.append(text)
            starts.append(at)
    if answers and not texts:
        (reason, _), detail = next(iter(flaws.items()))
        raise Unusable(reason, detail)
    findings += [(reason, detail, done) for (reason, done), detail in flaws.items()]
    return texts, starts


def locate(context: str, text: str, start) -> tuple[int, str | None]:
    """Where an answer stands, and what is wrong with its ``answer_start``; -1 where its place is not certain."""
    if type(start) is int and start >= 0 and context.startswith(text, start):
        return start, None
    if start is None:
        start, reason = -1, "no answer_start"
    elif isinstance(start, bool) or not isinstance(start, (int, float)) or start % 1 != 0:  # of NaN and infinity too
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
    """Yields (place, what was counted) where the text stands exactly ``start`` bytes or units into the context."""
    for name, codec, width in UNITS:
        coded = encoded(context, codec)
        if coded.startswith(text.encode(codec), start * width):
            yield len(coded[: start * width].decode(codec)), f"offset in {name}"


@functools.lru_cache(maxsize=2)
def encoded(text: str, codec: str) -> bytes:
    return text.encode(codec)
