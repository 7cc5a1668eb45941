"""The callbacks of a run."""

from pathlib import Path

import numpy as np
from transformers import TrainerCallback

from qa.options.training_arguments import TrainingOptions
from qa.runtime.console import warn
from qa.runtime.errors import UserError
from qa.training import checkpoints
from qa.training.failure import DivergenceCallback, FiniteWeightsCallback


class SetEpochCallback(TrainerCallback):
    """Set the sampler's epoch when resuming mid-epoch; accelerate's batch-skipping loader does not.

    With several processes that loader's ``BatchSamplerShard`` has no ``sampler`` to reach.
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        if hasattr(train_dataloader, "set_epoch"):
            train_dataloader.set_epoch(int(state.epoch + 1e-9))


class ResumeCallback(TrainerCallback):
    """Check the state of a resumed run."""

    def on_train_begin(self, args, state, control, **kwargs):
        """Discard a best checkpoint that has become corrupt, so that another one can become the best.

        Raises:
            UserError: the checkpoint is of a step after the last one of this run.
        """
        if state.global_step > state.max_steps:
            raise UserError(
                f"the checkpoint is of step {state.global_step}, beyond the {state.max_steps} of this run: raise"
                " num_train_epochs or max_steps, or start from scratch in another --output_dir"
            )
        if args.load_best_model_at_end and state.best_global_step:
            best = state.best_model_checkpoint
            if reason := checkpoints.find_corruption(Path(best)) if best else "it was removed":
                warn(f"warning: ignoring the best checkpoint so far, of step {state.best_global_step}: {reason}")
                state.best_metric = state.best_global_step = state.best_model_checkpoint = None


def make_callbacks(args: TrainingOptions, lengths: np.ndarray | None) -> list[TrainerCallback]:
    """Return the callbacks of a run; ``lengths`` (W,) are those of its training windows, None without training."""
    callbacks: list[TrainerCallback] = [SetEpochCallback(), ResumeCallback(), FiniteWeightsCallback()]
    if lengths is not None and args.stop_if_failed:
        callbacks.append(DivergenceCallback(lengths))
    return callbacks
