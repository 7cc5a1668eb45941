"""Several processes train like one: the same batches, weights and scores, also when resumed with another number."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.data_loader import BatchSamplerShard
from helpers.commands import SMALL, read, run
from safetensors.torch import load_file
from torch.utils.data import BatchSampler

import train
from qa.io import run_folder
from qa.options.arguments import REPOSITORY
from qa.runtime.distributed import divide_batch
from qa.training.sampling import LengthGroupedSampler

# 36 windows, 12 per step: three steps in each of three epochs; the 16 windows of evaluation give uneven batches.
RUN = ("--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 3, "--num_train_epochs", 3)
RUN += ("--max_train_samples", 36, "--per_device_eval_batch_size", 5, "--train_sampling_strategy", "group_by_length")
RUN += ("--eval_strategy", "epoch", "--save_strategy", "epoch", "--save_total_limit", 3, "--logging_steps", 1)
RUN += ("--load_best_model_at_end", "true", "--metric_for_best_model", "f1", "--recovery_minutes", "1e-9")


def launch(folder: Path, plan: list[dict], *how) -> subprocess.Popen:
    """Start ``tests/helpers/processes.py`` as a user would start train.py."""
    folder.mkdir(exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, "-m", "torch.distributed.run", *how, REPOSITORY / "tests/helpers/processes.py"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    files = {"stdout": open(folder / "out", "w"), "stderr": open(folder / "err", "w")}  # noqa: SIM115
    return subprocess.Popen([*map(str, command), str(folder / "plan.json")], env=environment, **files)


def seen(folder: Path, processes: int) -> list[list[dict]]:
    """Return what every process recorded, run by run."""
    notes = [read(folder / f"seen-{rank}.json") for rank in range(processes)]
    return [list(run) for run in zip(*notes, strict=True)]


@pytest.fixture(scope="module")
def arguments(tiny_data, tiny_model, tmp_path_factory):
    """The arguments of train.py for a run in any folder."""
    if sys.platform == "win32":
        pytest.skip("Windows has no SIGKILL, and delivers no SIGTERM to another process")
    cache = tmp_path_factory.mktemp("cache")
    dropout = tmp_path_factory.mktemp("dropout") / "model"
    shutil.copytree(tiny_model, dropout)
    config = read(dropout / "config.json") | {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
    (dropout / "config.json").write_text(json.dumps(config))

    def argv(output, *more, with_dropout=False):
        files = ("--train_file", tiny_data / "train.json", "--validation_file", tiny_data / "dev.json.gz", *SMALL)
        where = ("--output_dir", output, "--cache_dir", cache, "--report_to", "none", "--learning_rate", "1e-3")
        model = dropout if with_dropout else tiny_model
        return [str(item) for item in ("--config_name", model, *files, *where, *RUN, *more)]

    return argv


@pytest.fixture(scope="module")
def alone(arguments, tmp_path_factory):
    """The folder of the run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    run(train, *arguments(folder))
    return folder


@pytest.fixture(scope="module")
def two(arguments, tmp_path_factory):
    """Two processes: a full run; two with dropout, one of them stopped and resumed; one killed in its second epoch."""
    folder = tmp_path_factory.mktemp("two")
    dropout = {"with_dropout": True}
    plan = [
        {"argv": arguments(folder / "whole")},
        {"argv": arguments(folder / "dropout", **dropout)},
        {"argv": arguments(folder / "stopped", **dropout), "signal": (1, 5, signal.SIGTERM)},
        {"argv": arguments(folder / "stopped", **dropout)},
        {"argv": arguments(folder / "killed"), "signal": ("all", 5, signal.SIGKILL)},
    ]
    assert launch(folder, plan, "--standalone", "--nproc_per_node", 2).wait(300), "killed at the end"
    return folder


@pytest.fixture(scope="module")
def three(arguments, two, tmp_path_factory):
    """Three processes: a full run, the rest of the killed one, and one whose batch cannot be divided."""
    folder = tmp_path_factory.mktemp("three")
    shutil.copytree(two / "killed", folder / "killed")
    odd = ("--gradient_accumulation_steps", 2, "--num_train_epochs", 1)
    plan = [{"argv": arguments(folder / "whole")}, {"argv": arguments(folder / "killed")}]
    plan += [{"argv": arguments(folder / "odd", *odd)}]
    assert launch(folder, plan, "--standalone", "--nproc_per_node", 3).wait(300) == 0, (folder / "err").read_text()
    return folder


