"""Resuming: runs that are killed, stopped, out of disk space, corrupt or locked lose nothing."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from helpers.commands import SMALL, read, run
from safetensors.torch import load_file

import evaluate_qa
import train
from qa.io import run_folder
from qa.options.arguments import REPOSITORY
from qa.runtime.errors import UserError
from qa.training import checkpoints
from qa.training.interruption import SignalHandler
from qa.training.trainer import QATrainer

# Length-grouped batches of 4, accumulated by 2, dropout, three epochs of 5 steps; a checkpoint an epoch, and a
# recovery checkpoint after every step.
RUN = ("--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2, "--num_train_epochs", 3)
RUN += ("--train_sampling_strategy", "group_by_length", "--warmup_steps", 2, "--logging_steps", 1)
EVERY_STEP = ("--recovery_minutes", "1e-9")
UNIX_SIGNALS = [name for name in ("SIGHUP", "SIGUSR1") if hasattr(signal, name)]


def arguments(data, model, output, cache, *more) -> list[str]:
    files = ("--train_file", data / "train.json", "--validation_file", data / "dev.json.gz", *SMALL)
    where = ("--output_dir", output, "--cache_dir", cache, "--report_to", "none", "--learning_rate", "1e-3")
    return [str(item) for item in ("--config_name", model, *files, *where, *RUN, *more)]


@pytest.fixture(scope="module")
def dropout_model(tmp_path_factory, tiny_model):
    """The tiny model with dropout, so that the random states matter."""
    folder = tmp_path_factory.mktemp("dropout") / "model"
    shutil.copytree(tiny_model, folder)
    config = read(folder / "config.json") | {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, tiny_data, dropout_model):
    """The uninterrupted run, and the arguments of one in any other folder."""
    folder = tmp_path_factory.mktemp("surviving")

    def argv(output, *more):
        return arguments(tiny_data, dropout_model, output, folder / "cache", *more)

    run(train, *argv(folder / "uninterrupted"))
    return folder / "uninterrupted", argv


def last_checkpoint(folder: Path) -> Path:
    return run_folder.find_checkpoints(folder)[0]


def same(one, other) -> bool:
    """Return whether two nested structures of dictionaries, lists and tensors are identical, bit for bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def assert_same_run(one: Path, other: Path) -> None:
    """Check that weights, optimizer, schedule and random states of the last step, and the kept model, are the same."""
    ours, theirs = last_checkpoint(one), last_checkpoint(other)
    assert ours.name == theirs.name == "checkpoint-15"
    assert same(load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors"))
    for name in ("optimizer.pt", "scheduler.pt"):
        assert same(*(torch.load(folder / name, weights_only=True) for folder in (ours, theirs))), name
    states = [read(folder / "trainer_state.json") for folder in (ours, theirs)]
    assert states[0]["best_metric"] == states[1]["best_metric"]
    assert states[0]["best_global_step"] == states[1]["best_global_step"]
    assert same(load_file(one / "model.safetensors"), load_file(other / "model.safetensors"))
    assert read(one / "predictions.json") == read(other / "predictions.json")


def kill_until_finished(uninterrupted, folder: Path, seed: int, kills: int) -> dict:
    if not hasattr(os, "fork"):
        pytest.skip("Windows has no fork, which every attempt is")
    _, argv = uninterrupted
    folder.mkdir(parents=True)
    (folder / "arguments.json").write_text(json.dumps(argv(folder / "run", *EVERY_STEP)))
    command = [sys.executable, REPOSITORY / "tests/helpers/killing.py", folder / "run", folder / "arguments.json"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, command), str(seed), str(kills)], env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr + (folder / "log").read_text()[-3000:]
    assert "Traceback" not in (folder / "log").read_text()
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"seed {seed}: {result}")
    return result


@pytest.fixture(scope="module")
def never_killed(uninterrupted, tmp_path_factory):
    """The uninterrupted run by the same program, on one thread like the killed ones."""
    folder = tmp_path_factory.mktemp("never") / "killed"
    kill_until_finished(uninterrupted, folder, seed=0, kills=0)
    return folder / "run"


