"""Corrupt question files are either read with counts that add up, or rejected in one line that names the place.

Never another exception, a hang, or silently another answer. All variants are generated from fixed seeds; the message of
a failing one contains its number.
"""

import copy
import csv
import gzip
import io
import json
import random
import time

import pyarrow as pa
import pyarrow.parquet
import pytest
from helpers.mutations import MUTATIONS, TIME_LIMIT, flip, mutate_tree, time_limit
from hypothesis import given, settings
from hypothesis import strategies as st

from qa.data.checks import locate
from qa.data.splits import load_splits
from qa.options.arguments import DataArguments
from qa.runtime.errors import UserError

PARAGRAPHS = [
    (
        "Ann wrote it in 1931, and Ann read it to Bob.",
        [("Who wrote it?", "Ann"), ("When?", "1931"), ("To whom?", "Bob")],
    ),
    (
        "Zoë 🙂 was born in São Tomé; 🙂 Zoë left in May.",
        [("Where?", "São Tomé"), ("Who left?", "Zoë"), ("When?", "May")],
    ),
    ("נולדה בירושלים ועברה לחיפה.", [("איפה?", "בירושלים"), ("לאן?", "לחיפה")]),
    ("Cafe\u0301 Ame\u0301lie, opened by Ire\u0301ne\nin Lyon.", [("Which?", "Ame\u0301lie"), ("Where?", "Lyon")]),
    ("The mayor, Hedo Brinas, met Mira Tasko.", [("Who met Mira?", "Hedo Brinas"), ("Whom?", "Mira Tasko")]),
]
# The last occurrence of each answer: if there are several, a wrong offset cannot be repaired.
ROWS = [
    {
        "id": f"q{i}{j}",
        "title": "synthetic",
        "context": context,
        "question": question,
        "answers": [{"text": answer, "answer_start": context.rindex(answer)}],
    }
    for i, (context, questions) in enumerate(PARAGRAPHS)
    for j, (question, answer) in enumerate(questions)
]
FORMATS = ("json", "flat.json", "json.gz", "jsonl", "csv", "parquet")


def nested(rows: list[dict]) -> dict:
    """Return nested SQuAD JSON, with a new article wherever the context changes."""
    articles: list[dict] = []
    before = None
    for row in rows:
        row = copy.deepcopy(row)
        context = row.pop("context", None) if isinstance(row, dict) else None
        if before is None or context != before:
            articles.append({"title": "synthetic", "paragraphs": [{"context": context, "qas": []}]})
        articles[-1]["paragraphs"][0]["qas"].append(row)
        before = context
    return {"version": "1.1", "data": articles}


def encode(rows: list, form: str) -> bytes:
    """Return the bytes of a file of one of the ``FORMATS``."""
    if form == "csv":
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, ["id", "title", "context", "question", "answers"])
        writer.writeheader()
        writer.writerows({**row, "answers": json.dumps(row["answers"])} for row in rows)
        return file.getvalue().encode()
    if form == "parquet":
        sink = io.BytesIO()
        answers = [json.dumps(row["answers"]) for row in rows]
        columns = {name: [row.get(name) for row in rows] for name in ("id", "context", "question")}
        pyarrow.parquet.write_table(pa.table({**columns, "answers": answers}), sink, compression="none")
        return sink.getvalue()
    if form == "jsonl":
        return "\n".join(json.dumps(row) for row in rows).encode()
    text = json.dumps(rows if form == "flat.json" else nested(rows), ensure_ascii="udcff" in repr(rows), indent=1)
    return gzip.compress(text.encode(), mtime=0) if form == "json.gz" else text.encode()


def load_and_check(path, variant: str, split: str = "train"):
    """Return the split loaded from a file, checked for what always holds; None if it was rejected in one line."""
    try:
        with time_limit():
            loaded = load_splits(DataArguments(**{f"{split}_file": str(path)}), (split,))[split]
    except UserError as error:
        message = str(error)
        assert str(path) in message and "\n" not in message and message.isprintable() and len(message) < 1500, variant
        return None
    except Exception as error:
        raise AssertionError(f"{variant}: {error!r}") from error
    dropped = [problem for problem in loaded.problems if problem.done == "dropped"]
    repaired = {problem.place for problem in loaded.problems if problem.done not in ("dropped", "kept")}
    assert loaded.read == len(loaded.examples) + loaded.dropped.total() and len(dropped) == loaded.dropped.total(), (
        variant
    )
    assert len(repaired) == loaded.repaired and len(loaded.places) == len(loaded.examples), variant
    assert all(problem.place.startswith(f"{path}, ") and problem.detail for problem in loaded.problems), variant
    for row in loaded.examples if split == "train" else ():
        assert row["context"].strip() and row["question"].strip() and row["id"].strip(), variant
        for text, start in zip(*row["answers"].values(), strict=True):
            assert start >= 0 and text.strip() and row["context"][start : start + len(text)] == text, variant
    assert sum(not row["answers"]["text"] for row in loaded.examples) == loaded.unanswerable, variant
    return loaded


