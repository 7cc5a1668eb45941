"""How fast a training step is, and how much memory it takes, with each improvement alone and with all together.

Random weights of the architecture in DIR, the windows of a SQuAD file. The baseline is configs/notebook_5k.yaml: fp32,
every window padded, attention, activation and optimizer unfused. All variants take turns in one process, round after
round, and are compared within a round, so that a busy machine slows all of them alike; each round times batches spread
evenly over the widths of an epoch's. On a CPU the processor's time is measured, best with OMP_NUM_THREADS=1.

    python benchmarks/train_speed.py --model_dir albert-base-v2 --validation_file dev-v1.1.json --output_dir speed
"""

import dataclasses
import gc
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForQuestionAnswering, HfArgumentParser, PretrainedConfig, Trainer, set_seed

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qa import memory
from qa.arguments import DataArguments, ModelArguments, TrainingOptions, option
from qa.data import load_splits
from qa.errors import UserError, run_command
from qa.memory import GIB
from qa.models import load_config, load_tokenizer, takes_token_types
from qa.output import make_folder, write_json
from qa.planner import epoch_of
from qa.speed import AUTOCAST, bf16_supported, prepare_model
from qa.trainer import Collator, LengthGroupedSampler, masked_loss
from qa.window_cache import load_windows

FULL_SQUAD = 88_500  # training windows of SQuAD 1.1 at 384/128


@dataclass
class Options:
    """What is measured, and for how long."""

    model_dir: str = option(None, "Folder with config.json and tokenizer.")
    validation_file: str = option(None, "SQuAD file whose windows are trained on.")
    output_dir: str = option(None, "Folder for results.json.")
    batch_size: int | None = option(None, "Windows at once (null: 8 on a GPU, 2 on a CPU).")
    accumulation: int | None = option(None, "Batches in a step (null: 2 on a GPU, 1 on a CPU).")
    steps: int | None = option(None, "Steps of each variant in a round (null: 20 on a GPU, 2 on a CPU).")
    rounds: int = option(15, "Most rounds.")
    seconds: float = option(330.0, "No round begins that would probably end later than this.")
    memory_limit_gb: float | None = option(None, "Stand in for a GPU of so many GB, a GiB of which is not for tensors.")


@dataclass
class Variant:
    name: str
    args: TrainingOptions
    pad: bool = True  # every window to max_seq_length, batches at random
    precision: str = "fp32"
    recompute: bool = False
    together: int = 1  # accumulated batches put into one
    seconds_per_window: list[float] = dataclasses.field(default_factory=list)
    seconds_per_token: list[float] = dataclasses.field(default_factory=list)
    share: list[float] = dataclasses.field(default_factory=list)
    peak: int = 0
    reserved: int = 0
    failed: str | None = None


def variants(device: torch.device, accumulation: int) -> list[Variant]:
    """The baseline first, all together last but for what changes the memory."""
    plain = TrainingOptions(
        output_dir="", fused_gelu=False, attn_implementation="eager", optim="adamw_torch", learning_rate=2e-5
    )
    grouped = dataclasses.replace(plain, train_sampling_strategy="group_by_length")
    best = dataclasses.replace(grouped, fused_gelu=True, attn_implementation="sdpa", optim="adamw_torch_fused")
    rows = [
        Variant("baseline", plain),
        Variant("grouped by length", grouped, pad=False),
        Variant("fused gelu", dataclasses.replace(plain, fused_gelu=True)),
        Variant("SDPA attention", dataclasses.replace(plain, attn_implementation="sdpa")),
        Variant("fused AdamW", dataclasses.replace(plain, optim="adamw_torch_fused")),
    ]
    precision = "fp32"
    if device.type == "cuda":
        precision = "bf16" if bf16_supported() else "fp16"
        rows += [Variant("TF32", dataclasses.replace(plain, tf32=True)), Variant(precision, plain, precision=precision)]
    rows.append(Variant("all together", best, pad=False, precision=precision))
    if accumulation > 1:
        rows.append(Variant("all, in one batch", best, False, precision, together=accumulation))
    rows.append(Variant("all, recomputed", best, False, precision, recompute=True))
    return rows


