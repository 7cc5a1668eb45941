"""Runs in fp16: the loss scale of checkpoints, skipped steps, and losses that are not finite.

On a CPU accelerate ignores fp16, so autocast and the loss scaler are set up as it does on a GPU.
"""

import math
import shutil

import pytest
import torch
from helpers.commands import error_of, read, train_tiny
from safetensors.torch import load_file

from qa.runtime.errors import UserError
from qa.training.failure import SKIPPED, FiniteLosses
from qa.training.trainer import QATrainer

RUN = ("--gradient_accumulation_steps", 1, "--logging_steps", 1, "--max_eval_samples", 2, "--recovery_minutes", 0)
RUN += ("--save_strategy", "steps", "--save_steps", 2, "--eval_strategy", "no", "--load_best_model_at_end", "false")


def compute_in_fp16(monkeypatch, scale: float = 2.0**16) -> None:
    """Let runs compute in fp16, with a loss scale that starts at ``scale``."""
    original = QATrainer.create_accelerator_and_postprocess

    def create(trainer):
        original(trainer)
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        trainer.accelerator.native_amp = True
        monkeypatch.setitem(trainer.accelerator.state.__dict__, "_mixed_precision", "fp16")

    monkeypatch.setattr(QATrainer, "create_accelerator_and_postprocess", create)


def history(folder, step: int) -> list[dict]:
    return [row for row in read(folder / f"checkpoint-{step}/trainer_state.json")["log_history"] if "loss" in row]


def change_loss(monkeypatch, change) -> list:
    """Pass each loss of training to ``change``, with the number of the micro-batch, from 1."""
    original, calls = QATrainer.compute_loss, []

    def compute_loss(trainer, *args, **kwargs):
        loss = original(trainer, *args, **kwargs)
        calls.append(loss.item())
        return change(loss, len(calls))

    monkeypatch.setattr(QATrainer, "compute_loss", compute_loss)
    return calls


@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "adamw_torch"])
def test_skipped_steps_are_no_failure(tiny_data, tiny_model, tmp_path, monkeypatch, optimizer):
    """The learning rate waits where accelerate knows that a step was skipped, as with any ``Trainer``."""
    compute_in_fp16(monkeypatch, 2.0**24)
    train_tiny(
        tiny_data, tiny_model, tmp_path / "run", *RUN, "--max_steps", 20, "--save_total_limit", 9, "--optim", optimizer
    )
    saved = torch.load(tmp_path / "run/checkpoint-20/scaler.pt", weights_only=True)
    skipped = round(24 - math.log2(saved["scale"]))
    assert 3 <= skipped < 18, "the scale was too high at first"
    logged = history(tmp_path / "run", 20)
    assert [row["step"] for row in logged] == [*range(1, 21)]
    assert len({row["learning_rate"] for row in logged}) == (20 if optimizer == "adamw_torch_fused" else 20 - skipped)
    assert all(math.isfinite(row["loss"]) for row in logged)
    before, after = (load_file(tmp_path / f"run/checkpoint-{step}/model.safetensors") for step in (4, 20))
    assert all(weight.isfinite().all() for weight in after.values())
    assert any(not weight.equal(before[name]) for name, weight in after.items())


def test_a_loss_that_overflows_once_is_left_out_of_the_log(tiny_data, tiny_model, tmp_path, monkeypatch):
    compute_in_fp16(monkeypatch)
    calls = change_loss(monkeypatch, lambda loss, number: loss * math.inf if number in (1, 5) else loss)
    assert error_of(train_tiny, tiny_data, tiny_model, tmp_path / "run", *RUN, "--max_steps", 8) is None
    losses = [row["loss"] for row in history(tmp_path / "run", 8)]
    assert losses[4] == losses[3] == pytest.approx(calls[3]) and losses[0] == 0, "the last finite one in its place"
    assert losses[5:] == pytest.approx(calls[5:])
    assert math.isfinite(read(tmp_path / "run/train_results.json")["loss"])


def test_a_loss_that_stays_infinite_stops_the_run(tiny_data, tiny_model, tmp_path, monkeypatch):
    compute_in_fp16(monkeypatch)
    calls = change_loss(monkeypatch, lambda loss, number: loss * math.nan if number > 4 else loss)
    with pytest.raises(UserError, match=r"training has failed: the (gradients overflow in fp16|loss is nan)"):
        train_tiny(tiny_data, tiny_model, tmp_path / "run", *RUN, "--max_steps", 100)
    assert 16 < len(calls) <= SKIPPED + 5


