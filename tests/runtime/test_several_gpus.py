"""Several GPUs without a launcher: one is chosen by its free memory, and named."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.commands import run, train_tiny
from helpers.gpus import fake_nvidia_smi, hide_real_gpus, needs_shell
from transformers import TrainingArguments
from transformers.training_args import ParallelMode

import ask
import evaluate_qa
from qa.model.device import note_other_gpus
from qa.options.arguments import REPOSITORY
from qa.options.training_arguments import TrainingOptions
from qa.runtime.device_settings import use_freest_gpu
from qa.runtime.gpus import Card, find_freest, list_cards, visible_cards
from qa.runtime.process import configure_process
from qa.training.planner import plan_epoch

FIELDS = "index,uuid,name,memory.free,memory.total"
SMI = """\
0, GPU-aaaa-0, NVIDIA A100, 2048, 81920
1, GPU-bbbb-1, NVIDIA A100, 79000, 81920
2, GPU-cccc-2, NVIDIA A100, 80000, 81920
3, GPU-dddd-3, NVIDIA A100, 512, 81920"""


@pytest.fixture
def four(monkeypatch, tmp_path):
    """Four GPUs, as nvidia-smi and torch count them, of which the third has the most free memory."""
    hide_real_gpus(monkeypatch, tmp_path / "machine")
    fake_nvidia_smi(monkeypatch, tmp_path / "bin", {FIELDS: SMI})
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr(
        "torch.cuda.device_count", lambda: os.environ.get("CUDA_VISIBLE_DEVICES", "0,1,2,3").count(",") + 1
    )
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: False)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA A100")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")  # so that the variable is restored after the test


def cards(*names: str) -> list[Card]:
    return [Card(number, f"GPU-{number}{number}", name, 0, 0) for number, name in enumerate(names)]


@needs_shell
@pytest.mark.parametrize(("visible", "chosen"), [(None, 2), ("0,1", 1), ("GPU-dddd,GPU-aaaa-0", 0), ("3, 1,0", 1)])
def test_the_visible_gpu_with_the_most_free_memory_is_chosen(four, monkeypatch, capsys, visible, chosen):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    card = list_cards()[chosen]
    use_freest_gpu("torchrun --nproc_per_node {} uses all")
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == card.uuid
    count = 4 if visible is None else visible.count(",") + 1
    used = f"number {chosen} is used (NVIDIA A100, {card.free / 2**30:.2f} GiB free, the most)"
    assert capsys.readouterr().err == f"note: of {count} GPUs, {used}; torchrun --nproc_per_node {count} uses all\n"


def test_numbers_count_only_where_cuda_numbers_gpus_as_nvidia_smi_does():
    mixed, same = cards("A", "B"), cards("A", "A")
    assert visible_cards(mixed, None, False) == mixed and visible_cards(mixed, "1", True) == mixed[1:]
    assert visible_cards(mixed, "0,1", False) == [], "CUDA starts with the fastest"
    assert visible_cards(same, "1,0", False) == same[::-1] and visible_cards(same, "", False) == []
    assert visible_cards(mixed, "GPU-11", False) == mixed[1:]


@needs_shell
def test_nothing_is_chosen_for_processes_of_a_launcher_one_gpu_or_after_the_start_of_cuda(four, monkeypatch, capsys):
    for patch in (
        lambda patch: patch.setenv("LOCAL_RANK", "0"),
        lambda patch: patch.setattr("torch.cuda.device_count", lambda: 1),
        lambda patch: patch.setattr("torch.cuda.is_initialized", lambda: True),
        lambda patch: patch.setattr("torch.version.cuda", None),  # ROCm
        lambda patch: patch.setattr("qa.runtime.gpus.find_nvidia_smi", lambda: None),
    ):
        with monkeypatch.context() as context:
            patch(context)
            use_freest_gpu("")
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    assert capsys.readouterr().err == "" and find_freest()


@needs_shell
def test_gpus_are_counted_without_cuda_on_windows(four, monkeypatch):
    def device_count():
        raise AssertionError("this initializes CUDA, which reads the variable")

    monkeypatch.setattr("torch.cuda.device_count", device_count)
    monkeypatch.setattr("sys.platform", "win32")
    use_freest_gpu("")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-cccc-2"


def test_the_first_of_several_is_named_where_none_was_chosen(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "AMD Instinct MI300X")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    args = TrainingOptions(output_dir="", report_to="none")
    assert note_other_gpus(args) is None and not capsys.readouterr().err
    monkeypatch.setattr(TrainingOptions, "device", torch.device("cuda", 0))
    note_other_gpus(args)
    assert capsys.readouterr().err == (
        "note: the first of 2 GPUs is used (AMD Instinct MI300X); CUDA_VISIBLE_DEVICES takes another, torchrun"
        " --nproc_per_node 2 all of them\n"
    )
    monkeypatch.setattr(TrainingOptions, "parallel_mode", ParallelMode.DISTRIBUTED)
    assert note_other_gpus(args) is None and not capsys.readouterr().err


def test_a_plan_counts_one_of_several_gpus(monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    args = TrainingOptions(output_dir="", report_to="none", per_device_train_batch_size=8)
    assert args.n_gpu == 1 and args.train_batch_size == 8 and args.eval_batch_size == 8
    assert plan_epoch(np.full(800, 100), args, None) == (0, 100)


def test_a_process_of_a_launcher_asks_its_own_gpu(monkeypatch):
    chosen: list = []
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda **kwargs: torch.device("cuda"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    for rank in "012":
        monkeypatch.setenv("LOCAL_RANK", rank)
        configure_process()
    assert chosen == [0, 1], "no third GPU"


@needs_shell
def test_commands_choose_a_gpu_before_their_options_are_built(
    four, monkeypatch, capsys, tiny_data, tiny_model, tmp_path
):
    model, asked = ("--model_name_or_path", tmp_path / "run"), ("--question", "Who?", "--context", "Mira.")
    launched = "torchrun --nproc_per_node 4"
    seen: list = []
    real = TrainingOptions.__post_init__

    def post_init(self):
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        real(self)

    monkeypatch.setattr(TrainingOptions, "__post_init__", post_init)
    for command, more, advice in (
        (None, (), f"{launched} train.py computes up to 4 times as fast, if the model is large\n"),
        (evaluate_qa, model, f"{launched} evaluate_qa.py divides the windows among all\n"),
        (ask, (*model, *asked), "--device cuda:0 takes another\n"),
    ):
        for silenced in (("--device", "cpu") if command is ask else ("--use_cpu", "true"), ()):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
            seen.clear()
            if command is None:
                again = ("--overwrite_output_dir", "true", "--max_steps", 1)
                train_tiny(tiny_data, tiny_model, tmp_path / "run", *again, *silenced)
            else:
                run(command, *more, *silenced)
            err = capsys.readouterr().err
            assert (advice in err) == (not silenced) and ("number 2 is used" in err) == (not silenced)
            chosen = "0,1,2,3" if silenced else "GPU-cccc-2"
            assert os.environ["CUDA_VISIBLE_DEVICES"] == chosen and set(seen) <= {chosen}


ON_GPUS = """
import os
import torch
from qa.runtime.device_settings import use_freest_gpu
import train
from qa.options.training_arguments import TrainingOptions
use_freest_gpu("")
args = TrainingOptions(output_dir="", report_to="none")
uuid = str(torch.cuda.get_device_properties(args.device).uuid)
print("chosen", args.n_gpu, uuid in os.environ["CUDA_VISIBLE_DEVICES"])
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.version.cuda or torch.cuda.device_count() < 2, reason="needs several NVIDIA GPUs")
def test_torch_computes_on_the_chosen_gpu():
    skipped = "CUDA_VISIBLE_DEVICES", "LOCAL_RANK"
    environment = {name: value for name, value in os.environ.items() if name not in skipped}
    done = subprocess.run(
        [sys.executable, "-c", ON_GPUS], capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=120
    )
    assert done.stdout.splitlines()[-1:] == ["chosen 1 True"], done.stderr
