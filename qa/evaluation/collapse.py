"""Detect a collapsed model, which answers every question alike: the usual result of failed training."""

import collections

from qa.evaluation.evaluator import Evaluation

COLLAPSED_SHARE = 0.9  # share of equal answers above which a model has collapsed
FEWEST_ANSWERS = 20  # with fewer, collapse cannot be told from chance


def detect_collapse(evaluation: Evaluation) -> str | None:
    """Return one line that describes a model which answers nearly all questions alike; None for any other."""
    answers = [evaluation.predictions.get(key, "") for key in evaluation.examples["id"]]
    golds = [item["text"] for item in evaluation.examples["answers"]]
    answerable = [answer for answer, texts in zip(answers, golds, strict=True) if texts]
    given = [text for text in answers if text]
    if len(answerable) >= FEWEST_ANSWERS and (share := answerable.count("") / len(answerable)) >= COLLAPSED_SHARE:
        return f"the model gives no answer to {share:.0%} of the answerable questions"
    if len(given) < FEWEST_ANSWERS:
        return None
    text, count = collections.Counter(given).most_common(1)[0]
    if count / len(given) >= COLLAPSED_SHARE:
        return f"the model gives the same answer, {text[:40]!r}, to {count / len(given):.0%} of the questions"
    if evaluation.answers:
        spans = collections.Counter(map(tuple, evaluation.answers.best_spans.tolist()))
        (begin, end), count = spans.most_common(1)[0]
        if count / len(answers) >= COLLAPSED_SHARE:
            share = count / len(answers)
            return f"{share:.0%} of the model's answers are characters {begin} to {end}, whatever the question"
    return None
