"""Logits to answers: n-best spans over all windows of an example, as arrays.

The search is that of Hugging Face's ``run_qa.py``: in each window the ``n_best_size`` highest starts times
the ``n_best_size`` highest ends, kept where both lie in the context, in order, and at most
``max_answer_length`` tokens long; then the ``n_best_size`` best sums over all windows of the example.

Ties: of equal logits the earlier token is the better candidate; of equal sums the earlier window's, then
the one with the better start, then the one with the better end; "no answer" comes after the spans it
equals. Padding never takes part.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch.nn import functional

from qa.data.windows import WindowArrays

LARGEST = np.finfo(np.float32).max
WINDOWS_AT_ONCE, PAIRS = 1024, 1 << 20  # windows, and pairs of tokens, searched at once: they bound the memory


@dataclass
class Candidates:
    """All that the search needs of the logits: W windows, the K best starts and ends of each, best first.

    A window of fewer than K tokens has -1 for the tokens it lacks.
    """

    start_token: np.ndarray  # (W, K) int32, position in the window
    end_token: np.ndarray  # (W, K) int32
    start_logit: np.ndarray  # (W, K) float32
    end_logit: np.ndarray  # (W, K) float32
    null: np.ndarray  # (W, 2) float32, start and end logit of CLS

    def __getitem__(self, rows) -> "Candidates":
        return Candidates(*(getattr(self, item.name)[rows] for item in fields(self)))


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


def descending(scores: np.ndarray) -> np.ndarray:
    """int64 from 0 to 2**32 - 1, smaller for greater float32 scores.

    A float32's bits, with the negative ones mirrored, sort as integers.
    """
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.int32).astype(np.int64)  # + 0 makes -0.0 equal 0.0
    return 0x7FFFFFFF - np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def best_first(row: np.ndarray, scores: np.ndarray, column: np.ndarray, rows: int, count: int) -> np.ndarray:
    """Which of N entries are the ``count`` best of their row, rows in order; of ties the lower column is better.

    One integer holds row, score and column (10, 32 and 20 bits), so that one plain sort does it.
    """
    order = np.argsort((row << 52) | (descending(scores) << 20) | column)
    return order[rank_within(row[order], rows) < count]


def rank_within(group: np.ndarray, groups: int) -> np.ndarray:
    """(N,) position of each row within its group, rows of a group standing together, groups in order."""
    counts = np.bincount(group, minlength=groups)
    return np.arange(len(group)) - (np.cumsum(counts) - counts)[group]


def best_tokens(logits: np.ndarray, length: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The tokens with the highest logits, best first, of ties the earlier.

    Args:
        logits: (R, L) float32, R at most 1,024. length: (R,) tokens of each window; what lies beyond never counts.

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


def best_tokens_on_device(logits: torch.Tensor, mask: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``best_tokens`` of one batch where the model is, so that only the few are brought back.

    Args:
        logits: (B, L) float32. mask: (B, L), 0 beyond a window's tokens.
    """
    masked = logits.masked_fill(mask == 0, -torch.inf)
    value, position = (part[:, :count] for part in torch.sort(masked, dim=1, descending=True, stable=True))
    position = position.masked_fill(mask.gather(1, position) == 0, -1)
    missing = 0, count - position.shape[1]
    return functional.pad(position, missing, value=-1).int(), functional.pad(value, missing, value=-torch.inf)


