"""Evaluate a model, or logits saved from one: what evaluate_qa.py runs, unless it scores predictions."""

import sys
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from qa.data.examples import Split
from qa.data.window_cache import load_windows
from qa.data.windows import WindowArrays, WindowSettings, check_lengths
from qa.evaluation.evaluator import Evaluation, Evaluator, Provenance, ScoredAnswers
from qa.evaluation.inputs import describe_data, read_logits
from qa.io.files import replacing
from qa.model.device import device_precision
from qa.model.device_errors import device_errors_in_one_line
from qa.model.loading import load_config, position_limit
from qa.model.tokenizer import NULL_ANSWERS_ADVICE, check_fit, check_null_answers, load_tokenizer
from qa.model.weight_files import check_weight_files
from qa.model.weights import load_model
from qa.options.arguments import DataArguments, EvaluationArguments, ModelArguments
from qa.options.training_arguments import TrainingOptions
from qa.runtime.distributed import on_main_process
from qa.training.preflight import check_attention
from qa.training.resolved import ResolvedRun, trainer_arguments
from qa.training.trainer import QATrainer


def check_model(
    model_args: ModelArguments, args: TrainingOptions, eval_args: EvaluationArguments
) -> PreTrainedTokenizerFast:
    """Check the model before data are read, and return its tokenizer."""
    tokenizer = load_tokenizer(model_args)
    if model_args.model_name_or_path:
        check_attention(args, load_config(model_args))
        if not eval_args.logits:
            check_weight_files(model_args)
    return tokenizer


def evaluate_model(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: TrainingOptions,
    tokenizer: PreTrainedTokenizerFast,
    split: Split,
    has_unanswerable: bool,
    logits: str | None,
    save_logits: str | None,
) -> Evaluation:
    """Answer the questions with a model, or from the file ``logits`` of an earlier run, and score the answers."""
    if has_unanswerable:
        check_null_answers(tokenizer, NULL_ANSWERS_ADVICE)
    check_lengths(WindowSettings.from_args(data_args), tokenizer, None)
    windows = load_windows(split.examples, tokenizer, data_args, model_args.cache_dir, "validation")
    evaluator = Evaluator(split.examples, WindowArrays.from_dataset(windows), data_args, has_unanswerable)
    precision = ""
    if logits:
        scored = evaluator.of_logits(*read_logits(logits, evaluator.windows))
        metrics = scored.metrics
    else:
        precision = on_main_process(lambda: device_precision(args))
        scored, metrics = run_model(model_args, args, precision, windows, tokenizer, evaluator, save_logits)
    provenance = Provenance(
        describe_data(split, data_args), model_args.model_name_or_path or "", logits or "", precision=precision
    )
    return evaluator.result(provenance, scored, metrics)


@device_errors_in_one_line(
    "lower per_device_eval_batch_size or max_seq_length, or compute on the CPU", lambda: "rerun the same command"
)
def run_model(
    model_args: ModelArguments,
    args: TrainingOptions,
    precision: str,
    windows: Dataset,
    tokenizer,
    evaluator: Evaluator,
    save_logits: str | None,
) -> tuple[ScoredAnswers, dict[str, float]]:
    """Run the model on all windows; return its scored answers and all metrics. Ends every process but the main one.

    Args:
        save_logits: path of an .npz file for the logits, in the order of the windows.
    """
    config = load_config(model_args)
    check_fit(tokenizer, config)
    check_lengths(WindowSettings.from_args(evaluator.args), tokenizer, position_limit(config))
    resolved = ResolvedRun.from_options(evaluator.args, args, precision, evaluator.has_unanswerable)
    unused = {"report_to": "none", "eval_strategy": "no", "load_best_model_at_end": False}
    trainer = QATrainer(
        model=load_model(model_args, config, training=False),
        args=trainer_arguments(args, resolved, **unused),
        eval_dataset=windows,
        processing_class=tokenizer,
        evaluator=evaluator,
        resolved=resolved,
        keep_logits=bool(save_logits),
    )
    evaluated, predictions = trainer.evaluate_windows()
    if evaluated.scored is None:
        sys.exit()  # the main process has all answers, and writes them
    if save_logits:
        assert predictions.start_logits is not None and predictions.end_logits is not None, "keep_logits was set"
        with replacing(Path(save_logits)) as staged, staged.open("wb") as file:
            np.savez(file, start=predictions.start_logits, end=predictions.end_logits)
    return evaluated.scored, evaluated.metrics
