"""GPUs that are there but unused: which they are, why, and what to do."""

import contextlib
import re

import pytest
import torch
from helpers.commands import run, train_tiny
from helpers.gpus import BANNER, fake_nvidia_smi, hide_real_gpus, needs_shell

import ask
import evaluate_qa
import train
from qa.options.arguments import REPOSITORY
from qa.runtime import gpus
from qa.runtime.errors import UserError
from qa.runtime.gpus import explain_unused_gpu
from qa.training.trainer import QATrainer

pytestmark = needs_shell

VERSION = torch.__version__.partition("+")[0]
WHEEL = f"pip install --force-reinstall torch=={VERSION} --index-url https://download.pytorch.org/whl/"


@pytest.fixture
def devices(monkeypatch, tmp_path):
    """The empty /dev of a machine without GPUs."""
    return hide_real_gpus(monkeypatch, tmp_path / "machine")


def built_for(monkeypatch, version: str, cuda: str | None = None, hip: str | None = None) -> None:
    monkeypatch.setattr("torch.__version__", version)
    monkeypatch.setattr("torch.version.cuda", cuda)
    monkeypatch.setattr("torch.version.hip", hip)


def nvidia(monkeypatch, tmp_path, cuda: str, cards: str = "NVIDIA GeForce RTX 3060, 8.6") -> None:
    fake_nvidia_smi(monkeypatch, tmp_path / "bin", {"": BANNER.format(cuda=cuda), "name,compute_cap": cards})


@pytest.fixture
def cpu_build(monkeypatch, tmp_path, devices):
    """An NVIDIA GPU with a recent driver, and torch's build for CPUs."""
    built_for(monkeypatch, f"{VERSION}+cpu")
    nvidia(monkeypatch, tmp_path, "13.1")


REASON = f"NVIDIA GeForce RTX 3060 is not used: the installed torch {VERSION}+cpu is built for CPUs only: {WHEEL}cu130"


def test_a_long_run_is_refused_where_torch_cannot_use_the_gpu(cpu_build, tiny_data, tiny_model, tmp_path, capsys):
    with pytest.raises(UserError) as error:
        train_tiny(tiny_data, tiny_model, tmp_path / "run", "--max_steps", 65)  # 1,040 windows
    assert str(error.value) == f"{REASON}. To train on the CPU all the same: --use_cpu true"
    assert not (tmp_path / "run").exists()


def test_the_demo_is_short_whatever_its_number_of_windows(cpu_build, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qa.training.preflight.SHORT_RUN", 1)
    demo = ("--config", REPOSITORY / "configs/demo.yaml", "--max_steps", 2, "--max_eval_samples", 4)
    run(train, *demo, "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false")
    assert f"note: {REASON}\n" in capsys.readouterr().err


def test_a_short_run_prints_a_note_and_other_commands_too(cpu_build, tiny_data, tiny_model, tmp_path, capsys):
    train_tiny(tiny_data, tiny_model, tmp_path / "run", "--max_steps", 2)
    assert capsys.readouterr().err.count(f"note: {REASON}\n") == 1
    question = ("--question", "Where was Mira born?", "--context", "Mira was born in Talven.")
    for command, silenced, more in ((evaluate_qa, "--use_cpu true", ()), (ask, "--device cpu", question)):
        run(command, "--model_name_or_path", tmp_path / "run", *more)
        assert f"note: {REASON}. Without this note: {silenced}\n" in capsys.readouterr().err
        run(command, "--model_name_or_path", tmp_path / "run", *more, *silenced.split())
        assert "is not used" not in capsys.readouterr().err


def test_use_cpu_is_a_choice_and_resumes_a_run(cpu_build, tiny_data, tiny_model, tmp_path, capsys, monkeypatch):
    more = ("--save_strategy", "steps", "--save_steps", 2, "--eval_strategy", "no", "--load_best_model_at_end", "false")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="interrupted"):
        patch.setattr(QATrainer, "save_finished", lambda trainer: (_ for _ in ()).throw(UserError("interrupted")))
        train_tiny(tiny_data, tiny_model, tmp_path / "run", *more)
    monkeypatch.setattr("qa.training.preflight.SHORT_RUN", 10)
    capsys.readouterr()
    with contextlib.suppress(UserError):
        train_tiny(tiny_data, tiny_model, tmp_path / "run", *more, "--use_cpu", "true")
    printed = capsys.readouterr()
    assert "resuming from" in printed.out and "is not used" not in printed.err


@pytest.mark.parametrize(
    ("supported", "card", "build"),
    [
        ("13.1", "NVIDIA GeForce RTX 3060, 8.6", "cu130"),
        ("12.4", "NVIDIA GeForce RTX 3060, 8.6", "cu126"),
        ("13.1", "Tesla V100, 7.0", "cu126"),
        ("13.1", "NVIDIA GeForce RTX 5090, 12.0", "cu130"),
    ],
)
def test_the_build_fits_the_driver_and_the_gpu(devices, monkeypatch, tmp_path, supported, card, build):
    built_for(monkeypatch, f"{VERSION}+cpu")
    nvidia(monkeypatch, tmp_path, supported, card)
    assert explain_unused_gpu().endswith(f"built for CPUs only: {WHEEL}{build}")


