"""Every format gives the same examples; what is wrong is repaired, counted or said in one line."""

import csv
import gzip
import json

import pytest
from conftest import squad
from datasets import Dataset

from qa.arguments import DataArguments
from qa.checks import Unusable, locate, parse_answers
from qa.data import load_splits
from qa.errors import UserError
from qa.summary import describe

ROWS = [
    {
        "id": 7,
        "context": "  Ann wrote it, and Ann read it.",
        "question": "Who?",
        "answers": {"text": ["Ann", "Ann"], "answer_start": [2, 20]},
    },
    {
        "id": "b",
        "context": 'He said "no"\nand left.',
        "question": "What?",
        "answers": {"text": ['"no"'], "answer_start": [8]},
    },
]
NESTED = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": row["context"],
                    "qas": [
                        {
                            "id": row["id"],
                            "question": row["question"],
                            "answers": [
                                {"text": text, "answer_start": start}
                                for text, start in zip(*row["answers"].values(), strict=True)
                            ],
                        }
                    ],
                }
                for row in ROWS
            ]
        }
    ]
}


def write(path, rows) -> str:
    name = path.name
    if "nested" in name:
        text = json.dumps(NESTED)
    elif name.startswith("lines"):
        text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    elif name.startswith("wrapped"):
        text = json.dumps({"version": 1, "data": rows})
    elif name.endswith((".json", ".json.gz")):
        text = json.dumps(rows, ensure_ascii=False, indent=1)
    elif "csv" in name:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["id", "context", "question", "answers"])
            writer.writeheader()
            form = json.dumps if "json" in path.stem else str
            writer.writerows({**row, "answers": form(row["answers"])} for row in rows)
        return str(path)
    else:
        Dataset.from_list([{**row, "id": str(row["id"])} for row in rows]).to_parquet(path)
        return str(path)
    opener = gzip.open if name.endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return str(path)


def load(path: str, split: str = "train", **more):
    return load_splits(DataArguments(**{f"{split}_file": path}, **more), (split,))[split]


@pytest.mark.parametrize(
    "name",
    [
        "nested.json",
        "nested.json.gz",
        "flat.json",
        "wrapped.json",
        "lines.json",
        "lines.jsonl.gz",
        "x.csv",
        "json.csv",
        "x.parquet",
    ],
)
def test_every_format_gives_the_same_examples(tmp_path, name):
    split = load(write(tmp_path / name, ROWS))
    assert [{key: row[key] for key in ROWS[0]} for row in split.examples] == [
        {**row, "id": str(row["id"])} for row in ROWS
    ]
    assert (split.read, split.repaired, sum(split.dropped.values())) == (2, 0, 0)


def test_wrong_offsets_are_repaired_or_dropped_and_counted(tmp_path):
    context = "Ann met Bob and Bob met Cy."
    cases = [("Ann", 3), ("Bob", 9), ("Zed", 0), ("Cy", 24), ("", 0)]
    rows = [
        {"id": i, "context": context, "question": "Who?", "answers": [{"text": text, "answer_start": start}]}
        for i, (text, start) in enumerate(cases)
    ]
    rows += [{"id": 9, "context": context, "question": " ", "answers": []}]
    rows += [{"id": 10, "context": " ", "question": "Who?", "answers": []}]
    path = write(tmp_path / "flat.json", rows)
    split = load(path, version_2_with_negative=False)
    assert split.examples["id"][:] == ["0", "3"] and split.examples["answers"][0]["answer_start"] == [0]
    assert split.read == len(split.examples) + sum(split.dropped.values()) == 7 and split.repaired == 1
    assert split.dropped == {
        "answer not at its offset": 2,
        "no answer": 1,
        "empty question": 1,
        "empty context": 1,
    }
    split = load(path, "validation")
    assert len(split.examples) == 6, "evaluation drops nothing that has a question"
    assert split.examples["answers"][1] == {"text": ["Bob"], "answer_start": [-1]}


