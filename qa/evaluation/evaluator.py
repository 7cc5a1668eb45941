"""One evaluation of a model: from candidates to answers to scores."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from qa.data.windows import WindowArrays
from qa.evaluation.scores import Scores, gold_answers, score_predictions
from qa.inference.nbest import Answers, read_answers
from qa.inference.spans import Candidates, find_candidates, lowest_null, search
from qa.model.loss import masked_loss
from qa.options.arguments import DataArguments
from qa.runtime.errors import UserError

LOSSES_AT_ONCE = 2048  # windows; bounds the memory


def window_losses(start_logits: np.ndarray, end_logits: np.ndarray, windows: WindowArrays) -> np.ndarray:
    """Return the (W,) losses, float32, of all logits (W, L), by the loss of training."""
    losses = [np.zeros(0, dtype=np.float32)]
    for begin in range(0, len(windows), LOSSES_AT_ONCE):
        rows = slice(begin, begin + LOSSES_AT_ONCE)
        length = windows.length[rows]
        real = torch.from_numpy(np.arange(int(length.max())) < length[:, None])
        start, end = (torch.from_numpy(logits[rows, : real.shape[1]]) for logits in (start_logits, end_logits))
        first, last = (
            torch.from_numpy(each[rows].astype(np.int64)) for each in (windows.start_positions, windows.end_positions)
        )
        outputs = QuestionAnsweringModelOutput(start_logits=start, end_logits=end)
        losses.append(masked_loss(outputs, real, first, last, reduction="none").numpy())
    return np.concatenate(losses)


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
    loss: float  # mean over all windows

    @property
    def metrics(self) -> dict[str, float]:
        """The official totals, for SQuAD 2.0 also the scores at the best thresholds, and the loss."""
        best = (
            {name: value for name, value in self.best.totals.items() if name.startswith("best_")} if self.best else {}
        )
        return self.scores.totals | best | {"loss": self.loss}


@dataclass(frozen=True)
class Provenance:
    """Which files, folders and names an evaluation is of, and in which precision; empty where there is none."""

    data: str = ""
    model: str = ""
    logits: str = ""
    predictions: str = ""
    precision: str = ""

    @property
    def name(self) -> str:
        """What was evaluated: a name on the Hub, or the last part of a path."""
        found = self.predictions or self.logits or self.model
        return Path(found).resolve().name if Path(found).exists() else found


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation; what follows ``null_odds`` is None for a file of predictions, without a model."""

    provenance: Provenance
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


@dataclass(frozen=True)
class Evaluator:
    """Score candidates for one set of examples and windows; holds no results."""

    examples: Dataset
    windows: WindowArrays
    args: DataArguments
    has_unanswerable: bool  # whether questions may have no answer, as in SQuAD 2.0

    @cached_property
    def ids(self) -> list[str]:
        return list(self.examples["id"])

    @cached_property
    def contexts(self) -> list[str]:
        return list(self.examples["context"])

    @cached_property
    def references(self) -> list[dict]:
        return gold_answers(self.examples)

    def answer(self, candidates: Candidates) -> Answers:
        """Return the answers from the candidates of every window, by n-best over all windows of each example."""
        args, count = self.args, len(self.ids)
        spans = search(candidates, self.windows, count, args.n_best_size, args.max_answer_length)
        nulls = None
        if self.has_unanswerable:
            nulls = lowest_null(candidates.null, self.windows.example_index, count)
        return read_answers(spans, self.ids, self.contexts, nulls, args.n_best_size, args.null_score_diff_threshold)

    def ceiling(self) -> Scores:
        """Return the scores that perfect logits would reach with these windows and limits."""
        answers = self.answer(perfect_candidates(self.windows, self.args.n_best_size))
        return score_predictions(answers.predictions, self.references, self.has_unanswerable)

    def __call__(self, candidates: Candidates, losses: np.ndarray) -> ScoredAnswers:
        """Answer and score all examples: the predictions, and for SQuAD 2.0 the best spans for the best thresholds.

        Args:
            candidates: of all windows, in their order. losses: (W,) of the windows.

        Raises:
            UserError: a loss is not finite: the model has diverged.
        """
        if not np.isfinite(losses).all():
            raise UserError(
                "the model has diverged: its logits are not finite. Train again with a lower learning_rate, with"
                " warmup_steps: 0.1, or in fp32; earlier checkpoints are untouched"
            )
        answers, best = self.answer(candidates), None
        has_unanswerable = answers.null_odds is not None
        if has_unanswerable:
            best = score_predictions(answers.best_texts, self.references, True, answers.null_odds)
        scores = score_predictions(answers.predictions, self.references, has_unanswerable)
        return ScoredAnswers(answers, scores, best, float(losses.astype(np.float64).mean()))

    def of_logits(self, start_logits: np.ndarray, end_logits: np.ndarray) -> ScoredAnswers:
        """Answer and score all examples from all logits (W, L), in the order of the windows."""
        candidates = find_candidates(start_logits, end_logits, self.windows, self.args.n_best_size)
        return self(candidates, window_losses(start_logits, end_logits, self.windows))

    def result(self, provenance: Provenance, scored: ScoredAnswers, metrics: dict[str, float]) -> Evaluation:
        """Return what the reports need: the scored answers with their examples and windows, and the ceiling.

        Args:
            metrics: those of ``scored``, and for a model also runtime and speed.
        """
        answers = scored.answers
        return Evaluation(
            provenance=provenance,
            examples=self.examples,
            predictions=answers.predictions,
            scores=scored.scores,
            metrics=metrics,
            has_unanswerable=answers.null_odds is not None,
            null_odds=answers.null_odds,
            threshold=self.args.null_score_diff_threshold,
            answers=answers,
            windows=self.windows,
            best=scored.best,
            ceiling=self.ceiling(),
        )


def plain_metrics(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    """Return the metrics of ``Trainer`` without its prefix and its set-up time."""
    plain = {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}
    plain.pop("model_preparation_time", None)
    return plain