def expected_examples(rows: list[dict]) -> dict[str, tuple]:
    return {row["id"]: (row["context"], row["question"], *row["answers"][0].values()) for row in rows}


def loaded_examples(loaded) -> dict[str, tuple]:
    return {
        row["id"]: (row["context"], row["question"], *(values[0] for values in row["answers"].values() if values))
        for row in loaded.examples
    }


@pytest.mark.parametrize("form", FORMATS)
def test_an_intact_file_has_no_problems(tmp_path, form):
    path = tmp_path / f"x.{form}"
    path.write_bytes(encode(ROWS, form))
    loaded = load_and_check(path, form)
    assert loaded_examples(loaded) == expected_examples(ROWS) and not loaded.problems


@pytest.mark.parametrize("form", FORMATS)
def test_corrupt_bytes(tmp_path, form):
    """200 variants of each format; flipped bits that go unreported lose no question and move no answer."""
    originals = expected_examples(ROWS)
    content, rng, path = encode(ROWS, form), random.Random(f"bytes {form}"), tmp_path / f"x.{form}"
    for number in range(200):
        mutate = rng.choice(MUTATIONS)
        variant = f"{form} {number} {mutate.__name__}"
        path.write_bytes(mutate(content, rng))
        if (loaded := load_and_check(path, variant)) is None:
            continue
        if mutate is flip and not loaded.problems:
            assert loaded.read == len(ROWS), f"{variant}: a question is lost"
            for key, (*_, text, start) in loaded_examples(loaded).items():
                assert key not in originals or (text, start) == originals[key][2:], variant
        if form == "json.gz":
            assert loaded_examples(loaded) == originals, f"{variant}: gzip has a checksum"


@pytest.mark.parametrize(
    ("form", "split"), [("json", "train"), ("flat.json", "train"), ("jsonl", "train"), ("json", "validation")]
)
def test_corrupt_structure(tmp_path, form, split):
    """150 variants each: keys removed, renamed and exchanged, values of other types, one to three at a time."""
    rng, path = random.Random(f"structure {form} {split}"), tmp_path / f"x.{form}"
    whole = expected_examples(ROWS)
    for number in range(150):
        tree = copy.deepcopy(ROWS) if form in ("flat.json", "jsonl") else nested(ROWS)
        variant = f"{form} {number} " + ", ".join(mutate_tree(tree, rng) for _ in range(rng.choice((1, 1, 2, 3))))
        lines = "\n".join(map(json.dumps, tree)) if form == "jsonl" else json.dumps(tree)
        path.write_text(lines)
        loaded = load_and_check(path, variant, split)
        if loaded is None:
            continue
        known = {problem.id for problem in loaded.problems}
        assert split == "train" or set(loaded.dropped) <= {"empty question"}, "a score over fewer questions"
        for key, (context, question, *answer) in loaded_examples(loaded).items():
            same = key in whole and (context, question) == whole[key][:2]
            if same and answer and answer[0] == whole[key][2] and answer[1] != whole[key][3]:
                assert context.count(answer[0]) > 1 or key in known, variant


