"""Progress and the output of a run: lines in a file, the time that is left, evaluations, and commands to paste."""

import os
import shlex
import subprocess
import sys
from datetime import datetime
from types import SimpleNamespace

import pytest
from helpers.commands import train_tiny
from transformers.trainer_utils import IntervalStrategy

from qa.options.arguments import REPOSITORY
from qa.options.training_arguments import TrainingOptions
from qa.runtime import console
from qa.runtime.errors import UserError
from qa.training.progress import Pace, describe_end, describe_evaluation, evaluation_steps


def schedule(strategy: str, every: int = 0, load_best: bool = True, steps: int = 10, delay: float = 0) -> list[int]:
    args = SimpleNamespace(eval_strategy=IntervalStrategy(strategy), eval_delay=delay, load_best_model_at_end=load_best)
    return evaluation_steps(args, SimpleNamespace(max_steps=steps, eval_steps=every), epoch_steps=4)


def test_evaluations_are_counted_by_their_schedule():
    assert schedule("epoch") == [4, 8, 10, 10]
    assert schedule("epoch", steps=8, load_best=False) == [4, 8]
    assert schedule("epoch", steps=8, delay=2) == [8, 8]
    assert schedule("steps", every=3) == [3, 6, 9, 10]
    assert schedule("no", load_best=False) == [10]


def test_remaining_time_includes_evaluations_as_measured_or_estimated():
    pace = Pace(evaluation_share=10)
    for _ in range(19):
        pace.add_step(2.0)
    pace = Pace(evaluation_share=10, steps=3, seconds=6.0)
    assert not pace.is_known
    for _ in range(17):
        pace.add_step(2.0)
    assert pace.is_known
    assert pace.seconds_left(20, 100, [20, 60, 100, 100]) == 80 * 2 + 3 * 10 * 2
    pace.evaluation = 7.0
    assert pace.seconds_left(60, 100, [20, 60, 100, 100]) == 40 * 2 + 2 * 7


def test_the_end_is_given_as_duration_and_time_of_day():
    now = datetime(2026, 3, 30, 14, 30)
    assert describe_end(7800, now) == "about 2 h 10 min left (until 16:40)"
    assert describe_end(125, now) == "about 2 min 05 s left (until 14:32)"
    assert describe_end(36000, now) == "about 10 h 00 min left (until 31 Mar 00:30)"


def test_an_evaluation_is_one_line_that_names_the_best():
    history = [{"loss": 2.0, "step": 2}]
    for step, f1 in ((5000, 60.0), (88_000, 55.5)):
        history.append({"eval_exact_match": 50.126, "eval_f1": f1, "eval_loss": 1.5, "step": step})
    line = describe_evaluation(history[:2], "f1", True)
    assert line == "evaluation at step 5,000: EM 50.13, F1 60.00 (best so far)"
    assert describe_evaluation(history, "f1", True).endswith("F1 55.50 (best: step 5,000)")
    assert describe_evaluation(history, "f1", False).endswith("(best so far)")
    line = describe_evaluation(history, "loss", False)
    assert line == "evaluation at step 88,000: EM 50.13, F1 55.50, loss 1.5000 (best: step 5,000)"


def test_tables_counts_and_durations():
    assert [console.count(number, "window") for number in (0, 1, 8000)] == ["0 windows", "1 window", "8,000 windows"]
    assert [console.format_duration(each) for each in (9.4, 61, 3600)] == ["9 s", "1 min 01 s", "1 h 00 min"]
    path = REPOSITORY / ("folder/" * 20)
    lines = console.table([("plan", "a word " * 30), ("model", path)]).splitlines()
    assert all(len(line) <= 80 for line in lines[:-1]) and lines[-1].endswith(str(path))
    assert lines[1].startswith(" " * 9) and lines[1][9] != " "


