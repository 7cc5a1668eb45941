"""What can be known early is refused before data are read: the data here would be an error, too."""

import os
from pathlib import Path

import pytest
from helpers.commands import run
from helpers.hub_server import READ, serve_to_client

import evaluate_qa
import preprocess
import train
from qa.runtime.errors import UserError


@pytest.fixture
def broken(tmp_path) -> Path:
    """A data file that fails when it is read."""
    path = tmp_path / "broken.json"
    path.write_text("{broken", encoding="utf-8")
    return path


def refused(command, broken, tmp_path, *argv) -> str:
    """Return the error of a command with broken data; nothing may be cached or written."""
    (tmp_path / "c.yaml").write_text("report_to: none\n", encoding="utf-8")
    files = ("--train_file", broken) if command is not evaluate_qa else ()
    output = () if "--output_dir" in argv else ("--output_dir", tmp_path / "out")
    cache = () if "--cache_dir" in argv else ("--cache_dir", tmp_path / "cache")
    config = ("--config", tmp_path / "c.yaml")
    with pytest.raises(UserError) as error:
        run(command, *config, *files, "--validation_file", broken, *output, *cache, *argv)
    assert not (tmp_path / "cache").exists() and not (tmp_path / "out").exists()
    return str(error.value)


def test_broken_data_are_reported_if_nothing_else_is_wrong(broken, tmp_path, tiny_model):
    (tmp_path / "c.yaml").write_text("report_to: none\n", encoding="utf-8")
    more = ("--config", tmp_path / "c.yaml", "--output_dir", tmp_path / "out", "--cache_dir", tmp_path / "cache")
    fine = ("--optim", "adafactor", "--lr_scheduler_type", "polynomial", "--metric_for_best_model", "exact")
    with pytest.raises(UserError, match=r"broken\.json, line 1: not JSON"):
        run(train, "--config_name", tiny_model, "--train_file", broken, "--validation_file", broken, *more, *fine)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--report_to wandb", "report_to wandb needs a package that is not installed: pip install wandb"),
        ("--report_to tensorbord", "report_to tensorbord is unknown: did you mean tensorboard?"),
        ("--metric_for_best_model accuracy", "accuracy is not computed: choose one of f1, exact_match, exact, loss"),
        (
            "--metric_for_best_model exact_match --version_2_with_negative",
            "metric_for_best_model exact_match is not computed: choose one of f1, exact, loss",
        ),
        ("--optim adamw_bnb_8bit", "optim adamw_bnb_8bit: You need to install `bitsandbytes`"),
        ("--optim lomo", "optim lomo: You need to install `lomo_optim`"),
        ("--optim_args rank", "optim_args must be name=value, or several: 'rank'"),
        ("--deepspeed ds.json", "deepspeed needs a package that is not installed: pip install deepspeed"),
        ("--fsdp full_shard", "fsdp needs several processes: torchrun --nproc_per_node 2 train.py"),
        ("--use_liger_kernel", "use_liger_kernel needs a package that is not installed: pip install liger-kernel"),
        ("--torch_compile_backend inducter", "torch_compile_backend inducter is not one of"),
        ("--torch_compile_mode fast", "torch_compile_mode fast is not one of default, "),
        (
            "--torch_compile_mode reduce-overhead --gradient_accumulation_steps 2",
            "torch_compile_mode reduce-overhead needs gradient_accumulation_steps: 1",
        ),
        (
            "--lr_scheduler_type warmup_stable_decay",
            "needs num_decay_steps; its arguments are --lr_scheduler_kwargs '{\"num_decay_steps\": 100}'",
        ),
        ("--lr_scheduler_type cosine_with_min_lr", "One of min_lr or min_lr_rate should be set"),
        ('--lr_scheduler_kwargs {"cycles":2}', "unexpected keyword argument 'cycles'"),
        ("--lr_scheduler_type cosin", "lr_scheduler_type: invalid choice: 'cosin': did you mean cosine?"),
        ("--lr_scheduler_kwargs {broken", "lr_scheduler_kwargs: not JSON"),
        ("--accelerator_config nowhere.json", "nowhere.json: cannot be read: No such file or directory"),
        ("--attn_implementation fast", "attn_implementation fast: "),
        ("--output_dir broken.json/run", "broken.json is a file: give another folder"),
        ("--cache_dir broken.json", "broken.json is a file: give another folder"),
    ],
)
def test_options_that_cannot_work_are_refused_before_data_are_read(
    broken, tmp_path, tiny_model, monkeypatch, argv, message
):
    monkeypatch.chdir(tmp_path)
    error = refused(train, broken, tmp_path, "--config_name", tiny_model, *argv.split(" "))
    assert message in error and "not JSON: Expecting" not in error.replace("lr_scheduler_kwargs: not JSON", "")


