"""The plan of a run, before anything is trained: windows, steps and memory, and batches that fit."""

import bisect
import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PretrainedConfig

from qa.io import run_folder
from qa.io.run_folder import SETTINGS
from qa.model import memory
from qa.model.batching import padded
from qa.model.memory import GIB, Memory
from qa.options.saved import read_settings
from qa.options.table import TABLE
from qa.options.training_arguments import TrainingOptions
from qa.runtime.console import table, warn
from qa.runtime.distributed import divide_batch, on_main_process
from qa.runtime.errors import UserError, one_line
from qa.training.sampling import choose_batch_lengths, epoch_batches

FEWEST = 4  # windows at once that are still worth it to keep activations: recomputing costs a third more arithmetic
PLANNED = [row.name for row in TABLE.values() if row.planned]


@dataclass(frozen=True)
class Plan:
    """What a run will do and need."""

    windows: int
    tokens: int
    padding: float  # padded tokens over real ones, less one
    sizes: tuple[int, ...]  # lengths that batches are padded to; none where each has that of its longest window
    epochs: float
    steps: int
    batch: int  # windows at once on each device
    accumulation: int
    devices: int
    recompute: bool
    length: int  # tokens of the longest window
    precision: str
    step: Memory | None  # None where the model cannot be measured
    evaluation: Memory | None
    evaluation_batch: int
    usable: float | None  # bytes; None where no limit is known

    @property
    def effective(self) -> int:
        return self.batch * self.accumulation * self.devices

    @property
    def peak(self) -> int:
        return max(self.step.total, self.evaluation.total)

    def parts(self) -> list[tuple[str, str]]:
        """The peak, part by part."""
        names = {"weights": "weights", "gradients": "gradients", "optimizer": "optimizer states (Adam's two)"}
        names |= {"activations": "activations", "workspace": "workspace"}
        return [(f"  {name}", gib(getattr(self.step, key))) for key, name in names.items()]

    def brief(self) -> str:
        """Two lines."""
        batch = f"{self.batch} at once" + (f", {self.accumulation} times" if self.accumulation > 1 else "")
        batch += f", on {self.devices} devices" if self.devices > 1 else ""
        line = (
            f"plan: {self.windows:,} windows, {self.tokens:,} tokens, {self.padding:.1%} padding; {self.steps:,} steps"
        )
        line += f" of {self.effective} windows ({batch}), {self.precision}"
        line += ", activations recomputed" if self.recompute else ""
        if self.step is None:
            return line
        parts = ", ".join(f"{name.strip()} {value.removesuffix(' GiB')}" for name, value in self.parts())
        return f"{line}\n      {gib(self.step.total)} of memory at the peak: {parts}"

    def full(self) -> str:
        batch = f"{self.batch} windows at once, accumulated {self.accumulation} times"
        batch += f", on {self.devices} devices" if self.devices > 1 else ""
        rows = [
            ("windows", f"{self.windows:,}"),
            ("tokens", f"{self.tokens:,}, {self.tokens / self.windows:.1f} a window, {self.length} at most"),
            ("padding", f"{self.padding:.1%}" + (f", to {len(self.sizes)} lengths" if len(self.sizes) > 1 else "")),
            ("steps", f"{self.steps:,} of {self.effective} windows, {self.epochs:g} epochs"),
            ("batch", batch),
            ("activations", "recomputed on the way back" if self.recompute else "kept"),
            ("precision", self.precision),
        ]
        if self.step is not None:
            limit = f" of {gib(self.usable)} usable" if self.usable else ""
            rows += [("peak memory", gib(self.step.total) + limit), *self.parts()]
            rows += [("evaluation", f"{gib(self.evaluation.total)}, {self.evaluation_batch} windows at once")]
        return table(rows)


def gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def usable_memory(args: TrainingOptions) -> float | None:
    """Bytes that tensors may take under ``gpu_memory_gb``; None where there is no limit."""
    asked = args.gpu_memory_gb
    if asked is None or (asked == "auto" and args.device.type != "cuda"):
        return None
    size = torch.cuda.get_device_properties(args.device).total_memory / GIB if asked == "auto" else float(asked)
    return usable_share(size)


