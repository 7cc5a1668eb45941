"""Errors of memory and of the device: which are which, batches in parts, and how commands end."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import error_of, read, run, train_tiny
from helpers.windows import collate
from torch._dynamo.exc import TorchDynamoException
from transformers import AlbertForQuestionAnswering

import ask
import evaluate_qa
from qa.model import device_errors
from qa.model.batch_splitting import ForwardRetry
from qa.model.device_errors import free_cached_memory, is_device_lost, is_out_of_memory
from qa.options.arguments import REPOSITORY
from qa.options.training_arguments import TrainingOptions
from qa.runtime.errors import UserError
from qa.training.compilation import compiled_if_whole
from qa.training.trainer import QATrainer

# What torch appends to every error of CUDA.
HINTS = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be"
    " incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to enable"
    " device-side assertions.\n"
)
MEMORY = [
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 5.78 GiB",
    "CUDA error: out of memory" + HINTS,
    "CUDA driver error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "HIP out of memory. Tried to allocate 20.00 MiB",
    "HIP error: out of memory",
    "HIP error: hipErrorOutOfMemory",
    "MPS backend out of memory (MPS allocated: 5.00 GiB, other allocations: 1.00 GiB, max allowed: 6.00 GiB).",
    "XPU out of memory. Tried to allocate 1.00 GiB",
    "Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate",
    "NCCL error: unhandled cuda error. Last error: Cuda failure 2 'out of memory'",
]
LOST = [
    "CUDA error: device-side assert triggered" + HINTS,
    "CUDA error: an illegal memory access was encountered" + HINTS,
    "CUDA error: unspecified launch failure" + HINTS,
    "HIP error: an illegal memory access was encountered",
]
OTHER = [
    "CUDA error: invalid argument" + HINTS,
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
    "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`",
    "CUDA error: no kernel image is available for execution on the device" + HINTS,
    "mat1 and mat2 shapes cannot be multiplied (8x32 and 16x64)",
]


@pytest.mark.parametrize(
    ("text", "kind"),
    [*((text, "memory") for text in MEMORY), *((text, "lost") for text in LOST), *((text, "") for text in OTHER)],
)
def test_errors_are_known_by_their_messages(text, kind):
    for error in (RuntimeError(text), torch.AcceleratorError(text)):
        assert (is_out_of_memory(error), is_device_lost(error)) == (kind == "memory", kind == "lost")
    assert not is_out_of_memory(ValueError(text)) and not is_device_lost(ValueError(text))


def test_no_other_module_knows_the_class_of_the_error():
    files = [*Path(REPOSITORY).glob("*.py"), *Path(REPOSITORY).glob("qa/**/*.py")]
    found = {file.name for file in files if "torch.OutOfMemoryError" in file.read_text(encoding="utf-8")}
    assert found == {"device_errors.py"}


def test_a_device_that_fails_again_is_lost(monkeypatch):
    def synchronize():
        raise RuntimeError("CUDA error: out of memory" + HINTS)

    free_cached_memory("no accelerator")
    for name, value in (("is_available", lambda: True), ("empty_cache", lambda: None), ("synchronize", synchronize)):
        monkeypatch.setattr(torch.accelerator, name, value)
    with pytest.raises(device_errors.DeviceLostError, match=r"^first; and then: CUDA error: out of memory$") as caught:
        free_cached_memory("first")
    assert is_device_lost(caught.value) and not is_out_of_memory(caught.value)


def test_memory_that_runs_out_while_compiling_is_no_error_of_the_compiler(tmp_path):
    args = TrainingOptions(output_dir=str(tmp_path), torch_compile=True, per_device_train_batch_size=8)
    error = TorchDynamoException("backend='inductor' raised:\nOutOfMemoryError: CUDA out of memory. Tried to allocate")

    def compiled(error: Exception) -> None:
        with compiled_if_whole(args, 8):
            raise error

    assert str(error_of(compiled, error)).startswith("TorchDynamoException: backend='inductor'")
    assert "torch_compile: the model cannot be compiled" in str(error_of(compiled, TorchDynamoException("unsupported")))


def limited(limit: int, sizes: list[int], message: str = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED"):
    """Return a forward function, of the sum and the double of a batch, that has memory for ``limit`` windows."""

    def forward(batch):
        sizes.append(len(batch["input_ids"]))
        if sizes[-1] > limit:
            raise RuntimeError(message)
        return batch["input_ids"].sum(1), 2 * batch["input_ids"]

    return forward


def test_a_batch_that_does_not_fit_is_run_in_halves_from_then_on(capsys):
    batch, sizes = collate([40, 39, 38, 37, 36, 35, 34, 33, 32]), []
    retry = ForwardRetry("evaluation")
    for _ in range(2):
        total, double = retry.run(batch, limited(2, sizes))
        assert total.equal(batch["input_ids"].sum(1)) and double.equal(2 * batch["input_ids"])
    assert sizes == [9, 3, *[2] * 4, 1, *[2] * 4, 1], "halved twice, and not tried again"
    narrow, _ = retry.run(collate([20] * 4), limited(4, sizes))
    assert sizes[-1] == 4 and len(narrow) == 4, "as many tokens as two of 40"
    assert capsys.readouterr().err == (
        "note: out of memory; evaluation continues with batches of at most 160 tokens, here 4 windows instead of 9\n"
    )


def test_a_window_that_does_not_fit_other_errors_and_several_processes():
    batch = collate([40, 30])
    with pytest.raises(UserError, match="evaluation runs out of memory with one window of 40 tokens: lower max_seq"):
        ForwardRetry("evaluation").run(batch, limited(0, []))
    for message in ("shapes cannot be multiplied", LOST[0]):
        sizes: list[int] = []
        with pytest.raises(RuntimeError, match=message[:20]):
            ForwardRetry("evaluation").run(batch, limited(0, sizes, message))
        assert sizes == [2]
    sizes = []
    with pytest.raises(UserError, match="evaluation runs out of memory: lower per_device_eval_batch_size"):
        ForwardRetry("evaluation", retries=False).run(batch, limited(1, sizes))
    assert sizes == [2]


def limit_windows(monkeypatch, limit: int, message: str, training: bool = False) -> list[int]:
    """Let the model run out of memory with more windows than ``limit``; return a list of the sizes that fit."""
    original, sizes = AlbertForQuestionAnswering.forward, []

    @functools.wraps(original)
    def forward(model, *args, **kwargs):
        if model.training == training and len(kwargs["input_ids"]) > limit:
            raise RuntimeError(message)
        if model.training == training:
            sizes.append(len(kwargs["input_ids"]))
        return original(model, *args, **kwargs)

    monkeypatch.setattr(AlbertForQuestionAnswering, "forward", forward)
    return sizes


@pytest.fixture(scope="module")
def trained(tiny_data, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    train_tiny(tiny_data, tiny_model, folder)
    return folder


def test_evaluation_during_training_continues_in_smaller_batches(
    trained, tiny_data, tiny_model, tmp_path, monkeypatch, capsys
):
    sizes = limit_windows(monkeypatch, 3, "CUDA error: out of memory" + HINTS)
    assert error_of(train_tiny, tiny_data, tiny_model, tmp_path / "run") is None
    assert max(sizes) <= 3 and len(sizes) > 2
    assert capsys.readouterr().err.count("note: out of memory; evaluation continues with batches of at most") == 1
    for name in ("predictions.json", "nbest_predictions.json"):
        assert read(tmp_path / "run" / name) == read(trained / name)


def test_evaluate_qa_and_ask_give_the_same_answers_in_smaller_batches(
    trained, tiny_data, tmp_path, monkeypatch, capsys
):
    questions = tmp_path / "questions.jsonl"
    rows = (f'{{"question": "Where was {name} born?", "context": "{name} was born in Vindel."}}\n' for name in "ABCDE")
    questions.write_text("".join(rows), encoding="utf-8")

    def results(folder: Path) -> tuple:
        folder.mkdir()
        files = ("--validation_file", tiny_data / "dev.json.gz", "--cache_dir", tmp_path / "cache")
        logits = ("--save_logits", folder / "logits.npz")
        evaluated = (evaluate_qa, "--model_name_or_path", trained, *files, "--output_dir", folder, *logits)
        assert error_of(run, *evaluated) is None
        answers = ("--input", questions, "--output", folder / "answers.jsonl")
        assert error_of(run, ask, "--model_name_or_path", trained, *answers, "--device", "cpu") is None
        with np.load(folder / "logits.npz") as saved:
            arrays = saved["start"], saved["end"]
        answered = [json.loads(row) for row in (folder / "answers.jsonl").read_text().splitlines()]
        return read(folder / "predictions.json"), answered, arrays

    whole = results(tmp_path / "whole")
    capsys.readouterr()
    sizes = limit_windows(monkeypatch, 3, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    parts = results(tmp_path / "parts")
    err = capsys.readouterr().err
    assert err.count("out of memory; evaluation continues") == err.count("out of memory; answering continues") == 1
    assert max(sizes) <= 3
    assert parts[0] == whole[0]
    assert [row["answer"] for row in parts[1]] == ["Vindel"] * 5
    for ours, theirs in zip(parts[1], whole[1], strict=True):
        assert ours.pop("score") == pytest.approx(theirs.pop("score"), abs=1e-5) and ours == theirs
    for ours, theirs in zip(parts[2], whole[2], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_training_step_is_repeated_after_an_error_of_a_library(tiny_data, tiny_model, tmp_path, monkeypatch, capsys):
    sizes = limit_windows(monkeypatch, 4, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED", training=True)
    more = ("--max_steps", 2, "--eval_strategy", "no", *NO_BEST)
    assert error_of(train_tiny, tiny_data, tiny_model, tmp_path / "run", *more) is None
    assert set(sizes) == {4}
    assert "out of memory; the step is repeated" in capsys.readouterr().err


NO_BEST = ("--load_best_model_at_end", "false")
SAVED = ("--save_strategy", "steps", "--save_steps", 2, "--eval_strategy", "no", *NO_BEST)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (LOST[0], r"the GPU failed.*device-side assert triggered\. That is not a lack of memory"),
        ("CUDA error: out of memory" + HINTS, r"out of memory: --gpu_memory_gb auto"),
    ],
)
def test_a_run_that_cannot_continue_ends_in_one_line_and_is_resumed(
    tiny_data, tiny_model, tmp_path, monkeypatch, capsys, message, expected
):
    original = QATrainer.compute_loss

    def compute_loss(trainer, *args, **kwargs):
        if trainer.state.global_step == 3:
            raise RuntimeError(message)
        return original(trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(QATrainer, "compute_loss", compute_loss)
        error = error_of(train_tiny, tiny_data, tiny_model, tmp_path / "run", *SAVED)
    assert error is not None and re.match(f"UserError: {expected}", error) and "\n" not in error
    newest = tmp_path / "run/checkpoint-2"
    assert f"rerun the same command to resume from {newest}" in error
    assert not (tmp_path / "run/.saving").exists() and not (tmp_path / "run/model.safetensors").exists()
    train_tiny(tiny_data, tiny_model, tmp_path / "run", *SAVED)
    assert f"resuming from {newest}" in capsys.readouterr().out


def test_an_error_of_the_device_while_a_checkpoint_is_written_is_not_one_of_the_disk(
    tiny_data, tiny_model, tmp_path, monkeypatch
):
    def save_model(*args, **kwargs):
        raise torch.AcceleratorError(LOST[1])

    monkeypatch.setattr(QATrainer, "save_model", save_model)
    with pytest.raises(UserError, match=r"the GPU failed.*illegal memory access.*resume from the beginning"):
        train_tiny(tiny_data, tiny_model, tmp_path / "run", *SAVED)
    assert not (tmp_path / "run/.saving").exists()


def test_a_lost_device_ends_evaluate_qa_and_ask_in_one_line(trained, tiny_data, tmp_path, monkeypatch):
    limit_windows(monkeypatch, 0, LOST[1])
    files = ("--validation_file", tiny_data / "dev.json.gz", "--cache_dir", tmp_path / "cache")
    with pytest.raises(UserError, match=r"the GPU failed.*rerun the same command"):
        run(evaluate_qa, "--model_name_or_path", trained, *files, "--output_dir", tmp_path / "evaluated")
    with pytest.raises(UserError, match=r"the GPU failed.*start the program again"):
        run(ask, "--model_name_or_path", trained, "--question", "Where?", "--context", "Here.", "--device", "cpu")


gpu = pytest.mark.gpu
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@gpu
@no_gpu
def test_a_gpu_whose_memory_is_capped_evaluates_in_halves():
    """The allocator itself fails, and what the failed batch held is free when the halves are run."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (512 << 20)) / total)
    try:
        ids = torch.ones(8, 1 << 18, dtype=torch.int64, device="cuda")  # 16 MiB
        sizes = []

        def forward(batch):
            sizes.append(len(batch["input_ids"]))
            wide = batch["input_ids"].float().repeat(1, 128)  # 128 MiB a window
            return (wide.sum(1),)

        (sums,) = ForwardRetry("evaluation").run({"input_ids": ids}, forward)
        assert sums.tolist() == [float(128 << 18)] * 8 and sizes[0] == 8 and sizes[-1] < 4
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@gpu
@no_gpu
def test_a_device_side_assert_ends_a_command_with_status_2_and_one_line():
    code = """
import torch
from qa.model.device_errors import device_errors_in_one_line
from qa.runtime.process import run_command

def main():
    with device_errors_in_one_line("less", lambda: "rerun the same command"):
        table = torch.zeros(4, 4, device="cuda")
        torch.nn.functional.embedding(torch.tensor([9], device="cuda"), table)
        torch.cuda.synchronize()

run_command(main)
"""
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=os.environ, check=False)
    assert ended.returncode == 2, ended.stderr
    assert "error: the GPU failed" in ended.stderr and "device-side assert triggered" in ended.stderr
    assert "Traceback" not in ended.stderr and "rerun the same command" in ended.stderr
