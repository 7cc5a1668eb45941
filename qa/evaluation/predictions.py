"""Evaluate a file of predictions, without a model."""

from qa.data.examples import Split
from qa.evaluation.evaluator import Evaluation, Provenance
from qa.evaluation.inputs import describe_data, read_null_odds, read_predictions
from qa.evaluation.scores import gold_answers, score_predictions
from qa.options.arguments import DataArguments
from qa.runtime.errors import UserError


def evaluate_predictions(
    data_args: DataArguments, split: Split, has_unanswerable: bool, path: str, odds_path: str | None
) -> Evaluation:
    """Score a file of predictions; with null odds (SQuAD 2.0) also at the best thresholds."""
    if odds_path and not has_unanswerable:
        raise UserError("null_odds are for SQuAD 2.0: all these questions have an answer")
    references = gold_answers(split.examples)
    predictions = read_predictions(path, references)
    odds = read_null_odds(odds_path, references) if odds_path else None
    scores = score_predictions(predictions, references, has_unanswerable, odds)
    return Evaluation(
        provenance=Provenance(data=describe_data(split, data_args), predictions=path),
        examples=split.examples,
        predictions=predictions,
        scores=scores,
        metrics=scores.totals,
        has_unanswerable=has_unanswerable,
        null_odds=odds,
        best=scores if odds else None,
    )
