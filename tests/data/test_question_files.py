"""Files as people have them: from spreadsheets, pandas and annotation tools; rows read = used + dropped."""

import csv
import io
import json
from pathlib import Path

import pytest
from helpers.commands import SMALL, read, run
from hypothesis import given, settings
from hypothesis import strategies as st

import preprocess
from qa.data.answers import InvalidRow, read_answers
from qa.data.formats import read_file
from qa.data.splits import load_splits, read_splits
from qa.options.arguments import DataArguments
from qa.runtime.errors import UserError

FILES = Path(__file__).parents[1] / "fixtures/question_files"
ONE = [("Ann", 0), ("Ann", 64), ("May", 77), ("Mira Tasko", 0), None]  # answers of the flat files
ALL = [[("Ann", 0)], [("Ann", 64)], [("May", 77), ("in May", 74)], [("Mira Tasko", 0)], []]
FLAT = [[answer] if answer else [] for answer in ONE]
LABELED = [[("Ann", 0)], [("Ann", 34)], [("Ann", 34)], [("Sollen", 58)], []]  # one row for each annotation
WRITTEN = {  # by file of tests/fixtures/make_question_files.py: what is recognized, and the answers
    "excel_semicolons.csv": ("semicolon-separated, 4 columns, ids numbered", FLAT),
    "excel_unicode_text.tsv": ("UTF-16, tab-separated, 4 columns, ids numbered", FLAT),
    "libreoffice_semicolons.csv": ("semicolon-separated, 4 columns, ids numbered", FLAT),
    "libreoffice_utf16_tabs.csv": ("UTF-16, tab-separated, 4 columns, ids numbered", FLAT),
    "pandas_floats.csv": ("comma-separated, 4 columns, ids numbered", FLAT),
    "pandas_arrays.csv": ("comma-separated, 4 columns, unnamed first column ignored", ALL),
    "pandas_arrays.tsv": ("tab-separated, 4 columns", ALL),
    "pandas_normalized.csv": ("comma-separated, 5 columns", ALL),
    "label_studio.json": ("Label Studio export", [*LABELED[:1], [("Ann", 34)] * 2, *LABELED[3:]]),
    "label_studio.min.json": ("Label Studio export", LABELED),
    "label_studio.csv": ("comma-separated, 9 columns, Label Studio export", LABELED),
    "label_studio.tsv": ("tab-separated, 9 columns, Label Studio export", LABELED),
    "haystack.json": ("Haystack annotation tool export", ALL[:3]),
    "cdqa-v1.1.json": ("ids numbered", [[("Ann", 0)], [("Ann", 0)], [("May", 77)]]),
}


def load(path, split: str = "train", **more):
    """Return the split of a file, usable or not; a file that is refused fails the test."""
    try:
        return read_splits(DataArguments(**{f"{split}_file": str(path)}, **more), (split,))[split]
    except UserError as error:
        pytest.fail(f"refused: {error}")


def answers_of(split) -> list[list[tuple[str, int]]]:
    return [list(zip(*example["answers"].values(), strict=True)) for example in split.examples]


@pytest.mark.parametrize("name", WRITTEN)
def test_files_that_tools_wrote_lose_nothing(name, capsys):
    recognized, answers = WRITTEN[name]
    split = load(FILES / name)
    assert split.read == len(split.examples) + split.dropped.total() == len(answers)
    assert answers_of(split) == answers
    assert all(row["question"].endswith("?") and row["context"].startswith(("Ann", "Mira")) for row in split.examples)
    err = capsys.readouterr().err
    assert err.startswith(f"note: {FILES / name}: {recognized}\n") and err.count("note: ") == 1
    again = read_splits(DataArguments(train_file=[str(FILES / name)]), ("train",))["train"]
    assert again.examples["id"][:] == split.examples["id"][:], "ids are the same from run to run"


def test_preprocess_counts_the_rows_of_several_files(tiny_model, tmp_path, capsys):
    names = sorted(WRITTEN)
    files = [FILES / name for name in names]
    options = ("--tokenizer_name", tiny_model, "--cache_dir", tmp_path / "c", "--output_dir", tmp_path / "out")
    run(preprocess, *options, "--train_file", *files, *SMALL)
    counts = {part["source"]: part for part in read(tmp_path / "out/summary.json")["train"]["sources"]}
    printed = capsys.readouterr()
    for name, file in zip(names, files, strict=True):
        part = counts[str(file)]
        assert part["read"] == part["examples"] + part["dropped"] == len(WRITTEN[name][1])
        assert f"{file}: {part['read']} read, {part['dropped']} dropped, {part['examples']} used" in " ".join(
            printed.out.split()
        )
        assert f"note: {file}: {WRITTEN[name][0]}" in printed.err


