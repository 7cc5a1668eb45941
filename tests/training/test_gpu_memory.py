"""The memory of a GPU: what is free, what others hold, and its limit where drivers use system memory instead."""

import dataclasses
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.commands import run, train_tiny
from transformers import AlbertConfig

import ask
import evaluate_qa
from qa.model.memory import GIB
from qa.options.arguments import REPOSITORY
from qa.options.training_arguments import TrainingOptions
from qa.runtime import device_settings
from qa.runtime.gpus import DeviceMemory, device_memory
from qa.training import planner
from qa.training.planner import make_plan, print_plan

CONFIG = AlbertConfig(
    hidden_size=64,
    intermediate_size=128,
    num_attention_heads=4,
    num_hidden_layers=4,
    embedding_size=16,
    vocab_size=100,
    hidden_act="gelu_new",
)
LENGTHS = np.full(1000, 384)
RESOLVED = SimpleNamespace(precision="bf16", pad_to=None)


@pytest.fixture
def gpu(monkeypatch):
    """Options on a GPU of 24 GiB, of which 8 GiB are free; this process has cached 1 GiB more."""
    monkeypatch.setattr(TrainingOptions, "device", torch.device("cuda", 0))
    monkeypatch.setattr(TrainingOptions, "world_size", 1)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (7 * GIB, 24 * GIB))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 1 * GIB)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **kwargs: True)


def options(**more) -> TrainingOptions:
    return TrainingOptions(output_dir="", report_to="none", **more)


def printed_plan(args: TrainingOptions, capsys, lengths=LENGTHS):
    print_plan(CONFIG, args, lengths, RESOLVED, device_memory(args.device))
    return capsys.readouterr()


def test_auto_plans_from_what_is_free(gpu, capsys):
    args = options(gpu_memory_gb="auto", per_device_train_batch_size=64)
    assert device_memory(args.device) == DeviceMemory(8 * GIB, 24 * GIB)
    _, plan = make_plan(CONFIG, args, LENGTHS, "bf16", found=device_memory(args.device))
    assert plan.usable == pytest.approx(0.9 * 8 * GIB), "a tenth is left for gaps"
    expected = "note: other programs and the driver hold 16.00 GiB of the GPU's 24.00 GiB; 8.00 GiB are free\n"
    assert printed_plan(args, capsys).err == expected


def test_nothing_is_said_of_a_gpu_that_nobody_else_uses(gpu, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (22.5 * GIB, 24 * GIB))
    assert printed_plan(options(gpu_memory_gb="auto"), capsys).err == ""


def test_a_number_is_the_size_of_a_gpu(gpu):
    args = options(gpu_memory_gb="6")
    assert make_plan(CONFIG, args, LENGTHS, "bf16", found=device_memory(args.device))[1].usable == 5 * GIB


@pytest.mark.parametrize(
    ("more", "advice"),
    [
        ({}, "gpu_memory_gb: auto chooses one that does"),
        ({"gpu_memory_gb": "20"}, "end other programs that use it"),
    ],
)
def test_a_plan_that_needs_more_than_is_free(gpu, capsys, monkeypatch, more, advice):
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (0.1 * GIB, 24 * GIB))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 0)
    err = printed_plan(options(per_device_train_batch_size=16, **more), capsys).err
    assert f"warning: 0.10 GiB of the GPU are free, so this may not fit; {advice}\n" in err


def test_several_processes_plan_for_the_gpu_with_the_least_free(gpu, monkeypatch):
    others = [DeviceMemory(5 * GIB, 24 * GIB), DeviceMemory(20 * GIB, 24 * GIB)]
    monkeypatch.setattr(planner, "gather_object", lambda own: own + others)
    assert planner.least_memory(torch.device("cuda", 0)) == others[0]
    assert planner.least_memory(torch.device("cpu")) is None


@pytest.fixture
def fractions(monkeypatch):
    """The (fraction, device) to which this process is limited."""
    given: list = []
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", lambda *args: given.append(args))
    return given


@pytest.mark.parametrize(
    ("platform", "release"), [("win32", "11"), ("linux", "5.15.167.4-microsoft-standard-WSL2"), ("linux", "6.8.0")]
)
def test_memory_is_limited_where_drivers_use_system_memory_instead(gpu, fractions, monkeypatch, platform, release):
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("platform.release", lambda: release)
    cuda, spills = torch.device("cuda", 0), release != "6.8.0"
    device_settings.cap_gpu_memory(cuda)
    device_settings.cap_gpu_memory(cuda, 6 * GIB)
    device_settings.cap_gpu_memory(cuda, 20 * GIB)  # more than is free
    device_settings.cap_gpu_memory(torch.device("cuda"))
    device_settings.cap_gpu_memory(torch.device("cpu"))
    expected = [(8 / 24, cuda), (6 / 24, cuda), (8 / 24, cuda), (8 / 24, None)]
    assert fractions == (expected if spills else [])


