"""Scores of predictions equal those of the metric that ``evaluate`` loads, and are computed once per set."""

import gzip
import json
import random

import evaluate
import numpy as np
import pytest
from helpers.commands import read, run, train_tiny
from helpers.published import PUBLISHED

import evaluate_qa
from qa.evaluation import squad_metric
from qa.evaluation.scores import check_metric_name, gold_answers, score_predictions
from qa.runtime.errors import UserError

TEXTS = ["red apple", "the red apple", "green apple", "pear", "", "U.S.", "a"]


def random_task(seed: int, count: int = 400, answerable: float = 0.6):
    """Return references, predictions for most of them, and null odds with ties; not sorted by id."""
    rng = random.Random(seed)
    ids = [f"{rng.random():.9f}" for _ in range(count)]
    references = [
        {"id": key, "answers": {"text": rng.sample(TEXTS, 3) if rng.random() < answerable else [], "answer_start": []}}
        for key in ids
    ]
    predictions = {key: rng.choice(TEXTS) for key in rng.sample(ids, count - 7)}
    odds = {key: rng.choice([-2, -0.5, 0.5, 1, 3]) for key in rng.sample(ids, count)}
    return references, predictions, odds


def by_metric(name: str, predictions: dict, references: list[dict], odds: dict | None = None) -> dict:
    texts = [{"id": item["id"], "prediction_text": predictions.get(item["id"])} for item in references]
    if name == "squad_v2":
        texts = [item | {"no_answer_probability": (odds or {}).get(item["id"])} for item in texts]
    return evaluate.load(squad_metric.__file__, name).compute(predictions=texts, references=references)


@pytest.mark.parametrize("seed", range(3))
def test_totals_match_the_metric_exactly(seed):
    references, predictions, odds = random_task(seed)
    for name, null_odds in (("squad", None), ("squad_v2", None), ("squad_v2", odds)):
        scores = score_predictions(predictions, references, name == "squad_v2", null_odds)
        expected = by_metric(name, predictions, references, null_odds)
        assert scores.totals == expected and list(scores.totals) == list(expected)
        assert {key: type(value) for key, value in scores.totals.items()} == {
            key: type(value) for key, value in expected.items()
        }


def test_the_scores_of_each_question():
    references = [
        {"id": key, "answers": {"text": texts, "answer_start": []}}
        for key, texts in (("b", ["Ann"]), ("a", ["green apple"]), ("d", []), ("c", ["x"]))
    ]
    scores = score_predictions({"a": "red apple", "b": "ann", "d": "y"}, references, True, dict.fromkeys("abcd", 5.0))
    assert scores.exact.tolist() == [1, 0, 0, 0] and scores.f1.tolist() == [1, 0.5, 0, 0], "whatever the null odds"
    assert (scores.totals["exact"], scores.totals["total"]) == (100 / 3, 3), "odds above 1 count as no answer"
    assert scores.exact.dtype == scores.f1.dtype == np.float64


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_systems(shared, name):
    from qa.data.splits import load_splits
    from qa.options.arguments import DataArguments

    data, system, expected = PUBLISHED[name]
    args = DataArguments(validation_file=str(shared / f"data/squad/{data}.json.gz"))
    references = gold_answers(load_splits(args, ("validation",))["validation"].examples)
    with gzip.open(shared / f"data/predictions/{system}.json.gz") as file:
        predictions = json.load(file)
    scores = score_predictions(predictions, references, name == "squad_v2")
    assert scores.totals == expected
    assert 100 * scores.f1.mean() == pytest.approx(expected["f1"], abs=1e-9)


def test_metrics_to_choose_the_best_model_by():
    for name in (None, "f1", "eval_f1", "loss", "eval_exact_match"):
        check_metric_name(name, has_unanswerable=False)
    check_metric_name("eval_exact", has_unanswerable=True)
    with pytest.raises(UserError, match="exact is not computed: choose one of f1, exact_match, loss"):
        check_metric_name("exact", has_unanswerable=False)


def test_each_set_of_predictions_is_scored_once(tiny_data, tiny_model, tmp_path, monkeypatch):
    """The model's predictions, its best spans for SQuAD 2.0, those of perfect logits, and the compared ones."""
    import qa.evaluation.scores

    train_tiny(tiny_data, tiny_model, tmp_path / "run", "--max_steps", 1, "--version_2_with_negative", "true")
    scored, original = [], qa.evaluation.scores.question_scores
    monkeypatch.setattr(
        qa.evaluation.scores, "question_scores", lambda *parts: scored.append(len(parts[1])) or original(*parts)
    )
    more = ("--version_2_with_negative", "true", "--compare", tmp_path / "run", "--output_dir", tmp_path / "out")
    run(evaluate_qa, "--model_name_or_path", tmp_path / "run", *more)
    assert scored == [16] * 4
    assert read(tmp_path / "out/comparison.json")["exact"]["difference"] == 0
