"""One evaluation of a model: from candidates to answers to scores."""

from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from qa.data.windows import WindowArrays
from qa.evaluation.scores import Scores, gold_answers, score_predictions
from qa.inference.spans import Answers, Candidates, find_candidates, lowest_null, read_answers, search
from qa.options.arguments import DataArguments
from qa.runtime.errors import UserError

LOSSES_AT_ONCE = 2048  # windows; bounds the memory


def window_losses(start_logits: np.ndarray, end_logits: np.ndarray, windows: WindowArrays) -> np.ndarray:
    """Return (W,) the mean of the cross-entropies of start and end, over each window's own tokens."""
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
    """Return the candidates of perfect logits: 1 at the label, 0 elsewhere."""

    def best(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        others = np.arange(n_best_size - 1) + (np.arange(n_best_size - 1) >= labels[:, None])
        tokens = np.concatenate([labels[:, None], others], axis=1)
        tokens = np.where(tokens < windows.length[:, None], tokens, -1).astype(np.int32)
        return tokens, (tokens == labels[:, None]).astype(np.float32)

    (start, start_logit), (end, end_logit) = best(windows.start_positions), best(windows.end_positions)
    unlabelled = np.float32(~windows.labelled)
    return Candidates(start, end, start_logit, end_logit, np.stack([unlabelled, unlabelled], axis=1))


@dataclass(frozen=True)
class ScoredAnswers:
    """Answers of a model to E questions, with their scores."""

    answers: Answers
    scores: Scores  # of the predictions
    best: Scores | None  # SQuAD 2.0: of the best spans, whatever the null score; its totals contain the best thresholds

    @property
    def metrics(self) -> dict[str, float]:
        """The official totals; for SQuAD 2.0 also the scores at the best thresholds."""
        best = self.best.totals if self.best else {}
        return self.scores.totals | {name: value for name, value in best.items() if name.startswith("best_")}


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation; what follows ``null_odds`` is None for a file of predictions, without a model."""

    name: str  # what was evaluated
    examples: Dataset
    predictions: dict[str, str]
    scores: Scores  # of the predictions
    metrics: dict[str, float]
    has_unanswerable: bool  # scored as SQuAD 2.0
    null_odds: dict[str, float] | None = None
    threshold: float | None = None  # null_score_diff_threshold of the predictions
    answers: Answers | None = None
    windows: WindowArrays | None = None
    best: Scores | None = None  # SQuAD 2.0: of the best spans, whatever the null score
    ceiling: Scores | None = None  # of the answers of perfect logits


class Evaluator:
    """Score candidates for one set of examples and windows; keeps the scored answers of the last call."""

    def __init__(self, examples: Dataset, windows: WindowArrays, args: DataArguments):
        self.examples, self.ids, self.contexts = examples, list(examples["id"]), list(examples["context"])
        self.references = gold_answers(examples)
        self.windows, self.args = windows, args
        self.last: ScoredAnswers | None = None

    def answer(self, candidates: Candidates) -> Answers:
        """Return the answers from the candidates of every window, by n-best over all windows of each example."""
        args, count = self.args, len(self.ids)
        spans = search(candidates, self.windows, count, args.n_best_size, args.max_answer_length)
        nulls = None
        if args.version_2_with_negative:
            nulls = lowest_null(candidates.null, self.windows.example_index, count)
        return read_answers(spans, self.ids, self.contexts, nulls, args.n_best_size, args.null_score_diff_threshold)

    def ceiling(self) -> Scores:
        """Return the scores that perfect logits would reach with these windows and limits."""
        answers = self.answer(perfect_candidates(self.windows, self.args.n_best_size))
        return score_predictions(answers.predictions, self.references, bool(self.args.version_2_with_negative))

    def score(self, answers: Answers) -> ScoredAnswers:
        """Score the predictions, and for SQuAD 2.0 the best spans, from which the best thresholds follow."""
        has_unanswerable, best = answers.null_odds is not None, None
        if has_unanswerable:
            best = score_predictions(answers.best_texts, self.references, True, answers.null_odds)
        return ScoredAnswers(answers, score_predictions(answers.predictions, self.references, has_unanswerable), best)

    def __call__(self, candidates: Candidates, losses: np.ndarray) -> dict[str, float]:
        """Return the metrics of one pass over all windows, with its loss, the mean of ``losses`` (W,).

        Raises:
            UserError: a loss is not finite: the model has diverged.
        """
        if not np.isfinite(losses).all():
            raise UserError(
                "the model has diverged: its logits are not finite. Train again with a lower learning_rate, with"
                " warmup_steps: 0.1, or in fp32; earlier checkpoints are untouched"
            )
        self.last = self.score(self.answer(candidates))
        return self.last.metrics | {"loss": float(losses.astype(np.float64).mean())}

    def of_logits(self, start_logits: np.ndarray, end_logits: np.ndarray) -> dict[str, float]:
        """Return the same metrics from all logits (W, L), in the order of the windows."""
        candidates = find_candidates(start_logits, end_logits, self.windows, self.args.n_best_size)
        return self(candidates, window_losses(start_logits, end_logits, self.windows))

    def result(self, name: str, metrics: dict[str, float]) -> Evaluation:
        """Return the answers and scores of the last call, with the ceiling."""
        answers = self.last.answers
        return Evaluation(
            name=name,
            examples=self.examples,
            predictions=answers.predictions,
            scores=self.last.scores,
            metrics=metrics,
            has_unanswerable=answers.null_odds is not None,
            null_odds=answers.null_odds,
            threshold=self.args.null_score_diff_threshold,
            answers=answers,
            windows=self.windows,
            best=self.last.best,
            ceiling=self.ceiling(),
        )


def plain_metrics(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    """Return the metrics of ``Trainer`` without its prefix and its set-up time."""
    plain = {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}
    plain.pop("model_preparation_time", None)
    return plain
