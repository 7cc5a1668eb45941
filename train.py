"""Fine-tune an encoder for extractive question answering.

Examples:
    python train.py                                   # the recipe of config.yaml: ALBERT-base on SQuAD 1.1
    python train.py --config configs/demo.yaml        # a minute on a CPU, no network
    python train.py --plan --gpu_memory_gb 6          # what that needs, and batches that fit, without training
    python train.py --train_file my.json --validation_file my_dev.json --output_dir my_model
    torchrun --nproc_per_node 4 train.py              # four GPUs, the same batch; docs/scaling.md has the rest
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load ends it without a traceback


import dataclasses
import math
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import psutil
import torch
from datasets import Dataset
from transformers import PretrainedConfig, TrainingArguments, set_seed
from transformers.trainer_utils import TrainOutput

from qa.data.demo import write_demo
from qa.data.splits import Split, load_splits
from qa.data.statistics import check_dropped, describe, is_reachable
from qa.data.window_cache import load_windows
from qa.data.windows import WindowArrays, WindowSettings, check_lengths, column
from qa.evaluation.coverage import WindowStatistics, check_labels
from qa.evaluation.evaluator import Evaluator, detect_collapse, plain_metrics, score_rows, write_evaluation
from qa.evaluation.figures import training_curves, write_picture
from qa.evaluation.report import write_report
from qa.hub import publish as hub
from qa.hub.model_card import record_run
from qa.io import run_folder
from qa.io.files import make_folder, write_json
from qa.io.run_folder import FINISHED, RUN, find_checkpoints, step_of
from qa.model.device import bf16_supported, fit_to_device, wanted_precision
from qa.model.loading import check_fit, load_config, load_model, load_tokenizer, position_limit
from qa.options.arguments import REPOSITORY, DataArguments, ModelArguments, TrainingOptions, as_settings
from qa.options.parser import parse_arguments
from qa.runtime.console import table, warn
from qa.runtime.distributed import init_distributed, on_main_process, share_batch
from qa.runtime.errors import UserError, one_line
from qa.runtime.process import run_command
from qa.training.checkpoints import check_space, remove_recoveries
from qa.training.planner import plan_run
from qa.training.resume import SignalHandler, TrainingInterrupted, check_output_folder, find_start, lock_run_folder
from qa.training.trainer import QATrainer


def check_metric(args: TrainingArguments, has_unanswerable: bool) -> None:
    """A misspelled metric would be found after the first epoch only."""
    known = ("f1", "exact", "loss") if has_unanswerable else ("f1", "exact_match", "loss")
    metric = args.metric_for_best_model
    if metric and metric.removeprefix("eval_") not in known:
        raise UserError(f"metric_for_best_model {metric} is not computed: choose one of {', '.join(known)}")


def peak_memory() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB on the GPU"
    if sys.platform == "win32":
        peak = psutil.Process().memory_info().peak_wset
    else:
        import resource  # which Windows does not have

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"{peak / 2**30:.2f} GiB in the process"


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def full_path(name: str | list | None) -> str | list | None:
    """A file's name, or several, as found from any folder."""
    if isinstance(name, list):
        return [full_path(each) for each in name]
    return name and str(Path(name).expanduser().resolve())


def train(trainer: QATrainer, start: Path | None) -> TrainOutput:
    """Trains; what stops it and can be mended becomes one line."""
    try:
        return trainer.train(resume_from_checkpoint=str(start) if start else None)
    except torch.OutOfMemoryError:
        raise UserError(
            "out of GPU memory: --gpu_memory_gb auto finds batches that fit, and recomputes activations where it must;"
            " or take a smaller model, lower max_seq_length, or lower per_device_eval_batch_size"
        ) from None
    except (ImportError, ValueError) as error:  # options that this model, or what is installed, does not allow
        raise UserError(f"training cannot start: {one_line(error)}") from error
    except TrainingInterrupted as stopped:
        warn(str(stopped))
        sys.exit(stopped.status)


def saves(args: TrainingArguments, windows: int) -> int:
    """How many regular checkpoints the run keeps."""
    steps = args.max_steps if args.max_steps > 0 else args.num_train_epochs * windows / args.train_batch_size
    every = {"epoch": steps / args.num_train_epochs, "steps": args.save_steps, "best": 1}.get(
        args.save_strategy.value, steps
    )
    count = max(1, math.ceil(steps / max(every, 1)))
    return min(count, args.save_total_limit or count)


@dataclass
class Prepared:
    """The questions of one split, and their windows as a dataset on disk."""

    split: Split
    windows: Dataset

    @cached_property
    def arrays(self) -> WindowArrays:
        """The windows in memory: for validation, which needs all their offsets."""
        return WindowArrays.from_dataset(self.windows)


def prepare(tokenizer, model_args: ModelArguments, data_args: DataArguments, seed: int) -> dict[str, Prepared]:
    """Both splits, read, checked, cut into windows and described; training without what no window holds."""
    splits = load_splits(data_args, ("train", "validation"), seed, model_args.cache_dir)
    prepared = {}
    for name in ("train", "validation"):
        if name not in splits:
            raise UserError(f"no {name} questions: give --{name}_file, or a --dataset_name that has that split")
        windows = load_windows(splits[name].examples, tokenizer, data_args, model_args.cache_dir, name)
        prepared[name], overview = (
            Prepared(splits[name], windows),
            WindowStatistics.from_windows(splits[name].examples, windows),
        )
        check_labels(name, overview.label_f1)
        if name == "train":
            unreachable = overview.unreachable
    train = prepared["train"]
    if unreachable:
        kept = is_reachable(column(train.windows, "example_index"), unreachable)
        train.windows = train.windows.select(np.flatnonzero(kept))
    if not len(train.windows):
        raise UserError("no window holds any answer of the training split: raise max_seq_length")
    check_dropped(train.split, unreachable, data_args)
    for name, part in prepared.items():
        has_unanswerable = bool(data_args.version_2_with_negative)
        print(describe(part.split, len(part.windows), unreachable if name == "train" else {}, has_unanswerable))
    return prepared


