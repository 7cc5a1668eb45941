"""Choose batches that fit the memory, and plan the run before anything is trained."""

import bisect
import dataclasses
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import PretrainedConfig

from qa.io import run_folder
from qa.io.run_folder import SETTINGS
from qa.model import memory
from qa.model.batching import padded
from qa.model.device import bf16_supported, wanted_precision
from qa.model.memory import GIB, Memory
from qa.options.saved import read_settings
from qa.options.table import TABLE
from qa.options.training_arguments import TrainingOptions
from qa.runtime.console import warn, wrap
from qa.runtime.distributed import on_main_process
from qa.runtime.errors import UserError, one_line
from qa.runtime.gpus import DeviceMemory, device_memory
from qa.training import checkpoints
from qa.training.plan import Plan, gib
from qa.training.resolved import Batches, ResolvedRun
from qa.training.sampling import choose_batch_lengths, epoch_batches

FRAGMENTATION = 0.1  # of the free memory, which the allocator loses to gaps between tensors
MIN_MICRO_BATCH = 4  # below it activations are recomputed: a third more arithmetic, but larger batches are faster
MAX_EVAL_BATCH = 128  # windows; raised no further, as larger batches pad more
PLANNED = [row.name for row in TABLE.values() if row.planned]


def usable_memory(args: TrainingOptions, found: DeviceMemory | None) -> float | None:
    """Return the bytes that tensors may take under ``gpu_memory_gb``; None if there is no limit.

    Args:
        found: memory of the GPU; ``auto`` plans from what is free on NVIDIA's and AMD's.
    """
    if args.gpu_memory_gb == "auto":
        return (1 - FRAGMENTATION) * found.free if found and args.device.type == "cuda" else None
    size = named_size(args)
    return usable_share(size / GIB) if size else None


def named_size(args: TrainingOptions) -> float | None:
    """Return the bytes of the GPU that ``gpu_memory_gb`` names; None if it is ``auto`` or not set."""
    return None if args.gpu_memory_gb in (None, "auto") else float(args.gpu_memory_gb) * GIB


def least_memory(device: torch.device) -> DeviceMemory | None:
    """Return the memory of the GPU with the least that is free, of all processes, which call this together."""
    own = device_memory(device)
    return min(gather_object([own]), key=lambda found: found.free) if own else None


def usable_share(size: float) -> float:
    """Return the bytes for tensors on a GPU of ``size`` GiB: 1 GiB or a tenth is left for CUDA and the display."""
    return min(size - 1, 0.9 * size) * GIB


def plan_epoch(lengths: np.ndarray, args: TrainingOptions, pad_to: int | None) -> tuple[float, int]:
    """Return the padding of the first epoch (padded tokens over real ones, minus one) and its number of steps.

    Args:
        lengths: (W,) tokens of the windows. pad_to: length that all are padded to, if any.
    """
    sizes, batches = choose_batch_lengths(lengths, args, pad_to), epoch_batches(lengths, args)
    tokens = [padded(int(batch.max()), sizes) * len(batch) for batch in batches]
    return sum(tokens) / np.sum(lengths) - 1, math.ceil(len(batches) / args.gradient_accumulation_steps)


def choose_batch(
    needed: Callable[[int, bool], int], effective: int, usable: float, recompute_only: bool = False
) -> tuple[int, bool] | None:
    """Return the largest micro-batch size that fits, and whether to recompute activations; None if nothing fits.

    Activations are recomputed only if fewer than ``MIN_MICRO_BATCH`` windows fit otherwise.

    Args:
        needed: bytes for a micro-batch size, without or with recomputation; grows with the size.
        effective: windows of a step on one device; the result divides it.
        usable: bytes.
    """
    sizes = [size for size in range(1, effective + 1) if effective % size == 0]

    def largest(recompute: bool) -> int:
        count = bisect.bisect_right(sizes, usable, key=lambda size: needed(size, recompute))
        return sizes[count - 1] if count else 0

    kept = 0 if recompute_only else largest(False)
    if kept >= min(MIN_MICRO_BATCH, effective):
        return kept, False
    try:
        recomputed = largest(True)
    except ValueError:  # the model does not support it
        recomputed = 0
    best = max(kept, recomputed)
    return (best, recomputed > kept) if best else None


