"""Evaluate a model, or score saved predictions or logits: what evaluate_qa.py does."""

from pathlib import Path

from qa.data.splits import has_unanswerable
from qa.evaluation.collapse import detect_collapse
from qa.evaluation.evaluator import Evaluation
from qa.evaluation.inputs import (
    check_saved_file,
    load_validation,
    read_other_scores,
    warn_of_other_task,
    warn_of_replaced_answers,
)
from qa.evaluation.predictions import evaluate_predictions
from qa.evaluation.report import compare_with, difference_rows, write_report
from qa.evaluation.results import count_rows, save_best_threshold, score_rows, write_evaluation
from qa.evaluation.scores import Scores
from qa.io.files import check_writable, make_folder, write_json
from qa.io.run_folder import COMPARISON, name_evaluation
from qa.model.device import uses_tf32
from qa.options.arguments import DataArguments, EvaluationArguments, ModelArguments
from qa.options.combinations import check_evaluation_options, default_evaluation_folder
from qa.options.parser import read_options
from qa.options.saved import read_settings, saved_settings
from qa.options.training_arguments import TrainingOptions
from qa.runtime.console import table, warn
from qa.runtime.device_settings import SHARE_WINDOWS, cap_gpu_memory, configure_device, use_freest_gpu
from qa.runtime.errors import UserError
from qa.runtime.gpus import warn_of_unused_gpu
from qa.runtime.process import configure_process


def evaluate(argv: list[str], description: str) -> None:
    """Score what a command line names, write the results and a report, and print them."""
    configure_process()
    kinds = ModelArguments, DataArguments, TrainingOptions, EvaluationArguments
    given = read_options(kinds, argv, description=description)
    if not any(given.value(name) for name in ("use_cpu", "predictions", "logits")):
        use_freest_gpu(SHARE_WINDOWS)
    model_args, _, _, eval_args = given.build()
    check_evaluation_options(model_args, eval_args, given.value("output_dir"))  # before errors of saved settings
    saved = saved_settings(model_args)
    given = given.over(saved, output_dir=default_evaluation_folder(model_args))
    model_args, data_args, args, eval_args = given.build()
    configure_device(args.device, uses_tf32(args))
    cap_gpu_memory(args.device)
    if not (args.use_cpu or eval_args.predictions or eval_args.logits):
        warn_of_unused_gpu("--use_cpu true")
    check_writable(output_dir=args.output_dir, cache_dir=model_args.cache_dir)
    tokenizer = None
    if not eval_args.predictions:
        from qa.training.evaluate import check_model, evaluate_model  # and with it the Trainer, which takes seconds

        tokenizer = check_model(model_args, args, eval_args)

    settings = read_settings(saved)
    check_saved_file(settings, data_args.validation_file)
    split = load_validation(data_args, args.seed, model_args.cache_dir)
    unanswerable = has_unanswerable(data_args, [split])
    if eval_args.save_best_threshold and not unanswerable:
        raise UserError("save_best_threshold is for SQuAD 2.0: all these questions have an answer")
    warn_of_other_task(settings, unanswerable, split)
    other = read_other_scores(eval_args.compare, split, unanswerable) if eval_args.compare else None
    output = make_folder(args.output_dir)
    warn_of_replaced_answers(output, split)
    if tokenizer is None:
        files = eval_args.predictions, eval_args.null_odds
        evaluation = evaluate_predictions(data_args, split, unanswerable, *files)
    else:
        files = eval_args.logits, eval_args.save_logits
        evaluation = evaluate_model(model_args, data_args, args, tokenizer, split, unanswerable, *files)

    write_and_print(output, evaluation, eval_args.compare, other)
    if eval_args.save_best_threshold:
        save_best_threshold(model_args.model_name_or_path, evaluation.metrics)


def write_and_print(output: Path, evaluation: Evaluation, compared: str | None, other: Scores | None) -> None:
    """Write an evaluation with its report, print the scores, and warn of a model that has collapsed.

    Args:
        compared: the folder of another evaluation. other: its scores.
    """
    comparison = compare_with(evaluation, name_evaluation(Path(compared)), other) if compared and other else None
    write_evaluation(output, evaluation)
    if comparison:
        write_json(output / COMPARISON, comparison)
    report = write_report(output, evaluation, comparison, other)
    changes = difference_rows(comparison) if comparison else []
    print(table([*score_rows(evaluation.metrics), *changes, *count_rows(evaluation), ("report", report)]))
    if warning := detect_collapse(evaluation):
        warn(f"warning: {warning}")
