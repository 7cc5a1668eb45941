"""One evaluation: candidates to answers to scores, and the files that hold them."""

import collections
from dataclasses import dataclass
from pathlib import Path

import evaluate
import numpy as np
from datasets import Dataset

from qa.data.windows import WindowArrays
from qa.evaluation import squad_metric
from qa.evaluation.squad_metric import question_scores
from qa.inference.spans import Answers, Candidates, find_candidates, lowest_null, read_answers, search
from qa.io import run_folder
from qa.io.files import remove, write_json
from qa.options.arguments import DataArguments
from qa.runtime.errors import UserError

LOSSES_AT_ONCE = 2048  # windows whose loss is computed at once
SAME, FEW = 0.9, 20  # a share of equal answers, among at least so many, that shows a failed training


def window_losses(start_logits: np.ndarray, end_logits: np.ndarray, windows: WindowArrays) -> np.ndarray:
    """(W,) mean of the cross-entropies of start and end, over each window's own tokens."""
    losses = np.zeros(len(windows))
    for begin in range(0, len(windows), LOSSES_AT_ONCE):
        rows = slice(begin, begin + LOSSES_AT_ONCE)
        length = windows.length[rows]
        real = np.arange(int(length.max())) < length[:, None]
        for logits, labels in ((start_logits, windows.start_positions), (end_logits, windows.end_positions)):
            scores = np.where(real, logits[rows, : real.shape[1]].astype(np.float64), -np.inf)
            top = scores.max(axis=1)
            norm = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
            losses[rows] += (norm - scores[np.arange(len(scores)), labels[rows]]) / 2
    return losses


