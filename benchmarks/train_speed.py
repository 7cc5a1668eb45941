"""Measure speed and memory of a training step, with each optimization alone and with all together.

Random weights of the architecture in DIR, the windows of a SQuAD file. The baseline is configs/notebook_5k.yaml: fp32,
every window padded, attention, activation and optimizer unfused. All variants run in turn in one process, and are
compared within a round, so that a busy machine slows all of them alike. Each round times batches whose lengths are
spread evenly over those of an epoch. Five to eight minutes on a GPU, one on a CPU; more --seconds give more rounds.

    python benchmarks/train_speed.py --model_dir albert-base-v2 --validation_file dev-v1.1.json --output_dir speed
"""

import contextlib
import dataclasses
import functools
import gc
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PretrainedConfig
from transformers.utils import is_torch_tf32_available

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.estimates import kept_bytes
from benchmarks.results import as_table, compilation_times, summarize
from benchmarks.steps import Bench, Variant
from qa.data.splits import load_splits
from qa.data.window_cache import load_windows
from qa.io.files import make_folder, write_json
from qa.model import memory
from qa.model.batching import Collator, round_up
from qa.model.cpu_precision import choose_cpu_precision
from qa.model.device import bf16_supported
from qa.model.device_errors import is_out_of_memory
from qa.model.loading import load_config
from qa.model.memory import GIB
from qa.model.tokenizer import load_tokenizer
from qa.options.arguments import DataArguments, ModelArguments
from qa.options.option import option
from qa.options.parser import parse_arguments
from qa.options.training_arguments import TrainingOptions
from qa.runtime.device_settings import use_expandable_segments
from qa.runtime.errors import UserError, one_line
from qa.runtime.process import configure_process, run_command
from qa.training.compilation import GRAPHS
from qa.training.planner import choose_batch, plan_epoch, usable_share
from qa.training.sampling import MULTIPLE, FixedOrderSampler, choose_batch_lengths

FULL_SQUAD = 88_500  # training windows of SQuAD 1.1 at 384/128
ALL, IN_TRAINER, AS_GRAPHS = "all together", "all, in Trainer", "all, as CUDA graphs"
COMPILED, DYNAMIC = "all, compiled", "all, compiled, dynamic"


@dataclass
class Options:
    """What to measure, and for how long."""

    model_dir: str = option(None, "Folder with config.json and tokenizer.")
    validation_file: str = option(None, "SQuAD file whose windows are trained on.")
    output_dir: str = option(None, "Folder for results.json.")
    batch_size: int | None = option(None, "Micro-batch size (null: 8 on a GPU, 1 on a CPU).")
    accumulation: int | None = option(None, "Micro-batches in a step (null: 2 on a GPU, 1 on a CPU).")
    steps: int | None = option(None, "Steps of each variant in a round (null: 20 on a GPU, 2 on a CPU).")
    rounds: int = option(30, "Largest number of rounds.")
    seconds: float | None = option(
        None, "Start no round that would probably end later than this (null: 330 on a GPU, 32 on a CPU)."
    )
    compiled: bool | None = option(None, "Also measure torch.compile (null: on a GPU; on a CPU it takes minutes).")
    memory_limit_gb: float | None = option(
        None, "Simulate a GPU of this size in GB, of which 1 GiB is not for tensors."
    )

    def __post_init__(self):
        on_gpu = torch.cuda.is_available()
        self.batch_size = self.batch_size or (8 if on_gpu else 1)
        self.accumulation = self.accumulation or (2 if on_gpu else 1)
        self.steps = self.steps or (20 if on_gpu else 2)
        self.seconds = self.seconds or (330 if on_gpu else 32)
        self.compiled = on_gpu if self.compiled is None else self.compiled


