"""When a run saves a recovery checkpoint, and how a signal stops it."""

import signal
import time
from pathlib import Path

from transformers import TrainerCallback, TrainerState

from qa.io import run_folder
from qa.options.training_arguments import TrainingOptions
from qa.runtime.distributed import ProcessGroup
from qa.training.interruption import SignalHandler, TrainingInterrupted


class RecoveryCallback(TrainerCallback):
    """Decide when a recovery checkpoint is due, and stop the run after any checkpoint if a signal was received.

    Saving is not requested by ``control.should_save``: that would make a regular checkpoint, which integrations upload
    from ``on_save``. The trainer asks ``is_due`` before it draws the next step's batches, when all that belongs to the
    last step (logging, evaluation, a regular checkpoint) is done and no random number of the next one is drawn.

    Args:
        stop: has a ``number`` once a signal was received. args: with the ``recovery_minutes`` between checkpoints.
    """

    def __init__(self, stop: SignalHandler, args: TrainingOptions, group: ProcessGroup):
        self.stop, self.minutes, self.group = stop, args.recovery_minutes, group
        self.saved_step, self.saved_at = 0, time.monotonic()

    def on_train_begin(self, args, state, control, **kwargs):
        self.saved_step = state.global_step

    def on_save(self, args, state, control, **kwargs):
        self.after_save(state, Path(args.output_dir) / f"{run_folder.REGULAR}-{state.global_step}")

    def is_due(self, state: TrainerState) -> bool:
        """Return whether to save now; the same in all processes, which call this together.

        Never between an epoch's last step and the next epoch's first: a run resumed from there would leave out the
        evaluation at the epoch's end.
        """
        if float(state.epoch).is_integer() or state.global_step == self.saved_step:
            return False
        late = bool(self.minutes) and time.monotonic() - self.saved_at > 60 * self.minutes
        return self.group.any_process(late or self.stop.number is not None)[0]

    def after_save(self, state: TrainerState, folder: Path) -> None:
        """Note the checkpoint; raise TrainingInterrupted if any process received a signal."""
        self.saved_step, self.saved_at = state.global_step, time.monotonic()
        if self.group.any_process(self.stop.number is not None)[0]:
            raise TrainingInterrupted(self.stop.number or signal.SIGTERM, folder)
