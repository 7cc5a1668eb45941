"""Weights that are absent, incomplete or pickled are refused before data are read, with what to do instead."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.commands import run
from helpers.hub_server import Repository, serve_to_client
from safetensors.torch import load_file, save_file
from transformers import AlbertConfig, AlbertForQuestionAnswering

import ask
import evaluate_qa
import train
from qa.hub.publish import check_model_folder
from qa.io import run_folder
from qa.model.loading import load_config
from qa.model.weight_files import check_weight_files
from qa.model.weights import load_model
from qa.options.arguments import ModelArguments
from qa.runtime.errors import UserError

WEIGHTS, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    folder = tmp_path / "my model"
    shutil.copytree(tiny_model, folder)
    torch.manual_seed(1)
    AlbertForQuestionAnswering(AlbertConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def cut(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-10])


def remove(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / PICKLE)
    (folder / WEIGHTS).unlink()


def split(folder: Path) -> list[str]:
    """Save the weights in two files with an index; return their names."""
    weights, names = (
        load_file(folder / WEIGHTS),
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
    )
    half = len(weights) // 2
    parts = [dict(list(weights.items())[:half]), dict(list(weights.items())[half:])]
    for name, part in zip(names, parts, strict=True):
        save_file(part, folder / name, {"format": "pt"})
    index = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / WEIGHTS).unlink()
    return names


def lose_a_shard(folder: Path) -> None:
    (folder / split(folder)[1]).unlink()


DAMAGES = [
    (cut, "its weights are incomplete or corrupt"),
    (remove, "has no weights (model.safetensors)"),
    (pickle, "has only pickled weights (pytorch_model.bin), which could run code here: if you trust it, convert it"),
    (lose_a_shard, "lacks 1 of its 2 weight files, such as 'model-00002-of-00002.safetensors'"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
@pytest.mark.parametrize("command", [train, evaluate_qa, ask])
def test_weights_are_checked_before_data_are_read(tmp_path, model, command, damage, message):
    broken = tmp_path / "broken.json"
    broken.write_text("{broken", encoding="utf-8")
    (tmp_path / "c.yaml").write_text("report_to: none\n", encoding="utf-8")
    argv = ("--validation_file", broken, "--output_dir", tmp_path / "out", "--cache_dir", tmp_path / "cache")
    argv = ("--input", broken, "--output", tmp_path / "answers.jsonl") if command is ask else argv
    argv += ("--config", tmp_path / "c.yaml", "--train_file", broken) if command is train else ()
    with pytest.raises(UserError, match=r"broken\.json.*(not JSON|read)"):
        run(command, "--model_name_or_path", model, *argv)
    damage(model)
    with pytest.raises(UserError) as error:
        run(command, "--model_name_or_path", model, *argv)
    assert message in str(error.value) and str(model) in str(error.value)
    assert not list(tmp_path.glob("cache/qa_windows/*"))


def test_incomplete_weights_are_not_published(model):
    for name in (run_folder.SCORES, run_folder.FINISHED):
        (model / name).write_text("{}")
    cut(model)
    with pytest.raises(UserError, match="its weights are incomplete or corrupt"):
        check_model_folder(model)


def test_weights_in_several_files_are_complete(model):
    whole = load_file(model / WEIGHTS)
    split(model)
    args = ModelArguments(str(model))
    check_weight_files(args)
    loaded = load_model(args, load_config(args), training=False).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in whole.items())


def test_the_command_for_a_pickle_converts_it(model):
    whole = load_file(model / WEIGHTS)
    pickle(model)
    with pytest.raises(UserError) as error:
        check_weight_files(ModelArguments(str(model)))
    command = str(error.value).partition("convert it: python ")[2]
    assert command, error.value
    subprocess.run(f"{sys.executable} {command}", shell=True, check=True)
    args = ModelArguments(str(model))
    loaded = load_model(args, load_config(args), training=False).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in whole.items())


@pytest.fixture
def hub(monkeypatch, tmp_path, model):
    """A Hub with me/model, whose weights are a pickle."""
    with serve_to_client(monkeypatch, tmp_path / "hub_cache") as server:
        safe = (model / WEIGHTS).read_bytes()
        pickle(model)
        server.weights = safe
        repository = server.repositories["me/model"] = Repository()
        repository.commit("main", {path.name: path.read_bytes() for path in model.iterdir()})
        yield server


def train_from_hub(tmp_path, *argv) -> str:
    """Return the error of training the model on the Hub with data that cannot be read."""
    (data := tmp_path / "broken.json").write_text("{")
    (tmp_path / "c.yaml").write_text(f"report_to: none\ntrain_file: {data}\nvalidation_file: {data}\n")
    more = ("--config", tmp_path / "c.yaml", "--output_dir", tmp_path / "out", "--cache_dir", tmp_path / "cache")
    with pytest.raises(UserError) as error:
        run(train, "--model_name_or_path", "me/model", *more, *argv)
    return str(error.value)


def test_a_pickle_on_the_hub_is_refused_with_the_revision_that_has_safetensors(hub, tmp_path):
    repository = hub.repositories["me/model"]
    files = repository.files("main") | {WEIGHTS: hub.weights}
    repository.commit("refs/pr/1", files)  # of anyone
    repository.commit("refs/pr/2", {"README.md": b"words"})
    repository.commit("refs/pr/3", files)
    repository.pull_requests |= {1: "someone", 2: "SFconvertbot", 3: "SFconvertbot"}
    message = train_from_hub(tmp_path)
    assert "has only pickled weights (pytorch_model.bin)" in message
    assert message.endswith("use the same weights in safetensors format: --model_revision refs/pr/3")
    assert not [line for line in hub.log if "resolve" in line and PICKLE in line], "it is not downloaded"
    again = train_from_hub(tmp_path, *re.search(r"--model_revision \S+", message)[0].split())
    assert "broken.json" in again, "that revision's weights are accepted"


def test_a_pickle_on_the_hub_without_a_conversion(hub, tmp_path):
    repository = hub.repositories["me/model"]
    repository.commit("refs/pr/1", repository.files("main") | {WEIGHTS: hub.weights})
    repository.pull_requests[1] = "someone"
    assert "convert it on https://huggingface.co/spaces/safetensors/convert" in train_from_hub(tmp_path)
    hub.refuse("GET .*/discussions", 500)
    assert "convert it on https://huggingface.co/spaces/safetensors/convert" in train_from_hub(tmp_path)


def test_a_repository_without_weights(hub, tmp_path):
    repository = hub.repositories["me/model"]
    files = {name: content for name, content in repository.files("main").items() if name != PICKLE}
    repository.commit("main", files)
    assert "model me/model has no weights in safetensors format" in train_from_hub(tmp_path)