def find_candidates(
    start_logits: np.ndarray, end_logits: np.ndarray, windows: WindowArrays, n_best_size: int
) -> Candidates:
    """The candidates of every window, from all logits (W, L) float32; columns beyond a window are ignored."""
    width = int(windows.length.max(initial=0))
    if len(start_logits) != len(windows) or start_logits.shape[1] < width:
        raise ValueError(f"logits of shape {start_logits.shape} for {len(windows)} windows of up to {width} tokens")
    rows, shape = np.arange(len(windows)), (len(windows), n_best_size)
    null = np.stack([start_logits[rows, windows.cls_index], end_logits[rows, windows.cls_index]], axis=1)
    found = Candidates(*(np.empty(shape, kind) for kind in ("i4", "i4", "f4", "f4")), null)
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
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields, chunk by chunk, the best spans of each window: window, tokens, characters and logits, (K,) each."""
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
        yield (
            *(row + begin, start[order] + shift, end[order] + shift, from_char[order], to_char[order]),
            *(part.start_logit[row, in_start], part.end_logit[row, in_end]),
        )


def search(
    candidates: Candidates, windows: WindowArrays, examples: int, n_best_size: int = 20, max_answer_length: int = 30
) -> Spans:
    """The best spans of every example, over all its windows, which may come in any order and number.

    Args:
        candidates: one row for each window.
        examples: number of examples E; ``windows.example_index`` points into them.
    """
    parts = list(search_windows(candidates, windows, n_best_size, max_answer_length))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else [np.zeros(0, int)] * 7
    example = windows.example_index[columns[0]]
    order = np.argsort(example << 32 | descending(add(columns[5], columns[6])), kind="stable")
    order = order[rank_within(example[order], examples) < n_best_size]
    counts = np.minimum(np.bincount(example, minlength=examples), n_best_size)
    return Spans(*(column[order] for column in columns), first=np.concatenate([[0], np.cumsum(counts)]))


def lowest_null(null: np.ndarray, example_index: np.ndarray, examples: int) -> np.ndarray:
    """(E, 2) start and end logit of CLS in the window of each example where their sum, the null score, is lowest."""
    order = np.lexsort((-descending(add(null[:, 0], null[:, 1])), example_index))
    found, at = np.unique(example_index[order], return_index=True)
    lowest = np.zeros((examples, 2), dtype=np.float32)
    lowest[found] = null[order[at]]
    return lowest


@dataclass
class Answers:
    """What every example is answered, and the n-best list behind it.

    ``first[i]:first[i + 1]`` are the N entries' rows of example i, best first; for SQuAD 2.0 the empty answer
    is among them.
    """

    ids: list[str]
    predictions: dict[str, str]
    best_texts: dict[str, str]  # the best span's text, whatever the null score says
    best_spans: np.ndarray  # (E, 2) its characters, -1 where there is none
    null_odds: dict[str, float] | None  # SQuAD 2.0: null score less the best span's
    texts: list[str]
    start_logit: np.ndarray  # (N,) float32
    end_logit: np.ndarray  # (N,) float32
    probability: np.ndarray  # (N,) float32, softmax over an example's entries
    confidence: np.ndarray  # (E,) probability of the entry that is the prediction
    first: np.ndarray  # (E + 1,)

    @property
    def nbest(self) -> dict[str, list[dict]]:
        """The n-best lists as ``nbest_predictions.json`` holds them."""
        columns = self.texts, self.start_logit.tolist(), self.end_logit.tolist(), self.probability.tolist()
        names = "text", "start_logit", "end_logit", "probability"
        entries = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
        first = self.first.tolist()
        return {key: entries[first[i] : first[i + 1]] for i, key in enumerate(self.ids)}


def softmax(scores: np.ndarray, group: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(N,) softmax within each group, none of which is empty; equal shares among the best where it is infinite."""
    best = np.maximum.reduceat(scores, first[:-1])[group]
    with np.errstate(invalid="ignore"):
        weights = np.where(np.isfinite(best), np.exp(scores - best), scores == best).astype(np.float32)
    return weights / np.add.reduceat(weights, first[:-1])[group]


def read_answers(
    spans: Spans, ids: list[str], contexts: list[str], nulls: np.ndarray | None, n_best_size: int, threshold: float
) -> Answers:
    """Spans to texts. With ``nulls`` (E, 2), no answer where the null score beats the best by over ``threshold``.

    An example without any span is answered by an empty text.
    """
    count = len(ids)
    example = np.repeat(np.arange(count), np.diff(spans.first))
    has_span = np.diff(spans.first) > 0
    best = np.minimum(spans.first[:-1], max(len(example) - 1, 0))
    best_spans = np.full((count, 2), -1)
    best_spans[has_span] = np.stack([spans.start_char, spans.end_char], axis=1)[best[has_span]]

    # The empty answer is one more entry: of every example for SQuAD 2.0, else of those without a span.
    empty = np.arange(count) if nulls is not None else np.flatnonzero(~has_span)
    logits = nulls if nulls is not None else np.zeros((len(empty), 2), dtype=np.float32)
    start_logit = np.concatenate([spans.start_logit, logits[:, 0]]).astype(np.float32)
    end_logit = np.concatenate([spans.end_logit, logits[:, 1]]).astype(np.float32)
    group, score = np.concatenate([example, empty]), add(start_logit, end_logit)
    order = np.argsort(group << 32 | descending(score), kind="stable")
    order = order[(rank_within(group[order], count) < n_best_size) | (order >= len(example))]
    group, score = group[order], score[order]
    first = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=count))])

    begin = np.concatenate([spans.start_char, np.zeros_like(empty)])[order].tolist()
    end = np.concatenate([spans.end_char, np.zeros_like(empty)])[order].tolist()
    texts = [contexts[i][b:e] for i, b, e in zip(group.tolist(), begin, end, strict=True)]
    best_texts = [context[b:e] if e > 0 else "" for context, (b, e) in zip(contexts, best_spans.tolist(), strict=True)]
    null_odds = None
    if nulls is not None:
        top = np.full(count, -LARGEST, dtype=np.float32)
        top[has_span] = spans.score[best[has_span]]
        odds = np.clip(add(add(nulls[:, 0], nulls[:, 1]), -top), -LARGEST, LARGEST)
        null_odds = dict(zip(ids, odds.tolist(), strict=True))
    probability = softmax(score, group, first)
    chosen = np.minimum(first[:-1] + (order[first[:-1]] >= len(example)), first[1:] - 1)  # the first that is no null
    given = best_texts
    if null_odds is not None:
        refused = ~has_span | (odds > threshold)
        given = ["" if no else text for no, text in zip(refused.tolist(), best_texts, strict=True)]
        chosen = np.where(refused, np.flatnonzero(order >= len(example)), chosen)
    return Answers(
        ids=ids,
        predictions=dict(zip(ids, given, strict=True)),
        best_texts=dict(zip(ids, best_texts, strict=True)),
        best_spans=best_spans,
        null_odds=null_odds,
        texts=texts,
        start_logit=start_logit[order],
        end_logit=end_logit[order],
        probability=probability,
        confidence=probability[chosen],
        first=first,
    )
