"""Every file that the commands write has the mode that the umask gives, so that a group or a server can read it."""

import os
import sys

import pytest
from helpers.commands import run, train_tiny

import evaluate_qa

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_files_have_the_mode_of_the_umask(tiny_data, tiny_model, tmp_path, umask):
    model = tmp_path / "runs/model"
    before = os.umask(umask)
    try:
        train_tiny(tiny_data, tiny_model, model, "--save_total_limit", 9, "--recovery_minutes", "1e-9")
        run(evaluate_qa, "--model_name_or_path", model / "checkpoint-6", "--save_logits", model / "logits.npz")
    finally:
        os.umask(before)
    written = [path for path in model.parent.rglob("*") if path.is_file()]
    names = {str(path.relative_to(model.parent)) for path in written}
    assert {"model/model.safetensors", "model/checkpoint-3/model.safetensors", "model/logits.npz"} <= names
    assert any(name.startswith("cache/qa_windows") for name in names)
    wrong = {
        str(path): oct(path.stat().st_mode & 0o777) for path in written if path.stat().st_mode & 0o777 != 0o666 & ~umask
    }
    assert not wrong