def test_bars_are_drawn_on_a_terminal_unless_disabled(monkeypatch):
    assert TrainingOptions(output_dir="x").disable_tqdm is True
    assert TrainingOptions(output_dir="x", disable_tqdm=False).disable_tqdm is False
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert TrainingOptions(output_dir="x").disable_tqdm is False
    assert TrainingOptions(output_dir="x", disable_tqdm=True).disable_tqdm is True


def test_no_steps_are_refused(tiny_data, tiny_model, tmp_path):
    with pytest.raises(UserError, match="max_steps must be at least 1"):
        train_tiny(tiny_data, tiny_model, tmp_path / "run", "--max_steps", 0)


def test_the_kept_model_adds_no_point_to_the_curves(tiny_data, tiny_model, tmp_path, monkeypatch, capsys):
    histories = []
    draw = __import__("qa.training.finish", fromlist=["training_curves"]).training_curves
    monkeypatch.setattr(
        "qa.training.finish.training_curves", lambda history: [histories.append(list(history)), draw(history)][1]
    )
    monkeypatch.setattr(console, "INTERVAL", 0)
    best_is_first = ("--metric_for_best_model", "loss", "--greater_is_better", "true", "--logging_steps", 1)
    best_is_first += ("--load_best_model_at_end", "true", "--save_strategy", "epoch", "--eval_strategy", "epoch")
    train_tiny(tiny_data, tiny_model, tmp_path / "run", *best_is_first)
    losses = [(entry["step"], entry["eval_loss"]) for entry in histories[0] if "eval_loss" in entry]
    assert len(losses) == 2 and losses[0][1] > losses[1][1], "the first epoch is the best, and the second the last"
    out = capsys.readouterr().out
    assert out.count("evaluation at step") == 2 and f"(best: step {losses[0][0]:,})" in out
    assert f"step {losses[1][0]} of {losses[1][0]}: loss " in out and ", learning rate " in out
    assert "{'" not in out


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder with a shell's log, a notebook and what preprocess.py writes, in which the demo is then trained."""
    where = tmp_path_factory.mktemp("demo")
    folder = where / "my model"
    folder.mkdir()
    (folder / ".gitignore").write_text("*")
    (folder / "notes.ipynb").write_text("{}")
    options = [
        "--config",
        str(REPOSITORY / "configs/demo.yaml"),
        "--output_dir",
        str(folder),
        "--num_train_epochs",
        "2",
    ]
    options += ["--max_train_samples", "801", "--max_eval_samples", "100", "--cache_dir", str(where / "cache")]
    done = {}
    for command, log in (("preprocess", "checked.txt"), ("train", "log.txt")):
        with (folder / log).open("w") as file:
            words = [sys.executable, str(REPOSITORY / f"{command}.py"), *options]
            environment = os.environ | {"HF_HUB_OFFLINE": "1"}
            ran = subprocess.run(words, cwd=where, stdout=file, stderr=subprocess.STDOUT, env=environment)
        done[command] = ran.returncode, (folder / log).read_bytes().decode()
    return folder, done


def test_train_after_preprocess_in_the_same_folder(demo):
    folder, done = demo
    assert done["preprocess"][0] == 0, done["preprocess"][1]
    assert done["train"][0] == 0, done["train"][1]
    kept = (".gitignore", "notes.ipynb", "summary.json", "problems.jsonl", "log.txt", "model.safetensors")
    assert all((folder / name).is_file() for name in kept)


def test_output_in_a_file_is_short_plain_lines(demo):
    for status, text in demo[1].values():
        assert status == 0 and text.count("\r") < 20 and len(text.splitlines()) < 150
        assert [line for line in text.splitlines() if len(line) > 80 and str(demo[0]) not in line] == []
    text = demo[1]["train"][1]
    assert text.count("evaluation at step") == 2 and "best so far" in text
    assert "left (until" in text and "evaluations included" in text
    assert text.count("no GPU found") <= 1


def test_printed_commands_can_be_pasted(demo):
    folder, done = demo
    words = shlex.split(done["train"][1].split("next:\n")[1])
    assert words.count(str(folder)) == 2, words
