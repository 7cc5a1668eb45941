"""Every command block of the documents is run offline on tiny models and data, or parsed by the command's own parser.

A command that can only be parsed, or not even that, is listed below with the reason; one that is neither run nor listed
fails. The commands run in a folder where the names of the documents (``my_qa_model``, ``rajpurkar/squad``) are tiny
local models and data.
"""

import ast
import contextlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from helpers.builders import squad
from helpers.commands import run
from helpers.documents import DOCUMENTS, README, REPOSITORY, blocks, commands, pipelines
from torch.distributed.run import get_args_parser
from transformers import AlbertConfig, AlbertForQuestionAnswering

from qa.runtime.errors import UserError

ALL = sorted({command for document in DOCUMENTS for command in commands(document)})
PIPELINES = [line for document in DOCUMENTS for line in pipelines(document)]
SENTINEL = "--no_such_option"

# Commands that are only parsed here, and where what they do is tested.
PARSED = {
    "tests/data/ (slow) runs the demo": (
        r"python train\.py --config configs/demo\.yaml.*",
        r"python evaluate_qa\.py --model_name_or_path squad_v2 --save_best_threshold true",
    ),
    "tests/hub/ publishes to a local server": (r"python publish\.py .*",),
    "tests/training/ resumes runs": (r"python train\.py --resume_from_checkpoint last",),
    "tests/training/ runs several processes": (r"torchrun .*", r"accelerate launch .*"),
    "tests/commands/test_run_qa.py runs the commands of the examples": (
        r"python train\.py --config configs/run_qa\.yaml .*",
    ),
    "tests/data/ reads several datasets": (r"python train\.py --config configs/squad_plus_adversarial\.yaml",),
    "tests/model/ and tests/data/ (slow) run the benchmarks": (r"python benchmarks/.*",),
}
# Commands of other programs, and why they are not run.
NOT_RUN = {
    "installs packages": (
        r"(python3|py) -m venv \.venv",
        r"\. \.venv/bin/activate",
        r"'\.venv\\Scripts\\Activate\.ps1'",
        r"pip (install|download) .*",
        r"pre-commit install",
    ),
    "needs the Hub": (r"hf auth login", r"hf download albert/albert-base-v2 --local-dir albert-base-v2"),
    "sets a variable of the shell": (r"export HF_HUB_OFFLINE=1",),
    "serves pages until it is stopped": (r"tensorboard --logdir my_qa_model/runs",),
    "CI runs it": (r"bash \.ci/run", r"ruff check \.", r"ruff format \."),
    "runs tests; checked by test_pytest_commands": (r"python -m pytest.*",),
}


def reason_for(command: str, table: dict[str, tuple[str, ...]]) -> str | None:
    matches = (why for why, patterns in table.items() if any(re.fullmatch(pattern, command) for pattern in patterns))
    return next(matches, None)


def script_call(command: str) -> tuple[str, list[str]] | None:
    """Return the module of a command's Python script and the script's arguments; None for other commands."""
    words = shlex.split(command)
    for index, word in enumerate(words):
        if word.endswith(".py") and words[0] in ("python", "torchrun", "accelerate") and words[1] != "-m":
            return word.removesuffix(".py").replace("/", "."), words[index + 1 :]
    return None


PARSABLE = [command for command in ALL if script_call(command)]
RUNNABLE = [command for command in PARSABLE if not reason_for(command, PARSED)]
TRAINED_BY_FIXTURE = "python train.py", "python train.py --learning_rate 3e-5 --output_dir second_try"


def is_slow(command: str) -> bool:
    """Whether a command trains, other than with the reader's own data."""
    return "train.py" in command and not any(word in command for word in ("my_train.jsonl", "--plan", "--help"))


