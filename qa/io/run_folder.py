"""The names of the files in a run's folder, which no other module spells out, and how to find its checkpoints."""

import re
from pathlib import Path

from qa.runtime.errors import UserError, one_line

# During a run
LOCK = ".lock"  # present in the folder of every run, also a finished one
HOLDER = ".holder.json"  # who holds the lock
STAGING = ".saving"  # where checkpoints and the model are written before they are renamed

# A checkpoint
REGULAR, RECOVERY = "checkpoint", "recovery"  # then a hyphen and the step
MANIFEST = "files.json"  # sizes and digests of its files, and which windows it was trained on
TRAINER_STATE, OPTIMIZER, SCHEDULER = "trainer_state.json", "optimizer.pt", "scheduler.pt"
SCALER = "scaler.pt"  # the loss scale; only in checkpoints of runs in fp16
SHARDED_OPTIMIZER = "optimizer.bin"  # what FSDP calls it

# A model
WEIGHTS, CONFIG = "model.safetensors", "config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
SETTINGS = "settings.yaml"

# Records of a finished run
FINISHED = "train_results.json"  # written last: it marks the run as finished
RUN = "run.json"
ALL_RESULTS = "all_results.json"  # all scores of training and evaluation, under the names that transformers gives them
CURVES = "curves.png"
TENSORBOARD = "runs"

# An evaluation
EVALUATION = "evaluation"  # subfolder of a model's folder, written by evaluate_qa.py; those of checkpoints are in it
SCORES = "eval_results.json"
PREDICTIONS, NBEST, NULL_ODDS = "predictions.json", "nbest_predictions.json", "null_odds.json"
COMPARISON, REPORT = "comparison.json", "report.html"

# What preprocess.py writes
SUMMARY, PROBLEMS = "summary.json", "problems.jsonl"

# What a run would replace, or take for its own, in a folder that is not a run's
OUTPUT = (
    *("config.json", "adapter_config.json", "tokenizer*.json", "special_tokens_map.json", "vocab.*", "spiece.model"),
    *("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "tf_model.h5", "flax_model.msgpack"),
    *(SETTINGS, FINISHED, RUN, CURVES, TENSORBOARD, SCORES, PREDICTIONS, NBEST, NULL_ODDS, COMPARISON, REPORT),
    *(f"{REGULAR}-*", f"{RECOVERY}-*", STAGING, TRAINER_STATE, ALL_RESULTS),
)


def find_output(folder: Path) -> Path | None:
    """Return a file or folder in ``folder`` that a run would replace or take for its own; None if there is none."""
    return next((path for pattern in OUTPUT for path in sorted(folder.glob(pattern))), None)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def has_checkpoint_name(folder: Path) -> bool:
    return re.fullmatch(rf"({REGULAR}|{RECOVERY})-\d+", folder.name) is not None


def is_checkpoint(folder: Path) -> bool:
    """Return whether ``folder`` exists and has the name of a checkpoint; its content is not read."""
    return has_checkpoint_name(folder) and folder.is_dir()


def find_checkpoints(folder: Path) -> list[Path]:
    """Return regular and recovery checkpoints in ``folder``, newest step first; their content is not read."""
    named = filter(is_checkpoint, folder.glob("*-*"))
    return sorted(named, key=lambda path: (step_of(path), path.name), reverse=True)


def full_path(path: Path) -> Path:
    """Return the absolute path, without links. Raises UserError for a path that no file can have."""
    try:
        full = path.expanduser().resolve()
        full.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, or links that point at each other
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or one_line(error)}: give another path") from None
    return full


def enclosing_checkpoint(path: Path) -> Path | None:
    """Return the checkpoint that ``path`` is, or is in, by its full path; None if there is none."""
    path = full_path(path)
    found = (each for each in (path, *path.parents) if is_checkpoint(each) and (each / TRAINER_STATE).is_file())
    return next((each for each in found if not (each / FINISHED).is_file()), None)


def name_evaluation(folder: Path) -> str:
    """Return the name of an evaluation's folder, with its model's where the name is one that many models have."""
    path = folder.expanduser().resolve()
    parts = [path.name]
    while path.parent != path and (path.name == EVALUATION or has_checkpoint_name(path)):
        path = path.parent
        parts.append(path.name)
    return "/".join(filter(None, reversed(parts)))


def reject_in_checkpoint(path: str | Path) -> None:
    """Raise UserError if output would go into a checkpoint, from which its run could then not be resumed."""
    if checkpoint := enclosing_checkpoint(Path(path)):
        raise UserError(f"{path}: nothing is written into a checkpoint, here {checkpoint}: give a path outside of it")
