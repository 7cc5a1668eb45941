"""The stages of transformers' ``run_qa.py`` that are other commands here, and what to write for them."""

import argparse
import shlex
from enum import Enum
from typing import Any

from qa.options.parser import GivenOptions, spellings
from qa.options.table import find_option
from qa.runtime.errors import UserError

TEST_OPTIONS = ("test_file", "max_predict_samples")
# Which options of a command line evaluate_qa.py uses, too.
EVALUATION_GROUPS = ("model", "data", "windows", "answers", "device", "compilation")
ALSO = ("config", "output_dir", "eval_accumulation_steps")
OF_TRAINING = ("train_file", "max_train_samples", "max_train_samples_per_source", "demo_dir", "max_dropped", "strict")
OF_VALIDATION = ("validation_file", "dataset_name", "dataset_config_name", "max_eval_samples")


class SplitParser(argparse.ArgumentParser):
    """Parser that separates a few options from a command line, which it leaves to another one."""

    def __init__(self, names: tuple[str, ...]):
        super().__init__(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
        for name in names:
            self.add_argument(*spellings(name))

    def error(self, message: str):
        raise UserError(message)


def split_test_options(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the options of ``run_qa.py`` on test data, by name, and the rest of a command line."""
    found, rest = SplitParser(TEST_OPTIONS).parse_known_args(argv)
    return vars(found), rest


def check_stages(given: GivenOptions, test: dict[str, str], argv: list[str]) -> None:
    """Check that ``train.py`` is asked to train, and not to predict.

    Args:
        test: the options on test data, from ``split_test_options``. argv: the command line.

    Raises:
        UserError: it is asked for another stage, with the command for it.
    """
    predicts, evaluates = given.value("do_predict"), asks_to_evaluate(given)
    trains = given.value("do_train")
    if trains is None:
        trains = not (predicts or evaluates)
    folder = str(given.value("output_dir") or "my_qa_model")
    config = vars(SplitParser(("config",)).parse_known_args(argv)[0])
    options = {name: value for name, value in (config | given.command_line).items() if is_of_evaluation(name)}
    if predicts or test:
        written = " and ".join([*(["do_predict"] if predicts else []), *test])
        commands = predict_commands({} if trains else options, folder, test)
        when = ", and after training write" if trains else "; instead write"
        raise UserError(f"train.py does not predict: leave out {written}{when}: {commands}")
    if evaluates and not trains:
        if not ("model_name_or_path" in options or (given.named and given.value("model_name_or_path"))):
            options = {"model_name_or_path": folder} | {key: options[key] for key in options if key != "output_dir"}
        command = as_command("evaluate_qa.py", options)
        raise UserError(f"do_eval without do_train: add --do_train, or, to evaluate only, write: {command}")
    if not trains:
        raise UserError("do_train false: train.py does nothing else; leave it out, or evaluate with evaluate_qa.py")


def is_of_evaluation(name: str) -> bool:
    return name in ALSO or (find_option(name).group in EVALUATION_GROUPS and name not in OF_TRAINING)


def asks_to_evaluate(given: GivenOptions) -> bool:
    """Return whether ``do_eval`` was given; in a file of settings it only follows from ``eval_strategy``."""
    in_file = given.config.get("do_eval") and given.config.get("eval_strategy", "no") == "no"
    return bool(given.command_line.get("do_eval", in_file))


def predict_commands(options: dict[str, Any], folder: str, test: dict[str, str]) -> str:
    """Return the commands that answer a test file: one with scores, and one for questions without answers.

    Args:
        options: of the evaluation; empty for a model that is trained first, whose settings are saved with it.
        folder: the output folder. test: as for ``check_stages``.
    """
    file = test.get("test_file", "TEST_FILE")
    limit = {"max_eval_samples": test["max_predict_samples"]} if "max_predict_samples" in test else {}
    model = {"model_name_or_path": options.get("model_name_or_path", folder)}
    rest = {name: value for name, value in options.items() if name not in (*model, *OF_VALIDATION, "output_dir")}
    data = {"validation_file": file, **limit, **rest, "output_dir": f"{folder}/test"}
    scored = as_command("evaluate_qa.py", model | data)
    asked = as_command("ask.py", model | {"input": file, "output": f"{folder}/answers.jsonl"})
    return f"{scored} or, for questions without answers: {asked}"


def as_command(script: str, options: dict[str, Any]) -> str:
    """Return a command line that can be pasted."""
    words = ["python", script]
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(as_word(each) for each in values)]
    return shlex.join(words)


def as_word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value.value if isinstance(value, Enum) else value)
