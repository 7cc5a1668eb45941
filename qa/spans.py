"""Logits to answers: n-best spans over all windows of an example, as arrays.

The search is that of Hugging Face's ``run_qa.py``: in each window the ``n_best_size`` highest starts times
the ``n_best_size`` highest ends, kept where both lie in the context, in order, and at most
``max_answer_length`` tokens long; then the ``n_best_size`` best sums over all windows of the example.

Ties: of equal logits the earlier token is the better candidate; of equal sums the earlier window's, then
the one with the better start, then the one with the better end. Padding never takes part.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qa.windows import WindowArrays

LARGEST = np.finfo(np.float32).max
BELOW_ALL = 1 << 60  # more than the range of sort keys, which keep their column
CHUNK, PAIRS = 1024, 1 << 20  # windows, and pairs of tokens, searched at once: they bound the memory


@dataclass
class Spans:
    """The best spans of every example: S spans, best first within an example, examples in order.

    ``first[i]:first[i + 1]`` are the spans of example i.
    """

    window: np.ndarray  # (S,) row of the window
    start_token: np.ndarray  # (S,) position in the window
    end_token: np.ndarray  # (S,) last token, inclusive
    start_char: np.ndarray  # (S,) in the context
    end_char: np.ndarray  # (S,) exclusive
    start_logit: np.ndarray  # (S,) float32
    end_logit: np.ndarray  # (S,) float32
    first: np.ndarray  # (E + 1,)

    @property
    def score(self) -> np.ndarray:
        """(S,) start logit + end logit, float32."""
        return add(self.start_logit, self.end_logit)


def add(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Sum in float32; infinities that cancel are the worst score, not NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        total = left + right
    return np.where(np.isnan(total), np.float32(-np.inf), total)


def sort_key(scores: np.ndarray) -> np.ndarray:
    """(R, N) int64 keys, all different in a row, in the order of ``scores``; of ties the earlier is greater.

    A float32's bits, with the negative ones mirrored, sort as integers; the low 20 bits hold the column.
    """
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.int32).astype(np.int64)  # + 0 makes -0.0 equal 0.0
    ordered = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered << 20) | (0xFFFFF - np.arange(scores.shape[1]))


def top_columns(keys: np.ndarray, count: int) -> np.ndarray:
    """(R, min(count, N)) columns of the greatest keys of each row, greatest first."""
    count = min(count, keys.shape[1])
    best = np.partition(keys, keys.shape[1] - count, axis=1)[:, keys.shape[1] - count :]
    return 0xFFFFF - (np.sort(best, axis=1)[:, ::-1] & 0xFFFFF)


def context_offsets(windows: WindowArrays, rows: slice, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(R, width) first and end character of every token; -1 for tokens that are not of the context."""
    tokens = windows.tokens[rows.start : rows.stop + 1]
    counts = np.diff(tokens)
    row = np.repeat(np.arange(len(counts)), counts)
    position = np.arange(tokens[0], tokens[-1]) - np.repeat(tokens[:-1] - windows.context_start[rows], counts)
    start, end = (np.full((len(counts), width), -1, dtype=np.int32) for _ in range(2))
    start[row, position], end[row, position] = windows.offset_mapping[tokens[0] : tokens[-1]].T
    return start, end


