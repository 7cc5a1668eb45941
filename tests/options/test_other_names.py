"""Mistyped and foreign options, words and files are answered with what to write instead."""

import json

import pytest
from helpers.commands import run

import ask
import evaluate_qa
import publish
import train
from qa.options.arguments import DataArguments, ModelArguments
from qa.options.other_names import DATA_NAMES, OTHER_NAMES
from qa.options.parser import parse_arguments
from qa.options.table import OTHERS, RUN, TABLE
from qa.options.training_arguments import TrainingOptions
from qa.runtime.errors import UserError

KINDS = ModelArguments, DataArguments, TrainingOptions
COMMANDS = {"train": train, "evaluate_qa": evaluate_qa, "ask": ask, "publish": publish}


def error_of(command: str, *argv) -> str:
    with pytest.raises(UserError) as error:
        run(COMMANDS[command], *argv)
    return str(error.value)


def refusal(kinds, argv) -> str | None:
    """Return the error of parsing a command line; None if it is accepted."""
    try:
        parse_arguments(kinds, argv)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("command", "name", "called"),
    [
        ("train", "model", "model_name_or_path"),
        ("evaluate_qa", "model", "model_name_or_path"),
        ("ask", "model_name", "model_name_or_path"),
        ("publish", "model", "model_dir"),
        ("publish", "model_name_or_path", "model_dir"),
        ("publish", "output_dir", "model_dir"),
        ("ask", "model_dir", "model_name_or_path"),
        ("train", "data", "train_file and validation_file, or dataset_name"),
        ("evaluate_qa", "data", "validation_file or dataset_name"),
        ("ask", "data", "input"),
        ("train", "dataset", "dataset_name"),
        ("train", "output", "output_dir"),
        ("evaluate_qa", "output_folder", "output_dir"),
        ("ask", "output_dir", "output"),
        ("train", "max_length", "max_seq_length"),
        ("ask", "max-length", "max_seq_length"),
        ("train", "max_seq_len", "max_seq_length"),
        ("train", "seq_length", "max_seq_length"),
        ("train", "stride", "doc_stride"),
        ("train", "wd", "weight_decay"),
        ("train", "lr", "learning_rate"),
        ("train", "epochs", "num_train_epochs"),
        ("train", "batch_size", "per_device_train_batch_size"),
        ("ask", "batch_size", "per_device_eval_batch_size"),
        ("train", "config_file", "config"),
        ("train", "device", "use_cpu"),
        ("ask", "use_cpu", "device"),
    ],
)
@pytest.mark.parametrize("form", ["--{} 1", "--{}=1"])
def test_names_used_elsewhere_are_answered_with_the_name_here(command, name, called, form):
    message = error_of(command, *form.format(name).split())
    assert message == f"{name.replace('-', '_')} is called {called} here"


def test_other_names_lead_to_existing_options_and_hide_none():
    real = {row.name for row in (*OTHERS, *RUN)} | {"config"}
    for names, ours in OTHER_NAMES.items():
        assert set(ours.split()) <= real, names
        assert not [name for name in names.split() if TABLE.get(name) and TABLE[name].instead], names
    assert set(DATA_NAMES) <= real
    listed = [name for names in OTHER_NAMES for name in names.split()]
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["token", "hub_token", "hf_token", "use_auth_token", "hub-token", "toke", "auth_tok"])
@pytest.mark.parametrize("form", ["--{} hf_secret", "--{}=hf_secret"])
def test_a_token_is_answered_with_the_login(command, name, form):
    message = error_of(command, *form.format(name).split())
    assert "hf_secret" not in message and "did you mean hub_token" not in message
    assert "hf auth login" in message or name in ("toke", "auth_tok")


def test_a_token_in_a_file_is_not_printed(tmp_path):
    (tmp_path / "c.yaml").write_text("seed: 1\ntoken: hf_secret\n")
    message = error_of("train", "--config", tmp_path / "c.yaml")
    assert message.endswith("c.yaml, line 2: token is not needed: log in once with `hf auth login`")


@pytest.mark.parametrize(
    ("command", "argv", "message"),
    [
        ("train", "--question Who?", "question is an option of ask.py, not of this command"),
        ("ask", "--learning_rate 1", "learning_rate is an option of train.py, not of this command"),
        ("evaluate_qa", "--private", "private is an option of publish.py, not of this command"),
        ("train", "-seed 3", "unexpected '-seed': write --seed, with two hyphens"),
        ("train", "\u2014seed 3", "unexpected '\u2014seed': write --seed, with two hyphens"),
        ("train", "\u2013\u2013max-seq-length=3", "write --max-seq-length, with two hyphens"),
        ("train", "seed=3", "unexpected 'seed=...': write --seed=..."),
        ("train", "--doc 3", "unknown option doc: did you mean doc_stride?"),
        ("train", "--optim adamw_bnb_8bits", "optim: invalid choice: 'adamw_bnb_8bits': did you mean adamw_bnb_8bit?"),
        ("train", "--label_smoothing_facto 1", "unknown option label_smoothing_facto: --help_all lists the options"),
    ],
)
def test_other_slips_are_answered_with_what_to_write(command, argv, message):
    assert message in error_of(command, *argv.split())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.yaml", "seed: 1\n\tlearning_rate: 2\n", "c.yaml, line 2: has a tab where YAML allows only spaces"),
        ("c.yaml", "--seed: 1\n", "c.yaml, line 1: unknown option --seed: write seed"),
        ("c.yaml", "model: x\n", "c.yaml, line 1: model is called model_name_or_path here"),
        ("c.yml", None, "c.yml: no such file: did you mean"),
        ("run", "settings.yaml", "is a folder: did you mean"),
        ("empty", "", "is a folder: --config names a YAML file"),
    ],
)
def test_files_of_options_that_are_not_read_say_why(tmp_path, name, content, message):
    (tmp_path / "cc.yml").write_text("")
    path = tmp_path / name
    if path.suffix == ".yaml":
        path.write_text(content)
    elif not path.suffix:
        path.mkdir()
        (path / (content or "other")).write_text("")
    assert message in error_of("train", "--config", path)


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_json_is_read_as_a_file_of_options(tmp_path, indent):
    values = {"learning_rate": 1e-5, "fp16": True, "train_file": ["a.json"], "max_steps": 3, "model_name_or_path": None}
    (tmp_path / "c.json").write_text(json.dumps(values, indent=indent))
    argv = ["--output_dir", "x", "--config", str(tmp_path / "c.json")]
    assert refusal(KINDS, argv) is None
    model, data, args = parse_arguments(KINDS, argv)
    assert (args.learning_rate, args.fp16, args.max_steps) == (1e-5, True, 3)
    assert data.train_file == ["a.json"] and model.model_name_or_path is None


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeff"])
def test_an_empty_file_of_options_sets_nothing(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    argv = ["--config", str(tmp_path / "c.yaml")]
    assert refusal((DataArguments,), argv) is None
    assert parse_arguments((DataArguments,), argv) == (DataArguments(),)


@pytest.mark.parametrize("word", ["true", "True", "TRUE", "yes", "on", "1"])
def test_words_for_true(tmp_path, word):
    (tmp_path / "c.yaml").write_text(f"strict: {word}\nversion_2_with_negative: {word}\n")
    (data,) = parse_arguments((DataArguments,), ["--config", str(tmp_path / "c.yaml")])
    assert data.strict is True and data.version_2_with_negative is True
    assert parse_arguments((DataArguments,), [f"--strict={word}"])[0].strict is True
