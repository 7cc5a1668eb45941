"""Time training steps of one variant."""

import dataclasses
import statistics
import tempfile
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AutoModelForQuestionAnswering,
    PretrainedConfig,
    PrinterCallback,
    Trainer,
    set_seed,
)

from benchmarks.estimates import Flops
from benchmarks.timing import Clock, Peak, Stopwatch, matmul_rate
from qa.data.windows import WindowArrays
from qa.evaluation.evaluator import Evaluator
from qa.model import memory
from qa.model.batching import Collator, WindowRows, padded
from qa.model.cpu_bf16 import adapt_to_cpu
from qa.model.device import AUTOCAST, device_precision, uses_tf32
from qa.model.loss import masked_loss
from qa.model.optimizations import prepare_model
from qa.model.padding import takes_token_types
from qa.options.arguments import DataArguments
from qa.options.training_arguments import TrainingOptions
from qa.runtime.device_settings import KEPT, KEPT_BY_GLIBC, keep_freed_memory
from qa.training.compilation import compile_blocks, compiled_if_whole
from qa.training.resolved import ResolvedRun, trainer_arguments
from qa.training.sampling import LengthGroupedSampler, epoch_batches
from qa.training.trainer import QATrainer


@dataclass
class Variant:
    """One way to train, and what was measured of it.

    Attributes:
        batch: micro-batch size. accumulation: micro-batches in a step.
        pad: pad every window to max_seq_length. batch_lengths: else the lengths that batches are padded to, if any.
        dynamic: compile one graph for all lengths, not one for each.
        keep_memory: let a CPU's allocator keep freed memory, which a GPU's always does.
        trainer: run in the Trainer, as train.py does, not in a bare loop.
        warm_up: seconds of the first ``warmed`` batches, with compilation.
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
    dynamic: bool = False
    keep_memory: bool = False
    trainer: bool = False
    warm_up: float = 0.0
    warmed: int = 0
    seconds_per_window: list[float] = dataclasses.field(default_factory=list)
    share: list[float] = dataclasses.field(default_factory=list)
    peak: int = 0
    reserved: int = 0
    failed: str | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The lengths that batches are padded to; empty if each is padded to its longest window."""
        return (384,) if self.pad else self.batch_lengths

    def note(self, peak: Peak) -> None:
        self.peak, self.reserved = max(self.peak, peak.allocated), max(self.reserved, peak.reserved)

    def first_steps(self, count: int) -> float:
        """Return the seconds of the first ``count`` steps: the warm-up, and the others at the speed after it."""
        others = max(count * self.accumulation - self.warmed, 0)
        return self.warm_up + others * self.batch * statistics.median(self.seconds_per_window)