def search_windows(
    start_logits: np.ndarray, end_logits: np.ndarray, windows: WindowArrays, n_best_size: int, max_answer_length: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields, chunk by chunk, the best spans of each window: window, tokens, characters and logits, (K,) each."""
    chunk = max(1, min(CHUNK, PAIRS // n_best_size**2))
    for begin in range(0, len(windows), chunk):
        rows = slice(begin, min(begin + chunk, len(windows)))
        width = int(windows.length[rows].max())
        real = np.arange(width) < windows.length[rows, None]
        starts = np.where(real, start_logits[rows, :width], np.float32(-np.inf))
        ends = np.where(real, end_logits[rows, :width], np.float32(-np.inf))
        first_char, end_char = context_offsets(windows, rows, width)
        top_start = top_columns(sort_key(starts), n_best_size)
        top_end = top_columns(sort_key(ends), n_best_size)
        each = np.arange(len(real))[:, None]
        sums = add(starts[each, top_start][:, :, None], ends[each, top_end][:, None, :])
        from_char = first_char[each, top_start][:, :, None]
        to_char = end_char[each, top_end][:, None, :]
        size = top_end[:, None, :] - top_start[:, :, None] + 1
        valid = (size >= 1) & (size <= max_answer_length) & (from_char >= 0) & (to_char > from_char)
        pairs = valid.shape[1] * valid.shape[2]
        keys = sort_key(sums.reshape(-1, pairs))
        best = top_columns(np.where(valid.reshape(-1, pairs), keys, keys - BELOW_ALL), n_best_size)
        row, rank = np.nonzero(valid.reshape(-1, pairs)[each, best])
        start = top_start[row, best[row, rank] // valid.shape[2]]
        end = top_end[row, best[row, rank] % valid.shape[2]]
        yield (
            *(row + begin, start, end, first_char[row, start], end_char[row, end]),
            *(starts[row, start], ends[row, end]),
        )


def find_spans(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    windows: WindowArrays,
    examples: int,
    n_best_size: int = 20,
    max_answer_length: int = 30,
) -> Spans:
    """The best spans of every example, over all its windows, which may come in any order and number.

    Args:
        start_logits, end_logits: (W, L) float32, one row for each window; columns beyond a window are ignored.
        examples: number of examples E; ``windows.example_index`` points into them.
    """
    width = int(windows.length.max(initial=0))
    if len(start_logits) != len(windows) or start_logits.shape[1] < width:
        raise ValueError(f"logits of shape {start_logits.shape} for {len(windows)} windows of up to {width} tokens")
    parts = list(search_windows(start_logits, end_logits, windows, n_best_size, max_answer_length))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else [np.zeros(0, int)] * 7
    example = windows.example_index[columns[0]]
    score = sort_key(add(columns[5], columns[6])[:, None])[:, 0]
    order = np.lexsort((-score, example))  # stable: ties stay in the order of windows and of rank
    counts = np.bincount(example, minlength=examples)
    first = np.concatenate([[0], np.cumsum(counts)])
    order = order[np.arange(len(order)) - first[example[order]] < n_best_size]
    counts = np.minimum(counts, n_best_size)
    return Spans(*(column[order] for column in columns), first=np.concatenate([[0], np.cumsum(counts)]))


def null_scores(start_logits: np.ndarray, end_logits: np.ndarray, windows: WindowArrays, examples: int) -> np.ndarray:
    """(E, 2) start and end logit of CLS in the window where their sum, the null score, is lowest."""
    rows = np.arange(len(windows))
    pair = np.stack([start_logits[rows, windows.cls_index], end_logits[rows, windows.cls_index]], axis=1)
    order = np.lexsort((sort_key(add(pair[:, 0], pair[:, 1])[:, None])[:, 0], windows.example_index))
    found, at = np.unique(windows.example_index[order], return_index=True)
    lowest = np.zeros((examples, 2), dtype=np.float32)
    lowest[found] = pair[order[at]]
    return lowest


def softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax of a vector, equal shares among the best where the best is infinite."""
    best = scores.max()
    weights = np.exp(scores - best) if np.isfinite(best) else (scores == best).astype(np.float32)
    return weights / weights.sum()


@dataclass
class Answers:
    """Predictions by id, the n-best list behind each, and for SQuAD 2.0 the null odds."""

    predictions: dict[str, str]
    nbest: dict[str, list[dict]]
    null_odds: dict[str, float] | None


def read_answers(
    spans: Spans, ids: list[str], contexts: list[str], nulls: np.ndarray | None, n_best_size: int, threshold: float
) -> Answers:
    """Spans to texts. With ``nulls`` (E, 2), no answer where the null score beats the best by over ``threshold``.

    Each n-best entry has text, start_logit, end_logit and probability (softmax over the list). An example
    without any span is answered by an empty text.
    """
    predictions, nbest = {}, {}
    null_odds = None if nulls is None else {}
    begin, end = spans.start_char.tolist(), spans.end_char.tolist()
    start_logit, end_logit = spans.start_logit.tolist(), spans.end_logit.tolist()
    scores = spans.score
    first = spans.first.tolist()
    for i, (key, context) in enumerate(zip(ids, contexts, strict=True)):
        entries = [
            {"text": context[begin[j] : end[j]], "start_logit": start_logit[j], "end_logit": end_logit[j]}
            for j in range(first[i], first[i + 1])
        ]
        own = scores[first[i] : first[i + 1]]
        if nulls is not None:
            null = add(*nulls[i])
            rank = int((own >= null).sum())
            entries.insert(rank, {"text": "", "start_logit": float(nulls[i, 0]), "end_logit": float(nulls[i, 1])})
            best_span = own[0] if len(own) else -LARGEST
            null_odds[key] = float(np.clip(null - best_span, -LARGEST, LARGEST))
            own = np.insert(own, rank, null)
            entries, own = entries[: max(n_best_size, rank + 1)], own[: max(n_best_size, rank + 1)]
        elif not entries:
            entries, own = [{"text": "", "start_logit": 0.0, "end_logit": 0.0}], np.zeros(1, dtype=np.float32)
        for entry, probability in zip(entries, softmax(own).tolist(), strict=True):
            entry["probability"] = probability
        best = next((entry["text"] for entry in entries if entry["text"]), "")
        predictions[key] = best if nulls is None or null_odds[key] <= threshold else ""
        nbest[key] = entries
    return Answers(predictions, nbest, null_odds)
