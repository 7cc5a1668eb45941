"""When a run counts as failed, and how it is stopped then."""

import math

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback, TrainerState, TrainingArguments

from qa.runtime.console import count
from qa.runtime.errors import UserError

LEAST_SCALE = 2.0**-14  # of the loss in fp16: its smallest normal number; the scale starts at 2**16
SKIPPED = 30  # steps in a row whose loss is not finite, before it is logged; so many halve the scale to the least
UNIFORM = 0.95  # of the loss of a uniform guess: a model that learns is far below it soon after warm-up
PATIENCE = 0.05, 100  # share of all steps after the warm-up, and fewest steps, before a run can be called stuck


def uniform_loss(lengths: np.ndarray) -> float:
    """Return the loss of a uniform guess over each window's tokens: the mean log of their (W,) ``lengths``."""
    return float(np.log(np.asarray(lengths)).mean())


def detect_divergence(history: list[dict], warmup: int, steps: int, uniform: float) -> str | None:
    """Return why training has failed, None if it has not.

    Args:
        history: entries with ``step`` and ``loss``, the mean since the entry before. warmup, steps: of the whole run.
        uniform: see ``uniform_loss``.
    """
    logged = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    if not logged:
        return None
    last, loss = logged[-1]
    if not math.isfinite(loss):
        return f"the loss is {loss} at step {last}"
    patience = max(round(PATIENCE[0] * steps), PATIENCE[1])
    recent = [value for step, value in logged if step > max(warmup, last - patience)]
    if last - warmup >= patience and np.mean(recent) > UNIFORM * uniform:
        return (
            f"{count(last - warmup, 'step')} after the warm-up the loss is {np.mean(recent):.2f}, no better than a"
            f" uniform guess ({uniform:.2f})"
        )
    return None


def training_failed(reason: str, state: TrainerState, args: TrainingArguments) -> UserError:
    best = state.best_model_checkpoint
    kept = f"The best checkpoint so far, {best}, is kept. " if best else "There is no best checkpoint yet. "
    return UserError(
        f"training has failed: {reason}. {kept}Try, with another --output_dir, a lower learning_rate (such as"
        f" {args.learning_rate / 3:.1g}), warmup_steps: 0.1, or another seed"
    )


def check_finite_weights(model: nn.Module, state: TrainerState, args: TrainingArguments) -> None:
    """Raise UserError for weights with NaN or infinity, so that they never replace good ones on disk."""
    for name, weight in model.named_parameters():
        local = weight.to_local() if hasattr(weight, "to_local") else weight  # its shard, if spread over several GPUs
        if not torch.isfinite(local).all():
            raise training_failed(f"{name} holds NaN or infinity at step {state.global_step}", state, args)


class FiniteWeightsCallback(TrainerCallback):
    """Check the weights before each evaluation, which would fail on NaN with a less helpful message."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if control.should_evaluate:
            check_finite_weights(model, state, args)

    on_epoch_end = on_step_end


class FiniteLosses:
    """Leave the losses that are not finite out of the mean loss of a run in fp16.

    An activation that overflows in fp16 makes the loss of that batch infinite or NaN, and the gradients too: the loss
    scaler skips the step, and no weight is changed. ``Trainer`` would add the loss to a sum that is not finite from
    then on. All is computed on the device, without synchronization.
    """

    def __init__(self):
        self.last = self.missing = torch.zeros(())  # the last finite loss, and how many have followed that are not

    def replace(self, loss: torch.Tensor, patience: int) -> torch.Tensor:
        """Return ``loss`` (), or the last finite one in its place, but not more than ``patience`` times in a row."""
        finite = torch.isfinite(loss)
        self.last = torch.where(finite, loss, self.last.to(loss))
        self.missing = torch.where(finite, 0, self.missing.to(loss) + 1)
        return torch.where(self.missing > patience, loss, self.last)


class DivergenceCallback(TrainerCallback):
    """Stop a run that has failed. Check logged losses only, which adds no GPU synchronization.

    In fp16 a step whose gradients overflow is skipped, and the loss scale is halved; that is no failure until the scale
    is below ``LEAST_SCALE``. Whether a step was skipped is not asked: accelerate does not notice it where the optimizer
    is fused, which is the default.
    """

    def __init__(self, lengths: np.ndarray):
        self.uniform = uniform_loss(lengths)

    def on_log(self, args, state, control, optimizer=None, **kwargs):
        warmup = args.get_warmup_steps(state.max_steps)
        reason = detect_divergence(state.log_history, warmup, state.max_steps, self.uniform)
        scaler = getattr(optimizer, "scaler", None)
        if not reason and scaler is not None and scaler.get_scale() < LEAST_SCALE:
            reason = f"the gradients overflow in fp16 at every loss scale, last at step {state.global_step}"
        if reason:
            raise training_failed(reason, state, args)
