"""A shift that most wrong offsets of a source share is named, and decides among several occurrences."""

import json

import pytest
from helpers.commands import SMALL, read, run

import preprocess
from qa.data.splits import load_splits
from qa.options.arguments import DataArguments


def rows(count: int, shift: int, right: int = 0, twice: int = 0, context: str = "In {n} Ann met Bob.") -> list[dict]:
    """Return questions with offsets ``shift`` too high, except the first ``right``; the last ``twice`` occur twice."""
    result = []
    for number in range(count):
        once = number < count - twice
        text = context.format(n=1000 + number) + ("" if once else " Then Ann left.")
        start = text.rindex("Ann") if number % 2 else text.index("Ann")
        answer = {"text": "Ann", "answer_start": start + (0 if number < right else shift)}
        result.append({"id": f"q{number}", "context": text, "question": "Who?", "answers": [answer], "at": start})
    return result


def load(tmp_path, *sources: list[dict], split: str = "train", **more):
    paths = []
    for number, source in enumerate(sources):
        paths.append(str(tmp_path / f"{number}.jsonl"))
        lines = [json.dumps({key: value for key, value in row.items() if key != "at"}) for row in source]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines))
    files = {"train_file": paths} if split == "train" else {"validation_file": paths[0]}
    return load_splits(DataArguments(**files, max_dropped=1, **more), (split,), cache_dir=str(tmp_path / "cache"))[
        split
    ]


@pytest.mark.parametrize(
    ("shift", "words"), [(-1, "1 character early"), (1, "1 character late"), (12, "12 characters late")]
)
def test_a_shared_shift_decides_among_several_occurrences(tmp_path, capsys, shift, words):
    source = rows(90, shift, right=8, twice=30)
    split = load(tmp_path, source)
    assert len(split.examples) == 90 and split.repaired == 82, "every answer is located"
    assert [example["answers"]["answer_start"][0] for example in split.examples] == [row["at"] for row in source]
    assert {(problem.reason, problem.done) for problem in split.problems} == {(f"offset shifted: {words}", "repaired")}
    assert f"0.jsonl: 82 of 90 answers are {words} (corrected)" in capsys.readouterr().err


def test_a_shift_of_each_source(tmp_path):
    early, late, right = rows(40, -1, twice=20), rows(40, 1, twice=20), rows(40, 0, twice=20)
    split = load(tmp_path, early, late, right)
    starts = [example["answers"]["answer_start"][0] for example in split.examples]
    assert starts == [row["at"] for source in (early, late, right) for row in source]
    assert [(source.shift, source.shifted) for source in split.sources] == [(1, 40), (-1, 40), (0, 0)]


def test_a_shift_in_held_out_questions(tmp_path):
    files = rows(60, 1, twice=30)
    load(tmp_path, files)
    args = DataArguments(train_file=[str(tmp_path / "0.jsonl")], validation_split_percentage=50)
    splits = load_splits(args, ("train", "validation"), cache_dir=str(tmp_path / "cache"))
    wanted = {row["id"]: row["at"] for row in files}
    for split in splits.values():
        found = {example["id"]: example["answers"]["answer_start"][0] for example in split.examples}
        assert len(found) == 30 and found == {key: wanted[key] for key in found}


def test_a_shift_that_is_not_clear_changes_nothing(tmp_path):
    few = rows(24, 1, right=15)[:24] + [row | {"id": row["id"] + "b"} for row in rows(6, 1, twice=6)]
    split = load(tmp_path, few)
    assert split.sources[0].shift == 0 and split.dropped == {"answer not at its offset": 6}, "nine wrong offsets"
    mixed = rows(20, 1)
    for number, row in enumerate(mixed):
        row["answers"][0]["answer_start"] += 0 if number < 15 else number % 5 + 1
    split = load(tmp_path, mixed + [row | {"id": row["id"] + "b"} for row in rows(6, 1, twice=6)])
    assert split.sources[0].shift == 0 and split.dropped == {"answer not at its offset": 6}, "three quarters share it"
    unknown = [row | {"answers": [{"text": "Ann", "answer_start": 0}]} for row in rows(30, 0)]
    split = load(tmp_path, unknown)
    assert split.sources[0].shift == 0 and split.repaired == 30, "0 stands for an unknown offset"


def test_a_shift_of_offsets_in_utf_16_units(tmp_path):
    source = rows(30, 1) + [
        row | {"id": row["id"] + "b"} for row in rows(10, 2, twice=10, context="🙂 In {n} Ann met Bob.")
    ]
    split = load(tmp_path, source)
    assert [example["answers"]["answer_start"][0] for example in split.examples] == [row["at"] for row in source]


def test_no_more_than_the_sample_is_read_ahead():
    from qa.data import offset_shift

    taken = 0

    def endless():
        nonlocal taken
        for number in range(10 * offset_shift.SAMPLE):
            taken += 1
            yield number // offset_shift.SAMPLE, "place", {"context": "x"}

    for number, (index, *_) in enumerate(offset_shift.with_shifts(endless())):
        assert index == number // offset_shift.SAMPLE and taken - number <= offset_shift.SAMPLE


def test_preprocess_reports_the_shift(tmp_path, tiny_model, capsys):
    load(tmp_path, rows(30, 1, twice=10))
    options = ("--tokenizer_name", tiny_model, "--cache_dir", tmp_path / "c", "--output_dir", tmp_path / "out")
    run(preprocess, *options, "--train_file", tmp_path / "0.jsonl", *SMALL)
    summary = read(tmp_path / "out/summary.json")["train"]
    line = "30 of 30 answers are 1 character late (corrected)"
    assert summary["shifts"] == [f"{tmp_path / '0.jsonl'}: {line}"]
    assert summary["problems"] == [{"reason": "offset shifted: 1 character late", "done": "repaired", "count": 30}]
    printed = " ".join(capsys.readouterr().out.split())
    assert line in printed and "30 used, 0 dropped, 30 repaired" in printed
    listed = [json.loads(row) for row in (tmp_path / "out/problems.jsonl").read_text().splitlines()]
    assert len(listed) == 30 and "'Ann' is not at 9 but at 8" in listed[0]["detail"]
