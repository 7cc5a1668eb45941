"""Build batches of windows: read rows from Arrow, pad, order by length."""

import bisect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from transformers import TrainingArguments

if TYPE_CHECKING:
    from datasets import Dataset

LABELS = "start_positions", "end_positions"
CPU_TOKENS = 768  # in a batch for each thread of a CPU, twice as many in bf16: larger ones leave its caches
CPU_PADDING = 64  # tokens in a batch on a CPU, at most: another batch takes less time than more padding


class WindowRows(TorchDataset):
    """Windows as dictionaries of arrays, which are views of Arrow's memory: no Python object is made for a token.

    Args:
        columns: columns to read, if the windows have them; None for all.
    """

    def __init__(self, windows: "Dataset", columns: Sequence[str] | None = None):
        if columns is not None:
            windows = windows.select_columns([name for name in columns if name in windows.column_names])
        self.windows = windows.with_format("arrow")

    def __len__(self) -> int:
        return len(self.windows)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        table = self.windows[indices]
        columns = {name: table[name].to_numpy() for name in table.column_names}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


class Collator:
    """Pad a batch of windows on the right, as int64 tensors (B, L).

    Args:
        sizes: the lengths L that a batch may have, ascending. A batch whose longest window exceeds all of them, and
            every batch if there are none, has the length of its longest window.
        multiple: tokens; L is rounded up to a multiple of it.
    """

    def __init__(self, pad_token_id: int, token_types: bool, sizes: Sequence[int] = (), multiple: int = 1):
        self.pad_token_id, self.token_types, self.sizes, self.multiple = pad_token_id, token_types, sizes, multiple

    @property
    def columns(self) -> list[str]:
        """The columns of a window that a batch is made of; labels are optional."""
        names = ["input_ids", "token_type_ids"] if self.token_types else ["input_ids"]
        return [*names, *LABELS]

    def width(self, longest: int) -> int:
        """Return the length L of a batch whose longest window has ``longest`` tokens."""
        return round_up(padded(longest, self.sizes), self.multiple)

    def __call__(self, windows: list[dict]) -> dict[str, torch.Tensor]:
        lengths = np.array([len(window["input_ids"]) for window in windows])
        width = self.width(int(lengths.max()))
        batch = {
            "input_ids": self.pad(windows, "input_ids", width, self.pad_token_id),
            "attention_mask": torch.from_numpy((np.arange(width) < lengths[:, None]).astype(np.int64)),
        }
        if self.token_types:
            batch["token_type_ids"] = self.pad(windows, "token_type_ids", width, 0)
        for name in LABELS:
            if name in windows[0]:
                batch[name] = torch.tensor([int(window[name]) for window in windows])
        return batch

    @staticmethod
    def pad(windows: list[dict], name: str, width: int, value: int) -> torch.Tensor:
        rows = np.full((len(windows), width), value, dtype=np.int64)
        for row, window in zip(rows, windows, strict=True):
            row[: len(window[name])] = window[name]
        return torch.from_numpy(rows)


def by_length(lengths: np.ndarray) -> np.ndarray:
    """Return the order of (W,) ``lengths``, longest first: pads little, and runs out of memory early or never."""
    return np.argsort(-np.asarray(lengths), kind="stable")


def token_batches(
    lengths: np.ndarray, tokens: int, device: torch.device, bf16: bool, width: Callable[[int], int] = int
) -> list[np.ndarray]:
    """Return the rows of (W,) ``lengths`` in batches, longest first, of at most ``tokens`` tokens with their padding.

    A window longer than that is a batch of its own. On a CPU batches are also small enough for its caches, and those
    of few windows have similar lengths.

    Args:
        bf16: whether a CPU computes in it.
        width: returns the length of a batch from that of its longest window.
    """
    order, batches, begin, padding = by_length(lengths), [], 0, tokens
    if device.type == "cpu":
        tokens, padding = min(tokens, CPU_TOKENS * (1 + bf16) * torch.get_num_threads()), CPU_PADDING
    widths = np.array([width(length) for length in np.asarray(lengths)[order].tolist()])
    while begin < len(order):
        part = widths[begin : begin + max(1, tokens // widths[begin])]
        size = int(np.searchsorted(np.cumsum(part[0] - part), padding, side="right"))
        batches.append(order[begin : begin + size])
        begin += size
    return batches


def padded(length: int, sizes: Sequence[int]) -> int:
    """Return the smallest of the ascending ``sizes`` that holds ``length``, else ``length`` itself."""
    place = bisect.bisect_left(sizes, length)
    return sizes[place] if place < len(sizes) else length


def round_up(length: int, multiple: int) -> int:
    """Return the smallest multiple of ``multiple`` that holds ``length``."""
    return -(-length // multiple) * multiple


def make_dataloader(
    rows: WindowRows,
    collator: Collator,
    args: TrainingArguments,
    worker_init_fn: Callable[[int], None] | None = None,
    **batches,
) -> DataLoader:
    """Return a loader of batches as ``Trainer`` would make it from ``args``.

    Args:
        batches: ``sampler`` and ``batch_size``, or ``batch_sampler``, of ``DataLoader``.
    """
    return DataLoader(
        rows,
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        prefetch_factor=args.dataloader_prefetch_factor,
        in_order=args.dataloader_in_order,
        worker_init_fn=worker_init_fn,
        **batches,
    )