def test_gradients_that_overflow_at_every_scale_stop_the_run(tiny_data, tiny_model, tmp_path, monkeypatch):
    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.inf

    compute_in_fp16(monkeypatch)
    calls = change_loss(monkeypatch, lambda loss, number: Overflow.apply(loss))
    with pytest.raises(UserError, match="has failed: the gradients overflow in fp16 at every loss scale"):
        train_tiny(tiny_data, tiny_model, tmp_path / "run", *RUN, "--max_steps", 100)
    assert len(calls) == 31 and all(map(math.isfinite, calls))


def test_in_other_precisions_one_infinite_loss_stops_the_run(tiny_data, tiny_model, tmp_path, monkeypatch):
    change_loss(monkeypatch, lambda loss, number: loss * math.inf if number == 3 else loss)
    with pytest.raises(UserError, match="training has failed: the loss is inf at step 3"):
        train_tiny(tiny_data, tiny_model, tmp_path / "run", *RUN, "--max_steps", 8)


def test_finite_losses():
    kept, nan, inf = FiniteLosses(), math.nan, math.inf
    found = [kept.replace(torch.tensor(loss), 2).item() for loss in (1.0, inf, 2.0, nan, -inf, 3.0, nan, nan)]
    assert found == [1, 1, 2, 2, 2, 3, 3, 3]
    assert math.isnan(kept.replace(torch.tensor(nan), 2).item()), "three in a row"
    assert kept.replace(torch.tensor(4.0), 2).item() == 4


def interrupted(trainer) -> None:
    raise UserError("interrupted")


def unfinished_run(data, model, folder, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(QATrainer, "save_finished", interrupted)
        with pytest.raises(UserError, match="interrupted"):
            train_tiny(data, model, folder, *RUN, "--max_steps", 4)
    shutil.rmtree(folder / "checkpoint-4")


def test_a_run_in_fp16_is_resumed_in_another_precision(tiny_data, tiny_model, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        compute_in_fp16(patch)
        unfinished_run(tiny_data, tiny_model, run, patch)
    assert (run / "checkpoint-2/scaler.pt").is_file()
    capsys.readouterr()
    assert error_of(train_tiny, tiny_data, tiny_model, run, *RUN, "--max_steps", 4) is None
    note = f"note: the loss scale in {run}/checkpoint-2 (scaler.pt) is not used: this run computes in fp32"
    assert note in capsys.readouterr().err
    assert history(run, 4)[-1]["step"] == 4 and not (run / "checkpoint-4/scaler.pt").exists()


def test_the_loss_scale_of_a_run_in_fp16_is_kept(tiny_data, tiny_model, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    compute_in_fp16(monkeypatch, 2.0**24)
    unfinished_run(tiny_data, tiny_model, run, monkeypatch)
    saved = torch.load(run / "checkpoint-2/scaler.pt", weights_only=True)["scale"]
    train_tiny(tiny_data, tiny_model, run, *RUN, "--max_steps", 4)
    assert "loss scale" not in capsys.readouterr().err
    assert torch.load(run / "checkpoint-4/scaler.pt", weights_only=True)["scale"] == saved / 4, "too high for two more"


def test_a_run_is_resumed_in_fp16_without_a_loss_scale(tiny_data, tiny_model, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    unfinished_run(tiny_data, tiny_model, run, monkeypatch)
    compute_in_fp16(monkeypatch)
    train_tiny(tiny_data, tiny_model, run, *RUN, "--max_steps", 4)
    assert f"{run}/checkpoint-2 has no loss scale (scaler.pt)" in capsys.readouterr().err
    saved = torch.load(run / "checkpoint-4/scaler.pt", weights_only=True)
    assert saved["scale"] <= 2**16 and history(run, 4)[-1]["step"] == 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_scaler_of_a_gpu_skips_steps_and_is_resumed(tiny_data, tiny_model, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    more = (*RUN, "--max_steps", 4, "--save_total_limit", 9)
    with monkeypatch.context() as patch:
        patch.setattr(QATrainer, "save_finished", interrupted)
        calls = change_loss(patch, lambda loss, number: loss * math.inf if number == 2 else loss)
        with pytest.raises(UserError, match="interrupted"):
            train_tiny(tiny_data, tiny_model, run, *more, "--precision", "fp16")
    losses = [row["loss"] for row in history(run, 4)]
    assert losses[1] == losses[0] == pytest.approx(calls[0], rel=1e-3), "the infinite loss is left out"
    assert torch.load(run / "checkpoint-4/scaler.pt", weights_only=True)["scale"] < 2**16, "a step was skipped"
    shutil.rmtree(run / "checkpoint-4")
    resumed = ("--resume_from_checkpoint", "last")
    train_tiny(tiny_data, tiny_model, run, *more, "--precision", "fp32", *resumed)
    assert "(scaler.pt) is not used: this run computes in fp32" in capsys.readouterr().err
