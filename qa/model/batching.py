"""Windows to batches: rows as Arrow holds them, padding, order by length."""

import bisect
from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset


class WindowRows(TorchDataset):
    """Windows as dictionaries of arrays, which view what Arrow holds: no Python object is made for a token."""

    def __init__(self, windows: Dataset):
        self.windows = windows.with_format("arrow")

    def __len__(self) -> int:
        return len(self.windows)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        table = self.windows[indices]
        columns = {name: table[name].to_numpy() for name in table.column_names}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


class Collator:
    """Pads a batch of windows on the right, as int64 tensors (B, L).

    Args:
        sizes: the lengths L that a batch may have, ascending; it has the length of its longest window where that is
            beyond them all, or where there are none.
    """

    def __init__(self, pad_token_id: int, token_types: bool, sizes: Sequence[int] = ()):
        self.pad_token_id, self.token_types, self.sizes = pad_token_id, token_types, sizes

    def __call__(self, windows: list[dict]) -> dict[str, torch.Tensor]:
        lengths = np.array([len(window["input_ids"]) for window in windows])
        width = padded(int(lengths.max()), self.sizes)
        batch = {
            "input_ids": self.pad(windows, "input_ids", width, self.pad_token_id),
            "attention_mask": torch.from_numpy((np.arange(width) < lengths[:, None]).astype(np.int64)),
        }
        if self.token_types:
            batch["token_type_ids"] = self.pad(windows, "token_type_ids", width, 0)
        for name in ("start_positions", "end_positions"):
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
    """Longest first, so that evaluation pads little and runs out of memory at once or never."""
    return np.argsort(-np.asarray(lengths), kind="stable")


def padded(length: int, sizes: Sequence[int]) -> int:
    """The least of the ascending ``sizes`` that holds ``length``, else ``length`` itself."""
    place = bisect.bisect_left(sizes, length)
    return sizes[place] if place < len(sizes) else length
