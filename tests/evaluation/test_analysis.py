"""Intervals, groups, thresholds and calibration, compared with formulas, brute force and manual examples."""

import numpy as np
import pytest

from qa.evaluation import analysis
from qa.evaluation.official_scores import score_v2


def test_interval_matches_the_normal_approximation():
    values = (np.arange(900) % 10 < 3).astype(float)  # 30 % of 900
    low, high = analysis.interval(values, 4000)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 900)
    assert low == pytest.approx(0.3 - half, abs=0.004) and high == pytest.approx(0.3 + half, abs=0.004)
    assert analysis.interval(np.full(7, 0.25)) == (0.25, 0.25)
    assert analysis.interval(values) == analysis.interval(values), "seeded"


def test_paired_comparison():
    rng = np.random.default_rng(0)
    other = (rng.random(500) < 0.6).astype(float)
    same = analysis.paired_bootstrap(other, other)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    better = other.copy()
    better[np.flatnonzero(other == 0)[:60]] = 1  # 60 gained, none lost
    found = analysis.paired_bootstrap(better, other)
    assert found.difference == pytest.approx(0.12) and found.low > 0.08 and found.p_value == pytest.approx(2 / 10001)
    mixed = other.copy()
    mixed[np.flatnonzero(other == 0)[:22]], mixed[np.flatnonzero(other == 1)[:12]] = 1, 0
    found = analysis.paired_bootstrap(mixed, other)
    z = 10 / np.sqrt(34)  # McNemar's statistic, whose two-sided p is about that of the paired bootstrap
    assert found.p_value == pytest.approx(2 * 0.0432, abs=0.02) and z == pytest.approx(1.715, abs=0.001)
    assert analysis.paired_bootstrap(other, mixed).difference == -found.difference


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("Who wrote it?", "who"),
        ("In what year did she leave?", "what"),
        ("To whom was it given, and when?", "who"),
        ("How many towns are there?", "how many"),
        ("How MUCH is it", "how much"),
        ("How far is it?", "how"),
        ("Name the town.", "other"),
        ("Wann wurde sie geboren?", "other"),
        ("", "other"),
    ],
)
def test_question_words(question, word):
    assert analysis.question_word(question) == word


def test_groups_contain_every_question_once():
    labels, names = analysis.ranges(np.array([0, 1, 2, 3, 4, 9]), [1, 3])
    assert [names[label] for label in labels] == ["1", "1", "2 to 3", "2 to 3", "over 3", "over 3"]
    questions, contexts = ["Who?", "Who is it?", "Where?"], ["a b", "a " * 60, "c"]
    golds = [["a"], [], ["a b c", "b"]]
    exact, f1 = np.array([1.0, 0, 0]), np.array([1.0, 0, 0.5])
    groups = analysis.break_downs(questions, contexts, golds, None, exact, f1)
    assert {name: [(g.name, g.count) for g in parts] for name, parts in groups.items()} == {
        "question word": [("who", 2), ("where", 1)],
        "words in the shortest gold answer": [("1", 2), ("no answer", 1)],
        "words in the context": [("1 to 50", 2), ("51 to 100", 1)],
        "answerable": [("no", 1), ("yes", 2)],
    }
    assert (groups["question word"][0].exact, groups["question word"][1].f1) == (50, 50)


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1", "nbest", "kind"),
    [
        ("Ann", ["ann"], 1, 1, [], "correct"),
        ("", [], 1, 1, [], "correct"),
        ("of Ann", ["Ann Lee"], 0, 0.5, ["Ann Lee"], "wrong boundaries"),
        ("Bob", ["Ann"], 0, 0, ["Bob", "the ann!"], "correct answer ranked lower"),
        ("Bob", ["Ann"], 0, 0, ["Bob"], "no overlap"),
        ("Bob", [], 0, 0, [], "answered an unanswerable question"),
        ("", ["Ann"], 0, 0, ["", "Ann"], "no answer to an answerable question"),
    ],
)
def test_kinds_of_answers(prediction, golds, exact, f1, nbest, kind):
    assert analysis.KINDS[analysis.kind_of(prediction, golds, exact, f1, nbest)] == kind


def test_human_agreement():
    assert analysis.human_agreement([["Ann"], []]) == (0.0, 0.0, 0)
    exact, f1, count = analysis.human_agreement([["Ann", "Ann"], ["red apple", "green apple"], ["x"]])
    assert (exact, f1, count) == (50, 75, 2)


def random_evaluation(seed: int, count: int = 60):
    """Return texts with correct, partly correct and wrong answers, and null odds with ties."""
    rng = np.random.default_rng(seed)
    ids = [str(i) for i in range(count)]
    answerable = rng.random(count) < 0.6
    references = [
        {"id": key, "answers": {"text": ["red apple"] if has else [], "answer_start": []}}
        for key, has in zip(ids, answerable, strict=True)
    ]
    texts = {
        key: ["red apple", "green apple", "pear", ""][kind]
        for key, kind in zip(ids, rng.integers(0, 4, count), strict=True)
    }
    odds = {key: float(value) for key, value in zip(ids, rng.integers(-8, 8, count) / 2, strict=True)}
    return ids, answerable, references, texts, odds


@pytest.mark.parametrize("seed", range(5))
def test_threshold_curve_matches_the_metric(seed):
    from qa.evaluation.official_scores import question_scores

    ids, answerable, references, texts, odds = random_evaluation(seed)
    exact, f1 = (np.array([part[key] for key in ids], float) for part in question_scores(texts, references, True))
    curve = analysis.threshold_curve(np.array([odds[key] for key in ids]), exact, f1, answerable)
    assert curve.threshold[0] == -np.inf and len(curve.threshold) == 1 + len(set(odds.values()))
    for i, threshold in enumerate(curve.threshold.tolist()):
        official = score_v2(texts, references, odds, threshold)
        assert curve.exact[i] == pytest.approx(official["exact"]) and curve.f1[i] == pytest.approx(official["f1"])
        assert curve.answerable_f1[i] == pytest.approx(official["HasAns_f1"])
        assert curve.unanswerable_f1[i] == pytest.approx(official["NoAns_f1"])


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_is_better_than_the_best(seed):
    """Odds without ties: with them the official script may stop between two equal ones."""
    _, answerable, references, texts, odds = random_evaluation(seed)
    odds = {key: value + i * 1e-3 for i, (key, value) in enumerate(odds.items())}
    best = score_v2(texts, references, odds)
    for name in ("exact", "f1"):
        every = [score_v2(texts, references, odds, threshold)[name] for threshold in [-1e9, *odds.values()]]
        assert best[f"best_{name}"] == pytest.approx(max(every))
        reached = score_v2(texts, references, odds, best[f"best_{name}_thresh"])[name]
        nothing = 100 * (~answerable).mean()
        assert reached == pytest.approx(max(every)) if max(every) > nothing + 1e-9 else best[f"best_{name}_thresh"] == 0


def test_calibration():
    result = analysis.calibration(np.array([0.05, 0.95, 1.0, 0.95]), np.array([0.0, 1.0, 1.0, 0.0]))
    assert result.count.tolist() == [1, 3] and result.correct.tolist() == [0, pytest.approx(2 / 3)]
    assert result.confidence.tolist() == [0.05, pytest.approx(2.9 / 3)]
    assert result.error == pytest.approx((0.05 + 3 * 0.3) / 4)