def perfect_candidates(windows: WindowArrays, n_best_size: int) -> Candidates:
    """The candidates of logits that know the label and nothing else: 1 at the label, 0 elsewhere."""

    def best(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        others = np.arange(n_best_size - 1) + (np.arange(n_best_size - 1) >= labels[:, None])
        tokens = np.concatenate([labels[:, None], others], axis=1)
        tokens = np.where(tokens < windows.length[:, None], tokens, -1).astype(np.int32)
        return tokens, (tokens == labels[:, None]).astype(np.float32)

    (start, start_logit), (end, end_logit) = best(windows.start_positions), best(windows.end_positions)
    unlabelled = np.float32(~windows.labelled)
    return Candidates(start, end, start_logit, end_logit, np.stack([unlabelled, unlabelled], axis=1))


@dataclass
class Evaluation:
    """All that is known of one evaluation; what follows ``has_unanswerable`` only where a model or its logits were."""

    name: str  # what was evaluated
    examples: Dataset
    predictions: dict[str, str]
    metrics: dict[str, float]
    has_unanswerable: bool  # scored as SQuAD 2.0
    null_odds: dict[str, float] | None = None
    threshold: float | None = None  # the one on null_odds that the predictions kept to
    answers: Answers | None = None
    windows: WindowArrays | None = None
    ceiling: dict[str, str] | None = None  # the predictions of perfect logits

    def scores(self, predictions: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
        """(E,) exact match and F1, from 0 to 1, of any predictions; 0 for a question that has none."""
        scores = question_scores(predictions, gold_answers(self.examples), self.has_unanswerable)
        return tuple(np.array([part.get(key, 0) for key in self.examples["id"]], dtype=float) for part in scores)


class Evaluator:
    """Scores candidates for one set of examples and windows; keeps the answers of the last call."""

    def __init__(self, examples: Dataset, windows: WindowArrays, args: DataArguments):
        self.examples, self.ids, self.contexts = examples, list(examples["id"]), list(examples["context"])
        self.references = gold_answers(examples)
        self.windows, self.args = windows, args
        self.last: Answers | None = None

    def answer(self, candidates: Candidates) -> Answers:
        """Candidates of every window to answers, by n-best over all windows of each example."""
        args, count = self.args, len(self.ids)
        spans = search(candidates, self.windows, count, args.n_best_size, args.max_answer_length)
        nulls = None
        if args.version_2_with_negative:
            nulls = lowest_null(candidates.null, self.windows.example_index, count)
        return read_answers(spans, self.ids, self.contexts, nulls, args.n_best_size, args.null_score_diff_threshold)

    def ceiling_answers(self) -> dict[str, str]:
        """The predictions of perfect logits with these windows and limits."""
        return self.answer(perfect_candidates(self.windows, self.args.n_best_size)).predictions

    def ceiling(self) -> dict[str, float]:
        """EM and F1 that perfect logits would score."""
        return official_scores(self.ceiling_answers(), self.references, bool(self.args.version_2_with_negative))

    def score(self, answers: Answers) -> dict[str, float]:
        """Official scores of the predictions; for SQuAD 2.0 also what the best threshold would give."""
        scores = official_scores(answers.predictions, self.references, answers.null_odds is not None)
        if answers.null_odds is not None:
            best = official_scores(answers.best_texts, self.references, True, answers.null_odds)
            scores |= {name: value for name, value in best.items() if name.startswith("best_")}
        return scores

    def __call__(self, candidates: Candidates, losses: np.ndarray) -> dict[str, float]:
        """Scores of one pass over all windows, and its loss, the mean of ``losses`` (W,).

        Raises:
            UserError: a loss that is no number, which a model that has diverged gives.
        """
        if not np.isfinite(losses).all():
            raise UserError(
                "the model has diverged: its logits are not numbers. Train again with a lower learning_rate, with"
                " warmup_steps: 0.1, or in fp32; earlier checkpoints are untouched"
            )
        self.last = self.answer(candidates)
        return self.score(self.last) | {"loss": float(losses.astype(np.float64).mean())}

    def of_logits(self, start_logits: np.ndarray, end_logits: np.ndarray) -> dict[str, float]:
        """The same from all logits (W, L), the windows in their order."""
        candidates = find_candidates(start_logits, end_logits, self.windows, self.args.n_best_size)
        return self(candidates, window_losses(start_logits, end_logits, self.windows))

    def result(self, name: str, metrics: dict[str, float]) -> Evaluation:
        """The last call's answers with what is known about them."""
        return Evaluation(
            name=name,
            examples=self.examples,
            predictions=self.last.predictions,
            metrics=metrics,
            has_unanswerable=self.last.null_odds is not None,
            null_odds=self.last.null_odds,
            threshold=self.args.null_score_diff_threshold,
            answers=self.last,
            windows=self.windows,
            ceiling=self.ceiling_answers(),
        )


def gold_answers(examples: Dataset) -> list[dict]:
    """``id`` and ``answers`` of every example, as the metric takes them."""
    return [{"id": key, "answers": answers} for key, answers in zip(examples["id"], examples["answers"], strict=True)]


def official_scores(
    predictions: dict[str, str],
    references: list[dict],
    has_unanswerable: bool,
    null_odds: dict[str, float] | None = None,
) -> dict[str, float]:
    """Scores by ``squad_metric.py`` through the evaluate library; SQuAD 2.0's totals where ``has_unanswerable``."""
    metric = evaluate.load(squad_metric.__file__, "squad_v2" if has_unanswerable else "squad")
    texts = [{"id": item["id"], "prediction_text": predictions.get(item["id"])} for item in references]
    if has_unanswerable:
        texts = [item | {"no_answer_probability": (null_odds or {}).get(item["id"])} for item in texts]
    return metric.compute(predictions=texts, references=references)


def detect_collapse(evaluation: Evaluation) -> str | None:
    """What to say of a model that answers every question alike, in one line; None where it does not."""
    answers = [evaluation.predictions.get(key, "") for key in evaluation.examples["id"]]
    golds = [item["text"] for item in evaluation.examples["answers"]]
    answerable = [answer for answer, texts in zip(answers, golds, strict=True) if texts]
    given = [text for text in answers if text]
    if len(answerable) >= FEW and (share := answerable.count("") / len(answerable)) >= SAME:
        return f"it answers nothing to {share:.0%} of the questions that have an answer"
    if len(given) < FEW:
        return None
    text, count = collections.Counter(given).most_common(1)[0]
    if count / len(given) >= SAME:
        return f"it gives the same answer, {text[:40]!r}, to {count / len(given):.0%} of the questions"
    if evaluation.answers:
        spans = collections.Counter(map(tuple, evaluation.answers.best_spans.tolist()))
        (begin, end), count = spans.most_common(1)[0]
        if count / len(answers) >= SAME:
            return f"{count / len(answers):.0%} of its answers are characters {begin} to {end}, whatever the question"
    return None


def plain_metrics(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    """The metrics that ``Trainer`` returns, without its prefix and its set-up time."""
    plain = {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}
    plain.pop("model_preparation_time", None)
    return plain


def score_rows(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """EM and F1 for a table, under the names that 1.1 and 2.0 give them, and what the best threshold would give."""
    exact = metrics["exact_match"] if "exact_match" in metrics else metrics["exact"]
    rows = [("exact match", f"{exact:.2f}"), ("F1", f"{metrics['f1']:.2f}")]
    for prefix, name in (("HasAns", "with an answer"), ("NoAns", "without one")):
        if f"{prefix}_f1" in metrics:
            rows.append((name, f"exact {metrics[f'{prefix}_exact']:.2f}, F1 {metrics[f'{prefix}_f1']:.2f}"))
    if "best_f1" in metrics:
        rows.append(("best threshold", f"{metrics['best_f1_thresh']:.4f}, which gives F1 {metrics['best_f1']:.2f}"))
    return rows


def count_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Loss and counts for a table."""
    rows = [("loss", f"{evaluation.metrics['loss']:.4f}")] if "loss" in evaluation.metrics else []
    rows.append(("questions", f"{len(evaluation.examples):,}"))
    return rows if evaluation.windows is None else [*rows, ("windows", f"{len(evaluation.windows):,}")]


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """``predictions.json``, ``nbest_predictions.json``, for 2.0 ``null_odds.json``, and ``eval_results.json`` last."""
    for name in (run_folder.NBEST, run_folder.NULL_ODDS, run_folder.COMPARISON):
        remove(folder / name)  # of an earlier evaluation, which may have been another
    write_json(folder / run_folder.PREDICTIONS, evaluation.predictions)
    if evaluation.answers:
        write_json(folder / run_folder.NBEST, evaluation.answers.nbest)
    if evaluation.null_odds:
        write_json(folder / run_folder.NULL_ODDS, evaluation.null_odds)
    counts = {"examples": len(evaluation.examples)}
    if evaluation.windows is not None:
        counts["features"] = len(evaluation.windows)
    write_json(folder / run_folder.SCORES, evaluation.metrics | counts)