@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_repeatedly_killed_run_matches_uninterrupted_run(uninterrupted, never_killed, tmp_path, kills):
    result = kill_until_finished(uninterrupted, tmp_path / "killed", seed=0, kills=kills)
    assert result["killed"] == kills
    assert_same_run(never_killed, tmp_path / "killed/run")
    left = {path.name for path in (tmp_path / "killed/run").iterdir()}
    assert not any(name.startswith((run_folder.STAGING, run_folder.RECOVERY)) for name in left)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 5))
def test_run_killed_100_times_matches_uninterrupted_run(uninterrupted, never_killed, tmp_path, seed):
    kill_until_finished(uninterrupted, tmp_path / "killed", seed, kills=100)
    assert_same_run(never_killed, tmp_path / "killed/run")


class Interrupt:
    """Send a signal to this process after ``step`` steps."""

    def __init__(self, monkeypatch, step: int, number: int, again: bool = False):
        from transformers import TrainerCallback

        class Callback(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step == step:
                    signal.raise_signal(number)
                    while again and trainer.recovery.stop.number is None:
                        time.sleep(0.001)  # two signals without a pause may be delivered as one
                    if again:
                        signal.raise_signal(number)

        trainer, original = None, QATrainer.__init__

        def init(self, **kwargs):
            nonlocal trainer
            trainer = self
            original(self, **kwargs)
            self.add_callback(Callback())

        monkeypatch.setattr(QATrainer, "__init__", init)


@pytest.mark.parametrize(
    ("step", "number", "status", "kept"),
    [
        (7, signal.SIGINT, 130, "recovery-7"),
        (12, signal.SIGTERM, 143, "recovery-12"),
        *((8, getattr(signal, name), 128 + getattr(signal, name), "recovery-8") for name in UNIX_SIGNALS),
        (5, signal.SIGINT, 130, "checkpoint-5"),  # the last step of an epoch, which includes its evaluation
        (15, signal.SIGTERM, 143, "checkpoint-15"),  # the last step of the run
    ],
)
def test_run_stopped_by_a_signal_resumes_to_the_same_result(
    uninterrupted, tmp_path, monkeypatch, capsys, step, number, status, kept
):
    reference, argv = uninterrupted
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, number)}
    with monkeypatch.context() as patch:
        Interrupt(patch, step, number)
        with pytest.raises(SystemExit) as stopped:
            run(train, *argv(tmp_path / "run"))
    assert stopped.value.code == status and last_checkpoint(tmp_path / "run").name == kept
    assert {each: signal.getsignal(each) for each in before} == before
    assert f"checkpoint saved to {tmp_path}/run/{kept}; rerun the same command" in capsys.readouterr().err
    assert not (tmp_path / "run/train_results.json").exists()
    with pytest.raises(UserError, match="contains an unfinished run"):
        run(evaluate_qa, "--model_name_or_path", tmp_path / "run", "--output_dir", tmp_path / "x")
    run(train, *argv(tmp_path / "run"))
    assert f"resuming from {tmp_path}/run/{kept}" in capsys.readouterr().out
    assert_same_run(reference, tmp_path / "run")


@pytest.mark.skipif(not UNIX_SIGNALS, reason="Windows has no pseudo-terminals")
def test_run_is_saved_when_its_terminal_is_closed(uninterrupted, tmp_path):
    import pty

    only_recovery = ("--save_strategy", "no", "--load_best_model_at_end", "false", "--recovery_minutes", "0.001")
    argv = uninterrupted[1](tmp_path / "run", *only_recovery, "--num_train_epochs", "10000")
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(REPOSITORY)
        os.execv(sys.executable, [sys.executable, "train.py", *map(str, argv)])
    while not run_folder.find_checkpoints(tmp_path / "run"):
        os.read(terminal, 4096)  # also makes room for more output
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 128 + signal.SIGHUP
    assert last_checkpoint(tmp_path / "run").name.startswith("recovery-")


