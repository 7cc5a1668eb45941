"""Evaluate a checkpoint again, or score predictions or logits that exist already.

Examples:
    python evaluate_qa.py --model_name_or_path my_qa_model
    python evaluate_qa.py --validation_file dev.json --predictions predictions.json --output_dir scored
    python evaluate_qa.py --validation_file dev.json --logits logits.npz --tokenizer_name my_qa_model \\
        --max_answer_length 20 --output_dir scored

With a model, data and lengths are those saved with it unless given here.
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load ends it without a traceback


import dataclasses
import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import TrainingArguments

from qa.data.formats import read_text_file, require_file
from qa.data.splits import Split, load_splits
from qa.data.window_cache import load_windows
from qa.data.windows import WindowArrays, WindowSettings, check_lengths
from qa.evaluation.evaluator import (
    Evaluation,
    Evaluator,
    count_rows,
    detect_collapse,
    gold_answers,
    official_scores,
    plain_metrics,
    score_rows,
    write_evaluation,
)
from qa.evaluation.report import compare_with, differences, write_report
from qa.inference.spans import LARGEST
from qa.io import run_folder
from qa.io.files import make_folder, write_json, write_yaml
from qa.io.run_folder import SETTINGS
from qa.model.device import fit_to_device
from qa.model.loading import check_fit, load_config, load_model, load_tokenizer, position_limit
from qa.options.arguments import DataArguments, EvaluationArguments, ModelArguments, TrainingOptions
from qa.options.parser import parse_arguments
from qa.options.saved import read_settings, saved_settings
from qa.runtime.console import table, warn
from qa.runtime.distributed import init_distributed
from qa.runtime.errors import UserError
from qa.runtime.process import run_command
from qa.training.trainer import QATrainer


def read_by_id(path: str, references: list[dict], kinds: tuple[type, ...], what: str) -> dict:
    """A JSON object with a value for every question's id, all of one of ``kinds``."""
    try:
        values = json.loads(read_text_file(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: must be an object that maps each question's id to its {what}")
    for key, value in values.items():
        if not isinstance(value, kinds) or isinstance(value, bool) or (kinds != (str,) and not abs(value) < LARGEST):
            kind = "text" if str in kinds else "a finite number"
            raise UserError(f"{path}: the {what} of {key} is not {kind}: {json.dumps(value)[:40]}")
    known = {reference["id"] for reference in references}
    if not known & values.keys():
        raise UserError(f"{path}: has the {what} of none of the {len(known):,} questions: other data?")
    return values


def read_predictions(path: str, references: list[dict]) -> dict[str, str]:
    """A predictions file, id to text. Questions without a prediction are said, and scored as officially."""
    require_file(path)
    predictions = read_by_id(path, references, (str,), "answer")
    known = {reference["id"] for reference in references}
    if missing := known - predictions.keys():
        warn(f"warning: {path}: {len(missing):,} questions have no prediction, {min(missing)} among them")
    if unknown := len(predictions.keys() - known):
        warn(f"warning: {path}: {unknown:,} predictions are for questions that the data does not have")
    return predictions


def read_null_odds(path: str, references: list[dict]) -> dict[str, float]:
    """The odds of no answer for every question, id to number, of any scale."""
    require_file(path)
    odds = read_by_id(path, references, (float, int), "null odds")
    if missing := [item["id"] for item in references if item["id"] not in odds]:
        raise UserError(f"{path}: {len(missing):,} questions have no null odds, {missing[0]} among them")
    return odds


def read_logits(path: str, windows: WindowArrays) -> tuple[np.ndarray, np.ndarray]:
    """Start and end logits (W, L), checked against the windows they should belong to."""
    try:
        with np.load(path, allow_pickle=False) as file:
            start, end = file["start"], file["end"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except KeyError:
        raise UserError(f"{path}: must hold two arrays, `start` and `end`") from None
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile):
        raise UserError(f"{path}: not an .npz file of numbers") from None
    width = int(windows.length.max())
    for name, array in (("start", start), ("end", end)):
        if array.ndim != 2 or array.shape[0] != len(windows) or array.shape[1] < width or array.dtype.kind != "f":
            raise UserError(
                f"{path}: `{name}` is {array.dtype} of shape {array.shape}; these data, tokenizer and lengths make"
                f" {len(windows)} windows of up to {width} tokens"
            )
        if not np.isfinite(array[np.arange(array.shape[1]) < windows.length[:, None]]).all():
            raise UserError(f"{path}: `{name}` holds NaN or infinity: the model that wrote it has diverged")
    return start.astype(np.float32, copy=False), end.astype(np.float32, copy=False)


def run_model(
    model_args: ModelArguments,
    args: TrainingArguments,
    windows: Dataset,
    tokenizer,
    evaluator: Evaluator,
    path: str | None,
) -> dict:
    """One forward pass over all windows. With ``path`` the logits are kept, in the windows' order."""
    config = load_config(model_args)
    check_fit(tokenizer, config)
    check_lengths(WindowSettings.from_args(evaluator.args), tokenizer, position_limit(config))
    plain = dataclasses.replace(
        fit_to_device(args), report_to="none", eval_strategy="no", load_best_model_at_end=False, push_to_hub=False
    )
    trainer = QATrainer(
        model=load_model(model_args, config, training=False),
        args=plain,
        eval_dataset=windows,
        processing_class=tokenizer,
        evaluator=evaluator,
        pad_to=evaluator.args.max_seq_length if evaluator.args.pad_to_max_length else None,
    )
    trainer.keep_logits = bool(path)
    output = trainer.predict(windows, metric_key_prefix="eval")
    if not trainer.is_world_process_zero():
        sys.exit()  # the main process has all answers, and writes them
    if path:
        start, end = trainer.in_order(output.predictions[6:])
        np.savez(path, start=start, end=end)
    return plain_metrics(output.metrics, "eval")


def check_sources(model_args: ModelArguments, args: TrainingArguments, eval_args: EvaluationArguments) -> None:
    """Raises UserError unless there is one thing to evaluate and a folder for the results."""
    sources = [name for name in ("predictions", "logits") if getattr(eval_args, name)]
    if len(sources) == 2 or (not sources and not model_args.model_name_or_path):
        raise UserError("say what to evaluate, one of --model_name_or_path, --predictions and --logits")
    if eval_args.predictions and model_args.model_name_or_path:
        raise UserError("--predictions are scored without a model: leave out --model_name_or_path")
    if eval_args.null_odds and not eval_args.predictions:
        raise UserError("--null_odds goes with --predictions: a model and its logits give their own")
    if eval_args.save_best_threshold and not Path(model_args.model_name_or_path or "").is_dir():
        raise UserError("save_best_threshold needs --model_name_or_path FOLDER, the model to keep it with")
    if eval_args.save_logits:
        if sources:
            raise UserError("save_logits goes with a model: there are no new logits to save")
        path = Path(eval_args.save_logits)
        if path.suffix != ".npz" or path.is_dir() or not os.access(path.parent, os.W_OK):
            raise UserError(
                f"save_logits {eval_args.save_logits}: must be an .npz file in a folder that can be written"
            )
    if eval_args.compare is not None and not (Path(eval_args.compare) / run_folder.PREDICTIONS).is_file():
        raise UserError(
            f"compare {eval_args.compare!r}: must be the folder of another evaluation, with predictions.json"
        )
    if args.output_dir == TrainingArguments(None).output_dir:
        if sources:
            raise UserError(f"--{sources[0]} needs --output_dir, the folder for the results")
        name = model_args.model_name_or_path
        local = Path(name).is_dir()
        args.output_dir = str(Path(name) / run_folder.EVALUATION) if local else f"{name.replace('/', '--')}-evaluation"


def say_mismatch(saved: str | None, has_unanswerable: bool, split: Split) -> None:
    """Says where the data has unanswerable questions and the model's training had none, or the reverse."""
    trained = read_settings(saved).get("version_2_with_negative")
    if trained is False and split.unanswerable:
        warn(
            f"warning: {split.unanswerable:,} of these {len(split.examples):,} questions have no answer (SQuAD 2.0);"
            " this model was trained on questions that all have one (SQuAD 1.1), and has not learned to say so"
        )
    elif trained and not has_unanswerable:
        warn(
            "note: this model was trained to leave questions unanswered (SQuAD 2.0); these all have an answer, so it is"
            " scored as SQuAD 1.1 and always answers"
        )


def save_threshold(folder: str, metrics: dict[str, float]) -> None:
    """Keeps the best threshold in the model's settings, where ``ask.py`` and the next evaluation find it."""
    if metrics["best_f1"] <= 100.0 * metrics.get("NoAns_total", 0) / metrics["total"]:
        raise UserError("no threshold on these questions beats answering nothing: none is kept with the model")
    threshold = metrics["best_f1_thresh"]
    path = Path(folder) / SETTINGS
    settings = read_settings(str(path) if path.is_file() else None)
    write_yaml(path, settings | {"version_2_with_negative": True, "null_score_diff_threshold": threshold})
    print(f"null_score_diff_threshold {threshold:.4f} is kept in {path}")


def score_predictions(eval_args: EvaluationArguments, split: Split, has_unanswerable: bool) -> Evaluation:
    """Scores a file of predictions, and the thresholds on its null odds if there are any."""
    if eval_args.null_odds and not has_unanswerable:
        raise UserError("null_odds are for SQuAD 2.0: all these questions have an answer")
    references = gold_answers(split.examples)
    predictions = read_predictions(eval_args.predictions, references)
    odds = read_null_odds(eval_args.null_odds, references) if eval_args.null_odds else None
    metrics = official_scores(predictions, references, has_unanswerable, odds)
    return Evaluation(Path(eval_args.predictions).name, split.examples, predictions, metrics, has_unanswerable, odds)


def score_model(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: TrainingArguments,
    eval_args: EvaluationArguments,
    split: Split,
) -> Evaluation:
    """Runs a model, or takes its logits from a file, and scores the answers."""
    tokenizer = load_tokenizer(model_args)
    check_lengths(WindowSettings.from_args(data_args), tokenizer, None)
    windows = load_windows(split.examples, tokenizer, data_args, model_args.cache_dir, "validation")
    evaluator = Evaluator(split.examples, WindowArrays.from_dataset(windows), data_args)
    if eval_args.logits:
        metrics = evaluator.of_logits(*read_logits(eval_args.logits, evaluator.windows))
    else:
        metrics = run_model(model_args, args, windows, tokenizer, evaluator, eval_args.save_logits)
    name = eval_args.logits or model_args.model_name_or_path
    return evaluator.result(Path(name).resolve().name if Path(name).exists() else name, metrics)


def main() -> None:
    init_distributed()
    kinds = ModelArguments, DataArguments, TrainingOptions, EvaluationArguments
    model_args, _, args, eval_args = parse_arguments(kinds, description=__doc__)
    check_sources(model_args, args, eval_args)  # the command line's own mistakes first, then the model's settings
    saved = saved_settings(model_args)
    model_args, data_args, args, eval_args = parse_arguments(kinds, saved=saved)
    check_sources(model_args, args, eval_args)
    if model_args.model_name_or_path:
        load_config(model_args)  # a name that is wrong is said before anything else

    split = load_splits(data_args, ("validation",), args.seed, model_args.cache_dir).get("validation")
    if split is None:
        raise UserError("no validation questions: give --validation_file, or a --dataset_name that has that split")
    has_unanswerable = bool(data_args.version_2_with_negative)
    if eval_args.save_best_threshold and not has_unanswerable:
        raise UserError("save_best_threshold is for SQuAD 2.0: all these questions have an answer")
    say_mismatch(saved, has_unanswerable, split)
    others = (
        read_predictions(str(Path(eval_args.compare) / run_folder.PREDICTIONS), gold_answers(split.examples))
        if eval_args.compare
        else None
    )
    output = make_folder(args.output_dir)
    if eval_args.predictions:
        evaluation = score_predictions(eval_args, split, has_unanswerable)
    else:
        evaluation = score_model(model_args, data_args, args, eval_args, split)

    comparison = compare_with(evaluation, Path(eval_args.compare).resolve().name, others) if others else None
    write_evaluation(output, evaluation)
    if comparison:
        write_json(output / run_folder.COMPARISON, comparison)
    report = write_report(output, evaluation, comparison, others)
    changes = differences(comparison) if comparison else []
    print(table([*score_rows(evaluation.metrics), *changes, *count_rows(evaluation), ("report", str(report))]))
    if warning := detect_collapse(evaluation):
        warn(f"warning: {warning}")
    if eval_args.save_best_threshold:
        save_threshold(model_args.model_name_or_path, evaluation.metrics)


if __name__ == "__main__":
    run_command(main)
