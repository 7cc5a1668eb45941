"""Read the answers of a row from any of the forms in which people and programs write them; nothing is located here."""

import ast
import re
import reprlib
import warnings

from qa.data.squad_json import parse_json

# Columns of flat rows with the text of an answer, and those with its offset; the first that a row has is used.
TEXT_COLUMNS = ("answer_text", "answer", "answers.text", "answers_text")
START_COLUMNS = ("answer_start", "answers.answer_start", "answers_start")
NUMBERED_TEXT = re.compile(r"answer(?:_text)?_?(\d+)")
WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}(?:[.,]0*)?")  # spreadsheets and pandas write 18 also as 18.0 or 18,0
STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
NUMPY_STRINGS = re.compile(rf"\[\s*{STRING}(?:\s+{STRING})*\s*\]", re.DOTALL)  # numpy prints arrays without commas
NUMPY_NUMBERS = re.compile(r"\[\s*-?\d+(?:\s+-?\d+)*\s*\]")
NUMPY_CALLS = ("array", "np.array", "numpy.array", "np.str_", "np.int64", "np.int32", "np.float64")
PARSE_ERRORS = (ValueError, TypeError, SyntaxError, RecursionError, MemoryError)
brief = reprlib.Repr()
brief.maxstring = brief.maxother = 60


class InvalidRow(Exception):
    """A row that cannot be used; ``reason`` and ``detail`` as in ``Problem``."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def has_answers(row: dict) -> bool:
    """Return whether a row has a column for answers, even an empty one."""
    return "answers" in row or any(name in row for name in TEXT_COLUMNS) or bool(numbered_columns(row))


def numbered_columns(row: dict) -> list[tuple[int, str]]:
    return sorted((int(found[1]), name) for name in row if (found := NUMBERED_TEXT.fullmatch(str(name))))


def read_answers(row: dict) -> list[tuple[str, object]]:
    """Return (text, answer_start) pairs of a row; offsets are not checked.

    They are in ``answers``, or in columns of their own: ``answer`` or ``answer_text`` beside ``answer_start``, where
    several answers are lists, or in ``answer_1``, ``answer_start_1``, ``answer_2`` and so on.

    Raises:
        InvalidRow: the value has none of the usual forms.
    """
    start = next((row[name] for name in START_COLUMNS if name in row), None)
    if "answers" in row:
        value = row["answers"]
        return flat_answers(value, start) if start is not None and is_plain(value) else parse_answers(value)
    for name in TEXT_COLUMNS:
        if name in row:
            return flat_answers(row[name], start)
    pairs = []
    for number, name in numbered_columns(row):
        names = (f"answer_start_{number}", f"answer_start{number}", f"answer_{number}_start")
        pairs += flat_answers(row[name], next((row[each] for each in names if each in row), None))
    return pairs


def is_plain(value) -> bool:
    """Return whether the value of ``answers`` is a text, or texts, whose offsets are in a column of their own."""
    parsed = parse_cell(value)
    return isinstance(parsed, str) or (isinstance(parsed, list) and all(isinstance(item, str) for item in parsed))


def flat_answers(value, start) -> list[tuple[str, object]]:
    """Return (text, answer_start) pairs of two columns, each with one value or with a list."""
    texts, starts = parse_cell(value), parse_cell(start)
    if isinstance(texts, dict) or (isinstance(texts, list) and any(isinstance(item, dict) for item in texts)):
        return parse_answers(texts)
    if isinstance(texts, list) and not all(isinstance(item, str) for item in texts) and isinstance(value, str):
        texts = value  # an answer in brackets, such as [1]
    texts = as_list(texts)
    if texts and (starts is None or starts == ""):
        starts = [None] * len(texts)
    pairs = parse_answers({"text": texts, "answer_start": as_list(starts) if any(texts) else [None] * len(texts)})
    return [(text, read_offset(at)) for text, at in pairs]


def parse_cell(value):
    """Return the list or dict that a cell holds as text, None for an empty one, or the value itself."""
    if value is None or value != value:
        return None
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{", "array(")):
        return value
    for parse in (parse_printed_array, parse_json, parse_literal):
        try:
            parsed = parse(value)
        except PARSE_ERRORS:
            continue
        return parsed if isinstance(parsed, (list, dict)) else value
    return value


def read_offset(value):
    """Return an offset that a table holds as text as an integer, None for an empty cell, or the value itself."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    return int(re.split("[.,]", text)[0]) if WHOLE_NUMBER.fullmatch(text) else text or None


def parse_answers(value) -> list[tuple[str, object]]:
    """Return (text, answer_start) pairs from any of the usual representations of answers; offsets are not checked.

    Raises:
        InvalidRow: the value has none of these forms.
    """
    if isinstance(value, str) and value.strip():
        for parse in (parse_json, parse_literal):
            try:
                parsed = parse(value)
            except PARSE_ERRORS:
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
            raise InvalidRow("malformed answers", f"`answers` has {len(texts)} texts and {len(starts)} starts")
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


def parse_printed_array(text: str) -> list:
    """Return the elements of an array as numpy prints it, without commas, which Python would read as one text.

    Raises:
        ValueError: the text is no such array.
    """
    text = text.strip()
    if NUMPY_STRINGS.fullmatch(text):
        return [ast.literal_eval(found) for found in re.findall(STRING, text, re.DOTALL)]
    if NUMPY_NUMBERS.fullmatch(text):
        return [int(number) for number in text[1:-1].split()]
    raise ValueError("not an array of texts or whole numbers")


def parse_literal(text: str):
    """Return the value of a Python literal, as pandas writes a column of dicts to CSV, arrays of numpy included.

    Raises:
        ValueError: the text contains anything else; no part of it is executed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about backslashes in the text
        return literal_value(ast.parse(text.strip(), mode="eval").body)


def literal_value(node: ast.expr):
    if isinstance(node, ast.Dict):
        keys = [literal_value(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(literal_value, node.values), strict=True))
    if isinstance(node, (ast.List, ast.Tuple)):
        return [literal_value(item) for item in node.elts]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in NUMPY_CALLS and node.args:
        return literal_value(node.args[0])
    if isinstance(node, ast.Name) and node.id == "nan":
        return None
    return ast.literal_eval(node)
