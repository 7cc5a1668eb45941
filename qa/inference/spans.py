"""From logits to spans: the n-best over all windows of an example, as arrays.

The search is that of Hugging Face's ``run_qa.py``: in each window the ``n_best_size`` highest starts times
the ``n_best_size`` highest ends, kept where both lie in the context, in order, and at most
``max_answer_length`` tokens long; then the ``n_best_size`` best sums over all windows of the example.

Ties: of equal logits the earlier token is the better candidate; of equal sums the earlier window's, then
the one with the better start, then the one with the better end; "no answer" comes after the spans it
equals. Padding is never a candidate.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from qa.data.windows import WindowArrays

LARGEST = np.finfo(np.float32).max
WINDOWS_AT_ONCE, PAIRS = 1024, 1 << 20  # windows, and pairs of tokens, searched together; bounds the memory


@dataclass
class Candidates:
    """Candidate tokens for the search: the K best starts and ends of each of W windows, best first.

    Windows of fewer than K tokens are padded with -1.
    """

    start_token: np.ndarray  # (W, K) int32, position in the window
    end_token: np.ndarray  # (W, K) int32
    start_logit: np.ndarray  # (W, K) float32
    end_logit: np.ndarray  # (W, K) float32
    null: np.ndarray  # (W, 2) float32, start and end logit of CLS

    def __getitem__(self, rows) -> "Candidates":
        return Candidates(*(getattr(self, item.name)[rows] for item in fields(self)))


@dataclass
class WindowSpans:
    """S candidate spans, each within one window."""

    window: np.ndarray  # (S,) row of the window
    start_token: np.ndarray  # (S,) position in the window
    end_token: np.ndarray  # (S,) last token, inclusive
    start_char: np.ndarray  # (S,) in the context
    end_char: np.ndarray  # (S,) exclusive
    start_logit: np.ndarray  # (S,) float32
    end_logit: np.ndarray  # (S,) float32

    @property
    def score(self) -> np.ndarray:
        """(S,) start logit + end logit, float32."""
        return add(self.start_logit, self.end_logit)


@dataclass
class Spans(WindowSpans):
    """The best spans of every example: S spans, best first within an example, examples in order.

    ``first[i]:first[i + 1]`` are the spans of example i.
    """

    first: np.ndarray  # (E + 1,)


def add(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the sum in float32; infinities that cancel give the worst score, not NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        total = left + right
    return np.where(np.isnan(total), np.float32(-np.inf), total)


def descending(scores: np.ndarray) -> np.ndarray:
    """Return sort keys, int64 from 0 to 2**32 - 1, smaller for greater float32 scores.

    The bits of a float32 sort as integers once the negative ones are mirrored.
    """
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.int32).astype(np.int64)  # + 0 makes -0.0 equal 0.0
    return 0x7FFFFFFF - np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def best_first(row: np.ndarray, scores: np.ndarray, column: np.ndarray, rows: int, count: int) -> np.ndarray:
    """Return the indices of the ``count`` best of N entries in each row, rows in order; the lower column wins a tie.

    One integer holds row, score and column (10, 32 and 20 bits), so a single sort is enough.
    """
    order = np.argsort((row << 52) | (descending(scores) << 20) | column)
    return order[rank_within(row[order], rows) < count]


def rank_within(group: np.ndarray, groups: int) -> np.ndarray:
    """Return the (N,) position of each row within its group; rows are sorted by group."""
    counts = np.bincount(group, minlength=groups)
    return np.arange(len(group)) - (np.cumsum(counts) - counts)[group]


def best_tokens(logits: np.ndarray, length: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens with the highest logits, best first; the earlier token wins a tie.

    Args:
        logits: (R, L) float32, R at most 1,024. length: (R,) tokens of each window; later columns are ignored.

    Returns:
        positions (R, count) int32, -1 beyond a window's tokens, and their logits.
    """
    real = np.arange(logits.shape[1]) < length[:, None]
    scores = np.where(real, logits, np.float32(-np.inf))
    last = max(logits.shape[1] - count, 0)
    high = real & (scores >= np.partition(scores, last, axis=1)[:, last, None])
    row, column = np.divmod(np.flatnonzero(high), logits.shape[1])
    best = best_first(row, scores[row, column], column, len(logits), count)
    row, column = row[best], column[best]
    place = row, rank_within(row, len(logits))
    position, value = np.full((len(logits), count), -1, "i4"), np.full((len(logits), count), -np.inf, "f4")
    position[place], value[place] = column, scores[row, column]
    return position, value


