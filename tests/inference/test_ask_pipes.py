"""``ask.py`` between pipes: questions and text from standard input, answers to standard output, to CSV and devices."""

import contextlib
import csv
import gzip
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from helpers.builders import squad
from helpers.commands import run, train_tiny

import ask
from qa.inference.batch_file import answer_file, print_json_lines
from qa.inference.terminal import format_answer
from qa.model.loading import announce
from qa.runtime.errors import UserError
from qa.runtime.process import run_command

TEXT = "It was long ago. Zoë was born in Sollen in 1931. Mira and Arna were born in Ørby. "
QUESTIONS = ["Where was Zoë born?", "Where was Mira born?", "What, and when?"]
needs_pipes = pytest.mark.skipif(not Path("/dev/fd").exists(), reason="this system has no /dev/fd")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data, tiny_model) -> Path:
    output = tmp_path_factory.mktemp("runs") / "model"
    train_tiny(tiny_data, tiny_model, output, "--num_train_epochs", 1)
    return output


@pytest.fixture(scope="module")
def answerer(trained) -> ask.QuestionAnswerer:
    return ask.pipeline("question-answering", model=trained)


@pytest.fixture
def type_in(monkeypatch):
    """Return a function that sets what standard input holds."""

    def fill(content: str | bytes) -> None:
        raw = content.encode() if isinstance(content, str) else content
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))

    return fill


@contextlib.contextmanager
def substituted(content: str) -> Iterator[str]:
    """Yield the path of a pipe with ``content``, as bash passes it for ``<(...)``."""
    reading, writing = os.pipe()
    os.write(writing, content.encode())
    os.close(writing)
    try:
        yield f"/dev/fd/{reading}"
    finally:
        os.close(reading)


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def as_csv(rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_parquet(rows: list[dict]) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


ROWS = [{"id": f"q{number}", "question": question, "context": TEXT} for number, question in enumerate(QUESTIONS)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        LINES[: LINES.index("\n")] + "\n\n" + LINES[LINES.index("\n") :].rstrip(),
        "\ufeff" + LINES,
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        json.dumps({"data": ROWS}),
        json.dumps(squad([(row["context"], row["question"], "Sollen") for row in ROWS])),
        as_csv(ROWS),
        as_csv([{"context": row["context"], "question": row["question"]} for row in ROWS]),
        gzip.compress(LINES.encode()),
        as_parquet(ROWS),
    ],
    ids="lines blank-lines byte-order-mark array indented data SQuAD CSV CSV-without-ids gzip Parquet".split(),
)
def test_format_of_standard_input_is_found(trained, answerer, type_in, capsys, content):
    type_in(content)
    run(ask, "--model_name_or_path", trained, "--input", "-")
    answered, wanted = json_lines(capsys.readouterr().out), answerer(question=QUESTIONS, context=TEXT)
    assert [line.pop("question") for line in answered] == QUESTIONS
    assert {line.pop("id", "q") for line in answered} <= {"q", "q0", "q1", "q2"}
    assert [line["answer"] for line in answered] == [answer["answer"] for answer in wanted]
    assert all(TEXT[line["start"] : line["end"]] == line["answer"] for line in answered)


def test_lines_of_text_are_questions_about_one_text(trained, type_in, tmp_path, capsys):
    lines = "\n".join([*QUESTIONS, "", ""])
    type_in(lines)
    run(ask, "--model_name_or_path", trained, "--input", "-", "--context", TEXT)
    first = capsys.readouterr().out
    assert [line["question"] for line in json_lines(first)] == QUESTIONS
    (tmp_path / "questions.txt").write_text(lines, encoding="utf-8")
    type_in(TEXT)
    run(ask, "--model_name_or_path", trained, "--input", tmp_path / "questions.txt", "--context_file", "-")
    assert capsys.readouterr().out == first


@needs_pipes
def test_process_substitution(trained, answerer, capsys):
    with substituted("question\n" + QUESTIONS[0]) as questions, substituted(TEXT) as text:
        run(ask, "--model_name_or_path", trained, "--input", questions, "--context_file", text)
    (line,) = json_lines(capsys.readouterr().out)
    assert line == {"question": QUESTIONS[0]} | answerer(QUESTIONS[0], TEXT)


def test_text_from_standard_input(trained, type_in, capsys):
    type_in("\ufeff" + TEXT)
    run(ask, "--model_name_or_path", trained, "--question", QUESTIONS[0], "--context_file", "-")
    shown = capsys.readouterr().out
    type_in("")
    run(ask, "--model_name_or_path", trained, "--question", QUESTIONS[0], "--context", TEXT)
    assert shown == capsys.readouterr().out != ""


def test_standard_output_has_nothing_but_answers(trained, type_in, capsys):
    options = ("--model_name_or_path", trained, "--input", "-", "--null_score_diff_threshold", 1)
    for output in ((), ("--output", "-")):
        type_in(LINES)
        run(ask, *options, *output)
        printed = capsys.readouterr()
        assert [line["id"] for line in json_lines(printed.out)] == ["q0", "q1", "q2"]
        assert "note: null_score_diff_threshold has no effect" in printed.err
    announce("someone/a-model-that-only-this-test-asks-for")
    printed = capsys.readouterr()
    assert printed.out == "" and "on the Hub" in printed.err