def usable_share(size: float) -> float:
    """Bytes for tensors on a GPU of ``size`` GiB: a GiB is for the CUDA context and the display, or a tenth."""
    return min(size - 1, 0.9 * size) * GIB


def epoch_of(lengths: np.ndarray, args: TrainingOptions, pad_to: int | None) -> tuple[float, int]:
    """Padding in the first epoch, as padded tokens over real ones, less one; and its steps."""
    sizes, batches = choose_batch_lengths(lengths, args, pad_to), epoch_batches(lengths, args)
    tokens = [padded(int(batch.max()), sizes) * len(batch) for batch in batches]
    return sum(tokens) / np.sum(lengths) - 1, math.ceil(len(batches) / args.gradient_accumulation_steps)


def choose(
    needed: Callable[[int, bool], int], effective: int, usable: float, recompute_only: bool = False
) -> tuple[int, bool] | None:
    """Windows at once and whether to recompute activations, so that a step fits; None where nothing does.

    As many at once as fit. Recomputing costs time, and so does a batch of very few: it is done where else fewer than
    ``FEWEST`` fit.

    Args:
        needed: bytes for so many windows at once, without or with recomputation; grows with the windows.
        effective: windows of a whole step on one device, of which the answer is a divisor.
    """
    sizes = [size for size in range(1, effective + 1) if effective % size == 0]

    def most(recompute: bool) -> int:
        count = bisect.bisect_right(sizes, usable, key=lambda size: needed(size, recompute))
        return sizes[count - 1] if count else 0

    kept = 0 if recompute_only else most(False)
    if kept >= min(FEWEST, effective):
        return kept, False
    try:
        recomputed = most(True)
    except ValueError:  # the model cannot
        recomputed = 0
    best = max(kept, recomputed)
    return (best, recomputed > kept) if best else None


def earlier_choice(args: TrainingOptions) -> dict | None:
    """What was chosen for the interrupted run in ``output_dir``, if this is the same run: it goes on with that."""
    saved = run_folder.find_checkpoints(Path(args.output_dir))
    if not saved or args.overwrite_output_dir or not (saved[0] / SETTINGS).is_file():
        return None
    before, default = read_settings(saved[0] / SETTINGS), TrainingOptions(output_dir="")
    chosen = {name: before.get(name, getattr(default, name)) for name in PLANNED}
    effective = chosen["per_device_train_batch_size"] * chosen["gradient_accumulation_steps"]
    same = effective == args.per_device_train_batch_size * args.gradient_accumulation_steps
    return chosen if before.get("gpu_memory_gb") and same else None