def find_candidates(
    start_logits: np.ndarray, end_logits: np.ndarray, windows: WindowArrays, n_best_size: int
) -> Candidates:
    """Return the candidates of every window from all logits (W, L) float32; columns beyond a window are ignored."""
    width = int(windows.length.max(initial=0))
    if len(start_logits) != len(windows) or start_logits.shape[1] < width:
        raise ValueError(f"logits of shape {start_logits.shape} for {len(windows)} windows of up to {width} tokens")
    rows, shape = np.arange(len(windows)), (len(windows), n_best_size)
    null = np.stack([start_logits[rows, windows.cls_index], end_logits[rows, windows.cls_index]], axis=1)
    tokens, scores = np.empty((2, *shape), "i4"), np.empty((2, *shape), "f4")
    found = Candidates(tokens[0], tokens[1], scores[0], scores[1], null)
    for begin in range(0, len(windows), WINDOWS_AT_ONCE):
        part = slice(begin, begin + WINDOWS_AT_ONCE)
        length = windows.length[part]
        for logits, tokens, best in (
            (start_logits, found.start_token, found.start_logit),
            (end_logits, found.end_token, found.end_logit),
        ):
            tokens[part], best[part] = best_tokens(logits[part, : int(length.max())], length, n_best_size)
    return found


def search_windows(
    candidates: Candidates, windows: WindowArrays, n_best_size: int, max_answer_length: int
) -> Iterator[WindowSpans]:
    """Yield the best spans of each window, a chunk of windows at a time, windows in order."""
    width = candidates.start_token.shape[1]
    chunk = max(1, min(WINDOWS_AT_ONCE, PAIRS // width**2))
    sizes = np.diff(windows.tokens)[:, None]
    for begin in range(0, len(windows), chunk):
        part = candidates[begin : begin + chunk]
        base, size = windows.context_start[begin : begin + chunk, None].astype(np.int32), sizes[begin : begin + chunk]
        top_start, top_end = part.start_token - base, part.end_token - base  # counted from the context's first token
        top_start = np.where((top_start >= 0) & (top_start < size), top_start, np.int32(1 << 30))
        top_end = np.where((top_end >= 0) & (top_end < size), top_end, np.int32(-1))
        gap = (top_end[:, None, :] - top_start[:, :, None]).view(np.uint32)  # a negative one becomes a huge one
        row, rank = np.divmod(np.flatnonzero(gap < max_answer_length), width**2)
        in_start, in_end = np.divmod(rank, width)
        start, end = top_start[row, in_start], top_end[row, in_end]
        tokens = windows.tokens[begin + row]
        from_char = windows.offset_mapping[tokens + start, 0]
        to_char = windows.offset_mapping[tokens + end, 1]
        score = add(part.start_logit[row, in_start], part.end_logit[row, in_end])
        some = np.flatnonzero(to_char > from_char)
        order = some[best_first(row[some], score[some], rank[some], len(base), n_best_size)]
        row, in_start, in_end = row[order], in_start[order], in_end[order]
        shift = base[row, 0]
        yield WindowSpans(
            window=row + begin,
            start_token=start[order] + shift,
            end_token=end[order] + shift,
            start_char=from_char[order],
            end_char=to_char[order],
            start_logit=part.start_logit[row, in_start],
            end_logit=part.end_logit[row, in_end],
        )


def concatenate(parts: list[WindowSpans]) -> WindowSpans:
    """Return all spans of ``parts``, which may be empty."""
    names = [field.name for field in fields(WindowSpans)]
    columns = {name: [getattr(part, name) for part in parts] for name in names}
    return WindowSpans(**{name: np.concatenate(each) if each else np.zeros(0, int) for name, each in columns.items()})


def search(
    candidates: Candidates, windows: WindowArrays, examples: int, n_best_size: int = 20, max_answer_length: int = 30
) -> Spans:
    """Return the best spans of every example over all its windows, which may be in any order.

    Args:
        candidates: one row for each window.
        examples: number of examples E; ``windows.example_index`` points into them.
    """
    parts = list(search_windows(candidates, windows, n_best_size, max_answer_length))
    found = concatenate(parts)
    example = windows.example_index[found.window]
    order = np.argsort(example << 32 | descending(found.score), kind="stable")
    order = order[rank_within(example[order], examples) < n_best_size]
    counts = np.minimum(np.bincount(example, minlength=examples), n_best_size)
    kept = {field.name: getattr(found, field.name)[order] for field in fields(found)}
    return Spans(**kept, first=np.concatenate([[0], np.cumsum(counts)]))


def lowest_null(null: np.ndarray, example_index: np.ndarray, examples: int) -> np.ndarray:
    """Return the (E, 2) start and end logit of CLS, from each example's window where their sum is lowest."""
    order = np.lexsort((-descending(add(null[:, 0], null[:, 1])), example_index))
    found, at = np.unique(example_index[order], return_index=True)
    lowest = np.zeros((examples, 2), dtype=np.float32)
    lowest[found] = null[order[at]]
    return lowest
