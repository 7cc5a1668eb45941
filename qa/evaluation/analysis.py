"""Analysis of EM and F1: intervals, groups of questions, kinds of errors, thresholds, calibration.

Functions of arrays with one row for each of E questions; scores are from 0 to 1.
"""

import collections
import re
from dataclasses import dataclass

import numpy as np

from qa.data.windows import WindowArrays
from qa.evaluation.official_scores import best_scores, normalize_answer

DRAWS = 1 << 20  # questions drawn together; bounds the memory
QUESTION_WORDS = {"whom": "who", "whose": "who"} | {
    word: word for word in ("what", "who", "when", "where", "which", "why", "how")
}
# Outcomes of a question, the correct one first.
KINDS = (
    "correct",
    "wrong boundaries",
    "correct answer ranked lower",
    "no overlap",
    "answered an unanswerable question",
    "no answer to an answerable question",
)


def resampled_means(values: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """Return (R, ...) means of ``values`` (E, ...) over E questions drawn with replacement, R times (Efron 1979)."""
    rng, count = np.random.default_rng(seed), len(values)
    at_once = max(1, DRAWS // count)
    return np.concatenate(
        [
            values[rng.integers(0, count, (min(at_once, resamples - done), count))].mean(axis=1)
            for done in range(0, resamples, at_once)
        ]
    )


def interval(values: np.ndarray, resamples: int = 1000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of ``values`` (E,)."""
    low, high = np.percentile(resampled_means(values, resamples), (2.5, 97.5))
    return float(low), float(high)


@dataclass
class Comparison:
    """How one evaluation differs from another on the same questions, in points from -1 to 1."""

    difference: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(values: np.ndarray, others: np.ndarray, resamples: int = 10_000) -> Comparison:
    """Compare two means over the same E questions by a paired bootstrap.

    The p-value is two-sided: twice the share of resamples in which the difference has the other sign, at least
    2 / (R + 1) (Davison and Hinkley 1997, section 4.2.1).
    """
    difference = values - others
    means = resampled_means(difference, resamples)
    low, high = np.percentile(means, (2.5, 97.5))
    tail = min((means <= 0).sum(), (means >= 0).sum())
    return Comparison(
        float(difference.mean()), float(low), float(high), float(min(1, 2 * (tail + 1) / (resamples + 1)))
    )


def question_word(question: str) -> str:
    """Return the first English question word; ``how many`` and ``how much`` count as separate words."""
    words = re.findall(r"\w+", question.lower())
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word in QUESTION_WORDS:
            return f"how {following}" if word == "how" and following in ("many", "much") else QUESTION_WORDS[word]
    return "other"


def ranges(values: np.ndarray, last: list[int]) -> tuple[np.ndarray, list[str]]:
    """Return (E,) the range that each value falls into, and the ranges' names; ``last`` ends all but the last range."""
    first = [1, *(end + 1 for end in last)]
    names = [f"{a}" if a == b else f"{a} to {b}" for a, b in zip(first, last, strict=False)]
    return np.searchsorted(last, values, side="left"), [*names, f"over {last[-1]:,}"]


@dataclass
class Group:
    """Questions that have something in common; scores in percent, with 95 % intervals."""

    name: str
    count: int
    exact: float
    f1: float
    exact_interval: tuple[float, float]
    f1_interval: tuple[float, float]


def group(name: str, exact: np.ndarray, f1: np.ndarray) -> Group:
    """Return the mean scores of the given questions, with their intervals."""
    (exact_low, exact_high), (f1_low, f1_high) = interval(exact), interval(f1)
    intervals = (100 * exact_low, 100 * exact_high), (100 * f1_low, 100 * f1_high)
    return Group(name, len(exact), 100 * float(exact.mean()), 100 * float(f1.mean()), *intervals)


def break_down(labels: np.ndarray, names: list[str], exact: np.ndarray, f1: np.ndarray) -> list[Group]:
    """Return the groups that have questions, in the order of ``names``; ``labels`` (E,) are positions in it."""
    parts = [(name, labels == number) for number, name in enumerate(names)]
    return [group(name, exact[rows], f1[rows]) for name, rows in parts if rows.any()]


def break_downs(
    questions: list[str],
    contexts: list[str],
    golds: list[list[str]],
    windows: WindowArrays | None,
    exact: np.ndarray,
    f1: np.ndarray,
) -> dict[str, list[Group]]:
    """Return EM and F1 by properties of the questions and their contexts."""
    words = np.array([question_word(question) for question in questions])
    kinds = [kind for kind, _ in collections.Counter(words.tolist()).most_common() if kind != "other"] + ["other"]
    result = {"question word": break_down(np.array([kinds.index(word) for word in words]), kinds, exact, f1)}
    answered = np.array([bool(texts) for texts in golds])
    sizes = np.array([min((len(text.split()) for text in texts), default=0) for texts in golds])
    labels, names = ranges(sizes, [1, 2, 3, 5, 10])
    result["words in the shortest gold answer"] = break_down(
        np.where(answered, labels, len(names)), [*names, "no answer"], exact, f1
    )
    labels, names = ranges(
        np.array([len(context.split()) for context in contexts]), [50, 100, 150, 200, 300, 500, 2000]
    )
    result["words in the context"] = break_down(labels, names, exact, f1)
    if windows is not None:
        counts = np.bincount(windows.example_index, minlength=len(questions))
        labels, names = ranges(counts, [1, 2, 5, 20, 100])
        result["windows"] = break_down(labels, names, exact, f1)
    if not answered.all():
        result["answerable"] = break_down(answered.astype(int), ["no", "yes"], exact, f1)
    return result


def kind_of(prediction: str, golds: list[str], exact: float, f1: float, nbest: list[str]) -> int:
    """Return the position in ``KINDS`` of an answer's outcome; ``nbest`` are the texts of the n-best list."""
    if exact:
        return 0
    if not golds:
        return 4
    if not prediction:
        return 5
    if f1 > 0:
        return 1
    wanted = {normalize_answer(text) for text in golds}
    return 2 if any(normalize_answer(text) in wanted for text in nbest) else 3


def human_agreement(golds: list[list[str]]) -> tuple[float, float, int]:
    """Return EM and F1 in percent of the second gold answer against the others, and the questions with at least two.

    This is the human performance of Rajpurkar et al. 2016, section 6.
    """
    scores = [best_scores(texts[1], texts[:1] + texts[2:]) for texts in golds if len(texts) > 1]
    if not scores:
        return 0.0, 0.0, 0
    exact, f1 = (100 * float(np.mean(column)) for column in zip(*scores, strict=True))
    return exact, f1, len(scores)


@dataclass
class Curve:
    """Scores in percent at each threshold: questions whose null odds are at most the threshold are answered."""

    threshold: np.ndarray  # (T,) ascending; -inf first, which leaves every question unanswered
    exact: np.ndarray  # (T,)
    f1: np.ndarray  # (T,)
    answerable_f1: np.ndarray  # (T,) of the answerable questions
    unanswerable_f1: np.ndarray  # (T,) of the unanswerable questions


def threshold_curve(odds: np.ndarray, exact: np.ndarray, f1: np.ndarray, answerable: np.ndarray) -> Curve:
    """Return the scores at every threshold.

    Args:
        odds: (E,) null odds.
        exact, f1: (E,) scores of the best span, whatever its null odds.
        answerable: (E,) bool.
    """
    order = np.argsort(odds, kind="stable")
    odds, has = odds[order], answerable[order]
    ends = np.append(np.flatnonzero(np.diff(odds)), len(odds) - 1) + 1  # questions with equal odds go together

    def curve(scores: np.ndarray, part: np.ndarray) -> np.ndarray:
        gained = np.where(part, scores[order] - ~has, 0.0)
        return 100 * (np.sum(part & ~has) + np.concatenate([[0], np.cumsum(gained)[ends - 1]])) / max(part.sum(), 1)

    thresholds = np.concatenate([[-np.inf], odds[ends - 1]])
    everything = np.ones_like(has)
    return Curve(thresholds, curve(exact, everything), curve(f1, everything), curve(f1, has), curve(f1, ~has))


@dataclass
class Calibration:
    """Confidence against accuracy, in bins of equal width; empty bins are left out."""

    confidence: np.ndarray  # (B,) mean in the bin
    correct: np.ndarray  # (B,) share of exact matches in the bin
    count: np.ndarray  # (B,)
    error: float  # mean distance of the two, weighted by count (Guo et al. 2017)


def calibration(confidence: np.ndarray, exact: np.ndarray, bins: int = 10) -> Calibration:
    """Return the calibration of ``confidence`` (E,), from 0 to 1, in ``bins`` bins."""
    label = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(label, minlength=bins)
    some = count > 0
    mean, correct = (np.bincount(label, values, bins)[some] / count[some] for values in (confidence, exact))
    error = float(np.sum(np.abs(mean - correct) * count[some]) / len(confidence))
    return Calibration(mean, correct, count[some], error)