def offsets(context: str, text: str, codec: str, size: int) -> set[int]:
    """Return every offset of a text in its context, in units of ``size`` bytes."""
    places = (at for at in range(len(context)) if context[at : at + len(text)] == text)
    return {len(context[:at].encode(codec)) // size for at in places}


def corrupt_row(row: dict, how: str, typed: bool, rng: random.Random) -> tuple[str, int | None]:
    """Change a row in place; return what must be done about it, and the offset that its answer must then have.

    Args:
        typed: columns of the format hold only text.
    """
    answer, context = row["answers"][0], row["context"]
    text, start = answer["text"], answer["answer_start"]
    action = ("repaired", start) if context.count(text) == 1 else ("dropped", None)
    if how == "shifted":
        occupied = offsets(context, text, "utf-32-le", 4) | offsets(context, text, "utf-8", 1)
        occupied |= offsets(context, text, "utf-16-le", 2)
        answer["answer_start"] = rng.choice([at for at in range(len(context)) if at not in occupied])
    elif how in ("utf-8", "utf-16-le"):
        answer["answer_start"] = len(context[:start].encode(how)) // (2 if how == "utf-16-le" else 1)
        action = ("converted" if answer["answer_start"] != start else "", start)
    elif how == "outside":
        answer["answer_start"] = rng.choice((-1, -7, len(context) + 400, 10**30, -(10**400), 1e308))
    elif how == "no number":
        answer["answer_start"] = rng.choice((None, True, "3", "x", [3], {}, 2.5, float("nan"), float("-inf")))
    elif how == "float":
        answer["answer_start"], action = float(start), ("", start)
    elif how == "control":
        row["question"], action = row["question"] + rng.choice("\0\x1b\x07\ufffd"), ("kept", start)
    elif how == "one more":
        row["answers"], action = [answer, {"text": "not there", "answer_start": 0}], ("answer left out", start)
    else:
        action = ("dropped", None)
    if how == "blank":
        answer["text"] = rng.choice((" ", "\t\n", "\u2003"))
    elif how == "elsewhere":
        answer["text"] = text + "?"
    elif how == "no text":
        answer["text"] = rng.choice((None, 3, [text], {"a": 1}))
    elif how == "no answers":
        row["answers"] = rng.choice((3, "x", {"a": 1}, [text], {"text": [text], "answer_start": []}))
    elif how == "no question":
        row["question"] = rng.choice((None, "", " \n") if typed else (None, "", " \n", 3, ["x"], float("nan")))
    elif how == "no id":
        row["id"] = rng.choice((None, "", " ") if typed else (None, "", " ", True, [1], {}))
    elif how == "half a character":
        row[rng.choice(("question", "id"))] += "\udcff"
    return action


OFFSETS = ("shifted", "shifted", "utf-8", "utf-8", "utf-16-le", "outside", "no number", "float")
TEXTS = ("control", "one more", "blank", "elsewhere", "no text", "no answers", "no question", "no id")


@pytest.mark.parametrize("form", FORMATS)
def test_corrupt_questions(tmp_path, form):
    """150 variants of each format: one to three corrupt questions are repaired or dropped, the others unchanged."""
    rng, path, typed = random.Random(f"spoiled {form}"), tmp_path / f"x.{form}", form in ("csv", "parquet")
    kinds = OFFSETS + TEXTS + (() if typed else ("half a character",))
    for number in range(150):
        rows = copy.deepcopy(ROWS)
        expected, done = expected_examples(ROWS), []
        variant = f"{form} {number}"
        for index in rng.sample(range(len(rows)), rng.randrange(1, 4)):
            key, how = rows[index]["id"], rng.choice(kinds)
            variant += f", {key} {how}"
            what, start = corrupt_row(rows[index], how, typed, rng)
            done += [what] if what else []
            if start is None:
                del expected[key]
            else:
                expected[key] = (rows[index]["context"], rows[index]["question"], expected[key][2], start)
        path.write_bytes(encode(rows, form))
        loaded = load_and_check(path, variant)
        assert loaded_examples(loaded) == expected, variant
        assert sorted(problem.done for problem in loaded.problems) == sorted(done), variant


@settings(max_examples=500)
@given(st.data())
def test_located_answers_are_at_the_returned_offset(data):
    """For any offset; one in characters, bytes or UTF-16 units leads to the occurrence that it counts."""
    context = data.draw(st.text("ab é🙂א\u0301", min_size=1, max_size=30))
    begin = data.draw(st.integers(0, len(context) - 1))
    text = context[begin : data.draw(st.integers(begin + 1, len(context)))]
    start = data.draw(st.integers(-3, 130))
    at, reason = locate(context, text, start)
    places = offsets(context, text, "utf-32-le", 4)
    assert at in places or (at == -1 and (len(places) > 1))
    assert (reason is None) == (start in places)
    if at >= 0 and reason:
        coded = {len(context[:at].encode("utf-8")), len(context[:at].encode("utf-16-le")) // 2}
        assert len(places) == 1 or start in coded


def test_a_context_of_one_megabyte_is_read_in_seconds(tmp_path):
    """Ten questions, with correct offsets, offsets in bytes, and wrong ones."""
    context = "Zoë met Ann. " * 80_000 + "Then she met Bob."
    starts = [context.index("Bob"), len(context[: context.index("Bob")].encode()), 5, None, 10**9] * 2
    rows = [
        {"id": i, "context": context, "question": "Whom?", "answers": [{"text": "Bob", "answer_start": start}]}
        for i, start in enumerate(starts)
    ]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    started = time.perf_counter()
    loaded = load_and_check(path, "one megabyte")
    assert loaded.repaired == 8 and len(loaded.examples) == 10 and time.perf_counter() - started < TIME_LIMIT