def test_answers_are_printed_as_they_come(answerer, monkeypatch, capsys):
    answer, seen = {"score": 1.0, "start": 0, "end": 3, "answer": "Zoë"}, []

    def stream(pairs):
        for _ in pairs:
            seen.append(len(capsys.readouterr().out.splitlines()))
            yield answer

    monkeypatch.setattr(answerer, "stream", stream)
    print_json_lines(answerer, ROWS)
    assert seen == [0, 1, 1] and json_lines(capsys.readouterr().out) == [
        {"id": "q2", "question": QUESTIONS[2]} | answer
    ]


def test_output_as_csv(trained, answerer, tmp_path):
    (tmp_path / "in.jsonl").write_text(LINES, encoding="utf-8")
    options = ("--model_name_or_path", trained, "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.CSV")
    run(ask, *options)
    with open(tmp_path / "out.CSV", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "question", "score", "start", "end", "answer"]
    wanted = answerer(question=QUESTIONS, context=TEXT)
    assert [(row["id"], row["answer"], int(row["start"])) for row in rows] == [
        (row["id"], answer["answer"], answer["start"]) for row, answer in zip(ROWS, wanted, strict=True)
    ]
    run(ask, *options, "--top_k", 2)
    with open(tmp_path / "out.CSV", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["rank"]) for row in rows] == [(f"q{i}", str(rank)) for i in range(3) for rank in (1, 2)]


@needs_pipes
def test_output_into_a_pipe(trained, tmp_path, capsys):
    """As bash passes ``>(...)``; it is neither renamed over nor followed by the summary."""
    (tmp_path / "in.jsonl").write_text(LINES, encoding="utf-8")
    reading, writing = os.pipe()
    options = ("--model_name_or_path", trained, "--input", tmp_path / "in.jsonl")
    run(ask, *options, "--output", f"/dev/fd/{writing}")
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        assert [line["id"] for line in json_lines(file.read())] == ["q0", "q1", "q2"]
    assert capsys.readouterr().out == ""
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: run(ask, *options, "--output", f"/dev/fd/{writing}"))
    assert stop.value.code == 1 and "rror" not in capsys.readouterr().err
    os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_on_a_full_disk(answerer):
    with pytest.raises(UserError, match=r"^/dev/full: cannot be written: No space left on device"):
        answer_file(answerer, ROWS, Path("/dev/full"))


@pytest.mark.parametrize(
    ("argv", "content", "message"),
    [
        (("--input", "-", "--context_file", "-"), "", "would both read standard input"),
        (("--output", "answers.jsonl", "--question", "Who?", "--context", "c"), "", "--output needs --input"),
        (("--context_file", "-"), "text", "no question given"),
        (("--context", "c"), "Who?", "- for standard input"),
        (("--input", "-"), "", "standard input: contains no questions"),
        (("--input", "-", "--context", "c"), "\n \n", "standard input: contains no questions"),
        (("--input", "-"), "Who?\nWhere?\n", "lines of text are questions about the text of --context"),
        (("--input", "-"), '{"question": "Who?"}\n', "standard input, row 1: has no `context`; add it"),
        (("--input", "-"), '{"question": "Who?",', "standard input, line 1: not JSON"),
        (("--input", "-"), b"\xff\xfeW\0", "standard input: UTF-16, not UTF-8"),
        (("--input", "-"), b"PAR1", "standard input: not a Parquet file, or a corrupt one"),
        (("--input", "-"), b"\x1f\x8b\x08", "standard input: the gzip file is truncated"),
    ],
)
def test_invalid_input(trained, type_in, tmp_path, monkeypatch, argv, content, message):
    monkeypatch.chdir(tmp_path)
    type_in(content)
    with pytest.raises(UserError) as error:
        run(ask, "--model_name_or_path", trained, *argv)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_long_answer_fits_the_terminal():
    context = "Zoë was born in a town of many names, " * 5 + "and died there."
    shown = format_answer({"score": 0.5, "start": 0, "end": len(context), "answer": context}, context).splitlines()
    assert max(map(len, shown)) <= 80
    assert " ".join(line.split(maxsplit=1)[1] if line[2] != " " else line.strip() for line in shown[:3]) == context


@pytest.mark.parametrize(
    ("argv", "note"),
    [
        ((), "was not trained to abstain; --handle_impossible_answer true"),
        (("--handle_impossible_answer", "false"), "handle_impossible_answer is false"),
        (("--handle_impossible_answer", "true"), ""),
        (("--version_2_with_negative", "true"), ""),
    ],
)
def test_threshold_without_effect_is_reported(trained, capsys, argv, note):
    options = ("--question", QUESTIONS[0], "--context", TEXT, "--null_score_diff_threshold", "-3")
    run(ask, "--model_name_or_path", trained, *options, *argv)
    error = capsys.readouterr().err
    assert note in error if note else "null_score_diff_threshold" not in error
