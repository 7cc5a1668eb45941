"""One evaluation: logits to answers to scores, and the files that hold them."""

from pathlib import Path

import evaluate
import numpy as np
from datasets import Dataset

from qa import squad_metric
from qa.arguments import DataArguments
from qa.errors import UserError
from qa.output import write_json
from qa.spans import Answers, find_spans, null_scores, read_answers
from qa.windows import WindowArrays

CHUNK = 2048  # windows whose loss is computed at once


def window_loss(start_logits: np.ndarray, end_logits: np.ndarray, windows: WindowArrays) -> float:
    """Mean over windows of the cross-entropy of start and end, over each window's own tokens."""
    total = 0.0
    for begin in range(0, len(windows), CHUNK):
        rows = slice(begin, begin + CHUNK)
        length = windows.length[rows]
        real = np.arange(int(length.max())) < length[:, None]
        for logits, labels in ((start_logits, windows.start_positions), (end_logits, windows.end_positions)):
            scores = np.where(real, logits[rows, : real.shape[1]].astype(np.float64), -np.inf)
            top = scores.max(axis=1)
            norm = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
            total += float((norm - scores[np.arange(len(scores)), labels[rows]]).sum()) / 2
    return total / max(len(windows), 1)


def perfect_logits(windows: WindowArrays) -> tuple[np.ndarray, np.ndarray]:
    """Logits that know the label and nothing else: 1 at the label, 0 elsewhere, in every window."""
    shape = len(windows), int(windows.length.max(initial=1))
    start, end = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    start[np.arange(len(windows)), windows.start_positions] = 1
    end[np.arange(len(windows)), windows.end_positions] = 1
    return start, end


class Evaluator:
    """Scores logits for one set of examples and windows; keeps the answers of the last call."""

    def __init__(self, examples: Dataset, windows: WindowArrays, args: DataArguments):
        self.ids, self.contexts = list(examples["id"]), list(examples["context"])
        self.references = gold_answers(examples)
        self.windows, self.args = windows, args
        self.last: Answers | None = None

    def answer(self, start_logits: np.ndarray, end_logits: np.ndarray) -> Answers:
        """Logits (W, L) to answers, by n-best over all windows of each example."""
        args, count = self.args, len(self.ids)
        spans = find_spans(start_logits, end_logits, self.windows, count, args.n_best_size, args.max_answer_length)
        nulls = None
        if args.version_2_with_negative:
            nulls = null_scores(start_logits, end_logits, self.windows, count)
        return read_answers(spans, self.ids, self.contexts, nulls, args.n_best_size, args.null_score_diff_threshold)

    def ceiling(self) -> dict[str, float]:
        """EM and F1 that perfect logits would score with these windows and limits."""
        answers = self.answer(*perfect_logits(self.windows))
        return self.score(answers.predictions)

    def score(self, predictions: dict[str, str]) -> dict[str, float]:
        return official_scores(predictions, self.references, bool(self.args.version_2_with_negative))

    def __call__(self, start_logits: np.ndarray, end_logits: np.ndarray) -> dict[str, float]:
        """Scores, and the loss per window, of one pass over all windows.

        Raises:
            UserError: logits that are not numbers, which a model that has diverged gives.
        """
        if np.isnan(start_logits).any() or np.isnan(end_logits).any():
            raise UserError(
                "the model has diverged: its logits are not numbers. Train again with a lower learning_rate, with"
                " warmup_steps: 0.1, or in fp32; earlier checkpoints are untouched"
            )
        self.last = self.answer(start_logits, end_logits)
        metrics = self.score(self.last.predictions)
        return metrics | {"loss": window_loss(start_logits, end_logits, self.windows)}


def gold_answers(examples: Dataset) -> list[dict]:
    """``id`` and ``answers`` of every example, as the metric takes them."""
    return [{"id": key, "answers": answers} for key, answers in zip(examples["id"], examples["answers"], strict=True)]


def official_scores(predictions: dict[str, str], references: list[dict], negatives: bool) -> dict[str, float]:
    """Scores by ``squad_metric.py`` through the evaluate library; SQuAD 2.0's totals where ``negatives``."""
    metric = evaluate.load(squad_metric.__file__, "squad_v2" if negatives else "squad")
    texts = [{"id": item["id"], "prediction_text": predictions.get(item["id"])} for item in references]
    return metric.compute(predictions=texts, references=references)


def plain_metrics(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    """The metrics that ``Trainer`` returns, without its prefix and its set-up time."""
    plain = {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}
    plain.pop("model_preparation_time", None)
    return plain


def headline(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """EM and F1 for a table, under the names that 1.1 and 2.0 give them."""
    exact = metrics["exact_match"] if "exact_match" in metrics else metrics["exact"]
    return [("exact match", f"{exact:.2f}"), ("F1", f"{metrics['f1']:.2f}")]


def write_evaluation(folder: Path, metrics: dict[str, float], answers: Answers, examples: int, features: int) -> None:
    """``predictions.json``, ``nbest_predictions.json``, for 2.0 ``null_odds.json``, and ``eval_results.json`` last."""
    write_json(folder / "predictions.json", answers.predictions)
    write_json(folder / "nbest_predictions.json", answers.nbest)
    if answers.null_odds is not None:
        write_json(folder / "null_odds.json", answers.null_odds)
    write_json(folder / "eval_results.json", metrics | {"examples": examples, "features": features})