def parse_error(command: str) -> str:
    """Return the error of a command given an unknown option after its own, which names the first one that is wrong."""
    module, argv = script_call(command)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            run(importlib.import_module(module), *argv, SENTINEL, "1")
    except (UserError, ValueError) as error:
        return str(error)
    except SystemExit:
        return errors.getvalue()
    raise AssertionError(f"{command}: an unknown option was accepted")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, bert_tokenizer):
    """The folder in which the commands run."""
    folder = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
        for name in ("config.yaml", "configs", "qa"):
            (folder / name).symlink_to(REPOSITORY / name)
        write_models(folder, bert_tokenizer)
        write_data(folder)
        for command in TRAINED_BY_FIXTURE:
            execute(command)
        for name in ("demo_model", "USER/NAME", "squad_v2"):
            shutil.copytree("my_qa_model", name)
        execute("python evaluate_qa.py --model_name_or_path my_qa_model --save_logits logits.npz")
        yield folder


def write_models(folder: Path, tokenizer) -> None:
    """Write a tiny ALBERT under every name of a pretrained model in the documents."""
    sizes = {"embedding_size": 8, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    config = AlbertConfig(vocab_size=len(tokenizer), num_hidden_layers=1, hidden_act="gelu_new", **sizes)
    torch.manual_seed(0)
    model = AlbertForQuestionAnswering(config)
    names = [f"albert/albert-{size}-v2" for size in ("base", "xxlarge")]
    for name in (*names, "google/electra-small-discriminator", "albert-base-v2", "MINILM"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def write_data(folder: Path) -> None:
    """Write a few questions under every name of a file or dataset in the documents."""
    people = [(f"{name} was born in {place}.", f"Where was {name} born?", place) for name, place in PLACES.items()]
    nested = squad(people)
    (row,) = (json.loads(text) for text in blocks(README, "json"))
    paragraphs = [paragraph for article in nested["data"] for paragraph in article["paragraphs"]]
    rows = [
        {"id": qa["id"], "question": qa["question"], "context": paragraph["context"]}
        | {"answers": {key: [answer[key] for answer in qa["answers"]] for key in ("text", "answer_start")}}
        for paragraph in paragraphs
        for qa in paragraph["qas"]
    ]
    lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in [row | {"id": str(row["id"])}, *rows])
    for name in (
        "my_train.json",
        "my_dev.json",
        "a.json",
        "dev.json",
        "train-v1.1.json",
        "dev-v1.1.json",
        "TRAIN.json",
        "DEV.json",
    ):
        (folder / name).write_text(json.dumps(nested), encoding="utf-8")
    sources = ("rajpurkar/squad/train", "rajpurkar/squad/validation", "rajpurkar/squad_v2/train")
    sources += ("rajpurkar/squad_v2/validation", "UCLNLP/adversarial_qa/train")
    for name in ("my_train", "my_dev", "b", "questions", *sources):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "predictions.json").write_text(json.dumps({item["id"]: "Sollen" for item in rows}), encoding="utf-8")
    (folder / "book.txt").write_text(" ".join(context for context, _, _ in people), encoding="utf-8")


PLACES = {"Mira": "Sollen", "Talven": "Vindel", "Tomé": "Ørby", "Arna": "Sollen", "Zoë": "Vindel", "Bero": "Lund"}


