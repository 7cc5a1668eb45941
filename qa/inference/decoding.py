"""Decode the logits of one question to its best answers, like the pipeline that transformers 5.3 removed.

Each window has a softmax over its context and CLS tokens. Its most likely spans of at most ``max_answer_len`` tokens
(Chen et al. 2017, section 3.2) are extended to whole words. Spans with the same text, ignoring case, are one answer,
whose probabilities are summed over spans and windows.
"""

import copy
import dataclasses
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from qa.data.windows import WindowArrays
from qa.inference.question_windows import QuestionWindows
from qa.inference.spans import find_candidates, lowest_null, search
from qa.options.arguments import DataArguments
from qa.runtime.errors import UserError

OLD_NAMES = {"topk": "top_k"}  # of options, in earlier releases of transformers
WITHOUT_EFFECT = ("padding", "num_workers")  # options of the removed pipeline on which no answer depended
RANKED_AT_ONCE = 256  # windows whose spans are ranked together; bounds the memory


@dataclass(frozen=True)
class AskOptions:
    """How to answer; None means as the model was trained."""

    top_k: int = 1  # answers; above 1 the result is a list
    handle_impossible_answer: bool | None = None  # whether "" may be the answer
    max_answer_len: int | None = None  # tokens
    max_seq_len: int | None = None  # tokens of a window
    doc_stride: int | None = None  # tokens that neighbouring windows share
    max_question_len: int | None = None  # tokens
    align_to_words: bool = True  # extend answers to whole words
    batch_size: int = 16  # windows per batch

    def __post_init__(self):
        for name in ("top_k", "max_answer_len", "max_seq_len", "doc_stride", "max_question_len", "batch_size"):
            value, least = getattr(self, name), 0 if name == "doc_stride" else 1
            if value is not None and not isinstance(value, Integral):
                raise UserError(f"{name} must be a whole number, not {value!r:.40}")
            if value is not None and value < least:
                raise UserError(f"{name} must be at least {least}")

    def updated(self, options: dict[str, Any]) -> "AskOptions":
        """Return these options, overridden by the given ones that are not None.

        Raises:
            UserError: an unknown name, or a value out of range.
        """
        if not options:
            return self
        given = {OLD_NAMES.get(name, name): value for name, value in options.items() if value is not None}
        given = {name: value for name, value in given.items() if name not in WITHOUT_EFFECT}
        known = [item.name for item in dataclasses.fields(self)]
        if unknown := [name for name in given if name not in known]:
            nearest = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(known)}"
            raise UserError(f"unknown option {unknown[0]}: {hint}")
        return dataclasses.replace(self, **given)

    def allows_no_answer(self, settings: DataArguments) -> bool:
        """Return whether "" may be the answer."""
        asked = self.handle_impossible_answer
        return bool(settings.version_2_with_negative if asked is None else asked)

    def over(self, settings: DataArguments) -> DataArguments:
        """Return the model's settings, overridden by these options."""
        window = self.max_seq_len or settings.max_seq_length
        stride = self.doc_stride
        if stride is None:
            stride = min(settings.doc_stride, window // 2) if self.max_seq_len else settings.doc_stride
        settings = copy.copy(settings)  # without the checks of all options, for each question
        settings.max_seq_length, settings.doc_stride = window, stride
        settings.max_query_length = self.max_question_len or settings.max_query_length
        settings.max_answer_length = self.max_answer_len or settings.max_answer_length
        return settings


def log_probabilities(context: np.ndarray, null: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-softmax over each window's context tokens (W, C), -inf beyond them, and its CLS token (W,)."""
    top = np.maximum(context.max(axis=1), null)
    total = np.exp(context - top[:, None]).sum(axis=1) + np.exp(null - top)
    shift = top + np.log(total)
    return context - shift[:, None], null - shift


def likeliest_spans(
    start: np.ndarray, end: np.ndarray, count: int, max_answer_len: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield for each window its ``count`` most likely spans, best first: row, first and last token, log-probability.

    Args:
        start, end: (W, C) log-probabilities of the context tokens, -inf beyond a window's end.
    """
    size = min(max_answer_len, start.shape[1])
    for begin in range(0, len(start), RANKED_AT_ONCE):
        rows = slice(begin, begin + RANKED_AT_ONCE)
        ends = np.full((len(end[rows]), end.shape[1] + size - 1), -np.inf, dtype=end.dtype)
        ends[:, : end.shape[1]] = end[rows]
        scores = start[rows, :, None] + sliding_window_view(ends, size, axis=1)  # (W, C, size)
        scores = scores.reshape(len(scores), -1)
        kept = min(count, scores.shape[1])
        best = np.argpartition(-scores, kept - 1, axis=1)[:, :kept]
        for row, columns in enumerate(best):
            columns = columns[np.argsort(-scores[row, columns], kind="stable")]
            columns = columns[scores[row, columns] > -np.inf]
            yield begin + row, columns // size, columns // size + columns % size, scores[row, columns]


def gather(
    start: np.ndarray, end: np.ndarray, windows: QuestionWindows, count: int, max_answer_len: int, align: bool
) -> tuple[dict[str, dict], bool]:
    """Return the distinct answers among the ``count`` most likely spans of each window, keyed by their text in lower
    case, and whether these were all spans."""
    found: dict[str, dict] = {}
    every = True
    places = windows.words if align else windows.arrays.offset_mapping
    for row, first, last, scores in likeliest_spans(start, end, count, max_answer_len):
        every &= len(scores) < count
        base = windows.arrays.tokens[row]
        begins, stops = places[base + first, 0], places[base + last, 1]
        for begin, stop, score in zip(begins.tolist(), stops.tolist(), np.exp(scores).tolist(), strict=True):
            if begin < stop:
                text = windows.context[begin:stop]
                answer = found.setdefault(text.lower(), {"score": 0.0, "start": begin, "end": stop, "answer": text})
                answer["score"] += score
    return found, every


def best_answers(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    windows: QuestionWindows,
    settings: DataArguments,
    options: AskOptions,
) -> list[dict]:
    """Return the ``top_k`` best distinct answers to one question from its windows' logits (W, L), at least one."""
    if np.isnan(start_logits).any() or np.isnan(end_logits).any():
        raise UserError("the model has diverged: its logits are NaN; train it again")
    arrays = windows.arrays
    each, first = np.arange(len(windows)), int(arrays.context_start[0])  # the question before it is the same in all
    counts = np.diff(arrays.tokens)
    inside = np.arange(int(counts.max())) < counts[:, None]

    def part(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        context = np.where(inside, logits[:, first : first + inside.shape[1]], -np.inf)
        return log_probabilities(context, logits[each, arrays.cls_index])

    (start, null_start), (end, null_end) = part(start_logits), part(end_logits)
    nulls = null_start + null_end
    limit = settings.max_answer_length
    count = options.top_k * 2 + 10 if options.align_to_words else options.top_k
    found, every = gather(start, end, windows, count, limit, options.align_to_words)
    while len(found) < options.top_k and not every:  # several spans had the same text: search more of them
        count *= 4
        more, every = gather(start, end, windows, count, limit, options.align_to_words)
        found = more | found
    answers = sorted(found.values(), key=lambda answer: -answer["score"])[: options.top_k]

    trained = options.handle_impossible_answer is None
    if options.allows_no_answer(settings):
        null = {"score": float(np.exp(nulls.min())), "start": 0, "end": 0, "answer": ""}
        best = answers[0]["score"] if answers else 0.0
        if trained:
            odds = null_odds(start_logits, end_logits, arrays, settings)
        else:
            odds = float(nulls.min()) - float(np.log(max(best, np.finfo(float).tiny)))
        rank = 0
        if odds <= settings.null_score_diff_threshold:
            rank = max(1, sum(answer["score"] >= null["score"] for answer in answers))
        answers.insert(rank, null)
    return answers[: options.top_k] or [{"score": 0.0, "start": 0, "end": 0, "answer": ""}]


def null_odds(
    start_logits: np.ndarray, end_logits: np.ndarray, windows: WindowArrays, settings: DataArguments
) -> float:
    """Return how much more no answer scores than the best span, as the evaluation computes it."""
    candidates = find_candidates(start_logits, end_logits, windows, settings.n_best_size)
    spans = search(candidates, windows, 1, settings.n_best_size, settings.max_answer_length)
    null = float(lowest_null(candidates.null, windows.example_index, 1).sum())
    return null - float(spans.score[0]) if len(spans.score) else np.inf
