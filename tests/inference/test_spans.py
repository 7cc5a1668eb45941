"""The span search compared with brute force over all pairs of tokens, on random logits, windows and offsets."""

import numpy as np
import torch
from helpers.windows import find_spans, null_scores
from hypothesis import given, settings
from hypothesis import strategies as st

from qa.data.windows import WindowArrays
from qa.evaluation.evaluator import perfect_candidates
from qa.inference.nbest import read_answers
from qa.inference.spans import (
    add,
    best_tokens,
    find_candidates,
)
from qa.training.predictions import best_tokens_on_device

INFINITY = float("inf")


def make_arrays(shapes: list[tuple[int, int, int, int]], rng: np.random.Generator) -> WindowArrays:
    """Return windows of (example, question tokens, context tokens, tokens after it), with random offsets."""
    offsets, tokens = [], [0]
    for _, _, context, _ in shapes:
        ends = np.cumsum(rng.integers(0, 4, context)) + 1
        starts = np.concatenate([[0], ends])[:-1] if context else np.zeros(0, int)
        offsets.append(np.stack([np.minimum(starts, ends), ends], axis=1))  # some tokens are empty
        tokens.append(tokens[-1] + context)
    column = np.array(shapes).T
    zeros = np.zeros(len(shapes), dtype=int)
    return WindowArrays(
        example_index=column[0],
        length=column[1:].sum(axis=0),
        context_start=column[1],
        cls_index=zeros,
        start_positions=zeros,
        end_positions=zeros,
        offset_mapping=np.concatenate(offsets).reshape(-1, 2).astype(np.int32),
        tokens=np.array(tokens),
    )


def brute_force(start, end, arrays, example, n_best, longest) -> list[tuple]:
    """Return all pairs of the best starts and ends of every window, ordered by Python's stable sort."""
    found = []
    for row in np.flatnonzero(arrays.example_index == example).tolist():
        length, begin = int(arrays.length[row]), int(arrays.context_start[row])
        first, last = int(arrays.tokens[row]), int(arrays.tokens[row + 1])
        best_starts = sorted(range(length), key=lambda i: -start[row, i])[:n_best]  # stable: ties by position
        best_ends = sorted(range(length), key=lambda i: -end[row, i])[:n_best]
        for i in best_starts:
            for j in best_ends:
                inside = begin <= i and j < begin + last - first and i < begin + last - first and j >= begin
                if not inside or j < i or j - i + 1 > longest:
                    continue
                from_char = int(arrays.offset_mapping[first + i - begin, 0])
                to_char = int(arrays.offset_mapping[first + j - begin, 1])
                if to_char > from_char:
                    total = np.float32(start[row, i]) + np.float32(end[row, j])
                    found.append((-INFINITY if np.isnan(total) else float(total), row, i, j, from_char, to_char))
    return sorted(found, key=lambda item: -item[0])[:n_best]


NUMBERS = st.sampled_from([0.0, -0.0, 1.0, 1.5, -2.0, 7.25, 100.0, INFINITY, -INFINITY, 1e-45, -3.4e38])
WINDOW = st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 9), st.integers(0, 2))


@settings(max_examples=300)
@given(
    st.lists(WINDOW, min_size=1, max_size=6),
    st.integers(0, 2**32),
    st.booleans(),
    st.integers(1, 12),
    st.integers(1, 7),
    st.data(),
)
def test_search_equals_brute_force(shapes, seed, ties, n_best, longest, data):
    rng = np.random.default_rng(seed)
    arrays = make_arrays(shapes, rng)
    size = len(shapes), int(arrays.length.max()) + data.draw(st.integers(0, 3))
    with np.errstate(invalid="ignore", over="ignore"):
        if ties:
            drawn = [data.draw(st.lists(NUMBERS, min_size=size[1], max_size=size[1])) for _ in range(2 * size[0])]
            start, end = np.array(drawn, dtype=np.float32).reshape(2, *size)
        else:
            start, end = rng.standard_normal((2, *size)).astype(np.float32)
        padding = np.arange(size[1]) >= arrays.length[:, None]
        start[padding], end[padding] = INFINITY, INFINITY  # must never win
        spans = find_spans(start, end, arrays, 4, n_best, longest)
        for example in range(4):
            part = slice(spans.first[example], spans.first[example + 1])
            columns = spans.score, spans.window, spans.start_token, spans.end_token, spans.start_char, spans.end_char
            got = list(zip(*(column[part].tolist() for column in columns), strict=True))
            assert got == brute_force(start, end, arrays, example, n_best, longest)