def assert_same_model(one: Path, other: Path, tolerance: float) -> None:
    """Check that weights and scores are equal, except for biases that do not affect the loss."""
    ours, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name in ours:
        if not name.endswith(("qa_outputs.bias", "key.bias")) or not tolerance:
            assert (ours[name] - theirs[name]).abs().max() <= tolerance, name
    scores = [read(folder / "eval_results.json") for folder in (one, other)]
    for name in ("exact_match", "f1", "examples", "features"):
        assert scores[0][name] == scores[1][name]
    assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], abs=1e-5)
    assert read(one / "predictions.json") == read(other / "predictions.json")


def f1_by_epoch(folder: Path) -> list[float]:
    history = read(run_folder.find_checkpoints(folder)[0] / "trainer_state.json")["log_history"]
    return [entry["eval_f1"] for entry in history if "eval_f1" in entry]


def test_two_processes_match_one(alone, two):
    assert_same_model(alone, two / "whole", 1e-5)
    assert f1_by_epoch(alone) == f1_by_epoch(two / "whole")
    runs = seen(two, 2)[0]
    assert [note["batch"] for note in runs] == [[2, 3]] * 2, "12 windows a step"
    for note in runs:
        assert set(note["rows"]) == {16}, "no window of evaluation lost, none twice"
        assert note["f1"][:3] == f1_by_epoch(alone) and note["best"] == max(f1_by_epoch(alone))


@pytest.mark.slow
def test_three_processes_match_one(alone, three):
    assert_same_model(alone, three / "whole", 1e-5)
    runs = seen(three, 3)[0]
    assert [note["batch"] for note in runs] == [[4, 1]] * 3
    assert all(set(note["rows"]) == {16} and note["f1"][:3] == f1_by_epoch(alone) for note in runs)


@pytest.mark.slow
def test_run_killed_with_two_processes_resumes_with_three(alone, two, three):
    assert not (two / "killed/train_results.json").exists()
    assert run_folder.find_checkpoints(two / "killed")[0].name == "recovery-4", "step 5 was killed before it was saved"
    assert read(three / "killed/train_results.json")["resumed_from"] == 4
    assert_same_model(alone, three / "killed", 1e-5)


def test_signal_to_one_process_saves_one_checkpoint(two):
    stopped, resumed = seen(two, 2)[2:4]
    assert [note["status"] for note in stopped] == [143, 143] and [note["status"] for note in resumed] == [0, 0]
    assert read(two / "stopped/train_results.json")["resumed_from"] == 5
    assert_same_model(two / "dropout", two / "stopped", 0)
    ours, theirs = (run_folder.find_checkpoints(two / name)[0] for name in ("dropout", "stopped"))
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in ours.iterdir()}
    optimizers = [torch.load(folder / "optimizer.pt", weights_only=True)["state"] for folder in (ours, theirs)]
    for one, other in zip(*(state.values() for state in optimizers), strict=True):
        assert torch.equal(one["exp_avg_sq"], other["exp_avg_sq"])


@pytest.mark.slow
def test_out_of_memory_in_one_process_ends_all(arguments, tmp_path):
    """The others wait for its predictions, so the evaluation is not repeated in halves."""
    plan = [{"argv": arguments(tmp_path / "run"), "out_of_memory": 1}]
    process = launch(tmp_path, plan, "--standalone", "--nproc_per_node", 2)
    try:
        assert process.wait(120)
    finally:
        process.kill()
    error = "error in process 1: evaluation runs out of memory: lower per_device_eval_batch_size"
    assert error in (tmp_path / "err").read_text()
    assert not (tmp_path / "run/model.safetensors").exists()


