"""Fine-tune an encoder for extractive question answering.

Examples:
    python train.py                                   # the recipe of config.yaml: ALBERT-base on SQuAD 1.1
    python train.py --config configs/demo.yaml        # a minute on a CPU, no network
    python train.py --train_file my.json --validation_file my_dev.json --output_dir my_model
"""

import dataclasses
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from transformers import TrainingArguments, set_seed
from transformers.trainer_utils import TrainOutput, get_last_checkpoint

from qa import hub
from qa.arguments import REPOSITORY, DataArguments, ModelArguments, TrainingOptions, as_settings
from qa.data import load_splits
from qa.demo import write_demo
from qa.errors import UserError, one_line, run_command, say
from qa.evaluation import Evaluator, degenerate, headline, plain_metrics, write_evaluation
from qa.figures import training_curves, write_picture
from qa.models import check_fit, load_config, load_model, load_tokenizer, position_limit
from qa.output import make_folder, table, write_json
from qa.parsing import parse_arguments
from qa.report import write_report
from qa.summary import check_labels, describe, outside, unreachable
from qa.trainer import QATrainer, fit_to_device
from qa.window_cache import load_windows
from qa.windows import WindowArrays, WindowSettings, check_lengths


def checkpoint_to_resume(args: TrainingArguments) -> str | None:
    """The checkpoint to go on from; raises UserError where a new run would mix with an older one."""
    folder = Path(args.output_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{args.output_dir} is a file: give another --output_dir")
    newest = get_last_checkpoint(args.output_dir) if folder.is_dir() else None
    asked = args.resume_from_checkpoint
    if asked is None or asked.lower() in ("false", "no"):
        if newest or (folder / "train_results.json").exists():
            raise UserError(
                f"{args.output_dir} holds an earlier run: give another --output_dir, delete it, or go on from its"
                " last checkpoint with --resume_from_checkpoint last"
            )
        return None
    if asked.lower() in ("true", "last"):
        if not newest:
            raise UserError(f"{args.output_dir}: no checkpoint to resume from; leave out --resume_from_checkpoint")
        results = folder / "train_results.json"
        if results.is_file():
            refuse_finished(folder, json.loads(results.read_text(encoding="utf-8")), args)
        asked = newest
    check_checkpoint(Path(asked), args)
    return asked


def check_checkpoint(folder: Path, args: TrainingArguments) -> None:
    """Raises UserError where a checkpoint is torn, or where nothing is left to train."""
    advice = "resume from an older one with --resume_from_checkpoint FOLDER"
    for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt", "model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: not a whole checkpoint: it has no {name}; {advice}")
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        with safe_open(folder / "model.safetensors", "pt") as weights:
            weights.keys()
        torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a torn file makes the readers say
        raise UserError(f"{folder}: the checkpoint cannot be read: {one_line(error)}; {advice}") from None
    refuse_finished(folder, state, args)


def refuse_finished(place: Path, progress: dict, args: TrainingArguments) -> None:
    """Raises UserError where ``progress`` (``epoch``, ``global_step``) has come to the end of the run."""
    done, wanted = progress["epoch"], args.num_train_epochs
    if args.max_steps > 0:
        done, wanted = progress["global_step"], args.max_steps
    if done >= wanted:
        raise UserError(f"{place}: this run is finished, nothing is left to train; raise num_train_epochs to go on")


def check_metric(args: TrainingArguments, negatives: bool) -> None:
    """A misspelled metric would be found after the first epoch only."""
    known = ("f1", "exact", "loss") if negatives else ("f1", "exact_match", "loss")
    metric = args.metric_for_best_model
    if metric and metric.removeprefix("eval_") not in known:
        raise UserError(f"metric_for_best_model {metric} is not computed: choose one of {', '.join(known)}")


def peak_memory() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB on the GPU"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.2f} GiB in the process"


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def train(trainer: QATrainer, resume: str | None) -> TrainOutput:
    """Trains; what stops it and can be mended becomes one line."""
    args = trainer.args
    try:
        return trainer.train(resume_from_checkpoint=resume)
    except torch.OutOfMemoryError:
        raise UserError(
            f"out of GPU memory with {args.per_device_train_batch_size} windows at once: halve"
            " --per_device_train_batch_size and double --gradient_accumulation_steps, which trains the same"
        ) from None
    except (ImportError, ValueError) as error:  # options that this model, or what is installed, does not allow
        raise UserError(f"training cannot start: {one_line(error)}") from error
    except KeyboardInterrupt:
        newest = get_last_checkpoint(args.output_dir)
        left = f"go on from {newest} with --resume_from_checkpoint last" if newest else "no checkpoint was saved yet"
        say(f"interrupted: {left}")
        sys.exit(130)


def main() -> None:
    model_args, data_args, args = parse_arguments(
        (ModelArguments, DataArguments, TrainingOptions),
        default_config=REPOSITORY / "config.yaml",
        description=__doc__,
    )
    resume = checkpoint_to_resume(args)
    args = fit_to_device(args)
    if args.push_to_hub:
        hub.check_before(args)
    if data_args.demo_dir:
        write_demo(data_args.demo_dir)

    tokenizer, config = load_tokenizer(model_args), load_config(model_args)
    check_fit(tokenizer, config)
    check_lengths(WindowSettings.of(data_args), tokenizer, position_limit(config))
    splits = load_splits(data_args, ("train", "validation"), args.seed, model_args.cache_dir)
    for name in ("train", "validation"):
        if name not in splits:
            raise UserError(f"no {name} questions: give --{name}_file, or a --dataset_name that has that split")
    windows, arrays = {}, {}
    for name, split in splits.items():
        windows[name] = load_windows(split.examples, tokenizer, data_args, model_args.cache_dir, name)
        arrays[name] = WindowArrays.of(windows[name])
        check_labels(name, split.examples, arrays[name])
    negatives = bool(data_args.version_2_with_negative)
    check_metric(args, negatives)
    lost = unreachable(splits["train"].examples, arrays["train"])
    if lost:
        windows["train"] = windows["train"].select(np.flatnonzero(outside(arrays["train"], lost)))
    if not len(windows["train"]):
        raise UserError("no window holds any answer of the training split: raise max_seq_length")
    for name, split in splits.items():
        print(describe(split, len(windows[name]), lost if name == "train" else {}, negatives))

    output = make_folder(args.output_dir)
    set_seed(args.seed)
    settings = as_settings(model_args, data_args, args)
    for name in ("train_file", "validation_file"):
        settings[name] = settings[name] and str(Path(settings[name]).expanduser().resolve())
    evaluator = Evaluator(splits["validation"].examples, arrays["validation"], data_args)
    model = load_model(model_args, config, training=True)
    try:
        trainer = QATrainer(
            model=model,
            args=dataclasses.replace(args, push_to_hub=False),
            train_dataset=windows["train"],
            eval_dataset=windows["validation"],
            processing_class=tokenizer,
            evaluator=evaluator,
            settings=settings,
            pad_to=data_args.max_seq_length if data_args.pad_to_max_length else None,
        )
    except (ImportError, ValueError, RuntimeError) as error:  # options that need what is not installed
        raise UserError(f"training cannot start: {one_line(error)}") from error
    started = time.perf_counter()
    trained = train(trainer, resume)
    seconds = time.perf_counter() - started
    scores = plain_metrics(trainer.final_metrics(), "eval")

    trainer.save_model()
    if not trainer.is_world_process_zero():
        return
    evaluation = evaluator.result(output.resolve().name, scores)
    write_evaluation(output, evaluation)
    report = write_report(output, evaluation)
    write_picture(output / "curves.png", training_curves(trainer.state.log_history))
    results = plain_metrics(trained.metrics, "train")
    results |= {"global_step": trained.global_step, "features": len(windows["train"])}
    write_json(output / "train_results.json", results)
    rows = headline(scores)
    rows += [
        ("training speed", f"{trained.metrics['train_samples_per_second']:.1f} windows per second"),
        ("time", f"{duration(seconds)}, evaluations included"),
        ("peak memory", peak_memory()),
        ("model", args.output_dir),
        ("report", str(report)),
    ]
    print("\n" + table(rows))
    if warning := degenerate(evaluation):
        say(f"warning: training has failed: {warning}; try another seed, a lower learning_rate or warmup_steps: 0.1")
    print(
        f"\nnext:\n  python evaluate_qa.py --model_name_or_path {args.output_dir}\n"
        f'  python ask.py --model_name_or_path {args.output_dir} --question "..." --context "..."'
    )
    if args.push_to_hub:
        print(f"  pushed to {hub.push(output, args)}")


if __name__ == "__main__":
    run_command(main)
