"""Evaluate a checkpoint again, or score predictions or logits that exist already.

Examples:
    python evaluate_qa.py --model_name_or_path my_qa_model
    python evaluate_qa.py --validation_file dev.json --predictions predictions.json --output_dir scored
    python evaluate_qa.py --validation_file dev.json --logits logits.npz --tokenizer_name my_qa_model \\
        --max_answer_length 20 --output_dir scored

With a model, data and lengths are those saved with it unless given here.
"""

import dataclasses
import json
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import TrainingArguments

from qa.arguments import DataArguments, ModelArguments, TrainingOptions, option
from qa.data import load_splits
from qa.errors import UserError, run_command
from qa.evaluation import Evaluator, gold_answers, headline, official_scores, plain_metrics, write_evaluation
from qa.models import check_fit, load_config, load_model, load_tokenizer, position_limit, saved_settings
from qa.output import make_folder, table, write_json
from qa.parsing import parse_arguments
from qa.reading import read_text
from qa.trainer import QATrainer, fit_to_device
from qa.window_cache import load_windows
from qa.windows import WindowArrays, WindowSettings, check_lengths


@dataclass
class EvaluationArguments:
    """What to score, if not a model; and what to keep."""

    _argument_group_name = "evaluation"

    predictions: str | None = option(None, "Score this predictions file instead of a model: JSON, id to text.")
    logits: str | None = option(None, "Repeat post-processing of these logits instead of running a model (.npz).")
    save_logits: str | None = option(None, "Write the logits to this .npz file, for --logits later.")


def read_predictions(path: str, references: list[dict]) -> dict[str, str]:
    """A predictions file, id to text. Questions without a prediction are said, and scored as officially."""
    try:
        predictions = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
    if not isinstance(predictions, dict):
        raise UserError(f"{path}: must be an object that maps each question's id to its answer")
    for key, text in predictions.items():
        if not isinstance(text, str):
            raise UserError(f"{path}: the answer to {key} is not text")
    known = {reference["id"] for reference in references}
    missing = [key for key in known if key not in predictions]
    if len(missing) == len(known):
        raise UserError(f"{path}: has no answer to any of the {len(known):,} questions: other data?")
    if missing:
        print(f"warning: {len(missing):,} questions have no prediction, {min(missing)} among them", file=sys.stderr)
    if unknown := len(predictions.keys() - known):
        print(f"warning: {unknown:,} predictions are for questions that the data does not have", file=sys.stderr)
    return predictions


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
    model_args: ModelArguments, args: TrainingArguments, windows: Dataset, tokenizer, evaluator: Evaluator
) -> tuple[dict, tuple[np.ndarray, np.ndarray]]:
    """One forward pass over all windows: metrics and logits (W, L), in the windows' order."""
    config = load_config(model_args)
    check_fit(tokenizer, config)
    check_lengths(WindowSettings.of(evaluator.args), tokenizer, position_limit(config))
    trainer = QATrainer(
        model=load_model(model_args, config, training=False),
        args=args,
        eval_dataset=windows,
        processing_class=tokenizer,
        evaluator=evaluator,
        pad_to=evaluator.args.max_seq_length if evaluator.args.pad_to_max_length else None,
    )
    output = trainer.predict(windows, metric_key_prefix="eval")
    return plain_metrics(output.metrics, "eval"), trainer.in_order(output.predictions)


def check_sources(model_args: ModelArguments, args: TrainingArguments, own: EvaluationArguments) -> None:
    """Raises UserError unless there is one thing to evaluate and a folder for the results."""
    sources = [name for name in ("predictions", "logits") if getattr(own, name)]
    if len(sources) == 2 or (not sources and not model_args.model_name_or_path):
        raise UserError("say what to evaluate, one of --model_name_or_path, --predictions and --logits")
    if own.predictions and model_args.model_name_or_path:
        raise UserError("--predictions are scored without a model: leave out --model_name_or_path")
    if own.save_logits:
        if sources:
            raise UserError("save_logits goes with a model: there are no new logits to save")
        if not own.save_logits.endswith(".npz") or not Path(own.save_logits).parent.is_dir():
            raise UserError(f"save_logits {own.save_logits}: must be an .npz file in a folder that exists")
    if args.output_dir == TrainingArguments(None).output_dir:
        if sources:
            raise UserError(f"--{sources[0]} needs --output_dir, the folder for the results")
        name = model_args.model_name_or_path
        local = Path(name).is_dir()
        args.output_dir = str(Path(name) / "evaluation") if local else f"{name.replace('/', '--')}-evaluation"


def main() -> None:
    kinds = ModelArguments, DataArguments, TrainingOptions, EvaluationArguments
    model_args, _, args, own = parse_arguments(kinds, description=__doc__)
    check_sources(model_args, args, own)  # the command line's own mistakes first, then the model's settings
    saved = saved_settings(model_args)
    model_args, data_args, args, own = parse_arguments(kinds, saved=saved)
    check_sources(model_args, args, own)

    split = load_splits(data_args, ("validation",), args.seed, model_args.cache_dir).get("validation")
    if split is None:
        raise UserError("no validation questions: give --validation_file, or a --dataset_name that has that split")
    if own.predictions:
        references = gold_answers(split.examples)
        predictions = read_predictions(own.predictions, references)
        metrics = official_scores(predictions, references, bool(data_args.version_2_with_negative))
        write_json(make_folder(args.output_dir) / "eval_results.json", metrics | {"examples": len(split.examples)})
        print(table([*headline(metrics), ("questions", f"{len(split.examples):,}")]))
        return

    tokenizer = load_tokenizer(model_args)
    check_lengths(WindowSettings.of(data_args), tokenizer, None)
    windows = load_windows(split.examples, tokenizer, data_args, model_args.cache_dir, "validation")
    evaluator = Evaluator(split.examples, WindowArrays.of(windows), data_args)
    output = make_folder(args.output_dir)
    if own.logits:
        metrics = evaluator(*read_logits(own.logits, evaluator.windows))
    else:
        plain = dataclasses.replace(
            fit_to_device(args), report_to="none", eval_strategy="no", load_best_model_at_end=False, push_to_hub=False
        )
        metrics, logits = run_model(model_args, plain, windows, tokenizer, evaluator)
        if own.save_logits:
            np.savez(own.save_logits, start=logits[0].astype(np.float32), end=logits[1].astype(np.float32))
    write_evaluation(output, metrics, evaluator.last, len(split.examples), len(windows))
    rows = [*headline(metrics), ("loss", f"{metrics['loss']:.4f}"), ("questions", f"{len(split.examples):,}")]
    print(table([*rows, ("windows", f"{len(windows):,}"), ("results", str(output))]))


if __name__ == "__main__":
    run_command(main)
