"""Fine-tune an encoder for extractive question answering.

Examples:
    python train.py                                   # the recipe of config.yaml: ALBERT-base on SQuAD 1.1
    python train.py --config configs/demo.yaml        # two minutes on a CPU, no network
    python train.py --train_file my.json --validation_file my_dev.json --output_dir my_model
"""

import dataclasses
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from qa import hub
from qa.arguments import REPOSITORY, DataArguments, ModelArguments, as_settings, parse_arguments
from qa.data import load_splits
from qa.demo import write_demo
from qa.errors import UserError, run_command
from qa.evaluation import Evaluator, headline, plain_metrics, write_evaluation
from qa.models import check_fit, load_config, load_model, load_tokenizer, position_limit
from qa.output import make_folder, table, write_json
from qa.summary import check_labels, unreachable
from qa.trainer import QATrainer, fit_to_device
from qa.windows import WindowArrays, WindowSettings, check_lengths, load_windows


def checkpoint_to_resume(args: TrainingArguments) -> str | None:
    """The checkpoint to go on from; raises UserError where a new run would mix with an older one."""
    folder = Path(args.output_dir)
    asked = args.resume_from_checkpoint
    if asked in ("true", "True", "last"):
        asked = get_last_checkpoint(args.output_dir) if folder.is_dir() else None
        if not asked:
            raise UserError(f"{args.output_dir}: no checkpoint to resume from; leave out --resume_from_checkpoint")
    elif asked:
        if not (Path(asked) / "trainer_state.json").is_file():
            raise UserError(f"{asked}: not a checkpoint to resume from (it has no trainer_state.json)")
    elif folder.is_dir() and ((folder / "train_results.json").exists() or get_last_checkpoint(args.output_dir)):
        raise UserError(
            f"{args.output_dir} holds an earlier run: give another --output_dir, delete it, or go on from its last"
            " checkpoint with --resume_from_checkpoint last"
        )
    return asked


def peak_memory() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB on the GPU"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.2f} GiB in the process"


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def main() -> None:
    model_args, data_args, args = parse_arguments(
        (ModelArguments, DataArguments, TrainingArguments),
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
    lost = unreachable(splits["train"].examples, arrays["train"])
    if lost:
        windows["train"] = windows["train"].select(np.flatnonzero(~np.isin(arrays["train"].example_index, list(lost))))
    for name, split in splits.items():
        gone = split.read - len(split.examples) + (len(lost) if name == "train" else 0)
        print(f"{name}: {split.read:,} questions read, {gone:,} dropped, {len(windows[name]):,} windows")

    output = make_folder(args.output_dir)
    set_seed(args.seed)
    settings = as_settings(model_args, data_args, args)
    evaluator = Evaluator(splits["validation"].examples, arrays["validation"], data_args)
    trainer = QATrainer(
        model=load_model(model_args, config, training=True),
        args=dataclasses.replace(args, push_to_hub=False),
        train_dataset=windows["train"],
        eval_dataset=windows["validation"],
        processing_class=tokenizer,
        evaluator=evaluator,
        settings=settings,
        pad_to=data_args.max_seq_length if data_args.pad_to_max_length else None,
    )
    started = time.perf_counter()
    trained = trainer.train(resume_from_checkpoint=resume)
    seconds = time.perf_counter() - started
    scores = plain_metrics(trainer.final_metrics(), "eval")

    trainer.save_model()
    write_evaluation(output, scores, evaluator.last, len(splits["validation"].examples), len(windows["validation"]))
    results = plain_metrics(trained.metrics, "train") | {"features": len(windows["train"])}
    write_json(output / "train_results.json", results)
    rows = headline(scores)
    rows += [
        ("training speed", f"{trained.metrics['train_samples_per_second']:.1f} windows per second"),
        ("time", f"{duration(seconds)}, evaluations included"),
        ("peak memory", peak_memory()),
        ("model", args.output_dir),
    ]
    print("\n" + table(rows))
    print(
        f"\nnext:\n  python evaluate_qa.py --model_name_or_path {args.output_dir}\n"
        f'  python ask.py --model_name_or_path {args.output_dir} --question "..." --context "..."'
    )
    if args.push_to_hub:
        print(f"  pushed to {hub.push(output, args)}")


if __name__ == "__main__":
    run_command(main)
