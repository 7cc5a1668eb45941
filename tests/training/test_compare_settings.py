"""Settings that may differ from those of the interrupted run."""

import pytest

from qa.io.files import write_json, write_yaml
from qa.io.run_folder import MANIFEST, SETTINGS
from qa.training.resume import compare_settings

BEFORE = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "train_file": "a.json",
    "learning_rate": 0.01,
    "precision": "bf16",
}


@pytest.mark.parametrize(
    ("now", "windows", "harmless", "harmful"),
    [
        ({}, "same", [], []),
        ({"recovery_minutes": 1.0}, "same", ["recovery_minutes 5.0 -> 1.0"], []),
        ({"learning_rate": 0.1}, "same", [], ["learning_rate 0.01 -> 0.1"]),
        ({"precision": "fp16"}, "same", [], ["precision bf16 -> fp16"]),
        ({"train_file": "b.json"}, "same", ["train_file a.json -> b.json"], []),
        ({"train_file": "b.json"}, "others", [], ["the training windows", "train_file a.json -> b.json"]),
        ({"validation_file": "b.json"}, "same", [], ["validation_file None -> b.json"]),
        ({"option_of_a_newer_release": 1}, "same", [], ["option_of_a_newer_release None -> 1"]),
        (
            {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1},
            "same",
            ["gradient_accumulation_steps 2 -> 1", "per_device_train_batch_size 4 -> 8"],
            [],
        ),
        ({"per_device_train_batch_size": 8}, "same", [], ["per_device_train_batch_size 4 -> 8"]),
    ],
)
def test_compare_settings(tmp_path, now, windows, harmless, harmful):
    write_yaml(tmp_path / SETTINGS, BEFORE)
    write_json(tmp_path / MANIFEST, {"files": {}, "windows": "same", "window_format": 1})
    assert compare_settings(tmp_path, BEFORE | now, windows) == (harmless, harmful)
