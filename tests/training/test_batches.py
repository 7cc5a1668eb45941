"""Grouping, order and padding of windows in batches."""

from itertools import combinations

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.windows import LENGTHS, collate
from torch.utils.data import DataLoader

from qa.model.batching import CPU_PADDING, CPU_TOKENS, Collator, WindowRows, by_length, padded, round_up, token_batches
from qa.options.training_arguments import TrainingOptions
from qa.training.planner import plan_epoch
from qa.training.sampling import LengthGroupedSampler, choose_batch_lengths, choose_padding_lengths


def test_batches_are_padded_on_the_right():
    batch = collate([2, 4])
    assert batch["input_ids"].tolist() == [[5, 5, 0, 0], [5, 5, 5, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert collate([2, 4], 9)["input_ids"].shape == (2, 9)
    assert "token_type_ids" not in Collator(0, False)([{"input_ids": [1], "token_type_ids": [0]}])


def padding(order: list[int], batch_size: int) -> float:
    """Return padded tokens over real ones, minus one."""
    batches = [LENGTHS[order[i : i + batch_size]] for i in range(0, len(order), batch_size)]
    return sum(batch.max() * len(batch) for batch in batches) / LENGTHS.sum() - 1


def test_grouped_batches_pad_little_and_stay_random():
    sampler = LengthGroupedSampler(LENGTHS, 8, seed=42)
    order = list(sampler)
    assert sorted(order) == list(range(len(LENGTHS)))
    assert padding(order, 8) < 0.05 < 0.5 < padding(np.random.default_rng(0).permutation(len(LENGTHS)), 8)
    assert list(sampler) == order == list(LengthGroupedSampler(LENGTHS, 8, seed=42))
    sampler.set_epoch(1)
    other = list(sampler)
    assert other != order != list(LengthGroupedSampler(LENGTHS, 8, seed=43))
    together = [{*order[i : i + 8]} for i in range(0, len(order), 8)]
    assert sum({*other[i : i + 8]} in together for i in range(0, len(other), 8)) == 0, "other batches in each epoch"


def test_small_sets_are_sampled_too():
    for size in (1, 7, 8, 9):
        assert sorted(LengthGroupedSampler(LENGTHS[:size], 8, seed=0)) == list(range(size))


def test_evaluation_begins_with_the_longest_windows():
    order = by_length(np.array([3, 9, 5, 9]))
    assert order.tolist() == [1, 3, 2, 0]


@pytest.mark.parametrize(("device", "bf16"), [("cuda", True), ("cpu", False), ("cpu", True)])
@pytest.mark.parametrize("multiple", [1, 8])
def test_batches_by_tokens(device, bf16, multiple):
    """All rows once, longest first; as many as fit into the tokens, unless padding costs a CPU more than a batch."""
    most = 32 * 384 if device == "cuda" else min(32 * 384, (2 if bf16 else 1) * CPU_TOKENS * torch.get_num_threads())

    def width(longest: int) -> int:
        return round_up(longest, multiple)

    batches = token_batches(LENGTHS, 32 * 384, torch.device(device), bf16, width)
    assert np.concatenate(batches).tolist() == by_length(LENGTHS).tolist()
    for rows, following in zip(batches, [*batches[1:], None], strict=True):
        longest = width(int(LENGTHS[rows[0]]))
        assert longest * len(rows) <= most
        padding = sum(longest - width(int(LENGTHS[row])) for row in rows)
        assert padding <= CPU_PADDING or device == "cuda"
        if following is not None:
            more = padding + longest - width(int(LENGTHS[following[0]]))
            assert longest * (len(rows) + 1) > most or (device == "cpu" and more > CPU_PADDING)
    assert max(map(len, batches)) > 2 * len(batches[0]), "more of the short windows"


def test_a_window_longer_than_a_batch_is_a_batch():
    for device in "cuda", "cpu":
        batches = token_batches(np.array([5, 400, 7]), 20, torch.device(device), bf16=False)
        assert [rows.tolist() for rows in batches] == [[1], [2, 0]]
    assert token_batches(np.array([], dtype=int), 20, torch.device("cpu"), bf16=False) == []


@pytest.mark.parametrize("selected", [False, True])
def test_window_rows_match_the_dataset(selected):
    """In any order and with duplicates, across several Arrow chunks, and after ``select``."""
    random = np.random.default_rng(0)
    rows = [
        {"input_ids": random.integers(0, 9, n).tolist(), "token_type_ids": [n % 2] * n, "start_positions": n}
        for n in random.integers(1, 30, 50).tolist()
    ]
    parts = [Dataset.from_list(rows[:20]), Dataset.from_list(rows[20:])]
    windows = datasets.concatenate_datasets(parts)
    if selected:
        windows = windows.select(range(1, 50, 2))
    index = random.integers(0, len(windows), 40).tolist()
    found = WindowRows(windows).__getitems__(index)
    assert [{name: np.asarray(value).tolist() for name, value in row.items()} for row in found] == [
        windows[i] for i in index
    ]
    loader = DataLoader(WindowRows(windows), batch_size=7, collate_fn=Collator(0, True))
    plain = DataLoader(windows, batch_size=7, collate_fn=Collator(0, True))
    for ours, theirs in zip(loader, plain, strict=True):
        assert all(ours[name].equal(theirs[name]) for name in theirs) and ours.keys() == theirs.keys()


def test_batches_are_padded_to_the_next_size():
    sizes = (4, 9, 16)
    assert [padded(length, sizes) for length in (1, 4, 5, 9, 10, 16, 17)] == [4, 4, 9, 9, 16, 16, 17]
    batch = Collator(0, True, sizes)([{"input_ids": [5] * n, "token_type_ids": [1] * n} for n in (3, 5)])
    assert batch["attention_mask"].tolist() == [[1] * 3 + [0] * 6, [1] * 5 + [0] * 4]
    assert batch["token_type_ids"].equal(batch["attention_mask"])


def test_choose_padding_lengths_minimizes_padding():
    """Compare with all possible choices."""
    for seed in range(30):
        random = np.random.default_rng(seed)
        widths = random.gamma(4, 12, random.integers(1, 40)).clip(1, 75).astype(int)
        largest = int(widths.max())
        for count in (1, 2, 3):
            options = [*range(8, largest, 8)]
            sets = [(*some, largest) for n in range(count) for some in combinations(options, n)]
            costs = [sum(padded(int(width), some) for width in widths) for some in sets]
            sizes = choose_padding_lengths(widths, count)
            assert sizes in sets and costs[sets.index(sizes)] == min(costs)


def test_compiled_model_gets_few_lengths_and_the_plan_counts_their_padding():
    args = TrainingOptions(output_dir="", train_sampling_strategy="group_by_length", torch_compile=True)
    plain = TrainingOptions(output_dir="", train_sampling_strategy="group_by_length")
    sizes = choose_batch_lengths(LENGTHS, args, None)
    assert len(sizes) == 8 and sizes[-1] == LENGTHS.max() and sizes == tuple(sorted({*sizes}))
    assert choose_batch_lengths(LENGTHS, plain, None) == () and choose_batch_lengths(LENGTHS, args, 384) == (384,)
    order = list(LengthGroupedSampler(LENGTHS, 8, args.seed))
    tokens = sum(
        len(batch) * padded(int(LENGTHS[batch].max()), sizes) for batch in (order[i : i + 8] for i in range(0, 4003, 8))
    )
    assert plan_epoch(LENGTHS, args, None)[0] == pytest.approx(tokens / LENGTHS.sum() - 1)
    assert plan_epoch(LENGTHS, plain, None)[0] < 0.05 < plan_epoch(LENGTHS, args, None)[0] < 0.15
