"""Train, evaluate, resume and ask a tiny checkpoint through the commands."""

import contextlib
import io
import os
import signal
import traceback
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from transformers import TrainerCallback

import ask
import evaluate_qa
import train
from helpers.architectures import build, make_tokenizer
from helpers.commands import read, run
from qa.runtime.errors import UserError, one_line
from qa.training import trainer

LENGTHS = ("--max_seq_length", 96, "--doc_stride", 24, "--max_query_length", 24)
TRAINING = (*LENGTHS, "--num_train_epochs", 3, "--per_device_train_batch_size", 8, "--per_device_eval_batch_size", 8)
TRAINING += ("--learning_rate", "2e-3", "--eval_strategy", "epoch", "--save_strategy", "epoch", "--report_to", "none")
TRAINING += ("--stop_if_failed", "false", "--use_cpu", "true")
STOPPED_AT = 4  # steps: within the first epoch
TIE = 1e-5  # predictions may differ where the two best scores differ by less
QUESTION, CONTEXT = "Where was Ann Berg born?", "Ann Berg was born in Sollen in 1931. Sollen lies on the river Vindel."
NOTE = "windows are run without padding"


@dataclass(frozen=True)
class Outcome:
    """What became of an architecture."""

    kind: str
    tokenizer: str  # class
    result: str  # ok, refused, failed, or cannot be built here
    detail: str = ""
    output: str = ""  # of the commands

    def __str__(self) -> str:
        return f"| {self.kind} | {self.tokenizer} | {self.result} | {self.detail} |"


class Interrupt(TrainerCallback):
    """Ask this process to stop after a step; Ctrl-C's signal is ignored where a shell started it in the background."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == STOPPED_AT:
            os.kill(os.getpid(), signal.SIGTERM)


def check_architecture(kind: str, data: Path, folder: Path) -> Outcome:
    """Build an architecture in a folder and run it through all commands; nothing that goes wrong is raised."""
    name, output = "none", io.StringIO()
    try:
        tokenizer = make_tokenizer(kind)
        name = type(tokenizer).__name__
        model = build(kind, folder / "model", tokenizer)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome(kind, name, "cannot be built here", f"`{place.name}`: {type(error).__name__}: {one_line(error)}")
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            with mock.patch("matplotlib.figure.Figure.savefig"):  # drawing takes half of the time
                detail = run_commands(model, data, folder)
        except UserError as error:
            return Outcome(kind, name, "refused", str(error).replace(str(model), kind), output.getvalue())
        except Exception as error:
            return Outcome(kind, name, "failed", f"{type(error).__name__}: {one_line(error)}", output.getvalue())
    unpadded = ["without padding"] if NOTE in output.getvalue() else []
    return Outcome(kind, name, "ok", "; ".join(unpadded + detail), output.getvalue())


def run_commands(model: Path, data: Path, folder: Path) -> list[str]:
    """Run all commands, and return what is worth noting; AssertionError where a result differs."""
    files = ("--train_file", data / "train.json", "--validation_file", data / "dev.json")
    options = ("--model_name_or_path", model, *files, *TRAINING, "--cache_dir", data / "cache")
    whole, parts = folder / "whole", folder / "parts"
    run(train, *options, "--output_dir", whole)
    with mock.patch.object(trainer, "make_callbacks", lambda *args: [*make_callbacks(*args), Interrupt()]):
        with contextlib.suppress(SystemExit):
            run(train, *options, "--output_dir", parts)
        assert not (parts / "model.safetensors").exists(), "the training was not interrupted"
    run(train, *options, "--output_dir", parts)
    weights = [(each / "model.safetensors").read_bytes() for each in (whole, parts)]
    assert weights[0] == weights[1], "the resumed training gave other weights"

    notes = []
    for size in (8, 1):
        again = folder / f"again_{size}"
        run(evaluate_qa, "--model_name_or_path", whole, "--per_device_eval_batch_size", size, "--output_dir", again)
        if ties := differences(whole, again):
            notes.append(f"{ties} ties within {TIE} decided otherwise at batch size {size}")
    run(ask, "--model_name_or_path", whole, "--question", QUESTION, "--context", CONTEXT)
    return notes


def differences(one: Path, other: Path) -> int:
    """Return how many predictions differ between two evaluations; AssertionError where the best scores differ more."""
    before, after = (read(folder / "predictions.json") for folder in (one, other))
    ranked = read(one / "nbest_predictions.json")
    differing = [key for key in before if before[key] != after[key]]
    for key in differing:
        best, second = (entry["start_logit"] + entry["end_logit"] for entry in ranked[key][:2])
        assert best - second < TIE, (
            f"{other.name} answers {key} otherwise, and the best scores differ by {best - second}"
        )
    return len(differing)


make_callbacks = trainer.make_callbacks
