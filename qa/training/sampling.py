"""Sampling of training windows into batches, and the lengths to which batches are padded."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from qa.model.batching import by_length, token_batches
from qa.options.training_arguments import TrainingOptions
from qa.training.compilation import GRAPHS

INDICES_AT_ONCE = 1 << 16  # window indices converted to Python objects together
MEGABATCH = 64  # steps whose windows are sorted by length: enough to pad little, few enough to stay random
MULTIPLE = 8  # tokens; padding lengths are multiples of it, which suits the matrix units of a GPU


class LengthGroupedSampler(Sampler):
    """Sample windows in random order, with similar lengths within a step, so that there is little padding.

    The order depends on seed and epoch alone, so that a resumed run continues with the same steps: windows are
    shuffled, sorted by length within the windows of ``MEGABATCH`` steps, and the steps are shuffled. Within a step they
    stay sorted, so that each of its micro-batches pads little, and it has the same windows with any micro-batch size.

    Args:
        lengths: (W,) tokens. step_size: windows of a step, in all its batches.
    """

    def __init__(self, lengths: np.ndarray, step_size: int, seed: int):
        self.lengths, self.step_size, self.seed, self.epoch = np.asarray(lengths), step_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))
        groups = np.array_split(order, math.ceil(len(order) / (self.step_size * MEGABATCH)))
        order = np.concatenate([group[np.argsort(self.lengths[group], kind="stable")] for group in groups])
        full = len(order) // self.step_size * self.step_size
        steps = random.permutation(order[:full].reshape(-1, self.step_size))
        for part in (steps.reshape(-1), order[full:]):
            for begin in range(0, len(part), INDICES_AT_ONCE):
                yield from part[begin : begin + INDICES_AT_ONCE].tolist()


class FixedOrderSampler(Sampler):
    """Sample rows in a given order."""

    def __init__(self, order: np.ndarray):
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.tolist())


def evaluation_batches(lengths: np.ndarray, args: TrainingOptions, width: Callable[[int], int]) -> dict[str, Any]:
    """Return the arguments of ``DataLoader`` that draw the windows for evaluation, longest first.

    No batch has more tokens than ``per_device_eval_batch_size`` windows of the longest kind, so a batch of shorter ones
    has more windows. With several processes it has as many, since accelerate gathers batches of one size only.

    Args:
        lengths: (W,) tokens. width: returns the length of a batch from that of its longest window.
    """
    size = args.eval_batch_size
    if args.world_size > 1:
        return {"batch_size": size, "sampler": FixedOrderSampler(by_length(lengths))}
    tokens = size * width(int(np.max(lengths, initial=1)))
    return {"batch_sampler": [rows.tolist() for rows in token_batches(lengths, tokens, args.device, args.bf16, width)]}


def choose_padding_lengths(widths: np.ndarray, count: int) -> tuple[int, ...]:
    """Return at most ``count`` lengths, ascending, with the least padding if each width is rounded up to one of them.

    Uses dynamic programming over the multiples of ``MULTIPLE`` and the largest width, which is always one of them.

    Args:
        widths: (K,) tokens.
    """
    largest = int(np.max(widths))
    sizes = np.append(np.arange(MULTIPLE, largest, MULTIPLE), largest)
    below = np.append(0, np.cumsum(np.bincount(np.searchsorted(sizes, widths), minlength=len(sizes))))
    least = np.append(0, np.full(len(sizes), np.inf))  # tokens of the widths up to each size, with the sizes so far
    came: list[np.ndarray] = []
    for _ in range(count):
        # from a size (row, or none) to a larger one (column): all widths between them become the larger
        tokens = least[:, None] + sizes * (below[1:] - below[:, None])
        tokens[np.tri(len(sizes) + 1, len(sizes), -1, dtype=bool)] = np.inf
        came.append(tokens.argmin(0))
        least = np.append(0, tokens.min(0))
    chosen, place = [], len(sizes)
    for before in reversed(came):
        if place:
            chosen.append(int(sizes[place - 1]))
            place = before[place - 1]
    return tuple(reversed(chosen))


def epoch_batches(lengths: np.ndarray, args: TrainingOptions, step_size: int | None = None) -> list[np.ndarray]:
    """Return the windows' lengths in each batch of the first epoch; ``step_size`` if several processes share a step."""
    batch, lengths = args.train_batch_size, np.asarray(lengths)
    step_size = step_size or batch * args.gradient_accumulation_steps
    seed = args.seed if args.data_seed is None else args.data_seed
    if args.train_sampling_strategy == "group_by_length":
        order = np.array(list(LengthGroupedSampler(lengths, step_size, seed)))
    else:
        order = np.random.default_rng(seed).permutation(len(lengths))
    return [lengths[order[begin : begin + batch]] for begin in range(0, len(order), batch)]


def choose_batch_lengths(
    lengths: np.ndarray, args: TrainingOptions, pad_to: int | None, step_size: int | None = None
) -> tuple[int, ...]:
    """Return the lengths that batches are padded to: ``pad_to``, or a few if the model is compiled for each of them.

    Without either there are none: every batch has the length of its longest window.
    """
    if pad_to:
        return (pad_to,)
    if not args.torch_compile:
        return ()
    return choose_padding_lengths(np.array([batch.max() for batch in epoch_batches(lengths, args, step_size)]), GRAPHS)
