"""Time training steps of one variant, and the preparation of their batches."""

import dataclasses
import tempfile
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForQuestionAnswering,
    PretrainedConfig,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    set_seed,
)

from benchmarks.estimates import Flops
from qa.data.windows import WindowArrays
from qa.evaluation.evaluator import Evaluator
from qa.model import memory
from qa.model.batching import Collator, WindowRows, padded
from qa.model.cpu_attention import choose_attention
from qa.model.device import AUTOCAST, device_precision
from qa.model.loss import masked_loss
from qa.model.optimizations import prepare_model
from qa.model.padding import takes_token_types
from qa.options.arguments import DataArguments
from qa.options.training_arguments import TrainingOptions
from qa.training.compilation import compile_blocks
from qa.training.planner import plan_epoch
from qa.training.resolved import ResolvedRun, trainer_arguments
from qa.training.sampling import FixedOrderSampler, LengthGroupedSampler
from qa.training.trainer import QATrainer


@dataclass
class Variant:
    """One way to train, and what was measured of it.

    Attributes:
        batch: micro-batch size. accumulation: micro-batches in a step.
        pad: pad every window to max_seq_length. batch_lengths: else the lengths that batches are padded to, if any.
        trainer: run in the Trainer, as train.py does, not in a bare loop.
        warm_up: seconds of the first batches, with compilation.
        share: of the rate of a large matrix product. peak, reserved: bytes.
        failed: why the variant cannot run.
    """

    name: str
    args: TrainingOptions
    batch: int
    accumulation: int
    pad: bool = True
    precision: str = "fp32"
    recompute: bool = False
    batch_lengths: tuple[int, ...] = ()
    trainer: bool = False
    warm_up: float = 0.0
    seconds_per_window: list[float] = dataclasses.field(default_factory=list)
    share: list[float] = dataclasses.field(default_factory=list)
    peak: int = 0
    reserved: int = 0
    failed: str | None = None


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOPs per second of a large matrix product, the best of several runs."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        started = now(device)
        for _ in range(4):
            left @ right
        best = min(best, (now(device) - started) / 4)
    return 2 * size**3 / best


def now(device: torch.device) -> float:
    """Return the time in seconds after the GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def spread_positions(count: int, number: int) -> np.ndarray:
    """Return (count,) positions from 0 to 1, different in each round, in pairs that are symmetric about 0.5."""
    pairs = (np.arange((count + 1) // 2) + (0.5 + 0.618 * number) % 1) / ((count + 1) // 2) / 2
    return np.random.default_rng(number).permutation(np.append(pairs, 1 - pairs)[:count])


class Clock(TrainerCallback):
    """Measure from the end of the first step, which creates the optimizer's states, to the end of training."""

    def __init__(self, device: torch.device):
        self.device, self.started, self.seconds = device, 0.0, 0.0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.started = now(self.device)

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds = now(self.device) - self.started