@pytest.mark.parametrize("banner", [BANNER, "| NVIDIA-SMI 617.14  KMD Version: 617.14  CUDA UMD Version: {cuda} |"])
def test_a_driver_that_is_too_old(devices, monkeypatch, tmp_path, banner):
    built_for(monkeypatch, "2.13.0+cu130", cuda="13.0")
    fake_nvidia_smi(monkeypatch, tmp_path / "bin", {"": banner.format(cuda="12.4"), "name,compute_cap": "A100, 8.0"})
    assert explain_unused_gpu() == (
        "A100 is not used: its driver supports CUDA up to 12.4, and the installed torch 2.13.0+cu130 needs 13.0:"
        " pip install --force-reinstall torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126, or update the"
        " driver"
    )


def test_drivers_that_no_build_supports_have_to_be_updated(devices, monkeypatch, tmp_path):
    built_for(monkeypatch, f"{VERSION}+cpu")
    for supported, card, build in (("11.4", "Tesla T4, 7.5", "cu126"), ("12.8", "RTX 5090, 12.0", "cu130")):
        nvidia(monkeypatch, tmp_path, supported, card)
        assert f"update the driver (nvidia.com/drivers), then {WHEEL}{build}" in explain_unused_gpu()


def test_an_old_nvidia_smi_knows_no_capability(devices, monkeypatch, tmp_path):
    built_for(monkeypatch, f"{VERSION}+cpu")
    fake_nvidia_smi(monkeypatch, tmp_path / "bin", {"": BANNER.format(cuda="12.2"), "name": "Tesla T4"})
    assert explain_unused_gpu().startswith("Tesla T4 is not used: ") and WHEEL + "cu126" in explain_unused_gpu()


@pytest.mark.parametrize(
    ("name", "value"),
    [("CUDA_VISIBLE_DEVICES", ""), ("CUDA_VISIBLE_DEVICES", "-1"), ("NVIDIA_VISIBLE_DEVICES", "void")],
)
def test_a_hidden_gpu_is_a_choice(cpu_build, monkeypatch, name, value):
    assert explain_unused_gpu()
    monkeypatch.setenv(name, value)
    assert explain_unused_gpu() is None


def test_a_gpu_that_torch_uses_is_not_looked_for(cpu_build, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda *args: True)
    monkeypatch.setattr("subprocess.run", lambda *args, **kwargs: pytest.fail("the driver's tool was run"))
    assert explain_unused_gpu() is None


def test_a_broken_or_hanging_tool_is_no_error(devices, monkeypatch, tmp_path):
    built_for(monkeypatch, f"{VERSION}+cpu")
    assert explain_unused_gpu() is None, "no driver"
    answers = {"": "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."}
    fake_nvidia_smi(monkeypatch, tmp_path / "bin", answers, status=9)
    assert explain_unused_gpu() is None
    monkeypatch.setattr(gpus, "TIMEOUT", 0.2)
    fake_nvidia_smi(monkeypatch, tmp_path / "bin", answers, seconds=30)
    assert explain_unused_gpu() is None
    (tmp_path / "bin/nvidia-smi").write_bytes(b"\0")
    assert explain_unused_gpu() is None


def test_a_gpu_is_found_without_its_tool_if_it_has_device_files(devices, monkeypatch):
    built_for(monkeypatch, f"{VERSION}+cpu")
    (gpus.NVIDIA_GPUS / "0000:01:00.0").mkdir()
    assert explain_unused_gpu() is None, "a container that was started without the GPU"
    (devices / "nvidia0").touch()
    assert explain_unused_gpu().startswith("an NVIDIA GPU is not used: ") and WHEEL + "cu126" in explain_unused_gpu()


def test_a_device_file_that_may_not_be_opened(devices, monkeypatch, tmp_path):
    built_for(monkeypatch, "2.13.0+cu130", cuda="13.0")
    nvidia(monkeypatch, tmp_path, "13.0")
    (devices / "nvidia0").touch()
    monkeypatch.setattr("os.access", lambda *args: False)
    expected = rf"this account may not open {devices}/nvidia0: sudo usermod -aG \S+ \$USER, then log in again"
    assert re.search(expected, explain_unused_gpu())


def test_any_other_reason_is_torchs_own(devices, monkeypatch, tmp_path):
    built_for(monkeypatch, "2.13.0+cu130", cuda="13.0")
    nvidia(monkeypatch, tmp_path, "13.0")

    def init():
        raise RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment\nmore")

    monkeypatch.setattr("torch.cuda.init", init)
    assert explain_unused_gpu().endswith(
        "torch 2.13.0+cu130 reports: CUDA unknown error - this may be due to an incorrectly set up environment"
    )


@pytest.mark.parametrize(
    ("target", "build", "found"),
    [
        (110000, {"cuda": "13.0"}, "built for CUDA 13.0: pip install --force-reinstall"),
        (90010, {}, "built for CPUs only: pip install --force-reinstall"),
        (90012, {}, None),  # graphics of a laptop's processor
        (0, {}, None),  # a processor
    ],
)
def test_amd(devices, monkeypatch, target, build, found):
    built_for(monkeypatch, "2.13.0", **build)
    (gpus.AMD_NODES / "1").mkdir()
    (gpus.AMD_NODES / "1/properties").write_text(f"simd_count 240\ngfx_target_version {target}\n")
    assert explain_unused_gpu() is None, "/dev/kfd is not there"
    (devices / "kfd").touch()
    reason = explain_unused_gpu()
    assert (reason is None) if found is None else (reason.startswith("an AMD GPU is not used:") and found in reason)
    if found:
        assert reason.endswith("torch==2.13.0 --index-url https://download.pytorch.org/whl/rocm7.2")
        built_for(monkeypatch, "2.13.0+rocm7.2", hip="7.2")
        monkeypatch.setattr("os.access", lambda *args: False)
        assert f"this account may not open {devices}/kfd: sudo usermod -aG" in explain_unused_gpu()