def test_only_the_main_process_prints_and_writes(two):
    said = (two / "out").read_text()
    assert said.count("train: 36 questions read") == 5 and said.count("next:\n") == 3
    assert said.count("resuming from") == 1
    assert (two / "err").read_text().count("checkpoint saved to") == 1
    assert not any(path.name.startswith((run_folder.STAGING, ".holder")) for path in (two / "whole").iterdir())


@pytest.mark.slow
def test_indivisible_batch_is_reported(three):
    settings, resolved = (three / "odd/settings.yaml").read_text(), read(three / "odd/run.json")["resolved"]
    note = "note: 8 windows per step (per_device_train_batch_size 4 x gradient_accumulation_steps 2) cannot be shared"
    assert (three / "err").read_text().count(f"{note} equally by 3 processes: 9 per step instead") == 1
    assert "per_device_train_batch_size: 4\n" in settings and "gradient_accumulation_steps: 2\n" in settings
    assert resolved["per_device_train_batch_size"] == resolved["gradient_accumulation_steps"] == 3


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.slow
def test_two_hosts(alone, arguments, tmp_path):
    """Two launches connect to one address; then one of them, not the main one, receives a signal to stop."""
    plan = [{"argv": arguments(tmp_path / "whole")}, {"argv": arguments(tmp_path / "stopped"), "pause": 0.4}]
    meet, hosts = ("--master_addr", "127.0.0.1", "--master_port", free_port()), []
    for number in range(2):
        how = ("--nnodes", 2, "--node_rank", number, "--nproc_per_node", 1)
        hosts.append(launch(tmp_path / f"host{number}", plan, *how, *meet))
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "stopped").glob("recovery-*")):
            assert time.monotonic() < deadline and hosts[0].poll() is None, (tmp_path / "host0/err").read_text()
            time.sleep(0.1)
        hosts[1].send_signal(signal.SIGTERM)
        assert all(host.wait(60) for host in hosts)
    finally:
        for host in hosts:
            host.kill()
    assert_same_model(alone, tmp_path / "whole", 1e-5)
    assert (tmp_path / "host0/err").read_text().count("checkpoint saved to") == 1
    assert not (tmp_path / "host1/out").read_text(), "the other host's process is silent"
    run(train, *arguments(tmp_path / "stopped"))
    assert read(tmp_path / "stopped/train_results.json")["resumed_from"] > 0
    assert_same_model(alone, tmp_path / "stopped", 1e-5)


def test_divide_batch():
    for batch in range(1, 9):
        for accumulation in range(1, 9):
            for processes in range(1, 13):
                own, steps = divide_batch(batch, accumulation, processes)
                together, wanted = own * steps * processes, batch * accumulation
                assert 1 <= own <= batch
                assert together == wanted if wanted % processes == 0 else abs(together - wanted) <= processes * steps
    assert divide_batch(8, 2, 2) == (8, 1) and divide_batch(8, 2, 4) == (4, 1) and divide_batch(8, 8, 8) == (8, 1)


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_steps_have_the_same_windows_as_with_one_process(processes):
    batch, accumulation = 8, 6
    lengths = np.random.default_rng(0).integers(20, 384, 48 * 40)
    sampler = LengthGroupedSampler(lengths, batch * accumulation, seed=1)
    own, steps = divide_batch(batch, accumulation, processes)
    shards = [BatchSamplerShard(BatchSampler(sampler, own, False), processes, i) for i in range(processes)]
    parts = [list(shard) for shard in shards]
    order = list(sampler)
    for step in range(40):
        taken = [window for part in parts for few in part[step * steps : (step + 1) * steps] for window in few]
        assert sorted(taken) == sorted(order[48 * step : 48 * (step + 1)])
    padded = sum(lengths[few].max() * len(few) for part in parts for few in part)
    assert padded / lengths.sum() < 1.1, "windows of one batch have about one length on every process"


@pytest.mark.parametrize("name", ["one_host", "two_hosts", "fsdp_xxlarge"])
def test_accelerate_configs_are_valid(name):
    path = REPOSITORY / f"configs/accelerate/{name}.yaml"
    config = load_config_from_file(str(path))
    assert config.num_machines == (2 if name == "two_hosts" else 1)
    assert f"accelerate launch --config_file configs/accelerate/{name}.yaml" in path.read_text()
