"""Scores of one set of predictions, computed once: the official totals, and the scores of each question behind them."""

from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from qa.evaluation.official_scores import question_scores, totals_v1, totals_v2
from qa.runtime.errors import UserError


@dataclass(frozen=True)
class Scores:
    """Scores of one set of predictions for E questions.

    ``totals`` are in percent and named as in the official scripts. ``exact`` and ``f1``, both (E,), are from 0 to 1, in
    the order of the questions, and 0 for a question without a prediction.
    """

    totals: dict[str, float]
    exact: np.ndarray
    f1: np.ndarray


def gold_answers(examples: Dataset) -> list[dict]:
    """Return ``id`` and ``answers`` of every example: the references of the metric."""
    return [{"id": key, "answers": answers} for key, answers in zip(examples["id"], examples["answers"], strict=True)]


def score_predictions(
    predictions: dict[str, str],
    references: list[dict],
    has_unanswerable: bool,
    null_odds: dict[str, float] | None = None,
) -> Scores:
    """Score predictions, id to text, as SQuAD 2.0 if ``has_unanswerable``, else as SQuAD 1.1.

    Args:
        null_odds: SQuAD 2.0: a number for every reference. The totals then count odds above 1 as no answer, and contain
            the scores at the best thresholds (see ``totals_v2``); ``exact`` and ``f1`` do not depend on them.
    """
    exact, f1 = question_scores(predictions, references, has_unanswerable)
    if has_unanswerable:
        if null_odds is not None:  # equal odds are taken in the order of the references
            null_odds = {item["id"]: float(null_odds[item["id"]]) for item in references}
        totals = totals_v2(exact, f1, predictions, references, null_odds)
    else:
        totals = totals_v1(exact, f1, len(references))
    arrays = (np.array([part.get(item["id"], 0) for item in references], dtype=float) for part in (exact, f1))
    return Scores(totals, *arrays)


def check_metric_name(name: str | None, has_unanswerable: bool | None) -> None:
    """Raise UserError for a ``metric_for_best_model`` that evaluation does not compute.

    Args:
        has_unanswerable: whether the metric is that of SQuAD 2.0; None if the data, not yet read, decide it.
    """
    exact = {True: ("exact",), False: ("exact_match",), None: ("exact_match", "exact")}[has_unanswerable]
    known = ("f1", *exact, "loss")
    if name and name.removeprefix("eval_") not in known:
        raise UserError(f"metric_for_best_model {name} is not computed: choose one of {', '.join(known)}")