def spread_positions(count: int, number: int) -> np.ndarray:
    """Return (count,) positions from 0 to 1, different in each round, in pairs that are symmetric about 0.5."""
    pairs = (np.arange((count + 1) // 2) + (0.5 + 0.618 * number) % 1) / ((count + 1) // 2) / 2
    return np.random.default_rng(number).permutation(np.append(pairs, 1 - pairs)[:count])


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

    def widths(self, variant: Variant, batches: np.ndarray) -> np.ndarray:
        """Return the (N,) lengths in tokens that the batches are padded to."""
        return np.array([padded(int(longest), variant.sizes) for longest in self.lengths[batches].max(1)])

    def longest(self, variant: Variant) -> np.ndarray:
        """Return (A, B) indices of the windows of the longest micro-batches, as many as a step has."""
        return self.epoch(variant)[-variant.accumulation :]

    def one_of_each_length(self, variant: Variant, batches: np.ndarray) -> np.ndarray:
        """Return (K, B) indices of the first batch of each length: it chooses kernels, and may reserve memory."""
        return batches[np.sort(np.unique(self.widths(variant, batches), return_index=True)[1])]

    def tensors(self, variant: Variant, batches: np.ndarray) -> list[dict[str, torch.Tensor]]:
        """Return the padded batches as tensors in CPU memory, pinned for a GPU."""
        collate = Collator(self.pad_token_id, self.token_types, variant.sizes)
        rows = [collate(self.windows.__getitems__(batch.tolist())) for batch in batches]
        if self.device.type == "cuda":
            rows = [{name: tensor.pin_memory() for name, tensor in row.items()} for row in rows]
        return rows

    def run(self, variant: Variant, number: int) -> None:
        """Run one round of one variant, with a new model and optimizer."""
        set_seed(42)
        if self.device.type == "cpu":
            keep_freed_memory(KEPT if variant.keep_memory else KEPT_BY_GLIBC)
        batches = self.batches(variant, number)
        seconds = (self.in_trainer if variant.trainer else self.in_loop)(variant, batches)
        work = sum(self.flops(int(width)) for width in self.widths(variant, batches)) * variant.batch
        variant.seconds_per_window.append(seconds / batches.size)
        variant.share.append(work / seconds / self.rate(variant))

    def in_trainer(self, variant: Variant, batches: np.ndarray) -> float:
        """Return the seconds for ``batches`` in the Trainer, after a warm-up that ends with the longest ones."""
        warm_up = longest = self.longest(variant)
        if self.device.type == "cuda":
            first = self.one_of_each_length(variant, batches)
            whole_steps = longest[: -len(first) % variant.accumulation]
            warm_up = np.concatenate([first, whole_steps, longest])
        rows, peak = np.concatenate([warm_up, batches]), Peak(self.device)
        clock = Clock(self.device, peak, len(warm_up) // variant.accumulation)
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
            torch.set_float32_matmul_precision("high" if uses_tf32(args) else "highest")
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
        variant.note(peak)
        return clock.seconds

    def in_loop(self, variant: Variant, batches: np.ndarray) -> float:
        """Return the seconds for ``batches`` in a bare loop, with the tensors prepared beforehand."""
        torch.set_float32_matmul_precision("high" if variant.args.tf32 else "highest")
        model = AutoModelForQuestionAnswering.from_config(self.config)
        prepare_model(model, variant.args.attn_implementation, variant.args.fused_gelu, variant.args.dropout)
        adapt_to_cpu(model, variant.precision, self.device)
        if variant.recompute:
            model.activation_checkpointing_enable()
        if variant.args.torch_compile:
            compile_blocks(model, variant.args, variant.dynamic)
        model.to(self.device).train()
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(variant.args, model)
        optimizer = kind(model.parameters(), **settings)
        scaler = torch.amp.GradScaler(self.device.type, enabled=variant.precision == "fp16")
        rows, warm_up = self.tensors(variant, batches), self.warm_up_batches(variant, batches)
        longest = self.tensors(variant, self.longest(variant)) if self.device.type == "cuda" else []
        run = partial(self.steps_of, model, optimizer, scaler, variant)
        peak, watch = Peak(self.device), Stopwatch(self.device)
        with compiled_if_whole(variant.args, variant.args.train_batch_size):
            watch.start()
            run(warm_up, 1)  # creates the optimizer's states and compiles
            if not variant.warmed:
                variant.warm_up, variant.warmed = watch.stop(), len(warm_up)
            peak.reset()
            run(longest, variant.accumulation)
            watch.start()
            run(rows, variant.accumulation)
            seconds = watch.stop()
        peak.read()
        variant.note(peak)
        return seconds

    def warm_up_batches(self, variant: Variant, batches: np.ndarray) -> list[dict]:
        """Return batches for the warm-up: one of every length on a GPU or if compiled, else a short one.

        Before the first round they have every length of an epoch that is compiled by itself.
        """
        if self.device.type != "cuda" and not variant.args.torch_compile:
            first = self.tensors(variant, batches[:1])[0]
            return [{name: row[:, :16] if row.ndim > 1 else row.clamp(max=15) for name, row in first.items()}]
        compiled = variant.args.torch_compile and not variant.dynamic and not variant.warmed
        rows = self.tensors(variant, self.one_of_each_length(variant, self.epoch(variant) if compiled else batches))
        return rows * (3 if variant.args.torch_compile_mode else 1)  # CUDA graphs are recorded in the second run

    def steps_of(self, model, optimizer, scaler, variant: Variant, rows: list[dict], accumulation: int) -> None:
        """Run training steps over ``rows``, each over ``accumulation`` micro-batches."""
        for begin in range(0, len(rows), accumulation):
            self.step(model, optimizer, scaler, rows[begin : begin + accumulation], variant)

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
        sizes = {"per_device_train_batch_size": variant.batch, "gradient_accumulation_steps": variant.accumulation}
        batches = epoch_batches(self.lengths, dataclasses.replace(variant.args, **sizes))
        tokens = sum(padded(int(batch.max()), variant.sizes) * len(batch) for batch in batches)
        return float(tokens / self.lengths.sum() - 1)

    def planned(self, variant: Variant, length: int | None = None) -> int:
        """Return the peak memory in bytes that the planner estimates for batches of ``length`` tokens.

        Args:
            length: None for the longest window's, which is what the planner takes.
        """
        args = dataclasses.replace(variant.args, gradient_accumulation_steps=variant.accumulation)
        length = length or padded(int(self.lengths.max()), variant.sizes)
        return memory.of_training(self.config, args, variant.batch, length, variant.precision, variant.recompute).total
