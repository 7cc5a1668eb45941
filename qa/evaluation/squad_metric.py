"""The official SQuAD scores as a metric for ``evaluate.load``.

Examples:
    evaluate.load("qa/evaluation/squad_metric.py").compute(predictions=..., references=...)               # SQuAD 1.1
    evaluate.load("qa/evaluation/squad_metric.py", "squad_v2").compute(predictions=..., references=...)   # SQuAD 2.0

``evaluate.load`` needs the path only and no network: it copies what a relative import names, and this package need not
be installed. Nothing else here imports this file, as ``evaluate`` imports torch and all pipelines of transformers.
"""

import datasets
import evaluate

from .official_scores import score_v1, score_v2


class SquadMetric(evaluate.Metric):
    """``predictions``: dicts of ``id`` and ``prediction_text``; ``references``: dicts of ``id`` and ``answers``.

    ``evaluate`` requires as many predictions as references: a question without a prediction has the text None.
    For SQuAD 2.0 every prediction also has a ``no_answer_probability``, a number of any scale or None, and ``compute``
    takes the ``no_answer_threshold`` above which a question counts as unanswered.
    """

    def _info(self):
        string = datasets.Value("string")
        prediction = {"id": string, "prediction_text": string}
        if self.config_name == "squad_v2":
            prediction["no_answer_probability"] = datasets.Value("float64")
        answers = {"text": datasets.List(string), "answer_start": datasets.List(datasets.Value("int64"))}
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Rajpurkar et al., SQuAD (2016); Know What You Don't Know (2018)",
            inputs_description=SquadMetric.__doc__,
            features=datasets.Features({"predictions": prediction, "references": {"id": string, "answers": answers}}),
        )

    def _compute(self, predictions, references, no_answer_threshold=1.0):
        texts = {item["id"]: item["prediction_text"] for item in predictions if item["prediction_text"] is not None}
        if self.config_name != "squad_v2":
            return score_v1(texts, references)
        odds = {item["id"]: item["no_answer_probability"] for item in predictions}
        return score_v2(texts, references, None if None in odds.values() else odds, no_answer_threshold)
