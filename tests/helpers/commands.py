"""Run the commands in this process, as a user would."""

import json
import sys

import train

SMALL = ("--max_seq_length", "48", "--doc_stride", "8", "--max_query_length", "16")


def run(command, *argv) -> None:
    old, sys.argv = sys.argv, [command.__name__, *map(str, argv)]
    try:
        command.main()
    finally:
        sys.argv = old


def error_of(work, *args) -> str | None:
    """Return the message of what ``work`` raises, None if it raises nothing."""
    try:
        work(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def train_tiny(data, model, output, *argv) -> None:
    files = ("--train_file", data / "train.json", "--validation_file", data / "dev.json.gz")
    more = ("--output_dir", output, "--report_to", "none", "--num_train_epochs", 2, "--learning_rate", "1e-3")
    run(train, "--config_name", model, *files, *SMALL, *more, "--cache_dir", output.parent / "cache", *argv)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))
