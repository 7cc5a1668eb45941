"""Several sources in one run, and the columns of well-known datasets."""

import csv
import json
import shlex
import subprocess
import sys
from dataclasses import asdict

import pytest
import yaml
from datasets import Dataset
from helpers.builders import squad
from helpers.commands import SMALL, read, run

import preprocess
import train
from qa.data.splits import load_splits, read_splits
from qa.options.arguments import REPOSITORY, DataArguments, ModelArguments
from qa.options.parser import parse_arguments
from qa.options.saved import as_settings
from qa.options.training_arguments import TrainingOptions
from qa.runtime.errors import UserError

ALL = ModelArguments, DataArguments, TrainingOptions
CONTEXT = "Mira was born in Sollen in 1931."


def question(key, answer="Sollen", **more) -> dict:
    """A row in SQuAD's flat shape; an empty answer means none."""
    answers = {"text": [answer], "answer_start": [CONTEXT.find(answer)]} if answer else {"text": [], "answer_start": []}
    return {"id": key, "context": CONTEXT, "question": f"Where was {key} born?", "answers": answers} | more


@pytest.fixture
def three_files(tmp_path):
    """SQuAD 1.1 in nested JSON, SQuAD 2.0 in JSON lines, and CSV, with 12, 7 and 5 questions."""
    questions = [(CONTEXT, f"Question {number}?", "Sollen") for number in range(12)]
    (tmp_path / "a.json").write_text(json.dumps(squad(questions)))
    rows = [question(f"q{number}", "" if number % 3 == 0 else "1931") for number in range(6)] + [
        question("wrong", "Oslo")
    ]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with open(tmp_path / "c.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "context", "question", "answers"])
        writer.writeheader()
        for number in range(5):
            row = question(number)
            writer.writerow(row | {"answers": json.dumps(row["answers"])})
    return [str(tmp_path / name) for name in ("a.json", "b.jsonl", "c.csv")]


def test_sources_are_read_in_order_and_counted(three_files):
    split = load_splits(DataArguments(train_file=three_files), ("train",))["train"]
    counts = [(source.name, source.read, source.dropped) for source in split.sources]
    assert counts == [(three_files[0], 12, 0), (three_files[1], 7, 1), (three_files[2], 5, 0)]
    assert split.read == 24 and len(split.examples) == 23 and split.unanswerable == 2
    ids = [f"q{number}" for number in range(12)] + [f"q{number}" for number in range(6)] + list("01234")
    assert split.examples["id"][:] == ids, "two sources may use the same id"
    assert list(split.source_index) == [0] * 12 + [1] * 6 + [2] * 5
    again = load_splits(DataArguments(train_file=three_files), ("train",))["train"]
    assert again.examples[:] == split.examples[:]


def test_each_source_has_its_own_limit(three_files):
    args = DataArguments(train_file=three_files, max_train_samples_per_source=[4, 0, 2])
    split = read_splits(args, ("train",))["train"]
    assert [source.read for source in split.sources] == [4, 7, 2]
    args = DataArguments(train_file=three_files, max_train_samples_per_source=[4, 0, 2], max_train_samples=6)
    assert [source.read for source in read_splits(args, ("train",))["train"].sources] == [4, 2, 0]
    with pytest.raises(UserError, match="max_train_samples_per_source needs a number for each source"):
        DataArguments(train_file=three_files, max_train_samples_per_source=[4])


def test_a_source_without_usable_questions_is_reported(three_files, tmp_path):
    (tmp_path / "bad.jsonl").write_text(json.dumps(question("q", "Oslo")) + "\n")
    with pytest.raises(UserError, match=r"bad\.jsonl: no usable question among 1; the first: .*'Oslo' is not at -1"):
        load_splits(DataArguments(train_file=[*three_files, str(tmp_path / "bad.jsonl")], max_dropped=1), ("train",))


def test_preprocess_and_train_report_each_source(three_files, tiny_model, tmp_path, capsys):
    files = (
        "--train_file",
        *three_files,
        "--validation_file",
        three_files[0],
        "--max_dropped",
        0.1,
        "--cache_dir",
        tmp_path / "c",
    )
    run(preprocess, "--tokenizer_name", tiny_model, *files, *SMALL, "--output_dir", tmp_path / "out")
    summary = read(tmp_path / "out/summary.json")["train"]
    assert [part["read"] for part in summary["sources"]] == [12, 7, 5]
    assert [part["dropped"] for part in summary["sources"]] == [0, 1, 0]
    for name in ("read", "dropped", "examples"):
        assert sum(part[name] for part in summary["sources"]) == summary[name]
    assert f"{three_files[1]}: 7 read, 1 dropped, 6 used" in " ".join(capsys.readouterr().out.split())
    more = ("--config_name", tiny_model, "--output_dir", tmp_path / "run", "--report_to", "none", "--max_steps", 1)
    run(train, *files, *more, *SMALL)
    assert f"{three_files[1]}: 7 read, 1 dropped, 6 examples" in " ".join(capsys.readouterr().out.split())
    assert yaml.safe_load((tmp_path / "run/settings.yaml").read_text())["train_file"] == three_files
    run(train, "--config", tmp_path / "run/settings.yaml", "--output_dir", tmp_path / "again")
    assert (tmp_path / "again/predictions.json").read_text() == (tmp_path / "run/predictions.json").read_text()


def parse(tmp_path, text: str, *argv) -> DataArguments:
    (tmp_path / "c.yaml").write_text(text)
    return parse_arguments(ALL, ["--config", str(tmp_path / "c.yaml"), *argv])[1]


def test_options_that_take_several_values(tmp_path):
    text = "dataset_name: [a/b, c/d]\ndataset_config_name: [null, x]\nmax_train_samples_per_source: [0, 5]\n"
    data = parse(tmp_path, text)
    assert data.dataset_name == ["a/b", "c/d"] and data.dataset_config_name == ["null", "x"]
    assert data.max_train_samples_per_source == [0, 5]
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(as_settings(data)))
    assert parse(tmp_path, settings.read_text()) == data, "settings.yaml can be read back"
    assert asdict(parse(tmp_path, text, "--train_file", "a.json", "b.json")) == asdict(
        DataArguments(train_file=["a.json", "b.json"])
    ), "options of the replaced sources are reset"
    assert as_settings(parse(tmp_path, "train_file: a.json"))["train_file"] == "a.json"
    with pytest.raises(UserError, match="train_file is given twice: write --train_file and then all its values"):
        parse(tmp_path, "", "--train_file", "a.json", "--train_file=b.json")
    with pytest.raises(UserError, match="columns 'query' must be one of id, title"):
        parse(tmp_path, "columns: [query]")


