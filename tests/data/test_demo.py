"""The demo data, and (slow) training on it with the commands of the README."""

import json
import re
import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from qa.data.demo import write_demo
from qa.data.splits import load_splits
from qa.options.arguments import REPOSITORY, DataArguments


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "demo_data"
    write_demo(folder)
    return folder


def test_the_same_seed_writes_the_same_bytes(demo, tmp_path):
    write_demo(tmp_path / "again")
    write_demo(tmp_path / "other", seed=1)
    for path in demo.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert (demo / "train.json").read_bytes() != (tmp_path / "other/train.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "other"], "no temporary folder is left"


def test_answers_are_at_their_offsets_and_not_shared_between_splits(demo):
    args = DataArguments(train_file=str(demo / "train.json"), validation_file=str(demo / "validation.json"))
    splits = load_splits(args, ("train", "validation"))
    names = {}
    for name, split in splits.items():
        assert split.repaired == 0 and not split.dropped
        words = {word for context in split.examples["context"] for word in re.findall(r"[A-Z]\w+|\d+", context)}
        names[name] = words | {answers["text"][0] for answers in split.examples["answers"]}
    assert (splits["train"].read, splits["validation"].read) == (8000, 500)
    assert names["train"] & names["validation"] == {"The", "In"}


def test_the_tokenizer_does_not_know_the_names(demo):
    tokenizer = AutoTokenizer.from_pretrained(demo)
    text = "Mirel Tasko was born in Pordana in 1873."
    encoded = tokenizer("Who?", text, return_offsets_mapping=True)
    pieces = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    assert [text[b:e] for p, (b, e) in zip(pieces, encoded["offset_mapping"], strict=True) if p == "<unk>"] == [
        "Mirel",
        "Tasko",
        "Pordana",
        "1873",
    ]


def python(*argv, cwd) -> str:
    done = subprocess.run([sys.executable, *map(str, argv)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_train_and_ask(tmp_path):
    printed = python(REPOSITORY / "train.py", "--config", REPOSITORY / "configs/demo.yaml", cwd=tmp_path)
    results = json.loads((tmp_path / "demo_model/eval_results.json").read_text())
    assert results["exact_match"] >= 90 and results["examples"] == 500
    assert f"{results['exact_match']:.2f}" in printed and "ask.py --model_name_or_path demo_model" in printed
    history = [json.loads(path.read_text())["log_history"] for path in tmp_path.glob("demo_model/*/trainer_state.json")]
    losses = [entry["loss"] for entry in max(history, key=len) if "loss" in entry]
    assert losses[-1] < 0.2 * losses[0], "the loss falls"

    context = "Pordana lies on the river Welu. Mirel was a baker by trade. The mayor of Pordana is Hedo."
    for question, answer in (
        ("Which river flows through Pordana?", "Welu"),
        ("What did Mirel do for a living?", "baker"),
        ("Who is the mayor of Pordana?", "Hedo"),
    ):
        asked = ("--question", question, "--context", context)
        printed = python(REPOSITORY / "ask.py", "--model_name_or_path", "demo_model", *asked, cwd=tmp_path)
        assert printed.splitlines()[0].split() == ["answer", answer]


@pytest.mark.slow
def test_a_model_learns_to_leave_questions_unanswered(tmp_path):
    """The best threshold is found, saved with the model, used by the next evaluation, and shown in the report."""
    python(REPOSITORY / "train.py", "--config", REPOSITORY / "configs/demo_v2.yaml", cwd=tmp_path)
    evaluate = (REPOSITORY / "evaluate_qa.py", "--model_name_or_path", "demo_model_v2")
    first = json.loads((tmp_path / "demo_model_v2/eval_results.json").read_text())
    assert first["NoAns_f1"] >= 90 and first["HasAns_f1"] >= 60 and first["NoAns_total"] + first["HasAns_total"] == 500
    assert " saved in " in python(*evaluate, "--save_best_threshold", "true", cwd=tmp_path)
    python(*evaluate, cwd=tmp_path)
    again = json.loads((tmp_path / "demo_model_v2/evaluation/eval_results.json").read_text())
    assert again["f1"] == pytest.approx(first["best_f1"]) and again["best_f1_thresh"] == first["best_f1_thresh"]
    page = (tmp_path / "demo_model_v2/evaluation/report.html").read_text(encoding="utf-8")
    threshold = f"{first['best_f1_thresh']:.4f}"
    assert f"<b>{threshold}</b>" in page and f"Current threshold: {threshold}" in page
