"""Check which options of evaluate_qa.py and ask.py require or exclude each other."""

import os
import sys
from pathlib import Path

from qa.io import run_folder
from qa.io.files import STDIO, is_device, require_file
from qa.options.arguments import AskArguments, DataArguments, EvaluationArguments, ModelArguments
from qa.runtime.console import warn
from qa.runtime.errors import UserError


def check_evaluation_options(
    model_args: ModelArguments, eval_args: EvaluationArguments, output_dir: str | None
) -> None:
    """Raise UserError unless there is one thing to evaluate and a place for the results."""
    sources = [name for name in ("predictions", "logits") if getattr(eval_args, name)]
    if len(sources) == 2 or (not sources and not model_args.model_name_or_path):
        raise UserError("give one of --model_name_or_path, --predictions and --logits to evaluate")
    if eval_args.predictions and model_args.model_name_or_path:
        raise UserError("--predictions are scored without a model: leave out --model_name_or_path")
    if eval_args.null_odds and not eval_args.predictions:
        raise UserError("--null_odds requires --predictions: with a model or --logits they are computed")
    for place in filter(None, (output_dir, eval_args.save_logits)):
        run_folder.reject_in_checkpoint(place)
    if eval_args.save_best_threshold:
        folder = Path(model_args.model_name_or_path or "").expanduser()
        if not folder.is_dir():
            raise UserError("save_best_threshold needs --model_name_or_path FOLDER, the model to save it with")
        if run_folder.enclosing_checkpoint(folder):
            raise UserError(
                f"save_best_threshold: {folder} is a checkpoint, which is not changed so that its run can be resumed:"
                " give the finished model, or a copy of the checkpoint under another name"
            )
    if eval_args.save_logits:
        if sources:
            raise UserError("save_logits needs a model: without one there are no new logits to save")
        path = Path(eval_args.save_logits)
        if path.suffix != ".npz" or path.is_dir():
            raise UserError(f"save_logits {path}: must be the name of a file, with .npz at its end")
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            what = "is not writable" if path.parent.is_dir() else "is not a folder"
            raise UserError(f"save_logits {path}: {path.parent} {what}: give a file in another folder")
    if eval_args.compare is not None and not (Path(eval_args.compare) / run_folder.PREDICTIONS).is_file():
        raise UserError(
            f"compare {eval_args.compare!r}: must be the folder of another evaluation, with predictions.json"
        )
    if sources and output_dir is None:
        raise UserError(f"--{sources[0]} needs --output_dir, the folder for the results")


def default_evaluation_folder(model_args: ModelArguments) -> str | None:
    """Return where the results of a model go.

    Into its folder; for a checkpoint, which stays as it is, into that of its run; for a model on the Hub into the
    current folder.
    """
    name = model_args.model_name_or_path
    if name is None:
        return None
    if not Path(name).is_dir():
        return f"{name.replace('/', '--')}-evaluation"
    if checkpoint := run_folder.enclosing_checkpoint(Path(name)):
        return str(checkpoint.parent / run_folder.EVALUATION / checkpoint.name)
    return str(Path(name) / run_folder.EVALUATION)


def check_ask_options(model_args: ModelArguments, ask: AskArguments) -> None:
    """Raise UserError unless a model, a question and a text are given, and files can be read and written."""
    if not model_args.model_name_or_path:
        raise UserError("no model given: --model_name_or_path my_qa_model")
    if ask.input and ask.question:
        raise UserError("give either --question or --input")
    if ask.output and not ask.input:
        raise UserError("--output needs --input, the questions: a file, or - for standard input")
    if not ask.input and not ask.question and (not sys.stdin.isatty() or ask.context_file == STDIO):
        raise UserError('no question given: --question "...", or --input FILE for many (- for standard input)')
    if ask.input == ask.context_file == STDIO:
        raise UserError("--input - and --context_file - would both read standard input: give a file for one of them")
    both = ask.context is not None and ask.context_file is not None
    if both or (not ask.input and ask.context is None and ask.context_file is None):
        raise UserError("give the text with either --context or --context_file")
    for path in (ask.context_file, ask.input):
        if path and path != STDIO and not is_device(Path(path)):
            require_file(path)
    if ask.output and ask.output != STDIO:
        run_folder.reject_in_checkpoint(ask.output)
        output = Path(ask.output)
        if output.is_dir() or not output.parent.is_dir():
            raise UserError(f"output {ask.output}: must be a file in a folder that exists")
        if ask.input != STDIO and output.exists() and output.samefile(str(ask.input)):
            raise UserError("--output must not be the file of --input")


def warn_of_unused_threshold(given: float | None, ask: AskArguments, saved: DataArguments) -> None:
    """Warn if a ``null_score_diff_threshold`` was given to a model that answers every question.

    Args:
        saved: the settings of the model.
    """
    as_trained = ask.handle_impossible_answer is None
    if given is None or (saved.version_2_with_negative if as_trained else ask.handle_impossible_answer):
        return
    trained = "the model was not trained to abstain; --handle_impossible_answer true lets it"
    reason = trained if as_trained else "handle_impossible_answer is false"
    warn(f"note: null_score_diff_threshold has no effect: {reason}")
