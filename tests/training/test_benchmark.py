"""What the benchmark of training steps measures, with a stand-in for the GPU."""

import dataclasses
import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from transformers import AutoConfig

from benchmarks import train_speed
from benchmarks.steps import Bench, Variant
from benchmarks.train_speed import as_table, summarize
from qa.data.splits import load_splits
from qa.data.window_cache import load_windows
from qa.model.memory import GIB
from qa.model.tokenizer import load_tokenizer
from qa.options.arguments import REPOSITORY, DataArguments, ModelArguments
from qa.options.training_arguments import TrainingOptions

SCRIPTS = sorted(path.stem for path in Path(REPOSITORY, "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_benchmark_imports_is_there(name):
    assert importlib.import_module(f"benchmarks.{name}").__doc__


@pytest.fixture
def bench(tiny_data, tiny_model, tmp_path, monkeypatch) -> Bench:
    """The benchmark on 16 windows."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data_args = DataArguments(validation_file=str(tiny_data / "dev.json.gz"))
    tokenizer = load_tokenizer(ModelArguments(config_name=str(tiny_model)))
    split = load_splits(data_args, ("validation",))["validation"]
    windows = load_windows(split.examples, tokenizer, data_args, None, "validation")
    return Bench(AutoConfig.from_pretrained(tiny_model), split, windows, tokenizer, 3, torch.device("cpu"))


def grouped(**more) -> TrainingOptions:
    return TrainingOptions(output_dir="", report_to="none", train_sampling_strategy="group_by_length", **more)


@pytest.fixture
def happened(bench, monkeypatch) -> list:
    """What a GPU would have done, in order: steps by the widths of their micro-batches, and what was measured."""
    log: list = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("event")

        def synchronize(self):
            log.append("waited")

        def elapsed_time(self, other):
            return 2000.0  # ms

    fakes = {"Event": Event, "synchronize": lambda: None}
    fakes["reset_peak_memory_stats"] = lambda: log.append("reset")
    fakes["max_memory_allocated"] = lambda: log.append("read") or GIB // 4
    fakes["max_memory_reserved"] = lambda: GIB // 2
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(nn.Module, "to", lambda module, device: module)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)

    def step(self, model, optimizer, scaler, rows, variant):
        log.append([row["input_ids"].shape[1] for row in rows])

    monkeypatch.setattr(Bench, "step", step)
    bench.device, bench.rates = torch.device("cuda"), {(torch.float32, False): 1e9}
    return log


def test_steps_are_timed_by_events_after_a_warm_up_of_each_width(bench, happened):
    variant = Variant("all", grouped(), batch=1, accumulation=2, pad=False)
    bench.run(variant, 0)
    events = [place for place, what in enumerate(happened) if what == "event"]
    assert len(events) >= 2, "timed by events"
    begin, end = events[-2:]
    timed = {width for step in happened[begin + 1 : end] for width in step}
    before = {width for step in happened[:begin] if isinstance(step, list) for width in step}
    assert len(timed) > 1 and timed <= before, "each width has run before it is timed"
    assert happened[end + 1] == "waited", "for the event, not for the host's clock"
    assert variant.seconds_per_window == [2.0 / (3 * 2)]


def test_the_peak_is_that_of_the_largest_batch_and_read_after_all_steps(bench, happened):
    variant = Variant("all", grouped(), batch=1, accumulation=2, pad=False)
    bench.run(variant, 0)
    longest = sorted(bench.lengths.tolist())[-2:]
    assert happened[happened.index("reset") + 1] == longest
    assert happened[-1] == "read" and (variant.peak, variant.reserved) == (GIB // 4, GIB // 2)


def test_the_plan_of_the_largest_batch_drawn_is_compared_with_allocated_and_reserved_memory(bench):
    """The longest of 16 windows is in no batch of 3; the planner takes it for the longest of every batch."""
    bench.lengths[0] = 300
    variant = Variant("all", grouped(), batch=3, accumulation=1, pad=False, peak=GIB // 4, reserved=GIB // 2)
    variant.seconds_per_window, variant.share = [0.5], [0.5]
    (row,) = summarize(bench, [variant])
    drawn = sorted(bench.lengths.tolist())[-2]
    assert row["largest_batch"] == f"3 x {drawn}" and row["planned_gib"] > row["largest_gib"]
    assert row["largest_gib"] == bench.planned(variant, drawn) / GIB
    assert row["peak_gib"] == 0.25 and row["planner_error"] == pytest.approx(row["largest_gib"] / 0.25 - 1)
    assert row["reserved_gib"] == 0.5 and row["planner_error_reserved"] == pytest.approx(row["largest_gib"] / 0.5 - 1)
    header, line, shown = as_table([row]).splitlines()
    assert header.count("|") == line.count("|") == shown.count("|")
    assert f"0.25 GiB ({row['planner_error']:+.0%})" in shown
    assert f"0.50 GiB ({row['planner_error_reserved']:+.0%})" in shown


def test_one_graph_for_all_lengths_is_measured_against_one_for_each(bench, monkeypatch):
    options = SimpleNamespace(batch_size=1, accumulation=1, compiled=True, memory_limit_gb=None)
    rows = {row.name: row for row in train_speed.variants(bench, options)}
    assert "all, compiled, dynamic" in rows, "a variant of the benchmark"
    compiled, dynamic = rows["all, compiled"], rows["all, compiled, dynamic"]
    graphs = {}
    for variant in (compiled, dynamic):
        variant.args = dataclasses.replace(variant.args, torch_compile_backend="aot_eager")
        torch._dynamo.reset()
        counters.clear()
        for number in range(2):
            bench.run(variant, number)
        graphs[variant.name] = counters["stats"]["unique_graphs"]
    lengths, widths = bench.lengths, [set(bench.widths(row, bench.epoch(row)).tolist()) for row in (compiled, dynamic)]
    assert graphs["all, compiled"] == compiled.warmed == len(widths[0]), "every length of the epoch, in the warm-up"
    assert widths[1] == {-(-length // 8) * 8 for length in lengths.tolist()} and graphs["all, compiled, dynamic"] <= 2
    assert bench.padding(dynamic) == pytest.approx((-(-lengths // 8) * 8).sum() / lengths.sum() - 1)
    found = summarize(bench, [compiled, dynamic])
    for row, variant in zip(found, (compiled, dynamic), strict=True):
        rest = (100 - variant.warmed) / row["examples_per_second"]
        assert row["first_100_steps_seconds"] == pytest.approx(row["compile_seconds"] + rest)
    assert len(train_speed.compilation_times(found)) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("trainer", [False, True])
def test_steps_on_a_gpu_have_a_time_and_a_peak(bench, trainer):
    bench.device = torch.device("cuda")
    variant = Variant("all", grouped(), batch=2, accumulation=2, pad=False, precision="bf16", trainer=trainer)
    bench.run(variant, 0)
    assert 0 < variant.seconds_per_window[0] < 1 and 0 < variant.peak <= variant.reserved