def saved_choice(args: TrainingOptions) -> Batches | None:
    """Return the batches chosen for the interrupted run in ``output_dir``; None if there are none to resume with."""
    saved = run_folder.find_checkpoints(args.folder)
    if not saved or args.overwrite_output_dir or not (saved[0] / SETTINGS).is_file():
        return None
    before, default = read_settings(saved[0] / SETTINGS), TrainingOptions(output_dir="")
    chosen = before | checkpoints.read_resolved(saved[0])
    batches = dataclasses.replace(
        Batches.from_args(args), **{name: chosen.get(name, getattr(default, name)) for name in PLANNED}
    )
    same = batches.step_size == Batches.from_args(args).step_size
    return batches if before.get("gpu_memory_gb") and same else None


def make_plan(
    config: PretrainedConfig,
    args: TrainingOptions,
    lengths: np.ndarray,
    precision: str,
    pad_to: int | None = None,
    found: DeviceMemory | None = None,
) -> tuple[Batches, Plan]:
    """Return batches that fit the memory, with as many windows in a step as asked for, and the plan of the run.

    Args:
        lengths: (W,) tokens of the training windows. pad_to: length that all are padded to, if any.
        found: memory of the GPU.

    Raises:
        UserError: no setting fits ``gpu_memory_gb``.
    """
    length, usable, batches = pad_to or int(np.max(lengths)), usable_memory(args, found), Batches.from_args(args)
    if args.gpu_memory_gb and (before := saved_choice(args)):
        batches, usable = before, None
    step = evaluation = None
    try:
        batches, step, evaluation = fit_memory(config, args, batches, length, precision, usable)
    except UserError:
        raise
    except Exception as error:  # the model reads the data of its tensors, or lacks what an option needs
        if usable is not None:
            reason = f"the memory of this model cannot be estimated: {one_line(error)}"
            if args.gpu_memory_gb != "auto":
                raise UserError(f"{reason}; leave out gpu_memory_gb") from None
            warn(f"note: {reason}; the batch size is unchanged")
    return batches, describe_plan(args, batches, lengths, precision, pad_to, step, evaluation, usable)


