"""One training run in its folder: start or resume it, train, save the model, write the results."""

import dataclasses
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from safetensors import SafetensorError
from transformers import PretrainedConfig, set_seed
from transformers.trainer_utils import TrainOutput

from qa.evaluation.evaluator import Evaluator, Provenance
from qa.evaluation.inputs import describe_data
from qa.io.files import is_disk_error, make_folder
from qa.io.run_folder import find_checkpoints, step_of
from qa.io.run_lock import lock_run_folder
from qa.model.device_errors import device_errors_in_one_line, is_device_error
from qa.model.weights import load_model
from qa.options.arguments import DataArguments, ModelArguments
from qa.options.saved import as_settings, with_full_paths
from qa.options.training_arguments import TrainingOptions
from qa.runtime.console import closing_bars, warn
from qa.runtime.distributed import on_main_process
from qa.runtime.errors import UserError, one_line, writing_error
from qa.training.checkpoints import check_space, count_checkpoints
from qa.training.finish import FinishedRun, print_results, write_results
from qa.training.interruption import SignalHandler, TrainingInterrupted
from qa.training.kept_weights import CheckpointWeightsCallback, check_kept_scores, not_kept, without_key_warnings
from qa.training.prepare import PreparedSplit
from qa.training.resolved import ResolvedRun, trainer_arguments, warn_of_uneven_step
from qa.training.resume import find_start
from qa.training.trainer import RESUME_ADVICE, QATrainer

MEMORY_ADVICE = (
    "--gpu_memory_gb auto finds batches that fit, with activation checkpointing if needed; or take a smaller model, or"
    " lower max_seq_length"
)


@contextmanager
def locked_output_folder(args: TrainingOptions) -> Iterator[None]:
    """Make ``output_dir`` and lock it for this run; Ctrl-C ends the process with status 130.

    Raises:
        UserError: the folder cannot be used, memory ran out, or the device failed.
    """
    output = make_folder(str(args.folder))

    def rerun() -> str:
        newest = next(iter(find_checkpoints(output)), "the beginning")
        return f"rerun the same command to resume from {newest}"

    with lock_run_folder(output) if args.process_index == 0 else nullcontext():
        try:
            with device_errors_in_one_line(MEMORY_ADVICE, rerun):
                yield
        except KeyboardInterrupt:
            warn(f"interrupted: {rerun()}")
            sys.exit(130)


def run_training(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: TrainingOptions,
    resolved: ResolvedRun,
    tokenizer,
    config: PretrainedConfig,
    data: dict[str, PreparedSplit],
) -> None:
    """Train from the newest checkpoint or from scratch, save the model, and write and print the results."""
    record, windows = resolved.record(args.world_size), data["train"].windows
    settings, old_settings = run_settings(model_args, data_args, args, resolved)
    warn_of_uneven_step(resolved.batches, args.world_size)
    start = on_main_process(lambda: find_start(args, settings | record, old_settings, windows._fingerprint))
    if start and not start.is_dir():
        raise UserError(f"{start} is not on this host: output_dir must be on a disk that all hosts share")
    set_seed(args.seed)
    model = load_model(model_args, config, training=True)
    trainer_args = fit_on_disk(trainer_arguments(args, resolved), model.num_parameters(), len(windows))
    examples, arrays = data["validation"].split.examples, data["validation"].arrays
    evaluator = Evaluator(examples, arrays, data_args, resolved.has_unanswerable)
    stop = SignalHandler()
    trainer = make_trainer(
        model=model,
        args=trainer_args,
        train_dataset=windows,
        eval_dataset=data["validation"].windows,
        processing_class=tokenizer,
        evaluator=evaluator,
        resolved=resolved,
        settings=settings,
        stop=stop,
    )
    started = time.perf_counter()
    with stop:
        trained = train(trainer, start)
    seconds = time.perf_counter() - started
    evaluated, resumed_from = trainer.evaluate_kept(), step_of(start) if start else 0
    check_kept_scores(trainer.state, trainer_args, evaluated.metrics, len(examples), resumed_from)

    trainer.save_finished()
    if evaluated.scored:  # in the main process
        provenance = Provenance(
            describe_data(data["validation"].split, data_args), str(args.folder), precision=resolved.precision
        )
        evaluation = evaluator.result(provenance, evaluated.scored, evaluated.metrics)
        state = trainer.state
        run = FinishedRun(trained, evaluation, state, settings, record, seconds, len(windows), resumed_from)
        write_results(args.folder, run)
        print_results(args.folder, run)


def fit_on_disk(args: TrainingOptions, parameters: int, windows: int) -> TrainingOptions:
    """Return the options without recovery checkpoints if only those do not fit on the disk.

    Raises:
        UserError: other checkpoints do not fit either.
    """
    if check_space(args.folder, parameters, count_checkpoints(args, windows)):
        return args
    warn(f"note: {args.folder} has no space for recovery checkpoints: a run that is interrupted starts again")
    return dataclasses.replace(args, recovery_minutes=0)


def run_settings(
    model_args: ModelArguments, data_args: DataArguments, args: TrainingOptions, resolved: ResolvedRun
) -> tuple[dict, dict]:
    """Return the settings to save with the model, and those that 1c928e6 would have saved: with the resolved values."""
    found = {"version_2_with_negative": resolved.has_unanswerable}  # a property of the trained model
    settings, old_settings = (
        with_full_paths(as_settings(model_args, data_args, each)) | found for each in (args, resolved.over(args))
    )
    return settings, old_settings | dataclasses.asdict(resolved.batches.as_alone(args.world_size))


def make_trainer(**kwargs) -> QATrainer:
    """Return the trainer; options that need a package which is not installed become a UserError."""
    try:
        return QATrainer(**kwargs)
    except UserError:
        raise
    except (ImportError, ValueError, RuntimeError) as error:
        if is_device_error(error):
            raise
        raise UserError(f"training cannot start: {one_line(error)}") from error


def train(trainer: QATrainer, start: Path | None) -> TrainOutput:
    """Train from the checkpoint ``start`` or from scratch; foreseeable errors become a UserError."""
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):  # they spread the weights over processes
        trainer.callback_handler.callbacks.insert(0, CheckpointWeightsCallback(start))  # before trackers that upload
    try:
        with without_key_warnings(), closing_bars():
            return trainer.train(resume_from_checkpoint=str(start) if start else None)
    except UserError:
        raise
    except (ImportError, ValueError) as error:  # options that the model or the installed packages do not allow
        raise UserError(f"training cannot start: {one_line(error)}") from error
    except SafetensorError as error:  # of the best checkpoint at the end; one to resume from has been verified
        raise not_kept(trainer.state, one_line(error)) from None
    except OSError as error:  # of TensorBoard; those of checkpoints are reported with what they leave intact
        if not is_disk_error(error):
            raise
        raise writing_error(trainer.args.folder, error, advice=RESUME_ADVICE) from error
    except TrainingInterrupted as stopped:
        warn(str(stopped))
        sys.exit(stopped.status)
