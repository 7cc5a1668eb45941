"""Stand-ins for GPUs: a fake nvidia-smi in PATH, and the files of drivers."""

import os
import sys
from pathlib import Path

import pytest

needs_shell = pytest.mark.skipif(sys.platform == "win32", reason="the fake nvidia-smi is a shell script")

BANNER = "| NVIDIA-SMI 560.35   Driver Version: 560.35   CUDA Version: {cuda} |"
VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")


def fake_nvidia_smi(monkeypatch, folder: Path, answers: dict[str, str], status: int = 0, seconds: int = 0) -> None:
    """Put an nvidia-smi into PATH that prints the answer to a query of fields; that to "" without arguments."""
    folder.mkdir(exist_ok=True)
    lines = ["#!/bin/sh", f"[ {seconds} = 0 ] || exec sleep {seconds}", 'case "$1" in']
    for fields, answer in answers.items():
        pattern = f"--query-gpu={fields}" if fields else '""'
        lines.append(f"{pattern}) cat <<'END'\n{answer}\nEND\n;;")
    lines += ["*) exit 2 ;;", "esac", f"exit {status}"]
    script = folder / "nvidia-smi"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def hide_real_gpus(monkeypatch, folder: Path) -> Path:
    """Make this machine look as one without a GPU or driver; return its empty /dev."""
    monkeypatch.setattr("torch.accelerator.is_available", lambda *args: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("qa.runtime.gpus.find_nvidia_smi", find_in_path)
    for constant in ("DEVICES", "NVIDIA_GPUS", "AMD_NODES"):
        (folder / constant).mkdir(parents=True)
        monkeypatch.setattr(f"qa.runtime.gpus.{constant}", folder / constant)
    return folder / "DEVICES"


def find_in_path() -> str | None:
    """Return a fake nvidia-smi, never an installed one."""
    first = Path(os.environ["PATH"].partition(os.pathsep)[0]) / "nvidia-smi"
    return str(first) if first.is_file() else None
