"""Time work on a device: by CUDA events on a GPU, by the clock on a CPU."""

import time

import torch
from transformers import TrainerCallback


class Stopwatch:
    """Measure the seconds from ``start`` to ``stop``.

    On a GPU these are of its own work: events count from when it begins what comes after ``start`` to when it has ended
    what comes before ``stop``, without the host's work outside.
    """

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"

    def start(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()
        self.begin = self.mark()

    def mark(self):
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def stop(self) -> float:
        end = self.mark()
        if not self.on_gpu:
            return end - self.begin
        end.synchronize()
        return self.begin.elapsed_time(end) / 1000


class Peak:
    """Bytes at the peak since ``reset``: of tensors (``allocated``), and what the allocator took (``reserved``).

    A card is full by what is reserved. Both are 0 on a CPU.
    """

    def __init__(self, device: torch.device):
        self.on_gpu, self.allocated, self.reserved = device.type == "cuda", 0, 0

    def reset(self) -> None:
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()

    def read(self) -> None:
        if self.on_gpu:
            self.allocated, self.reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


class Clock(TrainerCallback):
    """Time training after its first ``warm_up`` steps, and note the peak memory of all steps."""

    def __init__(self, device: torch.device, peak: Peak, warm_up: int):
        self.watch, self.peak, self.warm_up, self.seconds = Stopwatch(device), peak, warm_up, 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.peak.reset()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.warm_up:
            self.watch.start()

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds = self.watch.stop()
        self.peak.read()


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOPs per second of a large matrix product, the best of several runs."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best, watch = float("inf"), Stopwatch(device)
    for _ in range(8):
        watch.start()
        for _ in range(4):
            left @ right
        best = min(best, watch.stop() / 4)
    return 2 * size**3 / best