def execute(command: str) -> None:
    """Run one command of the documents in this process, in the current folder."""
    module, argv = script_call(command)
    if {"--help", "--help_all"} & set(argv):
        script = REPOSITORY / f"{module}.py"
        printed = subprocess.run([sys.executable, script, *argv], capture_output=True, text=True, check=True).stdout
        assert "--output_dir" in printed
        return
    typed = iter(["Where was Mira born?"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        patch.setattr("builtins.input", lambda prompt="": next(typed, ""))
        run(importlib.import_module(module), *argv)


@pytest.mark.parametrize("command", [command for command in ALL if not script_call(command)])
def test_other_programs_are_listed(command):
    if command.startswith("python -c "):
        exec(shlex.split(command)[2], {})
    else:
        assert reason_for(command, NOT_RUN), "neither run nor listed"


def test_lists_are_current():
    for table in (PARSED, NOT_RUN):
        for patterns in table.values():
            for pattern in patterns:
                assert any(re.fullmatch(pattern, command) for command in ALL), f"{pattern}: no document has it"


@pytest.mark.parametrize("command", [command for command in PARSABLE if "--help" not in command])
def test_options_exist(command, workplace):
    assert SENTINEL.lstrip("-") in parse_error(command)
    if command.startswith(("torchrun", "accelerate")):
        words = shlex.split(command)
        parser = get_args_parser() if words[0] == "torchrun" else launch_command_parser()
        parsed = parser.parse_args(words[1 if words[0] == "torchrun" else 2 :])
        assert parsed.training_script.endswith(".py")


@pytest.mark.parametrize("wrong", ["--lerning_rate 1", "--learning_rate fast", "--num_train_epochs"])
def test_a_mistyped_option_is_found(wrong):
    assert SENTINEL.lstrip("-") not in parse_error(f"python train.py {wrong}")


@pytest.mark.parametrize("command", [command for command in ALL if command.startswith("python -m pytest")])
def test_pytest_commands(command):
    words = shlex.split(command)
    files = [REPOSITORY / word for word in words if word.startswith("tests/")]
    assert all(file.is_file() for file in files)
    if "-k" in words:
        name = words[words.index("-k") + 1]
        assert any(re.search(rf"def test_\w*{name}", file.read_text(encoding="utf-8")) for file in files)
    if "-m" in words[3:]:
        marker = words[words.index("-m", 3) + 1]
        assert not marker or f'"{marker}:' in (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=pytest.mark.slow) if is_slow(command) else command
        for command in RUNNABLE
        if command not in TRAINED_BY_FIXTURE
    ],
)
def test_commands_run(command, workplace, tmp_path, monkeypatch):
    """The command succeeds in a copy of the workplace, from which a new run's output folders are removed."""
    folder = tmp_path / "workplace"
    shutil.copytree(workplace, folder, symlinks=True)
    if "train.py" in command and "my_qa_model" not in command and "--overwrite_output_dir" not in command:
        shutil.rmtree(folder / "my_qa_model")
    if "configs/squad_v2.yaml" in command:
        shutil.rmtree(folder / "squad_v2")
    monkeypatch.chdir(folder)
    execute(command)


@pytest.mark.skipif(os.name == "nt", reason="these lines are for bash")
@pytest.mark.parametrize("line", PIPELINES)
def test_pipelines_run(line, workplace, tmp_path, monkeypatch):
    folder = tmp_path / "workplace"
    shutil.copytree(workplace, folder, symlinks=True)
    python = 'python() { "$PYTHON" "$REPOSITORY/$1" "${@:2}"; }\n'
    environment = os.environ | {"PYTHON": sys.executable, "REPOSITORY": str(REPOSITORY)}
    done = subprocess.run(["bash", "-c", python + line], cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() or (folder / "answers.jsonl").read_text(encoding="utf-8").count("\n") > 1


WITH_PYTHON = [document for document in DOCUMENTS if any(blocks(document, "python"))]


@pytest.mark.parametrize("document", WITH_PYTHON, ids=[document.stem for document in WITH_PYTHON])
def test_python_blocks_run(document, workplace):
    """The blocks of a document run in turn; where a comment shows the result of a last line, its keys are right."""
    names: dict = {}
    for text in blocks(document, "python"):
        tree = ast.parse(text)
        if isinstance(tree.body[-1], ast.Expr):
            tree.body[-1] = ast.Assign([ast.Name("result", ast.Store())], tree.body[-1].value)
        exec(compile(ast.fix_missing_locations(tree), document.name, "exec"), names)
        if shown := re.search(r"^# (\{.*\})$", text, re.M):
            assert names["result"].keys() == ast.literal_eval(shown[1]).keys()


def test_picture_shows_what_ask_prints(workplace, capsys):
    """The labels and the prompt of docs/ask.svg are those that the command prints today."""
    picture = (REPOSITORY / "docs/ask.svg").read_text(encoding="utf-8")
    execute("python ask.py --model_name_or_path my_qa_model --context_file book.txt")
    printed = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert f">{printed[0]}<" in picture
    labels = [re.match(r"  \w+ +", line)[0] for line in printed[1:] if re.match(r"  \w", line)]
    assert len(labels) == 4 and all(f">{label}" in picture for label in labels)