def test_locate():
    wrong, outside = "answer not at its offset", "answer_start out of range"
    assert locate("a b a", "a", 4) == (4, None)
    assert locate("a b a", "a", 4.0) == (4, None), "as pandas writes it"
    assert locate("a b a", "b", 0) == (2, wrong), "once in the context"
    assert locate("a b a", "a", 1) == (-1, wrong), "twice, and not at its offset"
    assert locate("a b a", "a", -1) == locate("a b a", "a", 5) == (-1, outside)
    assert locate("a b a", "b", 10**30) == (2, outside)
    assert locate("a b", "b", None) == (2, "no answer_start")
    for start in (0.5, True, "2", float("nan"), float("inf"), [2]):
        assert locate("a b", "b", start) == (2, "answer_start not a whole number")
        assert locate("b b", "b", start) == (-1, "answer_start not a whole number")


def test_offsets_in_bytes_and_utf_16_units():
    context = "Zoë 🙂 met Ann, and Zoë met Ann again."
    for at in (9, 26):
        text = context[at : at + 3]
        before = context[:at]
        assert locate(context, text, len(before.encode())) == (at, "offset in UTF-8 bytes")
        assert locate(context, text, len(before.encode("utf-16-le")) // 2) == (at, "offset in UTF-16 units")
    assert locate("🙂axa", "x", 5) == (2, "offset in UTF-8 bytes"), "beyond the context's end in characters"
    assert locate("🙂a.a.ab", "a", 3) == (3, None), "in characters first"
    assert locate("🙂ab.ab", "ab", 4) == (4, None)
    context = "é🙂.ab.ab"
    assert locate(context, "ab", 4) == (3, "offset in UTF-16 units")
    assert locate(context, "ab", 10) == (6, "offset in UTF-8 bytes")
    assert locate(context, "ab", 7) == (-1, "answer not at its offset"), "the first in bytes, the second in units"


def test_unanswerable_questions_make_it_squad_2(tmp_path):
    path = tmp_path / "v2.json"
    path.write_text(json.dumps(squad([("Ann wrote it.", "Who?", "Ann"), ("Ann wrote it.", "When?", "")])))
    args = DataArguments(train_file=str(path))
    split = load_splits(args, ("train",))["train"]
    assert args.version_2_with_negative is True and split.unanswerable == 1 and len(split.examples) == 2
    said = "train: 2 questions read, 0 dropped, 2 examples, 1 without an answer"
    assert describe(split, 2, {}, True) == f"{said} (scored as SQuAD 2.0), 2 windows"
    assert describe(split, 1, {1: "no token covers it"}, False) == (
        "train: 2 questions read, 1 dropped (1 answer no token covers it), 1 examples, 1 without an answer, 1 windows"
    )


def test_held_out_share_and_limits(tmp_path):
    rows = [("Ann wrote it.", f"Who wrote number {i}?", "Ann") for i in range(50)]
    path = tmp_path / "train.json"
    path.write_text(json.dumps(squad(rows)))
    args = {"train_file": str(path), "max_train_samples": 40, "validation_split_percentage": 20}
    splits = load_splits(DataArguments(**args), ("train", "validation"), seed=1)
    train, held_out = set(splits["train"].examples["id"]), set(splits["validation"].examples["id"])
    assert (len(train), len(held_out), train & held_out) == (32, 8, set())
    assert train | held_out == {f"q{i}" for i in range(40)}, "the first 40"
    again = load_splits(DataArguments(**args), ("validation",), seed=1)["validation"].examples["id"][:]
    other = load_splits(DataArguments(**args), ("validation",), seed=2)["validation"].examples["id"][:]
    assert again == splits["validation"].examples["id"][:] != other


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "{", "line 1: not JSON"),
        ("x.json", '[{"a": 1},\n oops]', "line 2: not JSON"),
        ("x.jsonl", '{"id"\n{"id": 1, "question": "q", "context": "c"}\n', "line 1: not JSON"),
        ("x.json", "", "is empty"),
        ("x.json", "3", "no list of questions"),
        ("x.json", '{"data": 3}', "no list of questions"),
        ("x.json", "[1]", "row 1: is not an object"),
        ("x.json", '[{"question": "q", "context": "c"}]', "row 1: has no `id`"),
        ("x.json", '[{"id": 1, "context": "c"}]', "row 1: has no `question`"),
        ("x.json", '[{"id": 1, "question": 2, "context": "c", "answers": []}]', "must be text"),
        ("x.json", '{"data": [{"paragraphs": [{"qas": []}]}]}', "article 1, paragraph 1: has no `context`"),
        ("x.json", '{"data": [{"paragraphs": [{"context": "c", "qas": 3}]}]}', "paragraph 1: `qas` is not a list"),
        ("x.json", '[{"id": 1, "question": "q", "context": "c", "answers": 3}]', "row 1: `answers` must hold"),
        (
            "x.json",
            '[{"id": 1, "question": "q", "context": "c", "answer": 3}]',
            "has no `answers`, only ['id', 'question'",
        ),
        ("x.json", '[{"id": "", "question": "q", "context": "c", "answers": []}]', "row 1: has no `id`"),
        ("x.json", '[{"id": 1, "question": "q", "context": "\\ud83d", "answers": []}]', "half a character at 0"),
        ("x.json", "[" * 100000, "nested too deep"),
        ("x.json", '[{"id": 1, "question": "q", "context": "c", "answers": []}]', "train split has an answer"),
        ("x.json", "version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("x.json", "\n<!DOCTYPE html><html>", "an HTML page"),
        ("x.json", b"[\xe9]", "not UTF-8 at byte 1"),
        ("x.json", "[]".encode("utf-16"), "UTF-16, not UTF-8"),
        ("x.json.gz", gzip.compress(b"[]" * 1000)[:-9], "the gzip file is truncated"),
        ("x.json.gz", b"[]", "cannot be read: Not a gzipped file"),
        ("x.parquet", b"PAR", "not a Parquet file"),
        ("x.csv", "id,question,context,answers\n1,q,c,oops\n", "row 1: `answers` is text that is not JSON"),
        ("x.txt", "", "unknown format .txt"),
        ("x.json", "[]", "no usable question for train"),
    ],
)
def test_each_bad_file_is_one_clear_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        load(str(path))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert "split has an answer" in message or str(path) in str(error.value)