@pytest.mark.skipif(not UNIX_SIGNALS, reason="Windows has no SIGHUP")
def test_hangup_is_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalHandler() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_run_resumes_with_another_micro_batch_size(uninterrupted, tmp_path, monkeypatch, capsys):
    _, argv = uninterrupted
    with monkeypatch.context() as patch:
        Interrupt(patch, 7, signal.SIGINT)
        with pytest.raises(SystemExit):
            run(train, *argv(tmp_path / "run"))
    with pytest.raises(UserError, match="per_device_train_batch_size 4 -> 8"):
        run(train, *argv(tmp_path / "run", "--per_device_train_batch_size", 8))
    run(train, *argv(tmp_path / "run", "--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 1))
    assert "recovery-7" in capsys.readouterr().out and read(tmp_path / "run/train_results.json")["global_step"] == 15


def test_compiled_run_resumes_to_the_same_result(uninterrupted, tmp_path, monkeypatch):
    _, argv = uninterrupted
    torch._dynamo.reset()
    compiled = ("--torch_compile_backend", "aot_eager")
    run(train, *argv(tmp_path / "uninterrupted", *compiled))
    with monkeypatch.context() as patch:
        Interrupt(patch, 7, signal.SIGINT)
        with pytest.raises(SystemExit):
            run(train, *argv(tmp_path / "run", *compiled))
    run(train, *argv(tmp_path / "run", *compiled))
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "run")


def test_second_ctrl_c_stops_immediately(uninterrupted, tmp_path, monkeypatch, capsys):
    reference, argv = uninterrupted
    with monkeypatch.context() as patch:
        Interrupt(patch, 8, signal.SIGINT, again=True)
        with pytest.raises(SystemExit) as stopped:
            run(train, *argv(tmp_path / "run"))
    assert stopped.value.code == 130 and "to resume from" in capsys.readouterr().err
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-5"
    run(train, *argv(tmp_path / "run"))
    assert_same_run(reference, tmp_path / "run")


def test_the_same_seed_gives_the_same_run(uninterrupted, tmp_path):
    reference, argv = uninterrupted
    run(train, *argv(tmp_path / "again"))
    assert_same_run(reference, tmp_path / "again")
    run(train, *argv(tmp_path / "other", "--seed", "7"))
    other = load_file(last_checkpoint(tmp_path / "other") / "model.safetensors")
    assert not same(other, load_file(last_checkpoint(reference) / "model.safetensors"))


@pytest.fixture
def interrupted(uninterrupted, tmp_path, monkeypatch):
    """A run that was stopped after step 12: checkpoint-5, checkpoint-10 and recovery-12."""
    with monkeypatch.context() as patch:
        Interrupt(patch, 12, signal.SIGTERM)
        with pytest.raises(SystemExit):
            run(train, *uninterrupted[1](tmp_path / "run"))
    return tmp_path / "run"


def test_recovery_checkpoints_are_written_by_time_and_removed(uninterrupted, tmp_path, monkeypatch):
    kept, save = [], QATrainer._save_checkpoint

    def watch(trainer, *args, **kwargs):
        save(trainer, *args, **kwargs)
        kept.append([path.name for path in run_folder.find_checkpoints(tmp_path / "run")])

    monkeypatch.setattr(QATrainer, "_save_checkpoint", watch)
    run(train, *uninterrupted[1](tmp_path / "run", *EVERY_STEP, "--save_total_limit", 9))
    recovered = [names[0] for names in kept if names[0].startswith("recovery")]
    assert recovered == [f"recovery-{step}" for step in range(1, 15) if step % 5], "never on an epoch's last step"
    assert all(sum(name.startswith("recovery") for name in names) <= 1 for names in kept), "only the newest is kept"
    assert kept[-1] == ["checkpoint-15", "checkpoint-10", "checkpoint-5"]
    run(train, *uninterrupted[1](tmp_path / "none", "--recovery_minutes", 0))
    assert_same_run(tmp_path / "none", tmp_path / "run")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth"]
)
@pytest.mark.parametrize("corrupt", [Path.unlink, truncate, flip, lambda path: path.write_bytes(b"")])
def test_corruption_is_detected(uninterrupted, tmp_path, name, corrupt):
    folder = tmp_path / "checkpoint-15"
    shutil.copytree(last_checkpoint(uninterrupted[0]), folder)
    assert checkpoints.find_corruption(folder) is None
    corrupt(folder / name)
    assert name in checkpoints.find_corruption(folder)
    (folder / run_folder.MANIFEST).unlink()
    if corrupt is not flip and name != "rng_state.pth":
        assert checkpoints.find_corruption(folder), "also without the manifest"


