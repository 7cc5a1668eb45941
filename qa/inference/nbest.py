"""Convert spans to answers: texts, n-best lists, and for SQuAD 2.0 null odds."""

from dataclasses import dataclass

import numpy as np

from qa.inference.spans import LARGEST, Spans, add, descending, rank_within


@dataclass
class Answers:
    """The answer to every example and its n-best list.

    Rows ``first[i]:first[i + 1]`` of the N entries belong to example i, best first; for SQuAD 2.0 the empty answer
    is one of them.
    """

    ids: list[str]
    predictions: dict[str, str]
    best_texts: dict[str, str]  # text of the best span, ignoring the null score
    best_spans: np.ndarray  # (E, 2) characters of the best span, -1 if there is none
    null_odds: dict[str, float] | None  # SQuAD 2.0: null score minus the best span's score
    texts: list[str]
    start_logit: np.ndarray  # (N,) float32
    end_logit: np.ndarray  # (N,) float32
    probability: np.ndarray  # (N,) float32, softmax over an example's entries
    confidence: np.ndarray  # (E,) probability of the entry that is the prediction
    first: np.ndarray  # (E + 1,)

    @property
    def nbest(self) -> dict[str, list[dict]]:
        """The n-best lists in the format of ``nbest_predictions.json``."""
        columns = self.texts, self.start_logit.tolist(), self.end_logit.tolist(), self.probability.tolist()
        names = "text", "start_logit", "end_logit", "probability"
        entries = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
        first = self.first.tolist()
        return {key: entries[first[i] : first[i + 1]] for i, key in enumerate(self.ids)}


def softmax(scores: np.ndarray, group: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the (N,) softmax within each group (none empty); infinite best scores share the probability equally."""
    best = np.maximum.reduceat(scores, first[:-1])[group]
    with np.errstate(invalid="ignore"):
        weights = np.where(np.isfinite(best), np.exp(scores - best), scores == best).astype(np.float32)
    return weights / np.add.reduceat(weights, first[:-1])[group]


def compute_null_odds(nulls: np.ndarray, spans: Spans, best: np.ndarray, has_span: np.ndarray) -> np.ndarray:
    """Return (E,) null score minus the score of the best span, float32, finite.

    Args:
        nulls: (E, 2) start and end logits of the null answer. best: (E,) row of each example's best span, if
            ``has_span`` (E,).
    """
    top = np.full(len(nulls), -LARGEST, dtype=np.float32)
    top[has_span] = spans.score[best[has_span]]
    return np.clip(add(add(nulls[:, 0], nulls[:, 1]), -top), -LARGEST, LARGEST)


def read_answers(
    spans: Spans, ids: list[str], contexts: list[str], nulls: np.ndarray | None, n_best_size: int, threshold: float
) -> Answers:
    """Return the answers of E examples; one without any span gets an empty text.

    Args:
        nulls: (E, 2) start and end logits of the null answer for SQuAD 2.0, which is given where its score exceeds the
            best span's by more than ``threshold``; None for SQuAD 1.1.
    """
    count = len(ids)
    example = np.repeat(np.arange(count), np.diff(spans.first))
    has_span = np.diff(spans.first) > 0
    best = np.minimum(spans.first[:-1], max(len(example) - 1, 0))
    best_spans = np.full((count, 2), -1)
    best_spans[has_span] = np.stack([spans.start_char, spans.end_char], axis=1)[best[has_span]]
    # The empty answer is an additional entry: of every example for SQuAD 2.0, else of those without a span.
    none = np.flatnonzero(~has_span)
    empty, logits = (none, np.zeros((len(none), 2), "f4")) if nulls is None else (np.arange(count), nulls)
    start_logit = np.concatenate([spans.start_logit, logits[:, 0]]).astype(np.float32)
    end_logit = np.concatenate([spans.end_logit, logits[:, 1]]).astype(np.float32)
    group, score = np.concatenate([example, empty]), add(start_logit, end_logit)
    order = np.argsort(group << 32 | descending(score), kind="stable")
    order = order[(rank_within(group[order], count) < n_best_size) | (order >= len(example))]
    group, score = group[order], score[order]
    first = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=count))])
    begin, end = (np.concatenate([c, np.zeros_like(empty)])[order] for c in (spans.start_char, spans.end_char))
    texts = [contexts[i][b:e] for i, b, e in zip(group.tolist(), begin.tolist(), end.tolist(), strict=True)]
    best_texts = [context[b:e] if e > 0 else "" for context, (b, e) in zip(contexts, best_spans.tolist(), strict=True)]
    probability = softmax(score, group, first)
    chosen = np.minimum(first[:-1] + (order[first[:-1]] >= len(example)), first[1:] - 1)  # the best that is not empty
    given, null_odds = best_texts, None
    if nulls is not None:
        odds = compute_null_odds(nulls, spans, best, has_span)
        null_odds = dict(zip(ids, odds.tolist(), strict=True))
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