def test_commands_limit_memory_at_what_they_planned_with(tiny_data, tiny_model, tmp_path, monkeypatch, fractions):
    monkeypatch.setattr(device_settings, "spills_to_system_memory", lambda: True)
    monkeypatch.setattr(device_settings, "device_memory", lambda device: DeviceMemory(8 * GIB, 24 * GIB))
    train_tiny(tiny_data, tiny_model, tmp_path / "run", "--max_steps", 2, "--gpu_memory_gb", 6)
    run(evaluate_qa, "--model_name_or_path", tmp_path / "run")
    run(ask, "--model_name_or_path", tmp_path / "run", "--question", "Who?", "--context", "Mira.")
    assert [share for share, _ in fractions] == [6 / 24, 8 / 24, 8 / 24]


@pytest.fixture
def settings(monkeypatch):
    """The settings that the allocator is given, on Linux with torch for CUDA."""
    given: list = []
    monkeypatch.setattr("torch._C._accelerator_setAllocatorSettings", given.append)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.release", lambda: "6.8.0")
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: given.append("nothing cached"))
    monkeypatch.setattr("torch.empty", lambda size, **kwargs: given.append(size))
    for name in device_settings.ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    return given


CUDA = torch.device("cuda", 0)


def test_segments_of_the_allocator_can_grow(settings):
    device_settings.use_expandable_segments(torch.device("cpu"))
    assert settings == []
    device_settings.use_expandable_segments(CUDA)
    assert settings == ["expandable_segments:True", "nothing cached", device_settings.NEW_SEGMENT]


@pytest.mark.parametrize("name", device_settings.ALLOCATOR)
def test_a_users_own_settings_of_the_allocator_are_kept(settings, monkeypatch, name):
    monkeypatch.setenv(name, "max_split_size_mb:512")
    device_settings.use_expandable_segments(CUDA)
    assert settings == []


@pytest.mark.parametrize("patch", [("sys.platform", "win32"), ("torch.version.cuda", None)], ids=["Windows", "ROCm"])
def test_segments_cannot_grow_everywhere(settings, monkeypatch, patch):
    monkeypatch.setattr(*patch)
    device_settings.use_expandable_segments(CUDA)
    assert settings == []


def test_segments_that_cannot_grow_on_this_gpu_are_left_as_they_are(settings, monkeypatch):
    def empty(*args, **kwargs):
        raise RuntimeError("CUDA driver error: operation not supported")

    monkeypatch.setattr("torch.empty", empty)
    device_settings.use_expandable_segments(CUDA)
    assert settings == ["expandable_segments:True", "nothing cached", "expandable_segments:False"]


ON_A_GPU = """
import torch
from qa.runtime.device_settings import cap_gpu_memory, use_expandable_segments
from qa.runtime.gpus import device_memory

gpu = torch.device("cuda", 0)
use_expandable_segments(gpu)
kept = torch.zeros(64 << 20, dtype=torch.uint8, device=gpu)
print("expandable", [each["is_expandable"] for each in torch.cuda.memory_snapshot()])
free, total = torch.cuda.mem_get_info()
found = device_memory(gpu)
print("memory", found.total == total, found.free - free >= kept.nbytes // 2)

import platform
platform.release = lambda: "microsoft"
cap_gpu_memory(gpu, 1 << 30)
try:
    torch.zeros(2 << 30, dtype=torch.uint8, device=gpu)
except torch.OutOfMemoryError:
    print("limited")
print("within", torch.zeros(512 << 20, dtype=torch.uint8, device=gpu).nbytes)
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or not torch.version.cuda, reason="needs an NVIDIA GPU")
def test_segments_grow_and_memory_is_limited_on_a_gpu():
    environment = {name: value for name, value in os.environ.items() if name not in device_settings.ALLOCATOR}
    done = subprocess.run(
        [sys.executable, "-c", ON_A_GPU], capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("expandable [True") and "False" not in lines[0]
    assert lines[1:] == ["memory True True", "limited", f"within {512 << 20}"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_others_hold_is_not_planned_with(capsys):
    device = torch.device("cuda", 0)
    before = device_memory(device)
    with_others = dataclasses.replace(before, free=before.free // 2)
    args = options(gpu_memory_gb="auto", per_device_train_batch_size=64)
    usable = [make_plan(CONFIG, args, LENGTHS, "bf16", found=found)[1].usable for found in (before, with_others)]
    assert usable == pytest.approx([0.9 * before.free, 0.45 * before.free], rel=1e-6)
    assert 0 < before.free <= before.total