def test_sharded_optimizer_file_name(uninterrupted, tmp_path):
    folder = tmp_path / "checkpoint-15"
    shutil.copytree(last_checkpoint(uninterrupted[0]), folder)
    (folder / run_folder.MANIFEST).unlink()
    (folder / "optimizer.pt").rename(folder / "optimizer.bin")
    assert checkpoints.find_corruption(folder) is None
    truncate(folder / "optimizer.bin")
    assert "cannot be read" in checkpoints.find_corruption(folder)


def test_corrupt_checkpoint_is_reported_and_skipped(interrupted, uninterrupted, capsys):
    reference, argv = uninterrupted
    truncate(interrupted / "recovery-12/optimizer.pt")
    (interrupted / "checkpoint-99").mkdir()
    capsys.readouterr()
    run(train, *argv(interrupted))
    said = capsys.readouterr()
    reason = "not an intact checkpoint: optimizer.pt has changed since it was written; skipped"
    assert f"{interrupted}/recovery-12: {reason}" in said.err
    assert f"{interrupted}/checkpoint-99: not an intact checkpoint: it has no trainer_state.json" in said.err
    assert f"resuming from {interrupted}/checkpoint-10" in said.out
    shutil.rmtree(interrupted / "checkpoint-99", ignore_errors=True)
    assert_same_run(reference, interrupted)


def test_training_restarts_without_an_intact_checkpoint(interrupted, uninterrupted, capsys):
    for folder in run_folder.find_checkpoints(interrupted):
        flip(folder / "model.safetensors")
    with pytest.raises(UserError, match="no intact checkpoint to resume from"):
        run(train, *uninterrupted[1](interrupted, "--resume_from_checkpoint", "last"))
    capsys.readouterr()
    run(train, *uninterrupted[1](interrupted))
    assert capsys.readouterr().err.count("; skipped") == 3
    assert_same_run(uninterrupted[0], interrupted)


def test_corrupt_best_checkpoint_is_never_chosen(interrupted, uninterrupted, capsys):
    state = read(interrupted / "recovery-12/trainer_state.json")
    flip(Path(state["best_model_checkpoint"]) / "model.safetensors")
    run(train, *uninterrupted[1](interrupted))
    assert "the best checkpoint so far, of step" in capsys.readouterr().err
    state = read(last_checkpoint(interrupted) / "trainer_state.json")
    assert state["best_global_step"] == 15
    kept = load_file(interrupted / "checkpoint-15/model.safetensors")
    assert same(load_file(interrupted / "model.safetensors"), kept)


def test_other_settings_are_rejected_unless_resuming_is_requested(interrupted, uninterrupted, capsys):
    _, argv = uninterrupted
    with pytest.raises(
        UserError, match=r"interrupted run with other settings: learning_rate 0.001 -> 0.5, seed 42 -> 3\. "
    ):
        run(train, *argv(interrupted, "--seed", 3, "--learning_rate", 0.5))
    capsys.readouterr()
    run(train, *argv(interrupted, "--resume_from_checkpoint", "last", "--learning_rate", "5e-4", "--logging_steps", 7))
    said = capsys.readouterr().err
    assert "settings changed since that checkpoint: learning_rate 0.001 -> 0.0005, logging_steps 1.0 -> 7" in said


def test_other_data_with_the_same_name_are_rejected(interrupted, uninterrupted, tiny_data, tmp_path):
    data = read(tiny_data / "train.json")
    data["data"][0]["paragraphs"].reverse()
    changed = tmp_path / "train.json"
    changed.write_text(json.dumps(data))
    argv = uninterrupted[1](interrupted)
    argv[argv.index("--train_file") + 1] = str(changed)
    with pytest.raises(UserError, match="with other settings: the training windows, train_file"):
        run(train, *argv)
    changed.write_text((tiny_data / "train.json").read_text())
    run(train, *argv)  # the same data at another path


