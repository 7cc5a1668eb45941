"""Parsing of a YAML file and command-line overrides, and their one-line errors."""

import dataclasses
import os
import subprocess
import sys

import pytest

from qa.io.files import write_yaml
from qa.options.arguments import REPOSITORY, AskArguments, DataArguments, EvaluationArguments, ModelArguments
from qa.options.parser import parse_arguments, read_options
from qa.options.saved import as_settings
from qa.options.training_arguments import TrainingOptions
from qa.runtime.errors import UserError

ALL = (ModelArguments, DataArguments, TrainingOptions)


def parse(tmp_path, text="", *argv):
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    return parse_arguments(ALL, list(argv), default_config=tmp_path / "c.yaml")


def test_yaml_scalars_get_the_types_of_their_options(tmp_path):
    text = "learning_rate: 2e-5\nfp16: 'false'\neval_strategy: no\ntf32: null\nseed: ~\nreport_to: [none]\n"
    model, data, training = parse(tmp_path, text + "lr_scheduler_kwargs: {num_cycles: 2}\ntrain_file: 007.json\n")
    assert training.learning_rate == 2e-5 and training.fp16 is False and training.eval_strategy.value == "no"
    assert training.tf32 is None and training.seed == 42 and training.lr_scheduler_kwargs == {"num_cycles": 2}
    assert data.train_file == ["007.json"] and model.model_name_or_path is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_config_encodings(tmp_path, encoding):
    path = tmp_path / "c.yaml"
    path.write_text("output_dir: Ørby\n", encoding=encoding)
    if encoding == "latin-1":
        with pytest.raises(UserError, match=r"c\.yaml: is not text in UTF-8"):
            parse_arguments(ALL, [], default_config=path)
    else:
        assert parse_arguments(ALL, [], default_config=path)[2].output_dir == "Ørby"