def test_the_first_of_several_datasets_is_used_for_validation(tmp_path, capsys):
    for name, size in (("one", 6), ("two", 3)):
        for split in ("train", "validation"):
            rows = [question(f"{name}-{split}-{number}") for number in range(size)]
            (tmp_path / name).mkdir(exist_ok=True)
            Dataset.from_list(rows).to_parquet(tmp_path / name / f"{split}.parquet")
    names = [str(tmp_path / "one"), str(tmp_path / "two")]
    args = DataArguments(dataset_name=names, max_train_samples_per_source=[0, 2])
    splits = read_splits(args, ("train", "validation"), cache_dir=str(tmp_path / "cache"))
    assert f"note: validation uses only {names[0]}, the first dataset" in capsys.readouterr().err
    assert [source.read for source in splits["train"].sources] == [6, 2]
    assert all(key.startswith("one-validation") for key in splits["validation"].examples["id"])
    assert len(splits["validation"].examples) == 6
    with pytest.raises(UserError, match="dataset_config_name needs a value for each dataset"):
        read_splits(DataArguments(dataset_name=names, dataset_config_name="x"), ("train",))


def test_the_test_split_replaces_a_missing_validation_split(tmp_path, capsys):
    for split in ("train", "test"):
        Dataset.from_list([question(7)]).to_parquet(tmp_path / f"{split}.parquet")
    args = DataArguments(dataset_name=str(tmp_path))
    split = read_splits(args, ("validation",), cache_dir=str(tmp_path / "cache"))["validation"]
    assert split.examples["id"][:] == ["7"]
    assert "has no validation split: using its test split" in capsys.readouterr().err


