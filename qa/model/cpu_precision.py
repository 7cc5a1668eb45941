"""Whether this processor multiplies bf16 matrices faster than fp32 ones.

Processors differ by a factor of a thousand, and torch's capability queries alone do not tell: a library may say yes
where bf16 is emulated. So a yes is confirmed by timing one product of each kind, once for each processor.
"""

import contextlib
import functools
import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import cached_assets_path

from qa.io.files import write_json
from qa.runtime.errors import UserError

SIZES = 256, 768, 768  # rows, inner and columns of the timed product, as in a layer of an encoder
RUNS = 20  # of which the fastest counts: on a busy machine others are interrupted
ENOUGH = 0.5  # seconds, after which there are no more
PAYS = 1.2  # times the speed of fp32, below which the conversions between the two eat the gain
INSTRUCTIONS = "avx512_bf16", "amx_bf16", "bf16"  # of x86, of x86, of Arm


def has_bf16() -> bool:
    """Return whether the processor has instructions for bf16 products, by what torch knows of it."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in INSTRUCTIONS) and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def processor_name() -> str:
    """Return the processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Compute on one thread: a process that has used several cannot compute in a fork of it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def product_seconds(dtype: torch.dtype) -> float:
    """Return the seconds of one matrix product in ``dtype``, the fastest of a few."""
    rows, inner, columns = SIZES
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype)
    left @ right  # prepares the kernel
    seconds: list[float] = []
    while len(seconds) < RUNS and sum(seconds) < ENOUGH:
        started = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def measure_bf16_speed() -> float:
    """Return how many times as fast as in fp32 matrices are multiplied in bf16; below 1 where it is slower.

    On one thread: on a busy machine several wait for each other.
    """
    with single_threaded():
        return product_seconds(torch.float32) / product_seconds(torch.bfloat16)


@functools.cache
def bf16_speed() -> float:
    """Return what ``measure_bf16_speed`` finds on this processor, kept on disk with the processor's name.

    A file that cannot be read or written only means that it is measured again.
    """
    name, kept = kept_name(), read_speeds()
    if name not in kept:
        kept[name] = measure_bf16_speed()
        with contextlib.suppress(OSError, UserError):
            write_json(speeds_file(), kept)
    return kept[name]


def kept_name() -> str:
    """Return what the speed is kept under: the processor, as other releases of torch have other kernels."""
    return f"{processor_name()}, {'with' if has_bf16() else 'without'} bf16, torch {torch.__version__}"


def speeds_file() -> Path:
    """Return the file of measured speeds, in the Hub's cache."""
    return cached_assets_path(library_name="albert-squad-qa", namespace="processors") / "bf16_speed.json"


def read_speeds() -> dict[str, float]:
    try:
        found = json.loads(speeds_file().read_text(encoding="utf-8"))
        return {name: float(speed) for name, speed in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def describe_speed(speed: float) -> str:
    """Return the speed of bf16 products in words."""
    if speed >= 1:
        return f"{speed:.1f} times as fast as fp32 on this processor"
    return f"{1 / speed:.1f} times slower than fp32 on this processor"


def choose_cpu_precision() -> tuple[str, str]:
    """Return the faster precision on this processor, ``fp32`` or ``bf16``, and why."""
    if not has_bf16():
        return "fp32", "as this processor has no bf16 arithmetic"
    speed = bf16_speed()
    if speed < PAYS:
        return "fp32", f"as bf16 is {describe_speed(speed)}"
    return "bf16", describe_speed(speed)