def fit(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: TrainingOptions,
    tokenizer,
    config: PretrainedConfig,
    data: dict[str, Prepared],
) -> None:
    """Trains from where the folder's run was left, and writes all that is known of the result."""
    output, windows = Path(args.output_dir), data["train"].windows
    settings = as_settings(model_args, data_args, args)
    for name in ("train_file", "validation_file"):
        settings[name] = full_path(settings[name])
    group_size = args.per_device_train_batch_size * args.gradient_accumulation_steps
    args = share_batch(args, settings)
    start = on_main_process(lambda: find_start(args, settings, windows._fingerprint))
    if start and not start.is_dir():
        raise UserError(f"{start} is not on this host: output_dir must be on a disk that all hosts share")
    set_seed(args.seed)
    model = load_model(model_args, config, training=True)
    check_space(output, model.num_parameters(), saves(args, len(windows)))
    evaluator = Evaluator(data["validation"].split.examples, data["validation"].arrays, data_args)
    stop = SignalHandler()
    try:
        trainer = QATrainer(
            model=model,
            args=dataclasses.replace(args, push_to_hub=False),
            train_dataset=windows,
            eval_dataset=data["validation"].windows,
            processing_class=tokenizer,
            evaluator=evaluator,
            settings=settings,
            pad_to=data_args.max_seq_length if data_args.pad_to_max_length else None,
            group_size=group_size,
            stop=stop,
        )
    except (ImportError, ValueError, RuntimeError) as error:  # options that need what is not installed
        raise UserError(f"training cannot start: {one_line(error)}") from error
    started = time.perf_counter()
    with stop:
        trained = train(trainer, start)
    seconds = time.perf_counter() - started
    scores = plain_metrics(trainer.final_metrics(), "eval")

    trainer.save_finished()
    if not trainer.is_world_process_zero():
        return
    evaluation = evaluator.result(output.resolve().name, scores)
    write_evaluation(output, evaluation)
    report = write_report(output, evaluation)
    write_picture(output / run_folder.CURVES, training_curves(trainer.state.log_history))
    results = plain_metrics(trained.metrics, "train")
    results |= {"global_step": trained.global_step, "features": len(windows)}
    results |= {"resumed_from": step_of(start) if start else 0}
    write_json(output / RUN, record_run(sys.argv, settings, seconds, peak_memory(), bool(start)))
    write_json(output / FINISHED, results)  # the last file of all: it says that the run is finished
    remove_recoveries(output, before=trained.global_step + 1)
    rows = score_rows(scores)
    rows += [
        ("training speed", f"{trained.metrics['train_samples_per_second']:.1f} windows per second"),
        ("time", f"{duration(seconds)}, evaluations included"),
        ("peak memory", peak_memory()),
        ("model", args.output_dir),
        ("report", str(report)),
    ]
    print("\n" + table(rows))
    if warning := detect_collapse(evaluation):
        warn(f"warning: training has failed: {warning}; try another seed, a lower learning_rate or warmup_steps: 0.1")
    print(
        f"\nnext:\n  python evaluate_qa.py --model_name_or_path {args.output_dir}\n"
        f'  python ask.py --model_name_or_path {args.output_dir} --question "..." --context "..."'
    )


def main() -> None:
    init_distributed()
    model_args, data_args, args = parse_arguments(
        (ModelArguments, DataArguments, TrainingOptions),
        default_config=REPOSITORY / "config.yaml",
        description=__doc__,
    )
    if not args.plan:
        check_output_folder(args)
    precision, args = wanted_precision(args, bf16_supported()), fit_to_device(args)
    if args.push_to_hub and not args.plan:
        on_main_process(lambda: hub.check_before(hub.Target.from_args(args)))
    with args.main_process_first():
        if data_args.demo_dir and args.local_process_index == 0:
            write_demo(data_args.demo_dir)

    tokenizer, config = load_tokenizer(model_args), load_config(model_args)
    check_fit(tokenizer, config)
    check_lengths(WindowSettings.from_args(data_args), tokenizer, position_limit(config))
    data = prepare(tokenizer, model_args, data_args, args.seed)
    check_metric(args, bool(data_args.version_2_with_negative))
    pad_to = data_args.max_seq_length if data_args.pad_to_max_length else None
    args = plan_run(config, args, data["train"].windows["length"][:], precision, pad_to)
    if args.plan:
        return
    output = make_folder(args.output_dir)
    with lock_run_folder(output) if args.process_index == 0 else nullcontext():
        try:
            fit(model_args, data_args, args, tokenizer, config, data)
        except KeyboardInterrupt:
            newest = next(iter(find_checkpoints(output)), "the beginning")
            warn(f"interrupted: run the same command again to go on from {newest}")
            sys.exit(130)
    if args.push_to_hub and args.process_index == 0:
        print(f"published: {hub.push(output, hub.Target.from_args(args))}")


if __name__ == "__main__":
    run_command(main)
