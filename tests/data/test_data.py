"""Every format yields the same examples; problems are repaired, counted, or reported in one line."""

import csv
import gzip
import json

import pytest
from datasets import Dataset
from helpers.builders import squad
from helpers.commands import run

import preprocess
from qa.data.answers import InvalidRow, parse_answers
from qa.data.checks import locate
from qa.data.splits import has_unanswerable, load_splits
from qa.data.statistics import check_dropped, describe
from qa.options.arguments import DataArguments
from qa.runtime.errors import UserError

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
def test_every_format_yields_the_same_examples(tmp_path, name):
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
    assert len(split.examples) == 6, "evaluation drops only questions without text"
    assert split.examples["answers"][1] == {"text": ["Bob"], "answer_start": [-1]}


def test_locate_uses_the_offset_or_the_only_occurrence():
    wrong, outside = "answer not at its offset", "answer_start out of range"
    assert locate("a b a", "a", 4) == (4, None)
    assert locate("a b a", "a", 4.0) == (4, None), "pandas may write integers as floats"
    assert locate("a b a", "b", 0) == (2, wrong), "once in the context"
    assert locate("a b a", "a", 1) == (-1, wrong), "twice, and not at its offset"
    assert locate("a b a", "a", -1) == locate("a b a", "a", 5) == (-1, outside)
    assert locate("a b a", "b", 10**30) == (2, outside)
    assert locate("a b", "b", None) == (2, "no answer_start")
    for start in (0.5, True, "2", float("nan"), float("inf"), [2]):
        assert locate("a b", "b", start) == (2, "answer_start not a whole number")
        assert locate("b b", "b", start) == (-1, "answer_start not a whole number")