@settings(max_examples=200)
@given(st.lists(st.lists(NUMBERS, min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 9), st.data())
def test_best_tokens_are_those_of_a_stable_sort_on_any_device(rows, count, data):
    logits = np.array(rows, dtype=np.float32)
    length = np.array([data.draw(st.integers(1, 6)) for _ in rows])
    mask = torch.from_numpy(np.arange(6) < length[:, None]).long()
    on_device = [part.numpy() for part in best_tokens_on_device(torch.from_numpy(logits), mask, count)]
    for position, value in (best_tokens(logits, length, count), on_device):
        for i, row in enumerate(rows):
            best = sorted(range(length[i]), key=lambda j: -row[j])[:count]
            assert position[i].tolist() == best + [-1] * (count - len(best))
            np.testing.assert_array_equal(value[i, : len(best)], logits[i, best])
            assert np.isneginf(value[i, len(best) :]).all()


@settings(max_examples=50)
@given(st.lists(WINDOW, min_size=1, max_size=6), st.integers(1, 9), st.data())
def test_perfect_candidates_match_perfect_logits(shapes, count, data):
    arrays = make_arrays(shapes, np.random.default_rng(0))
    start, end = np.zeros((2, len(shapes), int(arrays.length.max())), np.float32)
    for i in range(len(shapes)):
        arrays.start_positions[i], arrays.end_positions[i] = (
            data.draw(st.integers(0, arrays.length[i] - 1)) for _ in "se"
        )
        start[i, arrays.start_positions[i]], end[i, arrays.end_positions[i]] = 1, 1
    expected, got = find_candidates(start, end, arrays, count), perfect_candidates(arrays, count)
    assert expected.start_token.tolist() == got.start_token.tolist()
    assert expected.end_token.tolist() == got.end_token.tolist()
    real = got.start_token >= 0
    assert (expected.start_logit[real] == got.start_logit[real]).all()
    assert (expected.end_logit[real] == got.end_logit[real]).all()
    labelled = arrays.start_positions != arrays.cls_index
    assert (expected.null[:, 0] == got.null[:, 0]).all() and (got.null[labelled] == 0).all()


@settings(max_examples=50)
@given(st.lists(WINDOW, min_size=2, max_size=8), st.integers(0, 2**32))
def test_order_of_windows_does_not_matter(shapes, seed):
    rng = np.random.default_rng(seed)
    arrays = make_arrays(shapes, rng)
    start, end = rng.standard_normal((2, len(shapes), int(arrays.length.max()))).astype(np.float32)
    order = rng.permutation(len(shapes))
    pieces = [arrays.offset_mapping[arrays.tokens[row] : arrays.tokens[row + 1]] for row in order]
    shuffled = WindowArrays(
        **{
            name: getattr(arrays, name)[order]
            for name in ("example_index", "length", "context_start", "cls_index", "start_positions", "end_positions")
        },
        offset_mapping=np.concatenate(pieces),
        tokens=np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]),
    )
    one, other = find_spans(start, end, arrays, 4), find_spans(start[order], end[order], shuffled, 4)
    assert one.first.tolist() == other.first.tolist()
    assert one.score.tolist() == other.score.tolist()
    assert one.window.tolist() == order[other.window].tolist()
    assert null_scores(start, end, arrays, 4).tolist() == null_scores(start[order], end[order], shuffled, 4).tolist()


def one_window(starts: list[float], ends: list[float]) -> tuple[np.ndarray, np.ndarray, WindowArrays]:
    """Return a window of CLS and a context with one character per token."""
    size = len(starts) - 1
    arrays = make_arrays([(0, 1, size, 0)], np.random.default_rng(0))
    arrays.offset_mapping[:] = np.stack([np.arange(size), np.arange(1, size + 1)], axis=1)
    return np.array([starts], np.float32), np.array([ends], np.float32), arrays


def test_equal_sums_take_the_earlier_token():
    start, end, arrays = one_window([0, 1, 1, 1], [0, 1, 1, 1])
    spans = find_spans(start, end, arrays, 1, 20, 2)
    pairs = list(zip(spans.start_token.tolist(), spans.end_token.tolist(), strict=True))
    assert pairs == [(1, 1), (1, 2), (2, 2), (2, 3), (3, 3)]


def test_null_answer_and_its_odds():
    start, end, arrays = one_window([5, 1, 3, 0], [4, 0, 2, 6])
    spans, nulls = find_spans(start, end, arrays, 1), null_scores(start, end, arrays, 1)
    assert nulls.tolist() == [[5, 4]]
    for threshold, expected in ((0.0, "bc"), (-0.5, "")):  # best span scores 3 + 6, exactly the null score
        answers = read_answers(spans, ["q"], ["abc"], nulls, 20, threshold)
        assert answers.predictions == {"q": expected} and answers.null_odds == {"q": 0.0}
    entries = answers.nbest["q"]
    assert [entry["text"] for entry in entries[:3]] == ["bc", "", "abc"], "of equal scores the span comes first"
    assert abs(sum(entry["probability"] for entry in entries) - 1) < 1e-6


def test_lowest_null_score_of_all_windows_counts():
    arrays = make_arrays([(0, 1, 2, 0), (0, 1, 2, 0), (1, 1, 1, 0)], np.random.default_rng(0))
    start = np.array([[3, 0, 0], [1, 0, 0], [9, 0, 0]], np.float32)
    end = np.array([[0, 0, 0], [1, 0, 0], [9, 0, 0]], np.float32)
    assert null_scores(start, end, arrays, 2).tolist() == [[1, 1], [9, 9]]


def test_example_without_spans_has_an_empty_answer():
    arrays = make_arrays([(0, 2, 0, 1)], np.random.default_rng(0))
    start = end = np.zeros((1, 3), np.float32)
    spans = find_spans(start, end, arrays, 1)
    assert read_answers(spans, ["q"], [""], None, 20, 0.0).predictions == {"q": ""}
    answers = read_answers(spans, ["q"], [""], null_scores(start, end, arrays, 1), 20, 0.0)
    assert answers.predictions == {"q": ""} and np.isfinite(answers.null_odds["q"])


def test_infinities_that_cancel_are_the_worst_score():
    total = add(np.array([INFINITY, 1], np.float32), np.array([-INFINITY, 1], np.float32))
    assert total.tolist() == [-INFINITY, 2]
