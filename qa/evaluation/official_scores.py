"""Exact match and F1 as the official SQuAD scripts compute them.

This file imports nothing else of the package and no library. Scores are summed in the order of the references, as in
the scripts: another order changes the last digit. Sources: evaluate-v1.1.py (Rajpurkar et al. 2016) and
evaluate-v2.0.py (Rajpurkar et al. 2018).
"""

import collections
import re
import string
from collections.abc import Mapping

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)


def normalize_answer(text: str) -> str:
    """Return the text in lower case, without ASCII punctuation and English articles, with single spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_score(prediction: str, gold: str) -> int:
    return int(normalize_answer(prediction) == normalize_answer(gold))


def f1_score(prediction: str, gold: str) -> float:
    """Return the harmonic mean of precision and recall over the bags of normalized words."""
    predicted, golden = normalize_answer(prediction).split(), normalize_answer(gold).split()
    if not predicted or not golden:
        return int(predicted == golden)
    common = sum((collections.Counter(predicted) & collections.Counter(golden)).values())
    if common == 0:
        return 0
    precision, recall = common / len(predicted), common / len(golden)
    return 2 * precision * recall / (precision + recall)


def best_scores(prediction: str, golds: list[str]) -> tuple[int, float]:
    """Return exact match and F1, each against the gold answer that it is highest for; without any, against ""."""
    golds = golds or [""]
    return max(exact_score(prediction, gold) for gold in golds), max(f1_score(prediction, gold) for gold in golds)


def question_scores(
    predictions: dict[str, str], references: list[dict], has_unanswerable: bool
) -> tuple[dict[str, int], dict[str, float]]:
    """Return exact match and F1 of every question that has a prediction, by id, in the order of the references.

    For SQuAD 2.0 (``has_unanswerable``) gold answers that are empty after normalization are skipped.
    """
    exact, f1 = {}, {}
    for reference in references:
        key = reference["id"]
        if key in predictions:
            golds = [text for text in reference["answers"]["text"] if not has_unanswerable or normalize_answer(text)]
            exact[key], f1[key] = best_scores(predictions[key], golds)
    return exact, f1


def totals_v1(exact: dict[str, int], f1: dict[str, float], questions: int) -> dict[str, float]:
    """Return ``exact_match`` and ``f1`` in percent of all ``questions``; those without a prediction score 0."""
    return {"exact_match": 100.0 * sum(exact.values()) / questions, "f1": 100.0 * sum(f1.values()) / questions}


def score_v1(predictions: dict[str, str], references: list[dict]) -> dict[str, float]:
    """Return the totals of SQuAD 1.1."""
    return totals_v1(*question_scores(predictions, references, has_unanswerable=False), len(references))


def best_threshold(
    scores: Mapping[str, float], predictions: dict[str, str], null_odds: dict[str, float], answerable: dict[str, bool]
) -> tuple[float, float]:
    """Return the highest score in percent over all thresholds on ``null_odds``, and that threshold.

    As in the official script the threshold is 0.0 if none beats leaving every question unanswered.
    """
    score: float = sum(not answerable[key] for key in scores)
    best = score
    threshold = 0.0
    for key in sorted(null_odds, key=null_odds.__getitem__):
        if key in scores:
            score += scores[key] if answerable[key] else -bool(predictions[key])
            if score > best:
                best, threshold = score, null_odds[key]
    return 100.0 * best / len(scores), threshold


def totals_v2(
    exact: Mapping[str, float],
    f1: Mapping[str, float],
    predictions: dict[str, str],
    references: list[dict],
    null_odds: dict[str, float] | None = None,
    no_answer_threshold: float = 1.0,
) -> dict[str, float]:
    """Return ``exact``, ``f1`` and ``total``, then the same for questions with and without an answer.

    With ``null_odds`` a question whose odds exceed ``no_answer_threshold`` counts as unanswered, and
    ``best_exact``, ``best_exact_thresh``, ``best_f1``, ``best_f1_thresh`` are the scores at the best thresholds.
    As in the official script a question without a prediction is left out of every total.
    """
    answerable = {reference["id"]: bool(reference["answers"]["text"]) for reference in references}
    best: dict[str, float] = {}
    if null_odds is not None and exact:
        for name, scores in (("exact", exact), ("f1", f1)):
            score, threshold = best_threshold(scores, predictions, null_odds, answerable)
            best |= {f"best_{name}": score, f"best_{name}_thresh": threshold}
        exact, f1 = (
            {
                key: float(not answerable[key]) if null_odds[key] > no_answer_threshold else score
                for key, score in scores.items()
            }
            for scores in (exact, f1)
        )
    result = {}
    for prefix, keys in (
        ("", list(exact)),
        ("HasAns_", [key for key in exact if answerable[key]]),
        ("NoAns_", [key for key in exact if not answerable[key]]),
    ):
        if keys:
            result[f"{prefix}exact"] = 100.0 * sum(exact[key] for key in keys) / len(keys)
            result[f"{prefix}f1"] = 100.0 * sum(f1[key] for key in keys) / len(keys)
            result[f"{prefix}total"] = len(keys)
    return result | best


def score_v2(
    predictions: dict[str, str],
    references: list[dict],
    null_odds: dict[str, float] | None = None,
    no_answer_threshold: float = 1.0,
) -> dict[str, float]:
    """Return the totals of SQuAD 2.0."""
    exact, f1 = question_scores(predictions, references, has_unanswerable=True)
    return totals_v2(exact, f1, predictions, references, null_odds, no_answer_threshold)
