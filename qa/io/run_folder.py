"""The names of the files in a run's folder, which no other module spells out, and how to find its checkpoints."""

import re
from pathlib import Path

# During a run
LOCK = ".lock"  # present in the folder of every run, also a finished one
HOLDER = ".holder.json"  # who holds the lock
STAGING = ".saving"  # where checkpoints and the model are written before they are renamed

# A checkpoint
REGULAR, RECOVERY = "checkpoint", "recovery"  # then a hyphen and the step
MANIFEST = "files.json"  # sizes and digests of its files, and which windows it was trained on
TRAINER_STATE, OPTIMIZER, SCHEDULER = "trainer_state.json", "optimizer.pt", "scheduler.pt"
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
EVALUATION = "evaluation"  # subfolder of a model's folder, written by evaluate_qa.py
SCORES = "eval_results.json"
PREDICTIONS, NBEST, NULL_ODDS = "predictions.json", "nbest_predictions.json", "null_odds.json"
COMPARISON, REPORT = "comparison.json", "report.html"

# What preprocess.py writes
SUMMARY, PROBLEMS = "summary.json", "problems.jsonl"


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def find_checkpoints(folder: Path) -> list[Path]:
    """Return regular and recovery checkpoints in ``folder``, newest step first; their content is not read."""
    named = [path for path in folder.glob("*-*") if re.fullmatch(rf"({REGULAR}|{RECOVERY})-\d+", path.name)]
    return sorted((path for path in named if path.is_dir()), key=lambda path: (step_of(path), path.name), reverse=True)
