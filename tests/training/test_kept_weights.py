"""The weights that a run continues and ends with are those of its checkpoints, whatever their names in the file."""

import shutil
import signal

import pytest
import torch
from helpers.commands import read, run, train_tiny
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, TrainerCallback

import ask
import evaluate_qa
import publish
from qa.io import run_folder
from qa.model.weights import load_checkpoint
from qa.runtime.errors import UserError
from qa.training import checkpoints
from qa.training.kept_weights import find_other_score
from qa.training.trainer import QATrainer

EPOCHS = ("--num_train_epochs", 4, "--save_total_limit", 9)


@pytest.fixture(scope="module")
def converted_model(tmp_path_factory, bert_tokenizer):
    """A configuration whose weights have other names and shapes in files: one matrix for query, key and value."""
    folder = tmp_path_factory.mktemp("converted")
    bert_tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    more = {"vocab_size": len(bert_tokenizer), "max_position_embeddings": 512, "pad_token_id": 0}
    AutoConfig.for_model("jina_embeddings_v3", **sizes, **no_dropout, **more).save_pretrained(folder)
    return folder


@pytest.fixture
def best_step(monkeypatch):
    """A function that makes the evaluation at a step the best of the run; F1 stays as it is at the others."""

    def choose(step: int) -> None:
        determine = QATrainer._determine_best_metric

        def only_then(self, metrics, trial):
            return determine(self, metrics, trial) if self.state.global_step == step else False

        monkeypatch.setattr(QATrainer, "_determine_best_metric", only_then)

    return choose


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def weights(folder) -> dict:
    return load_file(folder / run_folder.WEIGHTS)


@pytest.mark.parametrize("step", [6, 12])
def test_the_best_checkpoint_is_kept_with_all_of_its_weights(
    tiny_data, converted_model, tmp_path, best_step, caplog, step
):
    best_step(step)
    train_tiny(tiny_data, converted_model, tmp_path / "model", *EPOCHS)
    kept = weights(tmp_path / "model/checkpoint-6"), weights(tmp_path / "model/checkpoint-12")
    assert "roberta.encoder.layers.0.mixer.Wqkv.weight" in kept[0] and not same(*kept)
    assert same(weights(tmp_path / "model"), kept[step == 12])
    assert "keys in the checkpoint" not in caplog.text
    run(evaluate_qa, "--model_name_or_path", tmp_path / f"model/checkpoint-{step}", "--output_dir", tmp_path / "again")
    assert read(tmp_path / "again/predictions.json") == read(tmp_path / "model/predictions.json")


def test_a_run_is_resumed_with_all_weights(tiny_data, converted_model, tmp_path, monkeypatch, caplog):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 7:
                signal.raise_signal(signal.SIGTERM)

    train_tiny(tiny_data, converted_model, tmp_path / "whole", *EPOCHS)
    with monkeypatch.context() as patch:
        init = QATrainer.__init__
        patch.setattr(
            QATrainer, "__init__", lambda self, **kwargs: (init(self, **kwargs), self.add_callback(Stop()))[0]
        )
        with pytest.raises(SystemExit):
            train_tiny(tiny_data, converted_model, tmp_path / "stopped", *EPOCHS)
    assert run_folder.find_checkpoints(tmp_path / "stopped")[0].name == "recovery-7"
    train_tiny(tiny_data, converted_model, tmp_path / "stopped", *EPOCHS)
    for name in ("checkpoint-9", "checkpoint-12"):
        assert same(weights(tmp_path / "stopped" / name), weights(tmp_path / "whole" / name)), name
    assert same(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))
    assert "keys in the checkpoint" not in caplog.text


@pytest.mark.parametrize(
    ("when", "torn", "reason"),
    [
        ("checkpoint-6", False, "qa_outputs.weight in it is not the weight that was evaluated"),
        ("checkpoint-12", False, r"its (f1|loss) is [\d.]+, and was [\d.]+ when it was saved"),
        ("checkpoint-12", True, "Error while deserializing header"),
    ],
)
def test_a_best_checkpoint_that_is_read_otherwise_fails_the_run(
    tiny_data, tiny_model, tmp_path, monkeypatch, best_step, when, torn, reason
):
    """As where a file does not contain what was in memory: its answers are reversed, at once or at the end."""
    commit, folder = checkpoints.commit_checkpoint, tmp_path / "model"
    best = folder / "checkpoint-6"

    def commit_and_change(staged, final, *more):
        commit(staged, final, *more)
        if final.name == when:
            content = weights(best)
            content["qa_outputs.weight"] *= -1
            save_file(content, best / run_folder.WEIGHTS, {"format": "pt"})
            if torn:
                (best / run_folder.WEIGHTS).write_bytes(b"\0" * 99)

    monkeypatch.setattr(checkpoints, "commit_checkpoint", commit_and_change)
    best_step(6)
    with pytest.raises(UserError, match=rf"checkpoint-6, is not read as it was written: {reason}") as error:
        train_tiny(tiny_data, tiny_model, folder, *EPOCHS)
    assert "\n" not in str(error.value)
    left = {path.name for path in folder.iterdir()}
    assert not left & {"model.safetensors", "train_results.json", "eval_results.json"} and when in left


@pytest.mark.parametrize(
    ("now", "here", "elsewhere"),
    [
        ((80.0, 1.0), None, None),
        ((80.01, 1.0), "its f1 is 80.0100, and was 80.0000 when it was saved", None),
        ((80.0, 1.001), "its loss is 1.0010, and was 1.0000 when it was saved", None),
        ((79.6, 0.99), "its f1 is 79.6000", None),
        ((79.4, 1.0), "its f1 is 79.4000", "its f1 is 79.4000"),
        ((80.0, 1.03), "its loss is 1.0300", "its loss is 1.0300"),
        ((80.0, float("nan")), "its loss is nan", "its loss is nan"),
    ],
)
def test_scores_of_one_checkpoint_may_differ_only_as_rounding_does(now, here, elsewhere):
    before, now = {"f1": 80.0, "loss": 1.0}, dict(zip(("f1", "loss"), now, strict=True))
    for same_process, expected in ((True, here), (False, elsewhere)):
        found = find_other_score(before, now, 1000, same_process)
        assert (found or "none").startswith(expected or "none")
    assert find_other_score({"f1": 80.0}, {"f1": 90.0}, 10, False) is None, "one of ten questions"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data, tiny_model):
    output = tmp_path_factory.mktemp("trained") / "model"
    train_tiny(tiny_data, tiny_model, output, "--num_train_epochs", 1)
    return output


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_a_model_of_train_py_is_read_completely_or_not_at_all(trained, tmp_path, change):
    broken = tmp_path / "model"
    shutil.copytree(trained, broken, ignore=shutil.ignore_patterns("checkpoint-*"))
    content = weights(broken)
    if change == "missing":
        del content["albert.embeddings.word_embeddings.weight"]
    else:
        content["albert.embeddings.more.weight"] = torch.zeros(3)
    save_file(content, broken / run_folder.WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match=r"although train.py wrote it: its files"):
        load_checkpoint(broken)
    for command, argv in (
        (evaluate_qa, ("--model_name_or_path", broken, "--output_dir", tmp_path / "x")),
        (ask, ("--model_name_or_path", broken, "--question", "Who?", "--context", "Ann.")),
        (publish, ("--model_dir", broken, "--hub_model_id", "me/model")),
    ):
        with pytest.raises(UserError, match=r"(lacks|does not use,) 1 "):
            run(command, *argv)