def fit_memory(
    config: PretrainedConfig, args: TrainingOptions, batches: Batches, length: int, precision: str, usable: float | None
) -> tuple[Batches, Memory, Memory]:
    """Return batches that fit into ``usable`` bytes (None: no limit), and the memory of training and of evaluation."""
    effective = batches.step_size

    @cache
    def training(batch: int, recompute: bool) -> Memory:
        options = dataclasses.replace(args, gradient_accumulation_steps=effective // batch)
        return memory.of_training(config, options, batch, length, precision, recompute)

    if usable is not None:
        recompute_only = batches.activation_checkpointing
        fits = choose_batch(lambda *setting: training(*setting).total, effective, usable, recompute_only)
        if fits is None:
            raise too_large(training, args, length, usable)
        batches = Batches(fits[0], effective // fits[0], batches.per_device_eval_batch_size, fits[1])
    own = batches.shared(args.world_size)
    step = training(own.per_device_train_batch_size, own.activation_checkpointing)

    @cache
    def evaluating(size: int) -> Memory:
        return memory.of_evaluation(config, args, size, length, precision, step.optimizer)

    size = batches.per_device_eval_batch_size
    if usable is not None:
        size = choose_eval_batch(lambda size: evaluating(size).total, size, usable)
    return dataclasses.replace(batches, per_device_eval_batch_size=size), step, evaluating(size)


def choose_eval_batch(needed: Callable[[int], int], size: int, usable: float) -> int:
    """Return the largest evaluation batch size that fits, ``size`` doubled up to ``MAX_EVAL_BATCH``, or halved.

    Args:
        needed: bytes for a size; grows with it. usable: bytes.
    """
    while 2 * size <= MAX_EVAL_BATCH:
        size *= 2
    while size > 1 and needed(size) > usable:
        size //= 2
    return size


def too_large(training: Callable[[int, bool], Memory], args: TrainingOptions, length: int, usable: float) -> UserError:
    """Return the error for a model of which not even one window fits."""
    try:
        least = training(1, True).total
    except ValueError:  # the model does not support recomputation
        least = training(1, False).total
    return UserError(
        f"this model does not fit: a micro-batch of one window of {length} tokens needs {gib(least)}, and {gib(usable)}"
        f" of gpu_memory_gb: {args.gpu_memory_gb} are usable; use a smaller model, or lower max_seq_length"
    )


def describe_plan(
    args: TrainingOptions,
    batches: Batches,
    lengths: np.ndarray,
    precision: str,
    pad_to: int | None,
    step: Memory | None,
    evaluation: Memory | None,
    usable: float | None,
) -> Plan:
    """Return the plan of a run with these batches; arguments as in ``make_plan`` and ``Plan``."""
    args, own = batches.over(args), batches.shared(args.world_size)
    padding, epoch_steps = plan_epoch(lengths, args, pad_to)
    return Plan(
        windows=len(lengths),
        tokens=int(np.sum(lengths)),
        padding=padding,
        batch_lengths=choose_batch_lengths(lengths, args, pad_to),
        epochs=args.num_train_epochs if args.max_steps <= 0 else args.max_steps / epoch_steps,
        steps=args.max_steps if args.max_steps > 0 else math.ceil(epoch_steps * args.num_train_epochs),
        batch=own.per_device_train_batch_size,
        accumulation=own.gradient_accumulation_steps,
        devices=args.world_size,
        recompute=own.activation_checkpointing,
        length=pad_to or int(np.max(lengths)),
        precision=precision,
        step=step,
        evaluation=evaluation,
        evaluation_batch=own.per_device_eval_batch_size,
        usable=usable,
    )


def plan_run(
    config: PretrainedConfig, args: TrainingOptions, lengths: np.ndarray, resolved: ResolvedRun
) -> ResolvedRun:
    """Return the run with the batches that the plan chose; the main process makes and prints it for all."""
    found = None if args.plan and named_size(args) else least_memory(args.device)  # planned for another GPU
    batches = on_main_process(lambda: print_plan(config, args, lengths, resolved, found))
    return dataclasses.replace(resolved, batches=batches)


def print_plan(
    config: PretrainedConfig,
    args: TrainingOptions,
    lengths: np.ndarray,
    resolved: ResolvedRun,
    found: DeviceMemory | None,
) -> Batches:
    """Make the plan, print it (in full with ``--plan``, else in two lines), and return the batches it chose."""
    if found and found.total - found.free > GIB:
        held = f"other programs and the driver hold {gib(found.total - found.free)} of the GPU's {gib(found.total)}"
        warn(f"note: {held}; {gib(found.free)} are free")
    for_a_gpu = args.device.type == "cpu" and named_size(args)
    precision = wanted_precision(args, bf16_supported()) if for_a_gpu else resolved.precision
    batches, plan = make_plan(config, args, lengths, precision, resolved.pad_to, found)
    print(plan.details() if args.plan else plan.summary())
    if args.plan and args.gpu_memory_gb == "auto" and args.device.type != "cuda":
        name = {"cpu": "a CPU", "mps": "MPS"}.get(args.device.type, args.device.type)
        print(wrap(f"gpu_memory_gb: auto leaves the batch size as it is on {name}; give a number to plan for a GPU", 6))
    if found and plan.step is not None and plan.peak > (1 - FRAGMENTATION) * found.free:
        advice = "gpu_memory_gb: auto chooses one that does" if args.device.type == "cuda" else "lower the batch size"
        advice = "end other programs that use it" if args.gpu_memory_gb else advice
        warn(f"warning: {gib(found.free)} of the GPU are free, so this may not fit; {advice}")
    return batches