class Bench:
    """Run variants on the windows of a dataset.

    Args:
        steps: of each variant in a round.
    """

    def __init__(self, config: PretrainedConfig, split, windows, tokenizer, steps: int, device: torch.device):
        self.config, self.steps, self.device, self.tokenizer = config, steps, device, tokenizer
        self.all_windows, self.pad_token_id = windows, tokenizer.pad_token_id
        self.evaluator = Evaluator(split.examples, WindowArrays.from_dataset(windows), DataArguments(), False)
        with FakeTensorMode():
            self.token_types = takes_token_types(AutoModelForQuestionAnswering.from_config(config))
        self.lengths, self.flops, self.rates = np.array(windows["length"][:]), Flops(config), {}
        names = ["input_ids", "token_type_ids", "start_positions", "end_positions"]
        self.columns = windows.select_columns(names)
        self.windows = WindowRows(self.columns)

    def epoch(self, variant: Variant) -> np.ndarray:
        """Return (K, B) indices of the windows of an epoch's full batches, ordered by the length of the batch."""
        size = variant.batch
        if variant.args.train_sampling_strategy == "group_by_length":
            order = np.array(list(LengthGroupedSampler(self.lengths, size * variant.accumulation, 42)))
        else:
            order = np.random.default_rng(42).permutation(len(self.lengths))
        rows = order[: len(order) // size * size].reshape(-1, size)
        return rows[np.argsort(self.lengths[rows].max(1), kind="stable")]

    def batches(self, variant: Variant, number: int) -> np.ndarray:
        """Return (N, B) indices of the windows of one round, spread evenly over those of an epoch.

        If all windows are padded to the same length, half the steps suffice, because all take the same time.
        """
        rows, steps = self.epoch(variant), max(1, self.steps // 2) if variant.pad else self.steps
        positions = spread_positions(steps * variant.accumulation, number) * len(rows)
        return rows[np.minimum(positions.astype(int), len(rows) - 1)]

    def tensors(self, variant: Variant, batches: np.ndarray) -> list[dict[str, torch.Tensor]]:
        """Return the padded batches as tensors in CPU memory, pinned for a GPU."""
        collate = Collator(self.pad_token_id, self.token_types, (384,) if variant.pad else variant.batch_lengths)
        rows = [collate(self.windows.__getitems__(batch.tolist())) for batch in batches]
        if self.device.type == "cuda":
            rows = [{name: tensor.pin_memory() for name, tensor in row.items()} for row in rows]
        return rows

    def run(self, variant: Variant, number: int) -> None:
        """Run one round of one variant, with a new model and optimizer."""
        set_seed(42)
        batches = self.batches(variant, number)
        seconds = (self.in_trainer if variant.trainer else self.in_loop)(variant, batches)
        lengths = np.full(len(batches), 384) if variant.pad else self.lengths[batches].max(1)
        work = sum(self.flops(padded(int(length), variant.batch_lengths)) for length in lengths) * variant.batch
        variant.seconds_per_window.append(seconds / batches.size)
        variant.share.append(work / seconds / self.rate(variant))

    def in_trainer(self, variant: Variant, batches: np.ndarray) -> float:
        """Return the seconds for ``batches`` in the Trainer, after a first step with the longest ones."""
        rows = np.concatenate([self.epoch(variant)[-variant.accumulation :], batches])
        clock = Clock(self.device)
        with tempfile.TemporaryDirectory() as folder:
            args = dataclasses.replace(
                variant.args,
                output_dir=folder,
                precision=variant.precision,
                per_device_train_batch_size=variant.batch,
                gradient_accumulation_steps=variant.accumulation,
                activation_checkpointing=variant.recompute,
                num_train_epochs=1,
                train_sampling_strategy="sequential",
                stop_if_failed=False,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            resolved = ResolvedRun.from_options(DataArguments(), args, device_precision(args), False)
            trainer = QATrainer(
                model=AutoModelForQuestionAnswering.from_config(self.config),
                args=trainer_arguments(args, resolved),
                resolved=resolved,
                train_dataset=self.all_windows.select(rows.reshape(-1)),
                eval_dataset=self.all_windows,
                processing_class=self.tokenizer,
                evaluator=self.evaluator,
                callbacks=[clock],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        if trainer.retry.parts > 1:
            raise torch.OutOfMemoryError("a step was retried with smaller micro-batches")
        return clock.seconds

    def in_loop(self, variant: Variant, batches: np.ndarray) -> float:
        """Return the seconds for ``batches`` in a bare loop, with the tensors prepared beforehand."""
        torch.set_float32_matmul_precision("high" if variant.args.tf32 else "highest")
        model = AutoModelForQuestionAnswering.from_config(self.config)
        prepare_model(model, variant.args)
        choose_attention(model, variant.precision, self.device)
        if variant.recompute:
            model.activation_checkpointing_enable()
        if variant.args.torch_compile:
            compile_blocks(model, variant.args)
        model.to(self.device).train()
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(variant.args, model)
        optimizer = kind(model.parameters(), **settings)
        rows = self.tensors(variant, batches)
        scaler = torch.amp.GradScaler(self.device.type, enabled=variant.precision == "fp16")
        started = now(self.device)
        for row in self.warm_up_batches(rows, variant):  # creates the optimizer's states and compiles
            self.step(model, optimizer, scaler, [row], variant)
        if (
            self.device.type == "cuda"
        ):  # the longest batches, so that the allocator reserves all the memory that is needed
            torch.cuda.reset_peak_memory_stats()
            longest = self.tensors(variant, self.epoch(variant)[-variant.accumulation :])
            self.step(model, optimizer, scaler, longest, variant)
            variant.peak = variant.peak or torch.cuda.max_memory_allocated()
            variant.reserved = variant.reserved or torch.cuda.max_memory_reserved()
        variant.warm_up = variant.warm_up or now(self.device) - started
        started = now(self.device)
        for begin in range(0, len(rows), variant.accumulation):
            self.step(model, optimizer, scaler, rows[begin : begin + variant.accumulation], variant)
        return now(self.device) - started

    @staticmethod
    def warm_up_batches(rows: list[dict], variant: Variant) -> list[dict]:
        """Return batches for the warm-up: one of every length that is compiled, else a short one."""
        if variant.args.torch_compile:
            by_length = list({row["input_ids"].shape[1]: row for row in rows}.values())
            return by_length * (
                3 if variant.args.torch_compile_mode else 1
            )  # CUDA graphs are recorded in the second run
        return [{name: row[:, :16] if row.ndim > 1 else row.clamp(max=15) for name, row in rows[0].items()}]

    def rate(self, variant: Variant) -> float:
        """Return the FLOPs per second of a large matrix product in the variant's precision."""
        key = AUTOCAST[variant.precision] or torch.float32, bool(variant.args.tf32)
        if key not in self.rates:
            self.rates[key] = matmul_rate(self.device, key[0])
        return self.rates[key]

    def step(self, model, optimizer, scaler, rows: list[dict], variant: Variant) -> None:
        """Run one training step over micro-batches."""
        for row in rows:
            if variant.args.torch_compile_mode:
                torch.compiler.cudagraph_mark_step_begin()
            batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in row.items()}
            labels = batch.pop("start_positions"), batch.pop("end_positions")
            dtype = AUTOCAST[variant.precision]
            with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
                outputs = model(**batch)
                loss = masked_loss(outputs, batch["attention_mask"], *labels) / len(rows)
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    def padding(self, variant: Variant) -> float:
        """Return padded tokens over real ones, minus one, for an epoch."""
        batch = {"per_device_train_batch_size": variant.batch, "gradient_accumulation_steps": variant.accumulation}
        return float(
            plan_epoch(self.lengths, dataclasses.replace(variant.args, **batch), 384 if variant.pad else None)[0]
        )

    def planned(self, variant: Variant) -> int:
        """Return the peak memory that the planner estimates for this variant, in bytes."""
        args = dataclasses.replace(variant.args, gradient_accumulation_steps=variant.accumulation)
        length = 384 if variant.pad else int(self.lengths.max())
        return memory.of_training(self.config, args, variant.batch, length, variant.precision, variant.recompute).total


def time_collation(bench: Bench, count: int = 300) -> dict[str, float]:
    """Return the milliseconds to read and pad a batch of 16, as ``train.py`` does it and in other ways."""
    collate = Collator(bench.pad_token_id, bench.token_types)
    order = FixedOrderSampler(np.random.default_rng(0).integers(0, len(bench.columns), 16 * count))
    ways = {
        "arrays": (bench.windows, 0),
        "Python lists": (bench.columns, 0),
        "arrays, in another process": (bench.windows, 1),
    }
    found = {}
    for name, (rows, workers) in ways.items():
        batches = iter(DataLoader(rows, 16, sampler=order, collate_fn=collate, num_workers=workers))
        next(batches)
        started = time.perf_counter()
        for _ in batches:
            pass
        found[name] = 1000 * (time.perf_counter() - started) / (count - 1)
    return found
