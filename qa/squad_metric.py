"""Exact match and F1 as the official SQuAD scripts compute them, as a metric for ``evaluate.load``.

Examples:
    evaluate.load("qa/squad_metric.py").compute(predictions=..., references=...)               # SQuAD 1.1
    evaluate.load("qa/squad_metric.py", "squad_v2").compute(predictions=..., references=...)   # SQuAD 2.0

The file stands alone, so it loads from its path with no network. Scores are summed in the order of the
references, as the scripts sum them: another order differs in the last digit. Sources: evaluate-v1.1.py
(Rajpurkar et al. 2016) and evaluate-v2.0.py (Rajpurkar et al. 2018).
"""

import collections
import re
import string

import datasets
import evaluate

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, single spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_score(prediction: str, gold: str) -> int:
    return int(normalize_answer(prediction) == normalize_answer(gold))


def f1_score(prediction: str, gold: str) -> float:
    """Harmonic mean of precision and recall over the bags of normalized words."""
    predicted, golden = normalize_answer(prediction).split(), normalize_answer(gold).split()
    if not predicted or not golden:
        return int(predicted == golden)
    common = sum((collections.Counter(predicted) & collections.Counter(golden)).values())
    if common == 0:
        return 0
    precision, recall = common / len(predicted), common / len(golden)
    return 2 * precision * recall / (precision + recall)


def best_scores(prediction: str, golds: list[str]) -> tuple[int, float]:
    """Exact match and F1 against the gold answer that each fits best; no gold answer means the empty one."""
    golds = golds or [""]
    return max(exact_score(prediction, gold) for gold in golds), max(f1_score(prediction, gold) for gold in golds)


def score_v1(predictions: dict[str, str], references: list[dict]) -> dict[str, float]:
    """``exact_match`` and ``f1`` in percent; a question without a prediction scores 0."""
    exact = f1 = 0
    for reference in references:
        if reference["id"] in predictions:
            scores = best_scores(predictions[reference["id"]], reference["answers"]["text"])
            exact, f1 = exact + scores[0], f1 + scores[1]
    total = len(references)
    return {"exact_match": 100.0 * exact / total, "f1": 100.0 * f1 / total}


def score_v2(predictions: dict[str, str], references: list[dict]) -> dict[str, float]:
    """``exact``, ``f1`` and ``total``, then the same for questions with and without an answer.

    As in the official script a question without a prediction is left out of every total.
    """
    exact, f1, answerable = {}, {}, {}
    for reference in references:
        key = reference["id"]
        golds = [text for text in reference["answers"]["text"] if normalize_answer(text)]
        if key in predictions:
            answerable[key] = bool(reference["answers"]["text"])
            exact[key], f1[key] = best_scores(predictions[key], golds)
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
    return result


class SquadMetric(evaluate.Metric):
    """``predictions``: dicts of ``id`` and ``prediction_text``; ``references``: dicts of ``id`` and ``answers``.

    The library wants as many of the one as of the other: a question without a prediction has the text None.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Rajpurkar et al., SQuAD (2016); Know What You Don't Know (2018)",
            inputs_description=SquadMetric.__doc__,
            features=datasets.Features(
                {
                    "predictions": {"id": datasets.Value("string"), "prediction_text": datasets.Value("string")},
                    "references": {
                        "id": datasets.Value("string"),
                        "answers": {
                            "text": datasets.List(datasets.Value("string")),
                            "answer_start": datasets.List(datasets.Value("int64")),
                        },
                    },
                }
            ),
        )

    def _compute(self, predictions, references):
        texts = {item["id"]: item["prediction_text"] for item in predictions if item["prediction_text"] is not None}
        return (score_v2 if self.config_name == "squad_v2" else score_v1)(texts, references)
