"""Comparison of windows and settings with those of a checkpoint."""

import json

import pytest
import yaml

from qa.data.windows import WINDOW_FORMAT
from qa.training import checkpoints
from qa.training.resume import compare_settings, has_old_windows

SETTINGS = {"train_file": "/data/train.json", "tokenizer_name": None, "max_seq_length": 384, "logging_steps": 10}


@pytest.fixture
def checkpoint(tmp_path):
    """A function that writes a checkpoint's settings and manifest."""

    def write(manifest: dict | None):
        folder = tmp_path / "checkpoint-3"
        folder.mkdir()
        (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
        if manifest is not None:
            (folder / "files.json").write_text(json.dumps(manifest | {"files": {}}))
        return folder

    return write


@pytest.mark.parametrize(
    ("change", "harmless", "harmful"),
    [
        ({}, [], []),
        ({"logging_steps": 5}, ["logging_steps 10 -> 5"], []),
        ({"max_seq_length": 320}, [], ["max_seq_length 384 -> 320"]),
        ({"train_file": "/other/train.json"}, [], ["train_file /data/train.json -> /other/train.json"]),
        ({"tokenizer_name": "other"}, [], ["tokenizer_name None -> other"]),
    ],
)
def test_settings_alone_decide_for_a_checkpoint_without_a_window_format(checkpoint, change, harmless, harmful):
    folder = checkpoint({"windows": "named by the code of 1c928e6"})
    assert has_old_windows(checkpoints.read_manifest(folder))
    assert compare_settings(folder, SETTINGS | change, "new name") == (harmless, harmful)


def test_windows_of_this_format_are_compared_by_name(checkpoint):
    folder = checkpoint({"windows": "name", "window_format": WINDOW_FORMAT})
    assert not has_old_windows(checkpoints.read_manifest(folder))
    moved = SETTINGS | {"train_file": "/other/train.json"}
    assert compare_settings(folder, moved, "name") == (["train_file /data/train.json -> /other/train.json"], [])
    harmful = ["the training windows", "train_file /data/train.json -> /other/train.json"]
    assert compare_settings(folder, moved, "another") == ([], harmful)


def test_a_checkpoint_of_another_program_has_no_windows_to_compare(checkpoint):
    folder = checkpoint(None)
    assert not has_old_windows(checkpoints.read_manifest(folder))
    assert compare_settings(folder, SETTINGS, "name") == ([], [])


def test_a_checkpoint_names_its_windows_and_their_format(tmp_path):
    (tmp_path / "staged").mkdir()
    (tmp_path / "staged/model.safetensors").write_bytes(b"weights")
    checkpoints.commit_checkpoint(tmp_path / "staged", tmp_path / "checkpoint-3", "name", {"precision": "fp32"})
    manifest = checkpoints.read_manifest(tmp_path / "checkpoint-3")
    assert (manifest["windows"], manifest["window_format"]) == ("name", WINDOW_FORMAT)
    assert manifest["resolved"] == checkpoints.read_resolved(tmp_path / "checkpoint-3") == {"precision": "fp32"}
    assert list(manifest["files"]) == ["model.safetensors"]


def test_what_is_resolved_is_compared_in_place_of_what_was_asked_for(checkpoint):
    resolved = {"precision": "bf16", "per_device_train_batch_size": 3, "gradient_accumulation_steps": 3}
    folder = checkpoint({"windows": "name", "window_format": WINDOW_FORMAT, "resolved": resolved})
    assert compare_settings(folder, SETTINGS | {"fp16": False} | resolved, "name") == ([], [])
    cut = {"per_device_train_batch_size": 9, "gradient_accumulation_steps": 1}
    harmless = ["gradient_accumulation_steps 3 -> 1", "per_device_train_batch_size 3 -> 9"]
    assert compare_settings(folder, SETTINGS | resolved | cut, "name") == (harmless, [])
    other = {"precision": "fp32", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    harmful = ["gradient_accumulation_steps 3 -> 2", "per_device_train_batch_size 3 -> 4", "precision bf16 -> fp32"]
    assert compare_settings(folder, SETTINGS | other, "name") == ([], harmful)
