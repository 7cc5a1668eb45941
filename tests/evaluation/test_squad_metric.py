"""Scores compared with manual examples and with the official scores of published systems."""

import gzip
import json

import evaluate
import pytest
from helpers.published import PUBLISHED

from qa.evaluation import squad_metric
from qa.evaluation.official_scores import best_scores, f1_score, normalize_answer


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        ("The Vindel River!", ["vindel river"], 1, 1.0),
        ("an apple a day", ["apple day"], 1, 1.0),
        ("red apple", ["green apple"], 0, 0.5),  # one of two words on both sides
        ("big red apple", ["apple"], 0, 0.5),  # precision 1/3, recall 1
        ("big big apple", ["big apple apple"], 0, 2 / 3),  # words count as often as they occur
        ("apple", ["pear", "apple pie"], 0, 2 / 3),  # the best of the gold answers
        ("", ["apple"], 0, 0.0),
        ("the", ["a"], 1, 1.0),  # nothing left on both sides
        ("", [], 1, 1.0),
        ("U.S.", ["us"], 1, 1.0),
        ("São Tomé", ["Sao Tome"], 0, 0.0),  # accents stay
        ("东京", ["东京。"], 0, 0.0),  # only ASCII punctuation is removed
        ("7–8", ["78"], 0, 0.0),  # an en dash stays
        ("theatre", ["atre"], 0, 0.0),  # articles are whole words
    ],
)
def test_hand_worked_pairs(prediction, golds, exact, f1):
    assert best_scores(prediction, golds) == (exact, pytest.approx(f1))


def test_normalization_as_in_the_official_script():
    assert normalize_answer("  The  A-Team's\tan_hour ") == "ateams anhour"
    assert f1_score("a b", "b c") == pytest.approx(2 / 3)  # "a" is an article


def load(name=None):
    return evaluate.load(squad_metric.__file__, name)


def references(answers: dict[str, list[str]]) -> list[dict]:
    return [{"id": key, "answers": {"text": texts, "answer_start": [0] * len(texts)}} for key, texts in answers.items()]


def test_metric_v1():
    golds = references({"1": ["Ann"], "2": ["green apple"], "3": ["x"]})
    texts = {"1": "ann", "2": "red apple", "3": None}
    predictions = [{"id": key, "prediction_text": text} for key, text in texts.items()]
    scores = load().compute(predictions=predictions, references=golds)
    assert scores == {"exact_match": 100 / 3, "f1": 50.0}, "a question without prediction scores 0"


def test_metric_v2():
    golds = references({"1": ["Ann"], "2": [], "3": []})
    texts = {"1": "ann", "2": "", "3": "something"}
    scores = load("squad_v2").compute(predictions=without_odds(texts), references=golds)
    expected = {"exact": 200 / 3, "HasAns_exact": 100.0, "HasAns_total": 1, "NoAns_exact": 50.0, "NoAns_total": 2}
    assert scores["total"] == 3 and expected.items() <= scores.items()
    assert not any(name.startswith("best_") for name in scores), "no thresholds without null odds"


def without_odds(texts: dict[str, str]) -> list[dict]:
    return [{"id": key, "prediction_text": text, "no_answer_probability": None} for key, text in texts.items()]


def test_best_thresholds():
    """In the order of their odds: a correct answer, a wrong one, one to an unanswerable question, a partly correct."""
    golds = references({"1": ["Ann"], "2": ["Bob"], "3": [], "4": ["red apple"]})
    texts, odds = {"1": "Ann", "2": "x", "3": "y", "4": "apple"}, {"1": -3.0, "2": -1.0, "3": 0.5, "4": 2.0}
    predictions = [{"id": key, "prediction_text": texts[key], "no_answer_probability": odds[key]} for key in texts]
    scores = load("squad_v2").compute(predictions=predictions, references=golds)
    assert (scores["exact"], scores["f1"]) == (25.0, 25.0), "odds over 1 count as no answer: 4 is not scored"
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (50.0, -3.0)
    assert (scores["best_f1"], scores["best_f1_thresh"]) == (50.0, -3.0), "answering 3 and 4 costs 1 and gains 2/3"
    scores = load("squad_v2").compute(predictions=predictions, references=golds, no_answer_threshold=5.0)
    assert scores["f1"] == pytest.approx(100 * (1 + 2 / 3) / 4) and scores["NoAns_f1"] == 0


def test_loads_without_network_in_an_empty_cache(tmp_path):
    """In its own process: the cache folders are read at import."""
    import os
    import subprocess
    import sys

    code = f"import evaluate; print(evaluate.load({squad_metric.__file__!r}).compute(predictions=[], references=[]))"
    code = code.replace("predictions=[], references=[]", "predictions=P, references=R")
    values = "P=[{'id':'1','prediction_text':'a b'}]; R=[{'id':'1','answers':{'text':['b'],'answer_start':[0]}}]; "
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", values + code], cwd=tmp_path, env=environment, capture_output=True)
    assert done.stdout.decode().strip() == "{'exact_match': 100.0, 'f1': 100.0}", done.stderr.decode()


@pytest.mark.parametrize("config", PUBLISHED)
def test_scores_of_published_systems_are_exact(shared, config):
    data, system, expected = PUBLISHED[config]
    with gzip.open(shared / f"data/squad/{data}.json.gz") as file:
        articles = json.load(file)["data"]
    golds = {
        qa["id"]: [answer["text"] for answer in qa["answers"]]
        for article in articles
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    }
    with gzip.open(shared / f"data/predictions/{system}.json.gz") as file:
        texts = json.load(file)
    predictions = [{"id": key, "prediction_text": text} for key, text in texts.items()]
    predictions = without_odds(texts) if config == "squad_v2" else predictions
    assert load(config).compute(predictions=predictions, references=references(golds)) == expected