def test_a_finished_run_is_not_trained_again(interrupted, uninterrupted, tmp_path):
    _, argv = uninterrupted
    run(train, *argv(interrupted))
    weights = (interrupted / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"this run is finished.*--overwrite_output_dir true"):
        run(train, *argv(interrupted))
    with pytest.raises(UserError, match="give one of them"):
        run(train, *argv(interrupted, "--overwrite_output_dir", "true", "--resume_from_checkpoint", "last"))
    assert (interrupted / "model.safetensors").read_bytes() == weights
    run(train, *argv(interrupted, "--overwrite_output_dir", "true", "--seed", 5))
    assert (interrupted / "model.safetensors").read_bytes() != weights
    settings = yaml.safe_load((interrupted / "settings.yaml").read_text())
    assert settings["seed"] == 5 and "overwrite_output_dir" not in settings
    with pytest.raises(UserError, match="no such checkpoint folder"):
        run(train, *argv(tmp_path / "new", "--resume_from_checkpoint", tmp_path / "nowhere"))


def test_folder_without_a_run_is_not_changed(uninterrupted, tmp_path):
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "predictions.json").write_text("mine")
    for more in ((), ("--overwrite_output_dir", "true")):
        with pytest.raises(UserError, match=r"predictions\.json is not from a run of train\.py"):
            run(train, *uninterrupted[1](tmp_path, *more))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-12", "predictions.json"]


@pytest.mark.parametrize("name", ["write_evaluation", "write_report", "write_picture", "record_run"])
def test_interrupted_while_the_results_are_written(uninterrupted, tmp_path, monkeypatch, capsys, name):
    """The model is saved, but the run does not count as finished until the same command has completed it."""
    reference, argv = uninterrupted

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"qa.training.finish.{name}", interrupt)
        with pytest.raises(SystemExit) as stopped:
            run(train, *argv(tmp_path / "run"))
    assert stopped.value.code == 130
    assert f"rerun the same command to resume from {tmp_path}/run/checkpoint-15" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"unfinished run: .* its newest checkpoint, .*checkpoint-15"):
        run(evaluate_qa, "--model_name_or_path", tmp_path / "run", "--output_dir", tmp_path / "x")
    run(train, *argv(tmp_path / "run"))
    assert_same_run(reference, tmp_path / "run")


def test_a_checkpoint_beyond_the_end(uninterrupted, tmp_path):
    past = ("--resume_from_checkpoint", last_checkpoint(uninterrupted[0]), "--max_steps", 3)
    with pytest.raises(UserError, match="the checkpoint is of step 15, beyond the 3 of this run"):
        run(train, *uninterrupted[1](tmp_path / "run", *past))


def test_more_epochs_for_a_finished_run(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted[0], tmp_path / "run")
    run(train, *uninterrupted[1](tmp_path / "run", "--num_train_epochs", 4, "--resume_from_checkpoint", "last"))
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-20"
    assert read(tmp_path / "run/train_results.json")["resumed_from"] == 15


def test_two_runs_in_one_folder(uninterrupted, tmp_path):
    from qa.io.run_lock import lock_run_folder

    (tmp_path / "run").mkdir()
    code = "import pathlib, sys, time; from qa.io.run_lock import lock_run_folder as lock_folder"
    code += "; lock = lock_folder(pathlib.Path(sys.argv[1]))"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            code + "; lock.__enter__(); print('held', flush=True); time.sleep(99)",
            str(tmp_path / "run"),
        ],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline().strip() == b"held"
        with pytest.raises(UserError, match=rf"is in use by process {holder.pid} on .*, since 20"):
            run(train, *uninterrupted[1](tmp_path / "run"))
    finally:
        holder.kill()
        holder.wait()
    with lock_run_folder(tmp_path / "run"):  # the lock of a killed process is released
        pass


def test_space_is_checked_before_training(uninterrupted, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    with pytest.raises(UserError, match=r"GiB are needed for 2 checkpoints .* 0.00 GiB are free"):
        run(train, *uninterrupted[1](tmp_path / "run"))
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_no_space_for_checkpoints_names_options_that_train_without_them(uninterrupted, tmp_path, monkeypatch, capsys):
    reference, argv = uninterrupted
    usage, model = shutil.disk_usage(tmp_path), (reference / "model.safetensors").stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=model))
    with pytest.raises(UserError, match=r"2 checkpoints .* train without checkpoints: --save_strategy no") as refused:
        run(train, *argv(tmp_path / "run"))
    run(train, *argv(tmp_path / "run"), *str(refused.value).split("checkpoints: ")[1].split())
    assert "no space for recovery checkpoints" in capsys.readouterr().err
    assert (tmp_path / "run/model.safetensors").is_file() and not list((tmp_path / "run").glob("*-[0-9]*"))


