"""Windows, batches and searches shared by several tests."""

import numpy as np

from qa.inference.spans import (
    find_candidates,
    lowest_null,
    search,
)
from qa.model.batching import Collator


def collate(lengths: list[int], pad_to: int | None = None) -> dict:
    rows = [
        {"input_ids": [5] * n, "token_type_ids": [0] * n, "start_positions": 1, "end_positions": n - 1} for n in lengths
    ]
    return Collator(0, True, (pad_to,) if pad_to else ())(rows)


LENGTHS = np.random.default_rng(0).gamma(5, 36, 4003).clip(20, 384).astype(int)  # shaped like SQuAD's windows


def find_spans(start, end, windows, examples, n_best=20, longest=30):
    """Return the best spans from all logits (W, L)."""
    return search(find_candidates(start, end, windows, n_best), windows, examples, n_best, longest)


def null_scores(start, end, windows, examples) -> np.ndarray:
    return lowest_null(find_candidates(start, end, windows, 1).null, windows.example_index, examples)
