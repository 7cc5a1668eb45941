"""A write that fails is one line with the path and the free space, and leaves earlier files whole."""

import contextlib
import errno
import os
import sys
import threading
from pathlib import Path

import pytest
import transformers
from datasets import Dataset
from filelock import FileLock
from helpers.commands import SMALL, read, run, train_tiny
from helpers.disk import files_up_to
from safetensors import SafetensorError

import evaluate_qa
import preprocess
from qa.data.demo import write_demo
from qa.data.window_cache import load_windows
from qa.io.files import make_folder, replacing, write_json
from qa.io.run_lock import lock_run_folder
from qa.model.loading import loading
from qa.model.tokenizer import save_tokenizer
from qa.options.arguments import DataArguments
from qa.options.training_arguments import TrainingOptions
from qa.runtime.errors import UserError
from qa.runtime.process import run_command
from qa.training.resume import check_output_folder
from qa.training.trainer import QATrainer

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def failed(path: Path | str, reason: str = "File too large", space: bool = True) -> str:
    return rf"^{path}: cannot be written: .*{reason}.*" + (r" \(\d+\.\d\d GiB free on the disk\)" if space else "$")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data, tiny_model) -> Path:
    output = tmp_path_factory.mktemp("runs") / "model"
    train_tiny(tiny_data, tiny_model, output, "--num_train_epochs", 1)
    return output


def evaluate(model: Path, *argv) -> None:
    run(evaluate_qa, "--model_name_or_path", model, "--cache_dir", model.parent / "cache", *argv)


def test_file_keeps_its_content(tmp_path):
    path = tmp_path / "scores.json"
    write_json(path, {"f1": 90.0})
    with files_up_to(100), pytest.raises(UserError, match=failed(path)):
        write_json(path, {"f1": [91.0] * 100})
    with pytest.raises(KeyboardInterrupt), replacing(path) as staged:
        staged.write_text("half")
        raise KeyboardInterrupt
    assert read(path) == {"f1": 90.0} and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_reason_is_the_systems(tmp_path, monkeypatch, number):
    def replace(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(UserError, match=failed(tmp_path / "a.json", os.strerror(number), number != errno.EACCES)):
        write_json(tmp_path / "a.json", {})
    assert list(tmp_path.iterdir()) == []


def test_output_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be used as the output folder: Not a directory: give another"):
        make_folder(str(tmp_path / "file/folder"))


def test_logits(trained, tmp_path, monkeypatch):
    path, evaluate_windows = tmp_path / "logits.npz", QATrainer.evaluate_windows
    path.write_bytes(b"earlier")
    with contextlib.ExitStack() as full:

        def then_full(self):
            result = evaluate_windows(self)
            full.enter_context(files_up_to(1000))  # from here on, so that caches can be written
            return result

        monkeypatch.setattr(QATrainer, "evaluate_windows", then_full)
        with pytest.raises(UserError, match=failed(path)):
            evaluate(trained, "--output_dir", tmp_path / "scored", "--save_logits", path)
    assert path.read_bytes() == b"earlier" and {each.name for each in tmp_path.iterdir()} == {path.name, "scored"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_scores_on_standard_output(trained, tmp_path, monkeypatch, capsys):
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as stop:
            run_command(lambda: evaluate(trained, "--output_dir", tmp_path))
    assert stop.value.code == 2
    assert [line for line in capsys.readouterr().err.splitlines() if "error" in line.lower()] == [
        "error: standard output: cannot be written: No space left on device"
    ]


def test_examples_in_the_cache(tiny_data, tiny_model, tmp_path):
    files = ("--train_file", tiny_data / "train.json", "--tokenizer_name", tiny_model, *SMALL)
    options = ("--output_dir", tmp_path / "checked", "--cache_dir", tmp_path / "cache")
    with files_up_to(1000), pytest.raises(UserError, match=failed(tmp_path / "cache/qa_examples") + ".* --cache_dir"):
        run(preprocess, *files, *options)
    assert list((tmp_path / "cache/qa_examples").iterdir()) == []


def test_windows_in_the_cache(bert_tokenizer, tmp_path):
    rows = [{"id": "a", "question": "Who?", "context": "Ann. " * 400, "answers": {"text": [], "answer_start": []}}]
    with files_up_to(1000), pytest.raises(UserError, match=failed(tmp_path / "qa_windows") + ".* --cache_dir"):
        load_windows(Dataset.from_list(rows), bert_tokenizer, DataArguments(), str(tmp_path), "train")
    assert not list((tmp_path / "qa_windows").glob("*.arrow"))


def test_demo(tmp_path):
    with files_up_to(1000), pytest.raises(UserError, match=failed(tmp_path / "demo") + "; choose another --demo_dir"):
        write_demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_tokenizer_of_a_checkpoint(bert_tokenizer, tmp_path):
    with files_up_to(1000), pytest.raises(OSError, match="File too large"):  # reported with the checkpoint
        save_tokenizer(bert_tokenizer, str(tmp_path))


def test_finished_model(tiny_data, tiny_model, tmp_path, monkeypatch):
    def save_pretrained(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", save_pretrained)
    none = ("--save_strategy", "no", "--load_best_model_at_end", "false", "--num_train_epochs", 1)
    with pytest.raises(UserError, match=failed(tmp_path / "run/model.safetensors", "No space left") + ".* to resume"):
        train_tiny(tiny_data, tiny_model, tmp_path / "run", *none)
    assert not (tmp_path / "run/.saving").exists() and not (tmp_path / "run/train_results.json").exists()


def test_tensorboard(tiny_data, tiny_model, tmp_path, monkeypatch, capsys):
    """Its thread raises, and the next call of the main one again."""
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer").RecordWriter

    def write(*_):
        raise FULL

    monkeypatch.setattr(writer, "write", write)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    with pytest.raises(UserError, match=failed(tmp_path / "run", "No space left") + ".* to resume"):
        train_tiny(tiny_data, tiny_model, tmp_path / "run", "--report_to", "tensorboard")
    assert "Traceback" not in capsys.readouterr().err


def test_lock(tmp_path, monkeypatch):
    def acquire(*_, **__):
        raise FULL

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with pytest.raises(UserError, match=failed(tmp_path / ".lock", "No space left")), lock_run_folder(tmp_path):
        pass


@pytest.mark.parametrize("error", [FULL, RuntimeError("Data error: No space left on device (os error 28)")])
def test_download(error):
    """It is no reason to check the name and the network."""
    with (
        pytest.raises(UserError, match=r"^model a/b: the cache of downloads: cannot be written: .*, or free some"),
        loading("model", "a/b"),
    ):
        try:
            raise error
        except Exception as cause:
            raise ValueError("cannot find the requested files") from cause


def test_paths_that_no_file_can_have(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "loop", tmp_path / "loop/inside", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match=r": give another path$"):
            make_folder(str(path))
        with pytest.raises(UserError, match=r": give another path$"):
            check_output_folder(TrainingOptions(output_dir=str(path), report_to="none"))
