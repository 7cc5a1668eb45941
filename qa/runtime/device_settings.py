"""The process-wide settings of GPUs and of the CPU, which commands change."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING

from qa.runtime.console import warn
from qa.runtime.gpus import device_memory, find_freest, spills_to_system_memory

if TYPE_CHECKING:
    import torch

SHARE_STEPS = "torchrun --nproc_per_node {0} train.py computes up to {0} times as fast, if the model is large"
SHARE_WINDOWS = "torchrun --nproc_per_node {} evaluate_qa.py divides the windows among all"
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # a user's own settings
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt, in malloc.h
NEW_SEGMENT = 32 << 20  # bytes; more than the allocator takes from a segment that it has
LARGEST_BLOCK = 32 << 20  # bytes; larger ones, which glibc maps by themselves, would leave gaps in what is kept
KEPT, KEPT_BY_GLIBC = 2**31 - 1, 64 << 20  # bytes in all; the second once blocks of ``LARGEST_BLOCK`` were freed


def use_freest_gpu(advice: str) -> None:
    """Let this process see only the GPU with the most free memory of several, and print its name.

    It must be called before CUDA is initialized, as ``torch.cuda.is_available`` does, which reads the variable once.
    Nothing is changed in processes of a launcher, each of which has its own GPU, and where nvidia-smi does not tell.

    Args:
        advice: what the other GPUs are good for; a {} in it is their number, with this one.
    """
    import torch

    if "LOCAL_RANK" in os.environ or not torch.version.cuda or torch.cuda.is_initialized():
        return
    # On Windows counting initializes CUDA, and nvidia-smi counts as well.
    if (sys.platform != "win32" and torch.cuda.device_count() < 2) or not (found := find_freest()):
        return
    card, count = found
    os.environ["CUDA_VISIBLE_DEVICES"] = card.uuid
    free = f"{card.free / 2**30:.2f} GiB free"
    warn(f"note: of {count} GPUs, number {card.index} is used ({card.name}, {free}, the most); {advice.format(count)}")


def configure_device(device: torch.device, tf32: bool) -> None:
    """Change what the libraries do with the device that a command has chosen, before most is computed.

    Args:
        tf32: whether GPUs that support it multiply fp32 matrices in TF32.
    """
    import torch

    if tf32:
        torch.set_float32_matmul_precision("high")
    if device.type == "cpu":
        keep_freed_memory()
    use_expandable_segments(device)


def use_expandable_segments(device: torch.device) -> None:
    """Let the allocator's segments grow, so that batches of many lengths leave no gaps, where the GPU can.

    They need CUDA's virtual memory management, which ROCm before 7.0, Windows and some virtual GPUs lack.
    """
    import torch

    wanted = device.type == "cuda" and sys.platform == "linux" and torch.version.cuda and not spills_to_system_memory()
    if not wanted or any(name in os.environ for name in ALLOCATOR):
        return
    torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    try:
        torch.cuda.empty_cache()
        torch.empty(NEW_SEGMENT, dtype=torch.uint8, device=device)
    except RuntimeError:
        torch._C._accelerator_setAllocatorSettings("expandable_segments:False")


def keep_freed_memory(most: int = KEPT) -> None:
    """Make glibc keep at most ``most`` bytes of what tensors free, for the next ones.

    By default it returns most of it to the system, which clears it when it is allocated again, in every layer. Nothing
    is changed where the environment sets this, or on systems without glibc.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, most)
        mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)


def cap_gpu_memory(device: torch.device, limit: float | None = None) -> None:
    """Make torch run out of memory when the GPU is full, where its driver would continue in system memory.

    That is about ten times slower, and nobody is told. Elsewhere nothing is changed.

    Args:
        limit: bytes for tensors, at most what is free now; None for that.
    """
    import torch

    memory = device_memory(device) if spills_to_system_memory() else None
    if memory:
        share = min(limit or memory.free, memory.free) / memory.total
        torch.cuda.set_per_process_memory_fraction(share, None if device.index is None else device)