def train_without_validation(tiny_model, tmp_path, *argv) -> str:
    """Return the error of train.py."""
    with pytest.raises(UserError) as error:
        run(train, "--config_name", tiny_model, "--output_dir", tmp_path / "run", "--cache_dir", tmp_path / "c", *argv)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["test.json"], "test.json"),
        (["test.jsonl", "squad_dev.jsonl.gz", "notes.txt"], "squad_dev.jsonl.gz"),
        (["my test.csv", "train2.csv"], "my test.csv"),
        (["validation.parquet", "dev.csv", "latest.csv"], "validation.parquet"),
        (["latest.csv", "devices.json", "testing.txt"], None),
    ],
)
def test_files_without_a_validation_file_name_the_one_beside_them(tiny_model, tmp_path, names, named):
    train_file = tmp_path / "my_train.jsonl"
    train_file.write_text("not read")
    for name in names:
        (tmp_path / name).write_text("")
    found = f" {shlex.quote(str(tmp_path / named))}" if named else ""
    assert train_without_validation(tiny_model, tmp_path, "--train_file", train_file) == (
        f"no validation questions: give --validation_file{found}; --validation_split_percentage 10 holds out a tenth of"
        " the training questions"
    )


def test_a_dataset_without_validation_and_test_split_gets_an_option_that_it_can_use(tiny_model, tmp_path):
    (tmp_path / "data").mkdir()
    rows = [question(number, "Sollen") for number in range(20)]
    Dataset.from_list(rows).to_parquet(tmp_path / "data/train.parquet")
    options = ("--dataset_name", tmp_path / "data", *SMALL)
    message = train_without_validation(tiny_model, tmp_path, *options)
    assert message.startswith(f"no validation questions: {tmp_path / 'data'} has no validation or test split; ")
    advice = ("--validation_split_percentage", "10")
    assert " ".join(advice) in message
    run(preprocess, "--tokenizer_name", tiny_model, "--output_dir", tmp_path / "out", *options, *advice)
    assert read(tmp_path / "out/summary.json")["validation"]["read"] == 2


# Synthetic rows with the columns and types that the dataset viewers show.
SHAPES = {
    "adversarial_qa": {"title": "Mira", "metadata": {"split": "train", "model_in_the_loop": "Combined"}},
    "covid_qa_deepset": {"id": 262, "document_id": 630, "is_impossible": False},
    "xquad": {"answers": {"answer_start": [17], "text": ["Sollen"]}},
    "mlqa": {"id": "e5f1"},
    "germanquad": {"id": 38_357, "answers": {"text": ["Sollen", "in Sollen"], "answer_start": [17, 14]}},
    "korquad": {
        "title": "미라",
        "context": "미라는 솔렌에서 태어났다.",
        "answers": {"text": ["솔렌"], "answer_start": [4]},
    },
    "tydiqa": {"id": "swahili-1", "title": "Mira"},
    "list of answers": {"answers": [{"text": "Sollen", "answer_start": 17}]},
}


@pytest.mark.parametrize("name", SHAPES)
def test_columns_of_well_known_datasets_need_no_option(name, tmp_path):
    row = question("q") | SHAPES[name]
    Dataset.from_list([row] * 1).to_parquet(tmp_path / "train.parquet")
    split = load_splits(DataArguments(dataset_name=str(tmp_path)), ("train",), cache_dir=str(tmp_path / "c"))["train"]
    example = split.examples[0]
    assert not split.problems and example["id"] == str(row["id"])
    text, start = example["answers"]["text"][0], example["answers"]["answer_start"][0]
    assert example["context"][start : start + len(text)] == text and text in ("Sollen", "솔렌")


