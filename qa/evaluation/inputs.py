"""Inputs of an evaluation: questions, and predictions, null odds or logits, checked against the questions."""

import json
import zipfile
from pathlib import Path

import numpy as np

from qa.data.examples import Split
from qa.data.formats import read_text_file
from qa.data.splits import load_splits, no_split
from qa.data.windows import WindowArrays
from qa.evaluation.scores import Scores, gold_answers, score_predictions
from qa.inference.spans import LARGEST
from qa.io.files import require_file
from qa.io.run_folder import PREDICTIONS
from qa.options.arguments import DataArguments
from qa.runtime.console import count, warn
from qa.runtime.errors import UserError


def load_validation(args: DataArguments, seed: int, cache_dir: str | None) -> Split:
    """Return the questions to evaluate on."""
    split = load_splits(args, ("validation",), seed, cache_dir).get("validation")
    if split is None:
        raise no_split(args, "validation")
    return split


def check_saved_file(settings: dict, validation_file: str | None) -> None:
    """Raise UserError if the file to evaluate on is the one in a model's saved settings, and is missing here."""
    if validation_file and validation_file == settings.get("validation_file") and not Path(validation_file).is_file():
        raise UserError(
            f"{validation_file}, the validation file in the model's settings, is not here: give --validation_file"
        )


def warn_of_replaced_answers(output: Path, split: Split) -> None:
    """Warn if a folder has the answers to other questions, which this evaluation replaces."""
    try:
        known = json.loads((output / PREDICTIONS).read_text(encoding="utf-8")).keys()
    except (OSError, ValueError, AttributeError):
        return
    if known and known != set(split.examples["id"]):
        warn(
            f"note: {output} has the results for other questions, which this evaluation replaces; --output_dir with"
            " another folder keeps both"
        )


def describe_data(split: Split, args: DataArguments) -> str:
    """Return which questions these are, for the report: files or datasets, and which part of them."""
    names = ", ".join(source.name for source in split.sources)
    share = args.validation_split_percentage
    return f"{share} % of {names}, held out by seed" if share else names


def read_by_id(path: str, references: list[dict], kinds: tuple[type, ...], what: str) -> dict:
    """Read a JSON object from question ids to values of ``kinds``; ``what`` names a value in errors."""
    try:
        values = json.loads(read_text_file(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: must be a JSON object that maps each question's id to its {what}")
    for key, value in values.items():
        infinite = isinstance(value, (int, float)) and not abs(value) < LARGEST
        if not isinstance(value, kinds) or isinstance(value, bool) or infinite:
            kind = "text" if str in kinds else "a finite number"
            raise UserError(f"{path}: the {what} of {key} is not {kind}: {json.dumps(value)[:40]}")
    known = {reference["id"] for reference in references}
    if not known & values.keys():
        raise UserError(f"{path}: has no {what} for any of the {count(len(known), 'question')}; is it for other data?")
    return values


def read_predictions(path: str, references: list[dict]) -> dict[str, str]:
    """Read a predictions file, id to text; warn of ids that are missing or unknown."""
    require_file(path)
    predictions = read_by_id(path, references, (str,), "answer")
    known = {reference["id"] for reference in references}
    if missing := known - predictions.keys():
        warn(f"warning: {path}: {count(len(missing), 'question')} without a prediction, for example {min(missing)}")
    if unknown := len(predictions.keys() - known):
        warn(f"warning: {path}: {count(unknown, 'prediction')} for questions that are not in the data")
    return predictions


def read_other_scores(folder: str, split: Split, has_unanswerable: bool) -> Scores:
    """Return the scores of the predictions in the folder of another evaluation."""
    references = gold_answers(split.examples)
    predictions = read_predictions(str(Path(folder) / PREDICTIONS), references)
    return score_predictions(predictions, references, has_unanswerable)


def read_null_odds(path: str, references: list[dict]) -> dict[str, float]:
    """Read the null odds of every question, id to number, on any scale."""
    require_file(path)
    odds = read_by_id(path, references, (float, int), "null odds")
    if missing := [item["id"] for item in references if item["id"] not in odds]:
        raise UserError(f"{path}: {count(len(missing), 'question')} without null odds, for example {missing[0]}")
    return odds


def read_logits(path: str, windows: WindowArrays) -> tuple[np.ndarray, np.ndarray]:
    """Read start and end logits (W, L), and check that they fit the windows."""
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
                f"{path}: `{name}` is {array.dtype} of shape {array.shape}; the data, tokenizer and lengths make"
                f" {count(len(windows), 'window')} of up to {width} tokens"
            )
        if not np.isfinite(array[np.arange(array.shape[1]) < windows.length[:, None]]).all():
            raise UserError(f"{path}: `{name}` holds NaN or infinity: the model that wrote it has diverged")
    return start.astype(np.float32, copy=False), end.astype(np.float32, copy=False)


def warn_of_other_task(settings: dict, has_unanswerable: bool, split: Split) -> None:
    """Warn if only the data or only the model's training, according to its settings, has unanswerable questions."""
    trained = settings.get("version_2_with_negative")
    if trained is False and split.unanswerable:
        warn(
            f"warning: {split.unanswerable:,} of these {count(len(split.examples), 'question')} have no answer"
            " (SQuAD 2.0); this model was trained on SQuAD 1.1, where all have one, and answers every question"
        )
    elif trained and not has_unanswerable:
        warn(
            "note: this model was trained on SQuAD 2.0 and may leave questions unanswered; these all have an answer, so"
            " it is scored as SQuAD 1.1 and always answers"
        )
