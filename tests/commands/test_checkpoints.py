"""Commands that use a checkpoint leave it as it was written."""

import re
import shutil

import pytest
from helpers.commands import read, run, train_tiny

import ask
import evaluate_qa
import preprocess
from qa.io import run_folder
from qa.runtime.errors import UserError
from qa.training import checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data, tiny_model):
    """A run with two regular checkpoints, and a recovery checkpoint that is a copy of one."""
    output = tmp_path_factory.mktemp("runs") / "model"
    train_tiny(tiny_data, tiny_model, output, "--save_total_limit", 9)
    shutil.copytree(output / "checkpoint-3", output / "recovery-3")
    return output


def content(folder) -> dict:
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["checkpoint-3", "recovery-3"])
def test_a_checkpoint_is_evaluated_into_a_folder_beside_it(trained, name, monkeypatch):
    before = content(trained / name)
    run(evaluate_qa, "--model_name_or_path", trained / name)
    monkeypatch.chdir(trained / name)
    run(evaluate_qa, "--model_name_or_path", ".", "--per_device_eval_batch_size", 4)
    assert content(trained / name) == before
    assert checkpoints.find_corruption(trained / name) is None
    assert read(trained / "evaluation" / name / "eval_results.json")["examples"] == 16
    found = [path.name for path in run_folder.find_checkpoints(trained)]
    assert found == ["checkpoint-6", "recovery-3", "checkpoint-3"], "results are not taken for a checkpoint"
    run(evaluate_qa, "--model_name_or_path", trained)
    assert (trained / "evaluation/eval_results.json").is_file(), "of the finished model, as before"


@pytest.mark.parametrize("name", ["checkpoint-3", "recovery-3"])
def test_nothing_is_written_into_a_checkpoint(trained, tiny_data, tmp_path, name, monkeypatch):
    folder, link = trained / name, tmp_path / "link"
    before = content(folder)
    link.symlink_to(folder, target_is_directory=True)
    (tmp_path / "questions.jsonl").write_text('{"question": "Who?", "context": "Ann."}\n')
    questions = ("--input", tmp_path / "questions.jsonl")
    model = ("--model_name_or_path", folder)
    for work in ("qa.commands.evaluate.load_validation", "ask.QuestionAnswerer.load", "qa.commands.ask.read_questions"):
        monkeypatch.setattr(work, lambda *_, **__: pytest.fail("the work has begun"))
    for command, argv in (
        (evaluate_qa, (*model, "--output_dir", folder)),
        (evaluate_qa, (*model, "--output_dir", folder / "new/results")),
        (evaluate_qa, (*model, "--output_dir", link)),
        (evaluate_qa, (*model, "--save_logits", folder / "logits.npz")),
        (evaluate_qa, ("--predictions", "p.json", "--output_dir", folder)),
        (ask, (*model, *questions, "--output", folder / "answers.jsonl")),
    ):
        with pytest.raises(UserError, match=rf"into a checkpoint, here {re.escape(str(folder))}: give a path outside"):
            run(command, *argv)
    with pytest.raises(UserError, match=r"save_best_threshold: .* is a checkpoint, .* give the finished model, or"):
        run(evaluate_qa, *model, "--save_best_threshold", "true")
    data = ("--train_file", tiny_data / "train.json", "--cache_dir", tmp_path)
    with pytest.raises(UserError, match="nothing is written into a checkpoint"):
        run(preprocess, "--tokenizer_name", folder, *data, "--output_dir", folder / "words")
    assert content(folder) == before


def test_a_run_is_resumed_from_an_evaluated_checkpoint(trained, tiny_data, tiny_model, tmp_path, capsys):
    shutil.copytree(trained / "checkpoint-3", tmp_path / "model/checkpoint-3")
    (tmp_path / "model" / run_folder.LOCK).touch()
    run(evaluate_qa, "--model_name_or_path", tmp_path / "model/checkpoint-3")
    train_tiny(tiny_data, tiny_model, tmp_path / "model", "--save_total_limit", 1)
    assert f"resuming from {tmp_path}/model/checkpoint-3" in capsys.readouterr().out
    assert not (tmp_path / "model/checkpoint-3").exists() or not (tmp_path / "model/checkpoint-6").exists(), "rotated"
    assert (tmp_path / "model/evaluation/checkpoint-3/eval_results.json").is_file()
