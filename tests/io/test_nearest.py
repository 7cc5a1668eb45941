"""Mistyped paths are answered with the nearest existing one, in every command that takes a path."""

from pathlib import Path

import pytest
from helpers.commands import run

import ask
import evaluate_qa
import publish
import train
from qa.io.nearest import nearest_path
from qa.runtime.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("my_qa_model", "runs/first", "data"):
        Path(name).mkdir(parents=True)
    Path("questions.jsonl").write_text("")
    Path("c.yaml").write_text("report_to: none\n")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("my_qa_modle", "my_qa_model"),
        ("my-qa-model/", "my_qa_model"),
        ("runs/frist", "runs/first"),
        ("run/first", "runs/first"),
        ("run/second", "runs"),
        ("question.jsonl", "questions.jsonl"),
        ("albert-base-v2", None),
        ("nowhere/nothing", None),
    ],
)
def test_the_first_part_that_does_not_exist_is_corrected(path, nearest, folder):
    assert nearest_path(path) == (Path(nearest) if nearest else None)
    assert nearest_path(folder / path) == (folder / nearest if nearest else None)


@pytest.mark.parametrize("path", ["my_qa_modle", "./my_qa_modle", "run/first"])
def test_a_mistyped_model_folder_is_not_called_a_missing_model(path, capsys):
    (model,) = {"run/first": ["runs/first"]}.get(path, ["my_qa_model"])
    for command, *argv in (
        (train, "--config", "c.yaml", "--output_dir", "out", "--train_file", "nowhere.json"),
        (evaluate_qa, "--validation_file", "nowhere.json", "--output_dir", "out"),
        (ask, "--question", "Who?", "--context", "Ann."),
    ):
        with pytest.raises(UserError) as error:
            run(command, "--model_name_or_path", path, *argv)
        assert str(error.value).startswith(f"{path}: no such folder: did you mean {model}?"), command.__name__
    printed = capsys.readouterr().err
    if not path.startswith("."):
        assert f"looking for {path} on the Hub (there is no such folder: did you mean {model}?)" in printed


def test_other_mistyped_paths():
    for command, argv, message in (
        (publish, "--model_dir my_qa_modle --hub_model_id me/x", "no such folder: did you mean my_qa_model?"),
        (ask, "--model_name_or_path my_qa_model --input question.jsonl --output a.jsonl", "mean questions.jsonl?"),
        (ask, "--model_name_or_path questions.jsonl --question a --context b", "is a file: give the folder"),
        (train, "--config c.yam", "c.yam: no such file: did you mean c.yaml?"),
    ):
        with pytest.raises(UserError) as error:
            run(command, *argv.split())
        assert message in str(error.value)