def planned_batch(bench: Bench, options: Options, args: TrainingOptions, precision: str) -> tuple[int, bool]:
    """Return the micro-batch size, and whether to recompute activations, that the planner chooses for the GPU."""
    if bench.device.type != "cuda":
        return options.batch_size, False
    effective, longest = options.batch_size * options.accumulation, int(bench.lengths.max())
    size = options.memory_limit_gb or torch.cuda.get_device_properties(0).total_memory / GIB

    def needed(batch: int, recompute: bool) -> int:
        options = dataclasses.replace(args, gradient_accumulation_steps=effective // batch)
        return memory.of_training(bench.config, options, batch, longest, precision, recompute).total

    return choose_batch(needed, effective, usable_share(size)) or (1, True)


def variants(bench: Bench, options: Options) -> list[Variant]:
    """Return the baseline, then each optimization alone, then all of them."""
    on_gpu = bench.device.type == "cuda"
    batch, accumulation = options.batch_size, options.accumulation
    plain = TrainingOptions(
        output_dir="", fused_gelu=False, attn_implementation="eager", optim="adamw_torch", learning_rate=2e-5
    )
    grouped = dataclasses.replace(plain, train_sampling_strategy="group_by_length")
    best = dataclasses.replace(grouped, fused_gelu=True, attn_implementation="sdpa", optim="adamw_torch_fused")
    precision = ("bf16" if bf16_supported() else "fp16") if on_gpu else choose_cpu_precision()[0]
    padded = functools.partial(Variant, batch=batch, accumulation=accumulation)
    rows = [
        padded("baseline", plain),
        padded("grouped by length", grouped, pad=False),
        padded("fused gelu", dataclasses.replace(plain, fused_gelu=True)),
        padded("SDPA attention", dataclasses.replace(plain, attn_implementation="sdpa")),
        padded("fused AdamW", dataclasses.replace(plain, optim="adamw_torch_fused")),
    ]
    if on_gpu and is_torch_tf32_available():
        rows.append(padded("TF32", dataclasses.replace(plain, tf32=True)))
    if not on_gpu:
        rows.append(padded("freed memory kept", plain, keep_memory=True))
    if precision != "fp32":
        rows.append(padded(precision, plain, precision=precision))
    whole = functools.partial(Variant, pad=False, precision=precision, keep_memory=True)
    size, recompute = planned_batch(bench, options, best, precision)
    parts = batch * accumulation // size
    if (size, recompute) != (batch, False):
        rows.append(whole(f"all, {accumulation} x {batch}", best, batch, accumulation))
    rows.append(whole(ALL, best, size, parts, recompute=recompute))
    rows.append(whole(IN_TRAINER, best, size, parts, recompute=recompute, trainer=True))
    if not recompute:
        rows.append(whole("all, recomputed", best, size, parts, recompute=True))
    if options.compiled:
        rows += compiled_variants(bench, best, functools.partial(whole, recompute=recompute), size, parts, on_gpu)
    return rows


def compiled_variants(bench: Bench, args: TrainingOptions, whole, batch: int, parts: int, on_gpu: bool) -> list:
    """Return the variants with a graph for each of a few lengths, with one for all, and with CUDA graphs on a GPU.

    The one graph runs lengths that are multiples of ``MULTIPLE``, for which the strides of the mask are of one form.
    """
    own = {"torch_compile": True, "per_device_train_batch_size": batch, "gradient_accumulation_steps": parts}
    args = dataclasses.replace(args, **own)
    few = choose_batch_lengths(bench.lengths, args, None)
    multiples = tuple(range(MULTIPLE, round_up(int(bench.lengths.max()), MULTIPLE) + 1, MULTIPLE))
    rows = [
        whole(COMPILED, args, batch, parts, batch_lengths=few),
        whole(DYNAMIC, args, batch, parts, batch_lengths=multiples, dynamic=True),
    ]
    if on_gpu:
        args = dataclasses.replace(args, torch_compile_mode="reduce-overhead")
        rows.append(whole(AS_GRAPHS, args, batch, parts, batch_lengths=few))
    return rows


def new_cache() -> contextlib.AbstractContextManager:
    """Compile into an empty folder, so that compilation is timed in full, and reuse it in later rounds."""
    from torch._inductor.utils import fresh_cache  # takes a second

    return fresh_cache()


def measure(bench: Bench, rows: list[Variant], options: Options) -> None:
    """Run rounds: two thirds of the time with every variant, then only with the two that are compared.

    CUDA graphs run once, at the end, because what they record stays in memory.
    """
    begin, number = time.perf_counter(), 0
    rows, graphs = ([row for row in rows if (row.name == AS_GRAPHS) is wanted] for wanted in (False, True))
    compared = [rows[0], next(variant for variant in rows if variant.name == ALL)]
    needed = {len(rows): 0.0, len(compared): 0.0}  # seconds
    for chosen, until in ((rows, 2 / 3 * options.seconds), (compared, options.seconds)):
        while number < options.rounds and time.perf_counter() - begin + needed[len(chosen)] < until:
            started = time.perf_counter()
            for variant in chosen:
                attempt(bench, variant, number)
            seconds = time.perf_counter() - started
            needed[len(chosen)] = seconds - (0 if number else sum(variant.warm_up for variant in chosen))
            number += 1
            print(f"round {number}: {seconds:.0f} s", flush=True)
    for variant in graphs:
        attempt(bench, variant, 0)


def attempt(bench: Bench, variant: Variant, number: int) -> None:
    """Run one round of one variant, unless it has failed before."""
    if variant.failed:
        return
    try:
        bench.run(variant, number)
    except Exception as error:  # no compiler, or a graph that cannot be captured: the other variants continue
        variant.failed = "out of memory" if is_out_of_memory(error) else one_line(error)
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


def paddings(lengths: np.ndarray) -> dict[str, float]:
    """Return padded tokens over real ones, minus one, for an epoch in batches of 8."""
    args = TrainingOptions(output_dir="", per_device_train_batch_size=8)
    grouped = dataclasses.replace(args, train_sampling_strategy="group_by_length")
    found = {"every window to 384": plan_epoch(lengths, args, 384), "random batches": plan_epoch(lengths, args, None)}
    found["grouped by length"] = plan_epoch(lengths, grouped, None)
    compiled = dataclasses.replace(grouped, torch_compile=True)
    found[f"grouped, one of {GRAPHS} lengths"] = plan_epoch(lengths, compiled, None)
    return {name: float(padding) for name, (padding, _) in found.items()}


def activations(config: PretrainedConfig) -> dict[str, float]:
    """Return the activation memory at 8 x 384 in fp32, in GiB: kept by the forward pass, and at the peak."""
    found = {}
    for attention in ("eager", "sdpa"):
        for fused in (False, True):
            args = TrainingOptions(output_dir="", attn_implementation=attention, fused_gelu=fused)
            name = f"{attention} attention, gelu {'fused' if fused else 'unfused'}"
            found[f"{name}, kept"] = kept_bytes(config, args, 8, 384) / GIB
            found[f"{name}, peak"] = memory.of_training(config, args, 8, 384, "fp32", False).activations / GIB
    return found


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


def main() -> None:
    (options,) = parse_arguments((Options,), description=__doc__)
    for name in ("model_dir", "validation_file", "output_dir"):
        if not getattr(options, name):
            raise UserError(f"--{name} is required")
    configure_process()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    use_expandable_segments(device)
    if on_gpu and options.memory_limit_gb:
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(usable_share(options.memory_limit_gb) / whole)

    output, model_args = make_folder(options.output_dir), ModelArguments(config_name=options.model_dir)
    data_args = DataArguments(validation_file=options.validation_file)
    tokenizer, config = load_tokenizer(model_args), load_config(model_args)
    split = load_splits(data_args, ("validation",))["validation"]
    windows = load_windows(split.examples, tokenizer, data_args, None, "validation")
    bench = Bench(config, split, windows, tokenizer, options.steps, device)
    rows = variants(bench, options)
    with new_cache() if options.compiled else contextlib.nullcontext():
        measure(bench, rows, options)
    results = summarize(bench, rows)
    together, in_trainer = (next(row for row in results if row["name"] == name) for name in (ALL, IN_TRAINER))
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
        "collating_ms": time_collation(bench),
        "variants": results,
    }
    if on_gpu and "examples_per_second" in in_trainer:
        found["seconds_for_three_epochs_of_squad"] = 3 * FULL_SQUAD / in_trainer["examples_per_second"]
    write_json(output / "results.json", found)
    print(f"\n{found['device']}, batch {found['batch']}, {len(windows):,} windows\n\n{as_table(results)}\n")
    for name in ("padding_at_batch_8", "activations_gib_at_8_x_384_fp32", "collating_ms"):
        print(f"{name}: " + "; ".join(f"{key} {value:.3f}" for key, value in found[name].items()))
    print(*compilation_times(results), sep="\n", end="\n" if options.compiled else "")
    if "seconds_for_three_epochs_of_squad" in found:
        print(f"three epochs of SQuAD in the Trainer, steps only: {found['seconds_for_three_epochs_of_squad']:.0f} s")
    print(f"speedup: {found['speedup'] or float('nan'):.2f}; written to {output / 'results.json'}")


if __name__ == "__main__":
    run_command(main)