@pytest.mark.parametrize("option", ["output_dir", "cache_dir"])
@pytest.mark.parametrize("command", [train, preprocess, evaluate_qa])
def test_a_folder_that_is_not_writable_is_refused_before_data_are_read(
    broken, tmp_path, tiny_model, monkeypatch, command, option
):
    locked, access = tmp_path / "locked", os.access
    locked.mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: access(path, mode) and Path(path) != locked)
    model = "--model_name_or_path" if command is evaluate_qa else "--config_name"
    error = refused(command, broken, tmp_path, model, tiny_model, f"--{option}", locked / "run" / "1")
    assert error == f"{option} {locked / 'run' / '1'}: {locked} is not writable: give another folder"


def test_no_compiler(broken, tmp_path, tiny_model, monkeypatch):
    def missing():
        raise RuntimeError("no compiler")

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("qa.training.preflight.get_cpp_compiler", missing)
    error = refused(train, broken, tmp_path, "--config_name", tiny_model, "--torch_compile", "--use_cpu")
    assert error.startswith("torch_compile needs a C++ compiler: install one")


def test_the_right_to_publish_is_checked_before_data_are_read_but_after_all_else(
    broken, tmp_path, tiny_model, monkeypatch
):
    with serve_to_client(monkeypatch, tmp_path / "hub_cache") as hub:
        push = ("--config_name", tiny_model, "--push_to_hub", "--hub_model_id", "me/model")
        refused(train, broken, tmp_path, *push, "--optim", "lomo")
        assert hub.repositories == {} and not hub.log
        monkeypatch.setenv("HF_TOKEN", READ)
        error = refused(train, broken, tmp_path, *push)
        assert error.startswith("cannot publish as me/model: the token is read-only") and hub.repositories == {}


@pytest.mark.parametrize("steps", ["0", "-5"])
@pytest.mark.parametrize("kind", ["eval", "save", "logging"])
def test_intervals_that_are_not_positive(broken, tmp_path, tiny_model, kind, steps):
    argv = ("--config_name", tiny_model, f"--{kind}_strategy", "steps", f"--{kind}_steps", steps)
    message = refused(train, broken, tmp_path, *argv)
    assert f"{kind}_steps {steps} must be above 0" in message and f"--{kind}_strategy no" in message


def test_intervals_that_are_not_used(broken, tmp_path, tiny_model, capsys):
    argv = ("--config_name", tiny_model, "--eval_strategy", "epoch", "--eval_steps", "500")
    argv += ("--save_strategy", "steps", "--save_steps", "500", "--load_best_model_at_end", "false")
    assert "broken.json" in refused_at_data(broken, tmp_path, *argv)
    notes = " ".join(capsys.readouterr().err.split())
    assert "note: eval_steps has no effect with eval_strategy epoch: --eval_strategy steps uses it" in notes
    assert "save_steps" not in notes


def refused_at_data(broken, tmp_path, *argv) -> str:
    """Return the error of ``train.py`` where all options are accepted."""
    files = ("--train_file", broken, "--validation_file", broken, "--output_dir", tmp_path / "out")
    with pytest.raises(UserError) as error:
        run(train, *files, "--report_to", "none", "--cache_dir", tmp_path / "cache", *argv)
    return str(error.value)
