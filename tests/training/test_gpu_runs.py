"""Runs of the commands on a GPU: resumed, in fp16, compiled; evaluated and asked as on a CPU."""

import math
import os
import shutil
from unittest import mock

import numpy as np
import pytest
import torch
from helpers.commands import read, run, train_tiny
from safetensors.torch import load_file
from torch.utils._triton import has_triton

import ask
import evaluate_qa
from qa.runtime.errors import UserError
from qa.training.trainer import QATrainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
RUN = ("--max_steps", 6, "--logging_steps", 1, "--eval_strategy", "no", "--load_best_model_at_end", "false")
SAVED = (*RUN, "--save_strategy", "steps", "--save_steps", 3, "--save_total_limit", 9)
UNSAVED = (*RUN, "--save_strategy", "no")
CONTEXT = "It was long ago.  Zoë was born in Sollen in 1931. Mira and Arna were born in Ørby. " * 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data, tiny_model):
    """A run in the precision of the GPU, with checkpoints after 3 and 6 steps."""
    output = tmp_path_factory.mktemp("runs") / "model"
    train_tiny(tiny_data, tiny_model, output, *SAVED)
    return output


def losses(folder) -> list[float]:
    return [row["loss"] for row in read(folder / "trainer_state.json")["log_history"] if "loss" in row]


def test_a_run_in_fp16_is_finite_and_saves_its_loss_scale(tiny_data, tiny_model, tmp_path):
    train_tiny(tiny_data, tiny_model, tmp_path / "run", *SAVED, "--precision", "fp16")
    found = losses(tmp_path / "run")
    assert len(found) == 6 and all(map(math.isfinite, found))
    assert torch.load(tmp_path / "run/checkpoint-6/scaler.pt", weights_only=True)["scale"] > 0


def test_logits_of_a_gpu_are_those_of_a_cpu(trained, tmp_path):
    found = []
    for name, more in (("gpu", ("--tf32", "false")), ("cpu", ("--use_cpu", "true"))):
        files = ("--output_dir", tmp_path / name, "--save_logits", tmp_path / f"{name}.npz", "--precision", "fp32")
        run(evaluate_qa, "--model_name_or_path", trained, *files, *more)
        found.append(np.load(tmp_path / f"{name}.npz"))
    for kind in ("start", "end"):
        ours, theirs = (logits[kind].astype(np.float32) for logits in found)
        both = np.isfinite(ours) & np.isfinite(theirs)
        assert both.any() and (np.isfinite(ours) == np.isfinite(theirs)).all()
        np.testing.assert_allclose(ours[both], theirs[both], rtol=0, atol=1e-3)
    assert read(tmp_path / "gpu/predictions.json").keys() == read(tmp_path / "cpu/predictions.json").keys()


def test_questions_are_answered_on_a_gpu_as_on_a_cpu(trained, capsys):
    answers = []
    for device in ("cuda", "cpu"):
        answerer = ask.pipeline("question-answering", model=trained, device=device)
        assert answerer.device.type == device
        answers.append(answerer(question="Where was Zoë born?", context=CONTEXT))
    for answer in answers:
        assert CONTEXT[answer["start"] : answer["end"]] == answer["answer"]
    assert answers[0]["score"] == pytest.approx(answers[1]["score"], abs=0.02)
    capsys.readouterr()
    asked = ("--question", "Where was Zoë born?", "--context", CONTEXT, "--device", "cuda:0")
    run(ask, "--model_name_or_path", trained, *asked)
    assert answers[0]["answer"] in " ".join(capsys.readouterr().out.split())


@pytest.mark.skipif(not has_triton() or not (shutil.which("gcc") or shutil.which("cc")), reason="needs a C compiler")
def test_a_compiled_run_learns_what_an_uncompiled_one_does(tiny_data, tiny_model, tmp_path):
    one_length = ("--pad_to_max_length", "true", "--precision", "fp32", "--tf32", "false", "--optim", "sgd")
    train_tiny(tiny_data, tiny_model, tmp_path / "plain", *UNSAVED, *one_length)
    train_tiny(tiny_data, tiny_model, tmp_path / "compiled", *UNSAVED, *one_length, "--torch_compile", "true")
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), abs=1e-3)


def test_cuda_graphs_are_refused_where_gradients_are_accumulated(tiny_data, tiny_model, tmp_path):
    graphs = ("--torch_compile_mode", "reduce-overhead", "--gradient_accumulation_steps", 2)
    with pytest.raises(UserError, match="reduce-overhead needs gradient_accumulation_steps: 1"):
        train_tiny(tiny_data, tiny_model, tmp_path / "run", *UNSAVED, *graphs)


@pytest.fixture
def deterministic():
    """The option ``full_determinism``, whose effect on this process ends with the test."""
    with mock.patch.dict(os.environ):
        yield ("--full_determinism", "true")
    torch.use_deterministic_algorithms(False)


def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(
    deterministic, tiny_data, tiny_model, tmp_path, monkeypatch
):
    def interrupted(trainer):
        raise UserError("interrupted")

    whole, output = tmp_path / "whole", tmp_path / "run"
    train_tiny(tiny_data, tiny_model, whole, *SAVED, *deterministic)
    with monkeypatch.context() as patch:
        patch.setattr(QATrainer, "save_finished", interrupted)
        with pytest.raises(UserError, match="interrupted"):
            train_tiny(tiny_data, tiny_model, output, *SAVED, *deterministic)
    shutil.rmtree(output / "checkpoint-6")
    train_tiny(tiny_data, tiny_model, output, *SAVED, *deterministic)
    assert read(output / "train_results.json")["resumed_from"] == 3
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (output, whole))
    assert ours.keys() == theirs.keys() and all(weight.equal(theirs[name]) for name, weight in ours.items())
    states = (torch.load(folder / "checkpoint-6/optimizer.pt", weights_only=True) for folder in (output, whole))
    for one, other in zip(*(state["state"].values() for state in states), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
