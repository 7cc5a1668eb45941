"""A package that is not installed is a line with the command that installs it, and exit status 2."""

import json
import subprocess
import sys

import pytest

from qa.model.loading import loading
from qa.model.tokenizer import load_tokenizer
from qa.options.arguments import REPOSITORY, ModelArguments
from qa.runtime.errors import UserError
from qa.runtime.packages import explain_missing
from qa.runtime.process import run_command

COMMANDS = ("train", "preprocess", "evaluate_qa", "ask", "publish")
WITHOUT = """
import runpy, sys
sys.modules |= dict.fromkeys(sys.argv[2].split(","))  # as if not installed
sys.path.insert(0, ".")
sys.argv = [sys.argv[1]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_an_interpreter_without_the_requirements(command):
    argv = [sys.executable, "-S", f"{command}.py"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, env={"PATH": "/usr/bin"})
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "is not installed: pip install " in done.stderr and "pip install -r requirements.txt" in done.stderr


@pytest.mark.parametrize("package", ["torch", "datasets"])
def test_a_command_names_the_package_that_is_missing(package):
    argv = [sys.executable, "-c", WITHOUT, "train.py", package]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {package} is not installed: pip install {package}, or ")


def test_a_package_that_is_missing_while_a_command_runs(capsys):
    def main():
        import no_such_package_1  # noqa: F401

    with pytest.raises((SystemExit, ModuleNotFoundError)) as stopped:
        run_command(main)
    assert getattr(stopped.value, "code", None) == 2
    assert capsys.readouterr().err.startswith(
        "error: no_such_package_1 is not installed: pip install no_such_package_1"
    )


def test_mistakes_in_installed_packages_are_not_called_missing():
    for name in ("qa.nothing", "json.nothing", "transformers.nothing", None):
        assert explain_missing(ModuleNotFoundError("no", name=name)) is None


def test_a_tokenizer_that_needs_a_converter_names_all_packages(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "albert"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "AlbertTokenizer"}))
    (tmp_path / "spiece.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    installed = {"sentencepiece": False, "google.protobuf": False, "tiktoken": False}
    monkeypatch.setattr("qa.model.loading.is_installed", installed.get)
    for module in ("sentencepiece", "tiktoken"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"pip install sentencepiece protobuf tiktoken$"):
        load_tokenizer(ModelArguments(str(tmp_path)))
    installed["sentencepiece"] = True
    with pytest.raises(UserError, match=r"pip install protobuf tiktoken$"), loading("tokenizer", str(tmp_path)):
        raise ValueError("`tiktoken` is required to read a `tiktoken` file")