def test_evaluating_a_run_that_is_still_going(uninterrupted, tmp_path):
    from qa.io.run_lock import lock_run_folder

    command = evaluate_qa, "--model_name_or_path", tmp_path
    (tmp_path / "checkpoint-5").mkdir()
    with (
        lock_run_folder(tmp_path),
        pytest.raises(
            UserError, match=rf"is still running \(process {os.getpid()} .*newest checkpoint, .*checkpoint-5"
        ),
    ):
        run(*command)
    (tmp_path / run_folder.HOLDER).write_text("{}")  # as a killed process leaves it
    with pytest.raises(UserError, match=r"unfinished run: run train\.py again"):
        run(*command)


@pytest.mark.parametrize("room", [0.5, *(pytest.param(room, marks=pytest.mark.slow) for room in (1.3, 2.2))])
def test_full_disk_is_a_one_line_error_and_keeps_earlier_checkpoints(uninterrupted, tmp_path, room):
    """Uses a separate file system with room for a limited number of checkpoints."""
    reference, argv = uninterrupted
    disk, size = tmp_path / "disk", checkpoints.size_of(last_checkpoint(reference))
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(room * size) + 65536}", "none", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        code = "import train, qa.training.run as run; run.check_space = lambda *_: None; train.run_command(train.main)"
        command = [sys.executable, "-c", code, *argv(disk / "run", "--save_total_limit", "9")]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr[-3000:]
        assert "could not be saved, with 0.00 GiB free" in errors[0] and "rerun the same command" in errors[0]
        kept = run_folder.find_checkpoints(disk / "run")
        assert len(kept) == int(room) and all(checkpoints.find_corruption(folder) is None for folder in kept)
        assert not (disk / "run/train_results.json").exists() and not (disk / "run" / run_folder.STAGING).exists()
        subprocess.run([*mount[:4], f"remount,size={64 << 20}", *mount[5:]], check=True)
        run(train, *argv(disk / "run", "--save_total_limit", "9"))
        assert_same_run(reference, disk / "run")
    finally:
        subprocess.run(["umount", "-l", str(disk)])


def test_300_corrupt_checkpoints(uninterrupted, tmp_path):
    """Each is skipped with one line, or is intact where it matters; never a traceback."""
    rng, origin, begun = random.Random(0), last_checkpoint(uninterrupted[0]), time.monotonic()
    names = [path.name for path in origin.iterdir()]
    contents = {name: (origin / name).read_bytes() for name in names}
    for number in range(300):
        folder = tmp_path / str(number) / "checkpoint-15"
        folder.mkdir(parents=True)
        hurt, manifest = rng.choice(names), rng.random() < 0.6
        for name, content in contents.items():
            if name != run_folder.MANIFEST or manifest or name == hurt:
                (folder / name).write_bytes(content)
        path, size = folder / hurt, len(contents[hurt])
        kind = rng.randrange(6)
        if kind == 0:
            path.unlink()
        elif kind == 1:
            path.write_bytes(contents[hurt][: rng.randrange(size)])
        elif kind == 2:
            begin = rng.randrange(size)
            path.write_bytes(
                contents[hurt][:begin] + rng.randbytes(rng.randrange(1, 64)) + contents[hurt][begin + 16 :]
            )
        elif kind == 3:
            path.write_bytes(contents[rng.choice(names)])
        elif kind == 4:
            path.write_bytes(bytes(size))
        else:
            path.write_text(rng.choice(["{}", "[]", "null", "<html>", '{"global_step": "15"}', '{"files": 3}']))
        changed = not path.exists() or path.read_bytes() != contents[hurt]
        found, passed = checkpoints.newest_intact(folder.parent)
        listed = manifest and hurt != run_folder.MANIFEST
        assert len(passed) == (found is None) and all("\n" not in line for line in passed)
        assert found is None or not changed or not listed, (hurt, kind)
        if kind == 0 and hurt in checkpoints.NEEDED:
            assert found is None
        shutil.rmtree(folder.parent)
    assert time.monotonic() - begun < 60