def test_columns_with_other_names(tmp_path):
    row = question(1)
    row = {"key": 1, "passage": row["context"], "query": row["question"], "labels": row["answers"]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    columns = ["id=key", "context=passage", "question=query", "answers=labels"]
    split = load_splits(DataArguments(train_file=str(tmp_path / "a.jsonl"), columns=columns), ("train",))["train"]
    assert split.examples[0]["question"] == row["query"] and split.examples[0]["id"] == "1"


def test_statistics_do_not_depend_on_the_chunk_size(three_files, tiny_model, tmp_path, monkeypatch):
    """Questions and windows are processed in chunks, so that they need not fit in memory."""
    from transformers import AutoTokenizer

    from qa.data import windows
    from qa.data.window_cache import load_windows
    from qa.evaluation.coverage import WindowStatistics

    lengths = {"max_seq_length": 11, "doc_stride": 0, "max_query_length": 3, "first_window_only": True}
    args = DataArguments(train_file=three_files[1:], **lengths)
    split = load_splits(args, ("train",), cache_dir=str(tmp_path))["train"]
    features = load_windows(split.examples, AutoTokenizer.from_pretrained(tiny_model), args, str(tmp_path), "train")
    whole = WindowStatistics.from_windows(split.examples, features, args, True)
    monkeypatch.setattr(windows, "PART", 5)
    parts = WindowStatistics.from_windows(split.examples, features, args, True)
    assert parts.unreachable == whole.unreachable and len(whole.unreachable) > 0
    assert parts.label_f1 == pytest.approx(whole.label_f1)
    for name in ("exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total", "NoAns_f1", "NoAns_total"):
        assert parts.ceiling[name] == pytest.approx(whole.ceiling[name]), name


def test_files_longer_than_the_read_buffer(tmp_path, monkeypatch):
    """JSON lines and Parquet longer than one read, and an encoding error far from the beginning."""
    from qa.data import formats

    monkeypatch.setattr(formats, "BLOCK_BYTES", 7)
    monkeypatch.setattr(formats, "BATCH_ROWS", 3)
    rows = [question(f"é{number}") for number in range(40)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8-sig")
    Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        read_rows = [row for _, row in formats.read_file(str(tmp_path / name))]
        assert read_rows == rows
    places = [place for place, _ in formats.read_file(str(tmp_path / "a.jsonl"))]
    assert places[-1].endswith("a.jsonl, line 40")
    text = "\n".join(lines).encode()
    at = text.index("é39".encode()) + 1
    (tmp_path / "invalid.jsonl").write_bytes(text[:at] + text[at + 1 :])
    with pytest.raises(UserError, match=f"not UTF-8 at byte {at - 1}; save it as UTF-8"):
        list(formats.read_file(str(tmp_path / "invalid.jsonl")))


def test_duplicate_ids_in_training_are_reported_and_kept(tmp_path):
    rows = [question(key) for key in ("a", "b", "a", "c", "a", "b")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = read_splits(DataArguments(train_file=str(tmp_path / "a.jsonl")), ("train",), cache_dir=str(tmp_path))[
        "train"
    ]
    found = [(problem.place.split()[-1], problem.detail.split()[-1]) for problem in split.problems]
    assert found == [("3", "1"), ("5", "1"), ("6", "2")], "its line, and the line that has the id first"
    assert {problem.done for problem in split.problems} == {"kept"}


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_questions(tmp_path):
    command = [sys.executable, REPOSITORY / "benchmarks/big_data.py", 6_000, 30_000, "--folder", tmp_path]
    done = subprocess.run([str(item) for item in command], capture_output=True, text=True, check=True)
    peaks = [float(line.split()[2]) for line in done.stdout.splitlines()[1:]]
    assert len(peaks) == 2 and peaks[1] - peaks[0] < 40, done.stdout
