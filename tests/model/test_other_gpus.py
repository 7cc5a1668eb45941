"""Apple's MPS, AMD's ROCm and Intel's XPU: what differs from CUDA, with stand-ins for the devices."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AlbertConfig, AlbertForQuestionAnswering
from transformers.training_args import ParallelMode

from qa.hub.model_card import record_run
from qa.inference.answerer import QuestionAnswerer
from qa.model.device import answering_precision, device_precision, fit_to_device, uses_tf32
from qa.model.memory import GIB
from qa.model.random_state import fork_rng
from qa.model.unpadded import same_for_each_batch
from qa.options.arguments import DataArguments
from qa.options.training_arguments import TrainingOptions
from qa.runtime.errors import UserError
from qa.runtime.gpus import DeviceMemory, describe_peak_memory, device_memory, used_gpus
from qa.runtime.process import configure_process
from qa.training.checkpoint_saving import CheckpointSaving
from qa.training.planner import print_plan
from qa.training.preflight import check_compiler

MPS = torch.device("mps")
RESOLVED = SimpleNamespace(precision="fp32", pad_to=None)


def options(**more) -> TrainingOptions:
    return TrainingOptions(output_dir="", report_to="none", **more)


def computing_on(monkeypatch, kind: str) -> None:
    """Make this machine look as one with a GPU of another kind."""
    monkeypatch.setattr(TrainingOptions, "device", torch.device(kind))
    monkeypatch.setattr(TrainingOptions, "world_size", 1)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda *args, **kwargs: torch.device(kind))


@pytest.fixture
def generator(monkeypatch) -> dict:
    """The state of a random generator on MPS."""
    held = {"state": torch.tensor([1, 2, 3], dtype=torch.uint8)}
    monkeypatch.setattr("torch.mps.get_rng_state", lambda device="mps": held["state"].clone())
    monkeypatch.setattr("torch.mps.set_rng_state", lambda state, device="mps": held.update(state=state))
    return held


def test_other_gpus_answer_in_fp32(capsys):
    for asked, notes in (("auto", 0), ("fp32", 0), ("bf16", 1), ("fp16", 1)):
        assert answering_precision(asked, torch.device("mps")) == "fp32"
        assert capsys.readouterr().err.count("no other precision has been tried on MPS") == notes


@pytest.mark.parametrize("kind", ["mps", "xpu"])
@pytest.mark.parametrize("asked", [{}, {"precision": "bf16"}, {"fp16": True}])
def test_other_gpus_compute_in_fp32(monkeypatch, capsys, kind, asked):
    args = options(**{name: value for name, value in asked.items() if name == "precision"})
    args.fp16 = asked.get("fp16", False)
    computing_on(monkeypatch, kind)
    assert device_precision(args) == "fp32" and not uses_tf32(args)
    assert capsys.readouterr().out == f"precision: fp32, as no other has been tried on {kind.upper()}\n"
    assert device_precision(args, kept="bf16") == "fp32"
    assert "computed in bf16, which this device lacks: continuing in fp32" in capsys.readouterr().err
    used = fit_to_device(args, "fp32")
    assert not used.dataloader_pin_memory and not used.fp16 and not used.bf16


def test_forward_passes_leave_the_random_state_of_any_device(generator):
    before = generator["state"]
    model = SimpleNamespace(device=MPS, training=False, config=SimpleNamespace())
    for block in (same_for_each_batch(model), fork_rng(MPS)):
        with block:
            torch.mps.set_rng_state(torch.zeros(3, dtype=torch.uint8))
        assert torch.equal(generator["state"], before)
    with fork_rng(MPS, enabled=False):
        torch.mps.set_rng_state(torch.zeros(3, dtype=torch.uint8))
    assert not torch.equal(generator["state"], before)


def test_checkpoints_hold_the_random_state_of_mps(generator, tmp_path):
    def trainer(device: str) -> CheckpointSaving:
        made = CheckpointSaving.__new__(CheckpointSaving)
        alone = {"world_size": 1, "process_index": 0, "parallel_mode": ParallelMode.NOT_PARALLEL}
        made.args = SimpleNamespace(device=torch.device(device), **alone)
        return made

    before = generator["state"]
    trainer("mps")._save_rng_state(str(tmp_path / "mps"))
    torch.mps.set_rng_state(torch.zeros(3, dtype=torch.uint8))
    trainer("cpu")._load_rng_state(str(tmp_path / "mps"))
    assert not torch.equal(generator["state"], before), "another device"
    trainer("mps")._load_rng_state(str(tmp_path / "mps"))
    assert torch.equal(generator["state"], before)
    trainer("cpu")._save_rng_state(str(tmp_path / "cpu"))
    assert [path.name for path in (tmp_path / "cpu").iterdir()] == ["rng_state.pth"]
    trainer("mps")._load_rng_state(str(tmp_path / "cpu"))  # a checkpoint of a CPU


def test_a_number_is_a_gpu_of_the_kind_that_is_there(monkeypatch, bert_tokenizer):
    sizes = {"embedding_size": 16, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    model = AlbertForQuestionAnswering(AlbertConfig(vocab_size=len(bert_tokenizer), **sizes))
    for gpu, name in ((MPS, "mps:0"), (torch.device("xpu"), "xpu:0"), (None, "cuda:0")):
        if gpu is None and torch.cuda.is_available():
            continue
        monkeypatch.setattr("torch.accelerator.current_accelerator", lambda check_available, gpu=gpu: gpu)
        with pytest.raises(UserError, match=f"device {name} cannot be used"):
            QuestionAnswerer(model, bert_tokenizer, DataArguments(), device=0)


def test_several_processes_compute_on_the_cpu_where_there_is_mps(monkeypatch, capsys):
    computing_on(monkeypatch, "mps")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
    configure_process()
    assert os.environ["ACCELERATE_USE_CPU"] == "false" and not capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "0")
    configure_process()
    assert os.environ["ACCELERATE_USE_CPU"] == "true"
    assert capsys.readouterr().err == "note: MPS does not support several processes: they compute on the CPU\n"


def test_what_torch_compile_needs(monkeypatch, capsys):
    args = options(torch_compile=True)
    monkeypatch.setattr("qa.training.preflight.has_triton", lambda: False)
    windows = "cuda", "win32", "triton-windows"
    for kind, platform, package in (("cuda", "linux", "triton"), ("xpu", "linux", "triton"), windows):
        computing_on(monkeypatch, kind)
        monkeypatch.setattr("sys.platform", platform)
        with pytest.raises(UserError, match=f"torch_compile needs .*: pip install {package}$"):
            check_compiler(args)
    computing_on(monkeypatch, "mps")
    check_compiler(args)
    assert capsys.readouterr().err == "note: torch_compile on MPS is a prototype in torch, and nobody has run it here\n"


def test_memory_that_apple_recommends_is_compared_with_the_plan(monkeypatch, capsys):
    computing_on(monkeypatch, "mps")
    monkeypatch.setattr("torch.mps.recommended_max_memory", lambda: GIB // 32)
    assert device_memory(MPS) == DeviceMemory(GIB // 32, GIB // 32)
    config = AlbertConfig(
        vocab_size=100, embedding_size=16, hidden_size=64, intermediate_size=128, num_attention_heads=4
    )
    args = options(gpu_memory_gb="auto", plan=True)
    batches = print_plan(config, args, np.full(100, 384), RESOLVED, device_memory(MPS))
    printed = capsys.readouterr()
    assert batches.per_device_train_batch_size == 8 and "batch size as it is on MPS" in printed.out
    assert "warning: 0.03 GiB of the GPU are free, so this may not fit" in printed.err


def settings(**more) -> dict:
    return {"config_name": None, "model_name_or_path": "a/b", "dataset_name": None} | more


def test_the_record_of_a_run_names_the_gpus_that_it_used(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    computing_on(monkeypatch, "mps")
    assert used_gpus() == ["Apple GPU (MPS)"]
    computing_on(monkeypatch, "cuda")  # ROCm has the same functions
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda number: f"AMD Instinct {number}")
    assert used_gpus() == ["AMD Instinct 2"], "one of four"
    assert record_run(["train.py"], settings(), 1, "", False)["hardware"].startswith("AMD Instinct 2, ")
    assert "no GPU" in record_run(["train.py"], settings(use_cpu=True), 1, "", False)["hardware"]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert used_gpus() == ["AMD Instinct 0", "AMD Instinct 1"]


def test_the_peak_memory_of_any_gpu(monkeypatch):
    computing_on(monkeypatch, "mps")
    monkeypatch.setattr("torch.accelerator.max_memory_allocated", lambda: 0)
    monkeypatch.setattr("torch.mps.driver_allocated_memory", lambda: 3 * GIB)
    assert describe_peak_memory() == "3.00 GiB on the GPU at the end"
    computing_on(monkeypatch, "xpu")
    monkeypatch.setattr("torch.accelerator.max_memory_allocated", lambda: 2 * GIB)
    assert describe_peak_memory() == "2.00 GiB on the GPU"
    monkeypatch.setattr("torch.accelerator.max_memory_allocated", lambda: 0)  # with use_cpu
    assert describe_peak_memory() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs a GPU")
def test_the_random_state_of_a_gpu_is_restored():
    device = torch.device(torch.accelerator.current_accelerator().type, 0)
    torch.manual_seed(1)
    expected = torch.rand(8, device=device)
    torch.manual_seed(1)
    with fork_rng(device):
        torch.manual_seed(2)
        torch.rand(100, device=device)
    assert torch.equal(torch.rand(8, device=device), expected)
    assert used_gpus() and describe_peak_memory()