def test_missing_file():
    with pytest.raises(UserError, match=r"nowhere.json: no such file"):
        load("nowhere.json")


def test_shapes_of_answers():
    for value in (
        {"text": ["a"], "answer_start": [3]},
        {"text": "a", "answer_start": 3},
        [{"text": "a", "answer_start": 3}],
        '{"text": ["a"], "answer_start": [3]}',
        "{'text': ['a'], 'answer_start': [3]}",
    ):
        assert parse_answers(value) == [("a", 3)]
    for value in (None, "", [], {"text": [], "answer_start": []}, {"text": [""], "answer_start": [0]}, "[]"):
        assert parse_answers(value) == []
    for value in ({"text": ["a"]}, {"text": ["a"], "answer_start": [None]}, [{"text": "a"}]):
        assert parse_answers(value) == [("a", None)]
    assert parse_answers({"text": None, "answer_start": None}) == []
    for wrong in (
        {},
        {"answer_start": 3},
        {"text": ["a"], "answer_start": []},
        {"text": ["a", "b"], "answer_start": 3},
        {"text": 1945, "answer_start": 3},
        [{"answer_start": 3}],
        [["a", 3]],
        "a",
        "[" * 5000,
        3,
    ):
        with pytest.raises(Unusable) as error:
            parse_answers(wrong)
        assert error.value.reason == "malformed answers"


def test_line_separators_inside_json_lines_are_text(tmp_path):
    rows = [{**row, "question": "Who\u2028is it\u0085?"} for row in ROWS]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert load(str(path)).examples["question"][:] == [rows[0]["question"]] * 2


def test_one_id_for_two_questions_cannot_be_scored(tmp_path):
    path = write(tmp_path / "flat.json", [ROWS[0], {**ROWS[1], "id": "7"}])
    with pytest.raises(UserError, match=r"row 2: its id '7' is that of .*row 1"):
        load(path, "validation")
    assert len(load(path).examples) == 2, "training does not need the ids"


def test_a_share_that_leaves_a_part_empty(tmp_path):
    path = write(tmp_path / "flat.json", ROWS)
    with pytest.raises(UserError, match="10 of 2 questions leaves a part empty"):
        load_splits(DataArguments(train_file=path, validation_split_percentage=10), ("train", "validation"))


def test_real_files_are_read_whole(shared):
    for name, read, unanswerable in (("dev-v1.1", 10570, 0), ("dev-v2.0", 11873, 5945), ("split-train", 7794, 0)):
        split = load(str(shared / f"data/squad/{name}.json.gz"), "validation")
        assert (split.read, len(split.examples), split.unanswerable, split.repaired) == (read, read, unanswerable, 0)