def test_offsets_in_utf_8_bytes_and_utf_16_units_are_converted():
    context = "Zoë 🙂 met Ann, and Zoë met Ann again."
    for at in (9, 26):
        text = context[at : at + 3]
        before = context[:at]
        assert locate(context, text, len(before.encode())) == (at, "offset in UTF-8 bytes")
        assert locate(context, text, len(before.encode("utf-16-le")) // 2) == (at, "offset in UTF-16 units")
    assert locate("🙂axa", "x", 5) == (2, "offset in UTF-8 bytes"), "past the end of the context in characters"
    assert locate("🙂a.a.ab", "a", 3) == (3, None), "characters take precedence"
    assert locate("🙂ab.ab", "ab", 4) == (4, None)
    context = "é🙂.ab.ab"
    assert locate(context, "ab", 4) == (3, "offset in UTF-16 units")
    assert locate(context, "ab", 10) == (6, "offset in UTF-8 bytes")
    assert locate(context, "ab", 7) == (-1, "answer not at its offset"), (
        "one occurrence in bytes, another in UTF-16 units"
    )


def test_unanswerable_questions_are_scored_as_squad_2(tmp_path):
    path = tmp_path / "v2.json"
    path.write_text(json.dumps(squad([("Ann wrote it.", "Who?", "Ann"), ("Ann wrote it.", "When?", "")])))
    args = DataArguments(train_file=str(path))
    split = load_splits(args, ("train",))["train"]
    assert args.version_2_with_negative is None, "what was asked for stays as it was given"
    assert has_unanswerable(args, [split]) is True and split.unanswerable == 1 and len(split.examples) == 2
    assert has_unanswerable(DataArguments(version_2_with_negative=False), [split]) is False
    assert has_unanswerable(DataArguments(version_2_with_negative=True), []) is True
    counts = "train: 2 questions read, 0 dropped, 2 examples, 1 unanswerable"
    assert describe(split, 2, {}, True) == f"{counts} (scored as SQuAD 2.0), 2 windows"
    assert describe(split, 1, {1: "no token covers it"}, False) == (
        "train: 2 questions read, 1 dropped (1 answer no token covers it), 1 example, 1 unanswerable, 1 window"
    )


def test_held_out_share_is_disjoint_and_depends_on_the_seed(tmp_path):
    rows = [("Ann wrote it.", f"Who wrote number {i}?", "Ann") for i in range(50)]
    path = tmp_path / "train.json"
    path.write_text(json.dumps(squad(rows)))
    args = {"train_file": str(path), "max_train_samples": 40, "validation_split_percentage": 20}
    splits = load_splits(DataArguments(**args), ("train", "validation"), seed=1)
    train, held_out = set(splits["train"].examples["id"]), set(splits["validation"].examples["id"])
    assert (len(train), len(held_out), train & held_out) == (32, 8, set())
    assert train | held_out == {f"q{i}" for i in range(40)}, "only the first 40 are used"
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
        ("x.json", "3", "no list of questions found"),
        ("x.json", '{"data": 3}', "no list of questions found"),
        ("x.json", "[1]", "row 1: is not an object"),
        ("x.json", '[{"id": null, "question": "q", "context": "c"}]', "row 1: has no `id`"),
        (
            "x.json",
            '[{"question": "q", "context": "c"}]',
            "row 1: has no `answers`, only ['question', 'context', 'id']",
        ),
        ("x.json", '[{"id": 1, "context": "c"}]', "row 1: has no `question`"),
        ("x.json", '[{"id": 1, "question": 2, "context": "c", "answers": []}]', "must be text"),
        ("x.json", '{"data": [{"paragraphs": [{"qas": []}]}]}', "article 1, paragraph 1: has no `context`"),
        ("x.json", '{"data": [{"paragraphs": [{"context": "c", "qas": 3}]}]}', "paragraph 1: `qas` is not a list"),
        ("x.json", '[{"id": 1, "question": "q", "context": "c", "answers": 3}]', "row 1: `answers` must hold"),
        (
            "x.json",
            '[{"id": 1, "question": "q", "context": "c", "reply": 3}]',
            "has no `answers`, only ['id', 'question'",
        ),
        ("x.json", '[{"id": 1, "question": "q", "context": "c", "answer": 3}]', "the text of an answer is 3"),
        ("x.json", '[{"id": "", "question": "q", "context": "c", "answers": []}]', "row 1: has no `id`"),
        ("x.json", '[{"id": 1, "question": "q", "context": "\\ud83d", "answers": []}]', "an unpaired surrogate at 0"),
        ("x.json", "[" * 100000, "nested too deeply"),
        ("x.json", '[{"id": 1, "question": "q", "context": "c", "answers": []}]', "train split has an answer"),
        ("x.json", "version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("x.json", "\n<!DOCTYPE html><html>", "an HTML page"),
        ("x.json", b"[\xe9]", "not UTF-8 at byte 1"),
        ("x.json", "[]".encode("utf-16"), "UTF-16, not UTF-8"),
        ("x.json.gz", gzip.compress(b"[]" * 1000, mtime=0)[:-9], "the gzip file is truncated"),
        ("x.json.gz", b"[]", "not gzip data; remove .gz from its name"),
        ("x.parquet", b"PAR", "not a Parquet file"),
        ("x.csv", "id,question,context,answers\n1,q,c,oops\n", "row 1: `answers` is text that is not JSON"),
        ("x.txt", "", "unknown format .txt"),
        ("x.json", "[]", "no usable question for train"),
        ("x.parquet", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("x.json.gz", b"<html>", "an HTML page"),
        ("x.json.gz", gzip.compress(b"<html>", mtime=0), "an HTML page"),
        ("x.json.gz", gzip.compress(b"[]" * 99, mtime=0)[:10] + b"\xff" * 9, "x.json.gz: cannot be read: Error -3"),
        ("x.csv", b"id,id,question\n", "line 1: two columns have the same name"),
        ("x.csv", b'id,question,context,answers\n1,"q,c,[]\n', "line 2: not CSV: unexpected end of data"),
        ("x.csv", b"id,question,context,answers\n1,q,a, b,[]\n", "row 1: does not have as many values as the header"),
        ("x.json", b'[{"id": 1, "id": 2}]', "duplicate key `id` in one object, with 1 and 2"),
        ("x.json", b'[{"id": ' + b"1" * 5000 + b"}]", "not JSON: Exceeds the limit"),
        ("x.json", b'{"data": []}\nmore', "line 2: not JSON: Extra data"),
        ("x.json", b'{"data": [{"paragraphs": 3}]}', "article 1: `paragraphs` is not a list"),
        ("x.json", b'{"data": [{"paragraphs": [3]}]}', "article 1, paragraph 1: is not an object with `context`"),
    ],
)
def test_an_invalid_file_is_reported_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        load(str(path))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert "split has an answer" in message or str(path) in str(error.value)


def test_missing_file_is_reported():
    with pytest.raises(UserError, match=r"nowhere.json: no such file"):
        load("nowhere.json")


def test_answers_are_parsed_from_every_usual_form():
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
        with pytest.raises(InvalidRow) as error:
            parse_answers(wrong)
        assert error.value.reason == "malformed answers"


def test_unicode_line_separators_do_not_end_a_json_line(tmp_path):
    rows = [{**row, "question": "Who\u2028is it\u0085?"} for row in ROWS]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert load(str(path)).examples["question"][:] == [rows[0]["question"]] * 2


def test_duplicate_ids_cannot_be_scored(tmp_path):
    path = write(tmp_path / "flat.json", [ROWS[0], {**ROWS[1], "id": "7"}])
    with pytest.raises(UserError, match=r"row 2: its id '7' is already used by .*row 1"):
        load(path, "validation")
    assert len(load(path).examples) == 2, "training does not use ids"


def test_a_held_out_share_that_leaves_a_split_empty(tmp_path):
    path = write(tmp_path / "flat.json", ROWS)
    with pytest.raises(UserError, match="10 of 2 questions leaves one split empty"):
        load_splits(DataArguments(train_file=path, validation_split_percentage=10), ("train", "validation"))


def test_every_question_of_the_real_files_is_read(shared):
    for name, read, unanswerable in (("dev-v1.1", 10570, 0), ("dev-v2.0", 11873, 5945), ("split-train", 7794, 0)):
        split = load(str(shared / f"data/squad/{name}.json.gz"), "validation")
        assert (split.read, len(split.examples), split.unanswerable, split.repaired) == (read, read, unanswerable, 0)


CONTEXT = "Ann met Zoë and Bob, and Bob met Cy."
BAD = [
    {"id": i, "context": CONTEXT, "question": "Who?", "answers": [{"text": text, "answer_start": start}]}
    for i, (text, start) in enumerate([("Ann", 0), ("Ann", 3), ("Bob", 9), ("Cy", 34), (" ", 0), ("Zoë", -1)])
] + [{"id": 0, "context": CONTEXT, "question": "\0Who?", "answers": []}, 3, {"id": 8, "question": "Who?"}]


def test_every_problem_is_listed_and_the_totals_add_up(tmp_path, tiny_model, capsys):
    path, output = tmp_path / "bad.json", tmp_path / "out"
    path.write_text(json.dumps(BAD))
    options = ("--tokenizer_name", tiny_model, "--max_seq_length", 48, "--doc_stride", 8, "--max_query_length", 16)
    files = ("--train_file", path, "--validation_file", path, "--cache_dir", tmp_path, "--output_dir", output)
    run(preprocess, *options, *files)
    summary = json.loads((output / "summary.json").read_text())
    train, validation = summary["train"], summary["validation"]
    assert (train["read"], train["examples"], train["dropped"], train["repaired"]) == (9, 5, 4, 3)
    assert (validation["read"], validation["examples"], validation["dropped"]) == (9, 5, 4)
    assert validation["contexts_in_training"] == 1
    listed = [json.loads(line) for line in (output / "problems.jsonl").read_text().splitlines()]
    assert [(row["place"], row["id"], row["reason"], row["done"]) for row in listed if row["split"] == "train"] == [
        (f"{path}, row 2", "1", "answer not at its offset", "repaired"),
        (f"{path}, row 3", "2", "answer not at its offset", "dropped"),
        (f"{path}, row 4", "3", "offset in UTF-8 bytes", "converted"),
        (f"{path}, row 5", "4", "answer only white space", "dropped"),
        (f"{path}, row 6", "5", "answer_start out of range", "repaired"),
        (f"{path}, row 7", "0", "control character", "kept"),
        (f"{path}, row 7", "0", "duplicate id", "kept"),
        (f"{path}, row 8", "", "unreadable", "dropped"),
        (f"{path}, row 9", "8", "missing field", "dropped"),
    ]
    for name in ("train", "validation"):
        of_split = [row for row in listed if row["split"] == name]
        assert sum(kind["count"] for kind in summary[name]["problems"]) == len(of_split)
        assert sum(row["done"] == "dropped" for row in of_split) == summary[name]["dropped"]
    printed = capsys.readouterr().out
    assert "- row 4 (id '3'): 'Cy' is not at 34 but at 33" in printed
    assert "warning: 1 of 1 validation context is also in training" in printed
    assert "4 of 9 training questions cannot be used" in printed and "--max_dropped 0.45" in printed
    assert all(len(line) <= 80 for line in printed.splitlines() if not line.startswith(("warning: ", "written to ")))

    with pytest.raises(UserError, match=r"\d+ problems, and strict allows none: .*problems.jsonl; the first: .*row 2"):
        run(preprocess, *options, *files, "--strict")


def test_the_report_is_written_even_if_no_question_can_be_used(tmp_path, tiny_model, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"id": 1}\n{"id": \n[]\n')
    options = ("--tokenizer_name", tiny_model, "--max_seq_length", 48, "--doc_stride", 8)
    with pytest.raises(UserError, match=r"no usable question for train \(1 missing field, 2 unreadable\); the first: "):
        run(preprocess, *options, "--train_file", path, "--output_dir", tmp_path / "out")
    assert len((tmp_path / "out/problems.jsonl").read_text().splitlines()) == 3
    assert "3 questions read" in capsys.readouterr().out


def test_both_of_two_unreadable_files_are_reported(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b"[]" * 1000, mtime=0)[:-9])
    files = {"train_file": str(tmp_path / "a.json"), "validation_file": str(tmp_path / "b.json.gz")}
    with pytest.raises(UserError, match=r"a\.json, line 1: not JSON.*; .*b\.json\.gz: the gzip file is truncated"):
        load_splits(DataArguments(**files), ("train", "validation"))


def test_strict_and_max_dropped(tmp_path, capsys):
    path = tmp_path / "x.json"
    rows = squad([("Ann wrote it.", f"Who wrote number {i}?", "Ann") for i in range(20)])
    questions = [article["qas"][0] for article in rows["data"][0]["paragraphs"]]
    path.write_text(json.dumps(rows))
    assert not load(str(path), strict=True).problems and not capsys.readouterr().err

    questions[0]["answers"][0]["answer_start"] = 3
    path.write_text(json.dumps(rows))
    split = load(str(path))
    assert "warning: train data: 1 answer not at its offset (repaired)" in capsys.readouterr().err
    check_dropped(split, {}, 0.05, False)
    with pytest.raises(UserError, match=r"paragraph 1, question 1: 'Ann' is not at 3 but at 0; 1 problem .* strict"):
        load(str(path), strict=True)

    questions[1]["answers"][0]["text"] = "Bob"
    path.write_text(json.dumps(rows))
    check_dropped(load(str(path)), {}, 0.05, False)  # 1 of 20 is 5 %
    with pytest.raises(
        UserError, match=r"2 of 20 training questions cannot be used \(1 answer not at.*--max_dropped 0.1"
    ):
        check_dropped(load(str(path)), {3: "no token covers it"}, 0.05, False)
    check_dropped(load(str(path)), {3: "no token covers it"}, 0.1, False)
    with pytest.raises(UserError, match="no token covers it; 1 such question, and strict allows none"):
        check_dropped(load(str(path)), {3: "no token covers it"}, 0.05, True)
    with pytest.raises(UserError, match="max_dropped must be from 0 to 1"):
        DataArguments(max_dropped=5)

    for qa in questions[2:12]:
        qa["answers"] = []
    path.write_text(json.dumps(rows))
    split = load(str(path), version_2_with_negative=False)
    assert split.dropped == {"answer not at its offset": 1, "no answer": 10}
    check_dropped(split, {}, 0.05, False)  # dropped on request: does not count


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": 3}, "row 2: `answers` must hold"),
        ({"answers": [{"text": " ", "answer_start": 0}]}, "row 2: an answer is only whitespace"),
        ({"context": None}, "row 2: has no `context`"),
        ({"id": ""}, "row 2: has no `id`"),
    ],
)
def test_evaluation_rejects_invalid_questions(tmp_path, change, message):
    path = write(tmp_path / "flat.json", [ROWS[0], {**ROWS[1], **change}])
    with pytest.raises(UserError, match=message) as error:
        load(path, "validation")
    assert "a score over fewer questions would not be comparable" in str(error.value)
    assert load(path).dropped.total() == 1


def test_contexts_shared_with_training_are_reported(tmp_path, capsys):
    train, dev = write(tmp_path / "flat.json", ROWS), write(tmp_path / "lines.jsonl", [{**ROWS[0], "id": "new"}])
    files = {"train_file": train, "validation_file": dev}
    load_splits(DataArguments(**files), ("train", "validation"))
    line = "1 of 1 validation context is also in training"
    assert capsys.readouterr().err == f"warning: {line}: scores will be optimistic\n"
    with pytest.raises(UserError, match=line):
        load_splits(DataArguments(**files, strict=True), ("train", "validation"))