class Flops:
    """Floating-point operations of matrix products in a step, forward and backward, for a window of L tokens."""

    def __init__(self, config: PretrainedConfig):
        lengths = (64, 128, 256)  # a parabola: linear layers grow with L, attention with its square
        self.curve = np.polyfit(lengths, [self.count(config, length) for length in lengths], 2)

    @staticmethod
    def count(config: PretrainedConfig, length: int) -> int:
        args = TrainingOptions(output_dir="", attn_implementation="eager")
        with FakeTensorMode(), FlopCounterMode(display=False) as counter:
            memory.forward(memory.build(config, args, False), 1, length, "fp32").backward()
        return counter.get_total_flops()

    def __call__(self, length: int) -> float:
        return float(np.polyval(self.curve, length))


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product, the best of several."""
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
    """Seconds on the clock; on a CPU those that this process had for each thread, without waiting for others."""
    if device.type == "cpu":
        return time.process_time() / torch.get_num_threads()
    torch.cuda.synchronize()
    return time.perf_counter()


class Bench:
    def __init__(self, config: PretrainedConfig, windows, collator: Collator, options: Options, device: torch.device):
        self.config, self.windows, self.options, self.device = config, windows, options, device
        self.lengths = np.array(windows["length"][:])
        self.pad_token_id, self.token_types = collator.pad_token_id, collator.token_types
        self.flops, self.rates = Flops(config), {}

    def batches(self, variant: Variant, number: int) -> list[list[int]]:
        """Batches of one round: as many as are timed, at even distances among an epoch's in order of their width."""
        size = self.options.batch_size * variant.together
        count = self.options.steps * self.options.accumulation // variant.together
        grouped = variant.args.train_sampling_strategy == "group_by_length"
        sampler = LengthGroupedSampler(self.lengths, size, 42)
        order = np.array(list(sampler)) if grouped else np.random.default_rng(42).permutation(len(self.lengths))
        rows = order[: len(order) // size * size].reshape(-1, size)
        rows = rows[np.argsort(self.lengths[rows].max(1), kind="stable")]
        places = (np.arange(count) + (0.5 + 0.618 * number) % 1) / count * len(rows)
        return [rows[int(place)].tolist() for place in np.random.default_rng(number).permutation(places)]

    def run(self, variant: Variant, number: int) -> None:
        """One round of one variant, its model and optimizer made anew."""
        set_seed(42)
        torch.set_float32_matmul_precision("high" if variant.args.tf32 else "highest")
        model = AutoModelForQuestionAnswering.from_config(self.config)
        prepare_model(model, variant.args)
        if variant.recompute:
            model.activation_checkpointing_enable()
        model.to(self.device).train()
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(variant.args, model)
        optimizer = kind(model.parameters(), **settings)
        collate = Collator(self.pad_token_id, self.token_types, 384 if variant.pad else None)
        names = ["input_ids", "token_type_ids", "start_positions", "end_positions"]
        columns = self.windows.select_columns(names)
        rows = [collate([columns[i] for i in index]) for index in self.batches(variant, number)]
        accumulation = self.options.accumulation // variant.together
        scaler = torch.amp.GradScaler(self.device.type, enabled=variant.precision == "fp16")
        if self.device.type == "cuda":
            rows = [{name: tensor.pin_memory() for name, tensor in row.items()} for row in rows]
            torch.cuda.reset_peak_memory_stats()
        short = {name: tensor[:, :16] if tensor.ndim > 1 else tensor.clamp(max=15) for name, tensor in rows[0].items()}
        self.step(model, optimizer, scaler, [short], variant)  # the first makes the optimizer's states
        started = now(self.device)
        for begin in range(0, len(rows), accumulation):
            self.step(model, optimizer, scaler, rows[begin : begin + accumulation], variant)
        seconds = now(self.device) - started
        real = sum(int(row["attention_mask"].sum()) for row in rows)
        work = sum(self.flops(row["input_ids"].shape[1]) * len(row["input_ids"]) for row in rows)
        variant.seconds_per_window.append(seconds / sum(len(row["input_ids"]) for row in rows))
        variant.seconds_per_token.append(seconds / real)
        variant.share.append(work / seconds / self.rate(variant))
        if self.device.type == "cuda":
            variant.peak = max(variant.peak, torch.cuda.max_memory_allocated())
            variant.reserved = max(variant.reserved, torch.cuda.max_memory_reserved())

    def rate(self, variant: Variant) -> float:
        key = AUTOCAST[variant.precision] or torch.float32, bool(variant.args.tf32)
        if key not in self.rates:
            self.rates[key] = matmul_rate(self.device, key[0])
        return self.rates[key]

    def step(self, model, optimizer, scaler, rows: list[dict], variant: Variant) -> None:
        for row in rows:
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

    def planned(self, variant: Variant) -> int:
        """The planner's peak for this variant, in bytes."""
        args = dataclasses.replace(
            variant.args, gradient_accumulation_steps=self.options.accumulation // variant.together
        )
        size, length = self.options.batch_size * variant.together, 384 if variant.pad else int(self.lengths.max())
        return memory.of_training(self.config, args, size, length, variant.precision, variant.recompute).total


def measure(bench: Bench, rows: list[Variant], options: Options) -> None:
    """Rounds, each with every variant once, while there is time."""
    begun, longest = time.perf_counter(), 0.0
    for number in range(options.rounds):
        started = time.perf_counter()
        if number and started - begun + longest > options.seconds:
            break
        for variant in rows:
            if variant.failed:
                continue
            try:
                bench.run(variant, number)
            except torch.OutOfMemoryError:
                variant.failed = "out of memory"
            gc.collect()
            if bench.device.type == "cuda":
                torch.cuda.empty_cache()
        longest = max(longest, time.perf_counter() - started)
        print(f"round {number + 1}: {time.perf_counter() - started:.0f} s", flush=True)


def summarize(bench: Bench, rows: list[Variant]) -> list[dict]:
    """Medians over the rounds, with the lowest and the highest; how many times as fast, from pairs of one round."""
    base = rows[0].seconds_per_window
    results = []
    for variant in rows:
        row = {"name": variant.name, "failed": variant.failed, "planned_gib": bench.planned(variant) / GIB}
        if times := variant.seconds_per_window:
            row |= {"examples_per_second": 1 / statistics.median(times)}
            row |= {"slowest": 1 / max(times), "fastest": 1 / min(times), "rounds": len(times)}
            row |= {"tokens_per_second": 1 / statistics.median(variant.seconds_per_token)}
            row |= {"share_of_matmul": statistics.median(variant.share)}
            if ratios := [theirs / ours for theirs, ours in zip(base, times, strict=False)]:
                row |= {"speedup": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        if variant.peak:
            row |= {"peak_gib": variant.peak / GIB, "reserved_gib": variant.reserved / GIB}
            row |= {"planner_error": row["planned_gib"] / row["peak_gib"] - 1}
        results.append(row)
    return results


def as_table(results: list[dict]) -> str:
    names = "variant", "examples/s (lowest to highest)", "real tokens/s", "times", "share of matmul rate"
    lines = [f"| {' | '.join(names)} | memory, planned | measured |", "|---" * 7 + "|"]
    for row in results:
        if row["failed"]:
            lines.append(f"| {row['name']} | {row['failed']} | | | | {row['planned_gib']:.2f} GiB | |")
            continue
        speed = f"{row['examples_per_second']:.2f} ({row['slowest']:.2f} to {row['fastest']:.2f})"
        times = f"{row['speedup']:.2f} ({row['least']:.2f} to {row['most']:.2f})" if "speedup" in row else ""
        measured = f"{row['peak_gib']:.2f} GiB" if "peak_gib" in row else ""
        cells = (row["name"], speed, f"{row['tokens_per_second']:.0f}", times, f"{row['share_of_matmul']:.0%}")
        lines.append(f"| {' | '.join(cells)} | {row['planned_gib']:.2f} GiB | {measured} |")
    return "\n".join(lines)


def paddings(lengths: np.ndarray) -> dict[str, float]:
    """Padded tokens over real ones, less one, over an epoch in batches of 8."""
    args = TrainingOptions(output_dir="", per_device_train_batch_size=8)
    grouped = dataclasses.replace(args, train_sampling_strategy="group_by_length")
    found = {"every window to 384": epoch_of(lengths, args, 384), "random batches": epoch_of(lengths, args, None)}
    found["grouped by length"] = epoch_of(lengths, grouped, None)
    return {name: float(padding) for name, (padding, _) in found.items()}


def activations(config: PretrainedConfig) -> dict[str, float]:
    """GiB at 8 x 384 in fp32, at the peak of the backward pass."""
    found = {}
    for attention in ("eager", "sdpa"):
        for fused in (False, True):
            args = TrainingOptions(output_dir="", attn_implementation=attention, fused_gelu=fused)
            size = memory.of_training(config, args, 8, 384, "fp32", False).activations
            found[f"{attention} attention, gelu {'fused' if fused else 'unfused'}"] = size / GIB
    return found


def main() -> None:
    options = HfArgumentParser(Options, description=__doc__).parse_args_into_dataclasses()[0]
    for name in ("model_dir", "validation_file", "output_dir"):
        if not getattr(options, name):
            raise UserError(f"--{name} is needed")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    options.batch_size = options.batch_size or (8 if on_gpu else 2)
    options.accumulation = options.accumulation or (2 if on_gpu else 1)
    options.steps = options.steps or (20 if on_gpu else 2)
    if on_gpu and options.memory_limit_gb:
        limit = min(options.memory_limit_gb - 1, 0.9 * options.memory_limit_gb) * GIB
        torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)

    output, model_args = make_folder(options.output_dir), ModelArguments(config_name=options.model_dir)
    data_args = DataArguments(validation_file=options.validation_file)
    tokenizer, config = load_tokenizer(model_args), load_config(model_args)
    split = load_splits(data_args, ("validation",))["validation"]
    windows = load_windows(split.examples, tokenizer, data_args, None, "validation")
    with FakeTensorMode():
        token_types = takes_token_types(AutoModelForQuestionAnswering.from_config(config))
    bench = Bench(config, windows, Collator(tokenizer.pad_token_id, token_types), options, device)
    rows = variants(device, options.accumulation)
    measure(bench, rows, options)
    results = summarize(bench, rows)
    together = next(row for row in results if row["name"] == "all together")
    found = {
        "device": torch.cuda.get_device_name()
        if on_gpu
        else f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "batch": f"{options.batch_size} x {options.accumulation}",
        "speedup": together.get("speedup"),
        "matmul_flops_per_second": {f"{key[0]}{' TF32' if key[1] else ''}": rate for key, rate in bench.rates.items()},
        "padding_at_batch_8": paddings(bench.lengths),
        "activations_gib_at_8_x_384_fp32": activations(config),
        "variants": results,
    }
    if "examples_per_second" in together:
        found["seconds_for_three_epochs_of_squad"] = 3 * FULL_SQUAD / together["examples_per_second"]
    write_json(output / "results.json", found)
    print(f"\n{found['device']}, batch {found['batch']}, {len(windows):,} windows\n\n{as_table(results)}\n")
    for name in ("padding_at_batch_8", "activations_gib_at_8_x_384_fp32"):
        print(f"{name}: " + "; ".join(f"{key} {value:.3f}" for key, value in found[name].items()))
    print(f"speedup: {found['speedup'] or float('nan'):.2f}; written to {output / 'results.json'}")


if __name__ == "__main__":
    run_command(main)