@pytest.mark.skipif(os.name == "nt", reason="Windows has other pipes")
def test_a_config_from_a_pipe_is_refused_as_it_is_read_twice(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is a pipe, which can be read only once: --config needs a file"):
        parse_arguments(ALL, ["--config", str(tmp_path / "pipe")])


def test_command_line_overrides_the_file(tmp_path):
    text = "learning_rate: 2e-5\nmax_seq_length: 100\nload_best_model_at_end: false\n"
    _, data, training = parse(tmp_path, text, "--learning_rate", "3e-5", "--max-seq-length=200", "--bf16", "false")
    assert (training.learning_rate, data.max_seq_length) == (3e-5, 200)


def test_home_folder_is_expanded_where_no_shell_does(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    text = "config_name: ~/model\ntrain_file: [~/a.json, b~.json]\noutput_dir: ~/run\n"
    model, data, training = parse(tmp_path, text, "--tokenizer_name=~/tokenizer")
    paths = model.config_name, model.tokenizer_name, *data.train_file, training.output_dir
    assert paths == (*(f"{tmp_path}/{name}" for name in ("model", "tokenizer", "a.json")), "b~.json", f"{tmp_path}/run")
    (ask,) = parse_arguments((AskArguments,), ["--question", "~/.bashrc is what?"])
    assert ask.question == "~/.bashrc is what?"


@pytest.mark.parametrize(
    ("text", "argv", "message"),
    [
        ("lerning_rate: 1", [], "c.yaml, line 1: unknown option lerning_rate: did you mean learning_rate?"),
        ("seed: 1\nlearning_rate: fast", [], "c.yaml, line 2: learning_rate: invalid float value: 'fast'"),
        ("seed: 1.5", [], "line 1: seed: invalid int value: '1.5'"),
        ("fp16: maybe", [], "line 1: fp16: must be true or false, not 'maybe'"),
        ("eval_strategy: sometimes", [], "eval_strategy: invalid choice: 'sometimes'"),
        ("seed: 1\nseed: 2", [], "line 2: seed is set twice"),
        ("seed: [1", [], "not YAML"),
        ("- seed", [], "must hold lines of the form `option: value`"),
        ("seed: {a: 1}", [], "seed: invalid int value"),
        ("max-seq-length: 9", [], "unknown option max-seq-length: write max_seq_length"),
        ("learning_rate: [1e-5, 2e-5]", [], "line 1: learning_rate takes one value, not a list"),
        ("? [a, b]\n: 1", [], "line 1: an option's name must be a word"),
        ("lr_scheduler_kwargs: &x {a: *x}", [], "line 1: the value of lr_scheduler_kwargs cannot be read"),
        ("batch_size: 8", [], "batch_size is called per_device_train_batch_size"),
        ("", ["--fp32"], "fp32 is a value here: --precision fp32"),
        ("", ["--seed=-1"], "seed must not be negative"),
        ("", ["--label_smoothing_factor", "0.1"], "label_smoothing_factor is not supported here"),
        ("", ["--accelerator_config", '{"foo": 1}'], "foo"),
        ("", ["--validation_file", "a", "--validation_split_percentage", "9"], "are mutually exclusive"),
        ("help: true", [], "unknown option help"),
        ("evaluation_strategy: epoch", [], "evaluation_strategy is called eval_strategy now"),
        ("recovery_minutes: -1", [], "recovery_minutes must not be negative"),
        ("", ["--logging_dir", "x"], "logging_dir was removed in transformers 5"),
        ("", ["--group-by-length"], "write train_sampling_strategy: group_by_length"),
        ("", ["--hub_token", "x"], "hf auth login"),
        ("", ["--learn", "1"], "unknown option learn"),
        ("", ["--max_seq_lenght", "1"], "did you mean max_seq_length?"),
        ("", ["stray"], "unexpected 'stray'"),
        ("", ["--config"], "config: expected one argument"),
        ("", ["--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        ("", ["--learning_rate"], "learning_rate: expected one argument"),
        ("", ["--learning_rate", "-1"], "learning_rate must be a finite number above 0"),
        ("", ["--learning_rate", "nan"], "learning_rate must be a finite number above 0"),
        ("", ["--per_device_train_batch_size", "0"], "per_device_train_batch_size must be at least 1"),
        ("", ["--max_seq_length", "0"], "max_seq_length must be at least 1"),
        ("", ["--validation_split_percentage", "100"], "must be from 1 to 99"),
        ("", ["--load_best_model_at_end"], "--load_best_model_at_end requires the save and eval strategy to match"),
        ("dataset_name: a\ntrain_file: b", [], "dataset_name and train_file are mutually exclusive"),
        (
            "",
            ["--config_name", "a", "--model_name_or_path", "b"],
            "model_name_or_path and config_name are mutually exclusive",
        ),
    ],
)
def test_invalid_options_are_one_line_errors(tmp_path, text, argv, message):
    with pytest.raises(UserError) as error:
        parse(tmp_path, text, *argv)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_command_line_replaces_an_exclusive_option_of_the_file(tmp_path):
    text = "dataset_name: rajpurkar/squad\nmodel_name_or_path: albert/albert-base-v2\n"
    model, data, _ = parse(tmp_path, text, "--validation_file", "dev.json", "--config_name", "folder")
    assert data.dataset_name is None and model.model_name_or_path is None


def test_settings_can_be_read_back(tmp_path):
    parsed = parse_arguments(ALL, ["--train_file", "a: b.json", "--learning_rate", "3e-5", "--eval_strategy", "steps"])
    write_yaml(tmp_path / "settings.yaml", as_settings(*parsed))
    again = parse_arguments(ALL, [], default_config=tmp_path / "settings.yaml")
    assert again[0] == parsed[0] and again[1] == parsed[1]
    assert again[2].to_dict() | {"logging_dir": 0} == parsed[2].to_dict() | {"logging_dir": 0}


def test_no_token_reaches_the_settings(tmp_path):
    training = TrainingOptions("x", hub_token="hf_secret")
    assert "hf_secret" not in str(as_settings(training))


def test_saved_data_limits_are_ignored_for_other_data(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("max_eval_samples: 9\nversion_2_with_negative: false\nvalidation_split_percentage: 9\n")
    same, _ = parse_arguments(ALL[1:], [], saved=str(path))
    other, _ = parse_arguments(ALL[1:], ["--validation_file", "x.json"], saved=str(path))
    assert (same.max_eval_samples, same.version_2_with_negative, same.validation_split_percentage) == (9, False, 9)
    assert (other.max_eval_samples, other.version_2_with_negative, other.validation_split_percentage) == (None,) * 3


def test_saved_settings_of_the_run_itself_are_ignored(tmp_path):
    text = "model_name_or_path: base\noutput_dir: there\nmax_seq_length: 100\nlearning_rate: 1\n"
    (tmp_path / "settings.yaml").write_text(text)
    own = "gpu_memory_gb: auto\nfused_gelu: false\ntorch_compile: true\nrecovery_minutes: 1\n"  # of TrainingOptions
    with (tmp_path / "settings.yaml").open("a") as file:
        file.write(own)
    data, model = parse_arguments((DataArguments, ModelArguments), [], saved=str(tmp_path / "settings.yaml"))
    assert data.max_seq_length == 100 and model.model_name_or_path is None


@pytest.mark.parametrize(
    "path", ["config.yaml", *(f"configs/{p.name}" for p in (REPOSITORY / "configs").glob("*.yaml"))]
)
def test_every_recipe_is_read(path):
    model, data, training = parse_arguments(ALL, ["--config", str(REPOSITORY / path)])
    assert not training.push_to_hub
    if path == "configs/run_qa.yaml":  # has the defaults of another program, which its own test compares
        return
    assert training.load_best_model_at_end and training.metric_for_best_model == "f1"
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps in (16, 32, 48)
    if path == "config.yaml":
        assert (model.model_name_or_path, data.dataset_name) == ("albert/albert-base-v2", ["rajpurkar/squad"])
        assert (data.max_seq_length, data.doc_stride, training.learning_rate) == (384, 128, 2e-5)
        assert training.fp16 and training.seed == 42 and training.output_dir == "my_qa_model"


def command(*argv: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *argv], cwd=REPOSITORY, capture_output=True, text=True)


def test_exit_status_and_stderr_of_a_mistake():
    done = command("train.py", "--lerning_rate", "1")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: unknown option lerning_rate: did you mean learning_rate?\n"


def test_help_all_shows_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as stopped:
        read_options((*ALL, EvaluationArguments), ["--help_all"], description="Evaluate.")
    text = " ".join(capsys.readouterr().out.split())
    assert not stopped.value.code and "Maximum tokens per answer. (default: 30)" in text
    assert text.startswith("Evaluate.") and "--config" in text and "%%" not in text
    for kind in (*ALL, EvaluationArguments):
        for item in dataclasses.fields(kind):
            assert f" --{item.name} " in text or item.name == "hub_token"