def test_numbered_ids_can_be_scored_and_name_their_file(tmp_path):
    split = load(FILES / "excel_semicolons.csv", "validation")
    assert split.examples["id"][:] == [f"excel_semicolons.csv:{number}" for number in range(1, 6)]
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
        (folder / "x.jsonl").write_text(json.dumps({"question": "Who?", "context": "Ann.", "answer": "Ann"}) + "\n")
    paths = [str(folder / "x.jsonl") for folder in folders]
    split = read_splits(DataArguments(train_file=paths), ("train",))["train"]
    assert split.examples["id"][:] == [f"{path}:1" for path in paths], "two files of one name"


def test_a_missing_id_among_others_is_still_reported(tmp_path):
    rows = [{"id": "a", "question": "Who?", "context": "Ann.", "answer": "Ann"}]
    rows += [{"question": "Who else?", "context": "Ann.", "answer": "Ann"}]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    split = read_splits(DataArguments(train_file=[str(tmp_path / "x.json")]), ("train",))["train"]
    assert split.dropped == {"missing field": 1} and split.examples["id"][:] == ["a"]


def write_table(name: str, rows: list[list[str]], separator: str, quoting: int, line_end: str, encoding: str) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=line_end)
    writer.writerows(rows)
    Path(name).write_bytes(file.getvalue().encode(encoding))
    return name


# In UTF-16, U+0A0D and U+0D0A are made of the bytes of line ends.
TEXT = st.text("ab ,;\t|\"'\n\r[]{}=é🙂\u0a0d\u2028", max_size=12)


@settings(max_examples=300)
@given(st.data())
def test_rows_survive_every_dialect(tmp_path_factory, data):
    """Written by Python's csv in any dialect and read again, with empty columns and rows around them."""
    separator, line_end = data.draw(st.sampled_from(",;\t|")), data.draw(st.sampled_from(["\r\n", "\n", "\r"]))
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    names = data.draw(st.permutations(["id", "question", "context", "answer", "answer_start"]))
    empty = [""] * data.draw(st.integers(0, 3))
    expected = []
    for number in range(data.draw(st.integers(1, 4))):
        before, answer, after = data.draw(TEXT), data.draw(TEXT) + "x", data.draw(TEXT)
        row = {"id": f"q{number}", "question": f"{data.draw(TEXT)}?", "context": before + answer + after}
        expected.append(row | {"answer": answer, "answer_start": str(len(before))})
    rows = [[*names, *empty], *([row[name] for name in names] + empty for row in expected)]
    rows += [[""] * len(rows[0])] * data.draw(st.integers(0, 2))
    if line_end != "\r\n":  # before Python 3.13, csv quotes only the characters of its own line end
        quoting = csv.QUOTE_ALL
    path = tmp_path_factory.getbasetemp() / "dialects.csv"
    write_table(str(path), rows, separator, quoting, line_end, encoding)
    found = list(read_file(str(path)))
    assert [row for _, row in found] == expected
    assert [read_answers(row) for _, row in found] == [
        [(row["answer"], int(row["answer_start"]))] if row["answer"].strip() else [] for row in expected
    ]


