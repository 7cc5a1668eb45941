"""Mistakes are reported before the libraries load, and no command loads what it does not use."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.commands import SMALL
from transformers import AlbertConfig, AlbertForQuestionAnswering

from qa.data.formats import read_file
from qa.options.arguments import REPOSITORY

COMMANDS = ("train", "preprocess", "evaluate_qa", "ask", "publish")
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "evaluate", "numpy", "pyarrow", "matplotlib")
RAISING = "raise RuntimeError(f'{__name__} was imported')\n"


@pytest.fixture(scope="module")
def stubs(tmp_path_factory) -> Path:
    """Return a folder of packages that raise an error when they are imported, in place of the libraries."""
    folder = tmp_path_factory.mktemp("stubs")
    for name in LIBRARIES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(RAISING)
    return folder


def run(stubs: Path, command: str, *argv: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, f"{command}.py", *argv],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(stubs)} | environment,
    )


def report(stubs: Path, command: str, *argv: str) -> str:
    """Return the line on stderr of a command that fails before it imports a library."""
    done = run(stubs, command, *argv)
    assert "was imported" not in done.stderr, f"{command}.py imports a library before it reports a mistake"
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    return done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistyped_option_is_reported_before_the_libraries_load(stubs, command):
    assert "unknown option learning_rat: " in report(stubs, command, "--learning_rat", "1")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistyped_option_of_a_file_is_reported_before_the_libraries_load(stubs, command, tmp_path):
    (tmp_path / "c.yaml").write_text("learning_rat: 1\n")
    assert f"{tmp_path}/c.yaml, line 1: unknown option" in report(stubs, command, "--config", str(tmp_path / "c.yaml"))


@pytest.mark.parametrize(
    ("command", "argv", "message"),
    [
        ("train", "--precision bf17", "precision: invalid choice: 'bf17': did you mean bf16?"),
        ("train", "--max_seq_length abc", "max_seq_length: invalid int value: 'abc'"),
        ("train", "--learning_rate fast", "learning_rate: invalid float value: 'fast'"),
        ("train", "--eval_strategy epochs", "eval_strategy: invalid choice: 'epochs': did you mean epoch?"),
        ("train", "--doc_stride -1", "doc_stride must not be negative"),
        ("train", "--config nothing.yaml", "nothing.yaml: no such file"),
        ("train", "--dataset_name a/b --train_file c.json", "dataset_name and train_file are mutually exclusive"),
        ("train", "--train_file configs/demo.yml", "configs/demo.yml: no such file: did you mean configs/demo.yaml?"),
        ("train", "--model_name_or_path ./nothing", "./nothing: no such folder"),
        ("train", "--do_predict", "train.py does not predict"),
        ("train", "--hub_token secret", "hub_token is not needed"),
        ("preprocess", "--train_file nothing.json", "nothing.json: no such file"),
        ("preprocess", "--tokenizer_name README.md", "README.md is a file: give the folder of the model"),
        ("evaluate_qa", "", "give one of --model_name_or_path, --predictions and --logits to evaluate"),
        ("evaluate_qa", "--model_name_or_path ./nothing", "./nothing: no such folder"),
        ("evaluate_qa", "--model_name_or_path a/b --validation_file x.json", "x.json: no such file"),
        ("ask", "--model_name_or_path a/b --input q --question q", "give either --question or --input"),
        ("ask", "--model_name_or_path ./nothing --question q --context c", "./nothing: no such folder"),
        ("publish", "--model_dir nothing --hub_model_id a/b", "model_dir nothing: no such folder"),
    ],
)
def test_what_is_known_without_the_libraries_is_reported_before_they_load(stubs, command, argv, message):
    assert f"error: {message}" in report(stubs, command, *argv.split())


def test_a_field_that_is_newer_than_the_table_is_left_to_the_libraries(stubs, tmp_path):
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").write_text(RAISING)
    (tmp_path / "transformers" / "training_args.py").write_text(
        "class TrainingArguments:\n    half_life: float = 1.0\n"
    )
    done = run(stubs, "train", "--half_life", "2", PYTHONPATH=f"{tmp_path}{os.pathsep}{stubs}")
    assert "unknown option" not in done.stderr and "was imported" in done.stderr


def test_only_the_main_process_prints_the_help(stubs):
    printed = [run(stubs, "train", "--help", RANK=rank, WORLD_SIZE="2").stdout.count("Examples:") for rank in "01"]
    assert printed == [1, 0]


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
def test_ctrl_c_while_the_libraries_load_leaves_no_traceback(tmp_path):
    """An interrupted import may raise something else than KeyboardInterrupt, as extension modules do."""
    (tmp_path / "torch").mkdir()
    loading = (
        "open({0!r}, 'w').close()\ntry:\n    time.sleep(60)\nexcept BaseException:\n    raise ImportError('torch')\n"
    )
    (tmp_path / "torch" / "__init__.py").write_text("import time\n" + loading.format(str(tmp_path / "loading")))
    (tmp_path / "c.yaml").write_text("output_dir: out\n")
    with subprocess.Popen(
        [sys.executable, "train.py", "--config", str(tmp_path / "c.yaml")],
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    ) as process:
        while process.poll() is None and not (tmp_path / "loading").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert (process.stderr.read(), process.wait()) == ("", -signal.SIGINT)


LOADED = """
import importlib, json, sys
command, sys.argv = importlib.import_module(sys.argv[1]), sys.argv[1:]
command.main()
print("LOADED " + json.dumps(sorted(sys.modules)))
"""


def loaded(command: str, *argv: object) -> set[str]:
    """Return the modules that a command has imported when it ends."""
    line = [sys.executable, "-c", LOADED, command, *map(str, argv)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(json.loads(done.stdout.rpartition("LOADED ")[2]))


def test_ask_loads_no_library_for_data_training_or_reports(tiny_model, tmp_path):
    AlbertForQuestionAnswering(AlbertConfig.from_pretrained(tiny_model)).save_pretrained(tmp_path)
    for file in Path(tiny_model).glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    code = (
        "import sys; sys.argv = ['ask.py', *sys.argv[1:]]; import runpy; runpy.run_path('ask.py', run_name='__main__')"
    )
    code += "\nprint('LOADED', *sys.modules)"
    asked = ["--question", "Where was Mira born?", "--context", "Mira was born in Sollen.", "--device", "cpu"]
    line = [sys.executable, "-c", code, "--model_name_or_path", str(tmp_path), *asked]
    done = subprocess.run(line, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-2000:]
    modules = set(done.stdout.rpartition("LOADED ")[2].split())
    assert {"datasets", "pandas", "evaluate", "matplotlib", "transformers.trainer"} & modules == set()


def test_preprocess_loads_no_library_for_training_or_reports(tiny_model, tiny_data, tmp_path):
    data = "--train_file", tiny_data / "train.json", "--tokenizer_name", tiny_model
    places = "--output_dir", tmp_path / "out", "--cache_dir", tmp_path / "cache"
    modules = loaded("preprocess", *data, *places, *SMALL)
    assert {"evaluate", "matplotlib", "transformers.trainer"} & modules == set()


def test_predictions_are_scored_without_loading_the_trainer(tiny_data, tmp_path):
    file = tiny_data / "dev.json.gz"
    (tmp_path / "p.json").write_text(json.dumps({row["id"]: "" for _, row in read_file(str(file))}))
    argv = "--validation_file", file, "--predictions", tmp_path / "p.json", "--output_dir", tmp_path / "out"
    modules = loaded("evaluate_qa", *argv)
    assert {"evaluate", "transformers.trainer"} & modules == set()
