"""When a run counts as failed, and how it is stopped then."""

import math

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback, TrainerState, TrainingArguments

from qa.runtime.console import count
from qa.runtime.errors import UserError

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


class DivergenceCallback(TrainerCallback):
    """Stop a run that has failed. Check logged losses only, which adds no GPU synchronization."""

    def __init__(self, lengths: np.ndarray):
        self.uniform = uniform_loss(lengths)

    def on_log(self, args, state, control, **kwargs):
        warmup = args.get_warmup_steps(state.max_steps)
        if reason := detect_divergence(state.log_history, warmup, state.max_steps, self.uniform):
            raise training_failed(reason, state, args)