LONG = "word " * 30_000 + "Ann."
TABLES = {  # content, what is recognized, answers
    "excel's first line": ("sep=|\nid|question|context|answer\n1|Who?|Ann.|Ann\n", "bar-separated", [("Ann", 0)]),
    "a field over 131,072 characters": (
        f"id;question;context;answer\n1;Who?;{LONG};Ann\n",
        "semicolon",
        [("Ann", 150_000)],
    ),
    "names in capitals": ("ID;Question;Context;Answer\n1;Who?;Ann.;Ann\n", "semicolon-separated", [("Ann", 0)]),
    "commas in the header's values": (
        "id;question;context;answer\n1;Who, then?;Ann, Bob.;Bob\n",
        "semicolon",
        [("Bob", 5)],
    ),
    "lists as JSON": (
        'id,question,context,answer,answer_start\n1,Who?,Ann and Bob.,"[""Ann"", ""Bob""]","[0, 8]"\n',
        "comma-separated",
        [("Ann", 0), ("Bob", 8)],
    ),
    "numbered columns": (
        "id,question,context,answer_1,answer_start_1,answer_2,answer_start_2,answer_3,answer_start_3\n"
        "1,Who?,Ann and Bob.,Ann,0,Bob,8,,\n",
        "comma-separated",
        [("Ann", 0), ("Bob", 8)],
    ),
    "plain text in answers": ("id,question,context,answers,answer_start\n1,Who?,Ann.,Ann,0\n", "comma", [("Ann", 0)]),
    "an answer in brackets": (
        "id,question,context,answer,answer_start\n1,Which?,See [1].,[1],4\n",
        "comma",
        [("[1]", 4)],
    ),
    "a number with a decimal comma": (
        "id;question;context;answer;answer_start\n1;Who?;A Ann Ann;Ann;6,0\n",
        "semi",
        [("Ann", 6)],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_in_other_forms(tmp_path, name, capsys):
    content, recognized, answers = TABLES[name]
    (tmp_path / "x.csv").write_text(content, encoding="utf-8")
    split = load(tmp_path / "x.csv")
    assert answers_of(split) == [answers] and split.examples["id"][:] == ["1"]
    assert f"x.csv: {recognized}" in capsys.readouterr().err


def test_columns_are_found_under_the_names_in_the_file(tmp_path):
    (tmp_path / "x.csv").write_text("Frage;Text;Antwort;Start\nWer?;Ann las.;Ann;0\n")
    columns = ["question=Frage", "context=Text", "answers=Antwort", "answer_start=Start"]
    assert answers_of(load(tmp_path / "x.csv", columns=columns)) == [[("Ann", 0)]]


def test_a_row_with_a_value_too_many_is_not_shifted_in_silence(tmp_path):
    (tmp_path / "x.csv").write_text(
        "id,question,context,answer,\n1,Who?,Ann.,Ann,\n2,Who?,Ann, the first.,Ann\n3,Who?\n"
    )
    split = load(tmp_path / "x.csv")
    assert (split.read, len(split.examples), split.dropped.total()) == (3, 1, 2)
    assert {problem.detail for problem in split.problems if problem.done == "dropped"} == {
        "does not have as many values as the header (4); quote values that contain commas"
    }


def test_arrays_are_parsed_and_nothing_is_executed(tmp_path):
    mark = tmp_path / "mark"
    for value in (
        "{'text': array(['Ann'], dtype=object), 'answer_start': array([3])}",
        "{'text': np.array(['Ann']), 'answer_start': [np.int64(3)]}",
        "{'text': array(['Ann'],\n      dtype=object), 'answer_start': array([3], dtype=int32)}",
    ):
        assert read_answers({"answers": value}) == [("Ann", 3)]
    assert read_answers(
        {"answer": "['it''s' \"Ann's\"\n 'Bob']".replace("''", "\\'"), "answer_start": "[ 3 10\n 20]"}
    ) == [
        ("it's", 3),
        ("Ann's", 10),
        ("Bob", 20),
    ]
    for value in (
        f"{{'text': open({str(mark)!r}, 'w'), 'answer_start': [3]}}",
        f"{{'text': [open({str(mark)!r}, 'w').name], 'answer_start': [3]}}",
        "{'text': array(['Ann', ..., 'Bob'], dtype=object), 'answer_start': array([3, ..., 4])}",
        "{[]: 1}",
    ):
        with pytest.raises(InvalidRow):
            read_answers({"answers": value})
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.xlsx", b"PK\x03\x04", "a spreadsheet; save its sheet as CSV in UTF-8"),
        ("x.ods", b"PK\x03\x04", "a spreadsheet; save its sheet as CSV in UTF-8"),
        ("x.csv", b"PK\x03\x04...", "a spreadsheet or ZIP archive in spite of its name"),
        ("x.zip", b"PK\x03\x04", "an archive; unpack it, and give the file inside"),
        ("x.txt", b"", "rename it to .tsv or .csv; if JSON lines, to .jsonl"),
        (
            "x.csv",
            "id;question\n1;Wér?\n".encode("cp1252"),
            "not UTF-8 at byte 15; save it as UTF-8 (Excel: Save As > CSV UTF-8",
        ),
        ("x.csv", "id;question\n".encode("utf-16-le"), "UTF-16 without a byte order mark; save it as UTF-8"),
        ("x.csv", "id;question\n".encode("utf-16") + b"\n", "not UTF-16 at byte 26"),
    ],
)
def test_other_files_are_refused_with_what_to_do(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        load_splits(DataArguments(train_file=str(tmp_path / name)), ("train",))
    assert str(tmp_path / name) in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


def test_links_and_folders_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(
        UserError, match=r"^https://docs\.google\.com/x/edit: a link, not a file; download it.* > CSV\)$"
    ):
        read_splits(DataArguments(train_file="https://docs.google.com/x/edit"), ("train",))
    with pytest.raises(UserError, match="is a folder, not a file; give its files, or the folder as --dataset_name"):
        read_splits(DataArguments(train_file=str(tmp_path)), ("train",))


def test_unfinished_tasks_are_not_taken_for_unanswerable(tmp_path):
    tasks = json.loads((FILES / "label_studio.json").read_text(encoding="utf-8"))
    tasks[0]["annotations"] = []
    tasks[2]["annotations"][0]["was_cancelled"] = True
    (tmp_path / "x.json").write_text(json.dumps(tasks))
    split = load(tmp_path / "x.json")
    assert (split.read, split.dropped, split.unanswerable) == (4, {"unreadable": 2}, 1)
    assert "has no annotation, or only skipped ones" in split.problems[0].detail