def make_plan(
    config: PretrainedConfig, args: TrainingOptions, lengths: np.ndarray, precision: str, pad_to: int | None = None
) -> tuple[TrainingOptions, Plan]:
    """Options that fit the memory, with the same effective batch, and the plan of the run with them.

    Args:
        lengths: (W,) tokens of the training windows. pad_to: the length that all are padded to, if so.

    Raises:
        UserError: no setting fits ``gpu_memory_gb``.
    """
    length, usable = pad_to or int(np.max(lengths)), usable_memory(args)

    @functools.cache
    def training(batch: int, recompute: bool) -> Memory:
        accumulation = effective // batch
        options = dataclasses.replace(args, gradient_accumulation_steps=accumulation)
        return memory.of_training(config, options, batch, length, precision, recompute)

    @functools.cache
    def evaluating(batch: int) -> Memory:
        return memory.of_evaluation(config, args, batch, length, precision, step.optimizer)

    effective = args.per_device_train_batch_size * args.gradient_accumulation_steps
    step = evaluation = None
    if args.gpu_memory_gb and (before := earlier_choice(args)):
        args, usable = dataclasses.replace(args, **before), None
    given = args
    try:
        if usable is not None:
            fits = choose(
                lambda *setting: training(*setting).total, effective, usable, bool(args.activation_checkpointing)
            )
            if fits is None:
                raise_too_large(training, args, length, usable)
            args = dataclasses.replace(
                args,
                per_device_train_batch_size=fits[0],
                gradient_accumulation_steps=effective // fits[0],
                activation_checkpointing=fits[1],
            )
        step = training(shared(args)[0], bool(args.activation_checkpointing))
        evaluation = evaluating(args.per_device_eval_batch_size)
        while usable and evaluation.total > usable and args.per_device_eval_batch_size > 1:
            args = dataclasses.replace(args, per_device_eval_batch_size=args.per_device_eval_batch_size // 2)
            evaluation = evaluating(args.per_device_eval_batch_size)
    except UserError:
        raise
    except Exception as error:  # a model whose steps depend on the content of its tensors, or that lacks an option
        if usable is not None:
            reason = f"the memory of this model cannot be estimated: {one_line(error)}"
            if args.gpu_memory_gb != "auto":
                raise UserError(f"{reason}; leave out gpu_memory_gb") from None
            warn(f"note: {reason}; the batch is kept as it is")
            args = given
        step = evaluation = None
    padding, steps = epoch_of(lengths, args, pad_to)
    return args, Plan(
        windows=len(lengths),
        tokens=int(np.sum(lengths)),
        padding=padding,
        sizes=choose_batch_lengths(lengths, args, pad_to),
        epochs=args.num_train_epochs if args.max_steps <= 0 else args.max_steps / steps,
        steps=args.max_steps if args.max_steps > 0 else math.ceil(steps * args.num_train_epochs),
        batch=shared(args)[0],
        accumulation=shared(args)[1],
        devices=args.world_size,
        recompute=bool(args.activation_checkpointing),
        length=length,
        precision=precision,
        step=step,
        evaluation=evaluation,
        evaluation_batch=args.per_device_eval_batch_size,
        usable=usable,
    )


def shared(args: TrainingOptions) -> tuple[int, int]:
    """Windows at once and accumulation of each device, of a step that is shared by all."""
    return divide_batch(args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size)


def raise_too_large(training: Callable[[int, bool], Memory], args: TrainingOptions, length: int, usable: float) -> None:
    try:
        least = training(1, True).total
    except ValueError:
        least = training(1, False).total
    raise UserError(
        f"this model does not fit: one window of {length} tokens at once needs {gib(least)}, and {gib(usable)} of"
        f" gpu_memory_gb: {args.gpu_memory_gb} are usable; take a smaller model, or lower max_seq_length"
    )


def plan_run(
    config: PretrainedConfig, args: TrainingOptions, lengths: np.ndarray, precision: str, pad_to: int | None
) -> TrainingOptions:
    """The options that follow the plan, which the main process makes for all and prints."""
    return dataclasses.replace(args, **on_main_process(lambda: print_plan(config, args, lengths, precision, pad_to)))


def print_plan(
    config: PretrainedConfig, args: TrainingOptions, lengths: np.ndarray, precision: str, pad_to: int | None
) -> dict:
    """Makes the plan and prints it: all of it with ``--plan``, else two lines. Returns what it chose."""
    on_gpu = args.device.type == "cuda" or args.plan or args.gpu_memory_gb not in (None, "auto")
    args, plan = make_plan(config, args, lengths, precision if on_gpu else "fp32", pad_to)
    print(plan.full() if args.plan else plan.brief())
    if args.gpu_memory_gb == "auto" and args.device.type != "cuda":
        print("no GPU found: gpu_memory_gb: auto keeps the batch as it is; give a number to plan for a GPU")
    if args.device.type == "cuda" and plan.usable is None and plan.step is not None:
        size = torch.cuda.get_device_properties(args.device).total_memory
        if plan.peak > 0.9 * size:
            warn(f"warning: the GPU has {gib(size)}, so this may not fit; gpu_memory_gb: auto finds batches that do")
    return {name: getattr(args, name) for name in (*PLANNED, "per_device_eval_batch_size")}
