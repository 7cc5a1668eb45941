"""When a recovery checkpoint is due, and when a signal ends the run."""

import signal
import time

import pytest
from transformers import TrainerControl, TrainerState

from qa.options.training_arguments import TrainingOptions
from qa.runtime.distributed import ProcessGroup
from qa.training.interruption import SignalHandler, TrainingInterrupted
from qa.training.recovery import RecoveryCallback


def at(step: int) -> TrainerState:
    """Return the state after ``step`` steps, with five steps per epoch."""
    return TrainerState(global_step=step, epoch=step / 5)


def recovery(minutes: float, started_at: int = 0, number: int | None = None) -> RecoveryCallback:
    stop = SignalHandler()
    stop.number = number
    options = TrainingOptions(output_dir="x", recovery_minutes=minutes)
    callback = RecoveryCallback(stop, options, ProcessGroup(1))
    callback.on_train_begin(None, at(started_at), TrainerControl())
    return callback


def test_recovery_is_due_by_time_within_an_epoch(monkeypatch):
    callback = recovery(10)
    assert not callback.is_due(at(2))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 601)
    assert callback.is_due(at(2)) and not callback.is_due(at(5)) and not callback.is_due(at(0))
    callback.after_save(at(3), "recovery-3")
    assert not callback.is_due(at(3)) and not callback.is_due(at(4)), "ten minutes from the last one"
    assert not recovery(0).is_due(at(2)), "0 minutes: none by the clock"


def test_a_resumed_run_saves_nothing_before_its_first_step():
    """The random states of the checkpoint are loaded only after the first batches are drawn."""
    callback = recovery(1e-9, started_at=7)
    time.sleep(0.001)
    assert not callback.is_due(at(7)) and callback.is_due(at(8))


def test_a_signal_ends_the_run_after_the_next_checkpoint(tmp_path):
    callback, args = recovery(0, number=signal.SIGINT), TrainingOptions(output_dir=str(tmp_path))
    assert callback.is_due(at(7)) and not callback.is_due(at(10)), "the epoch's evaluation comes first"
    with pytest.raises(TrainingInterrupted, match="recovery-7") as stopped:
        callback.after_save(at(7), tmp_path / "recovery-7")
    assert stopped.value.status == 130
    with pytest.raises(TrainingInterrupted, match="checkpoint-10"):
        callback.on_save(args, at(10), TrainerControl())
    recovery(0).on_save(args, at(10), TrainerControl())
