"""A run that has failed is stopped and called failed; a step that does not fit is repeated in smaller parts."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback, TrainerState, TrainingArguments

from qa.runtime.errors import UserError, say

UNIFORM = 0.95  # of the loss of a uniform guess: a model that learns is far below it soon after the warm-up
PATIENCE = 0.05, 100  # share of all steps after the warm-up, and fewest steps, before a run can be called stuck


def uniform_loss(lengths: np.ndarray) -> float:
    """The loss of a model that finds every token as likely as any other: the mean log of the windows' lengths."""
    return float(np.log(np.asarray(lengths)).mean())


def failure(history: list[dict], warmup: int, steps: int, uniform: float) -> str | None:
    """Why the training has failed, None where it has not.

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
            f"{last - warmup} steps after the warm-up the loss is {np.mean(recent):.2f}, no better than a uniform guess"
            f" ({uniform:.2f})"
        )
    return None


def failed(reason: str, state: TrainerState, args: TrainingArguments) -> UserError:
    best = state.best_model_checkpoint
    kept = f"The best checkpoint so far, {best}, is kept. " if best else "No checkpoint was the best yet. "
    return UserError(
        f"training has failed: {reason}. {kept}Try, with another --output_dir, a lower learning_rate (such as"
        f" {args.learning_rate / 3:.1g}), warmup_steps: 0.1, or another seed"
    )


def check_weights(model: nn.Module, state: TrainerState, args: TrainingArguments) -> None:
    """Raises UserError for weights that are not finite: they are never saved over good ones."""
    for name, weight in model.named_parameters():
        own = weight.to_local() if hasattr(weight, "to_local") else weight  # of a model spread over several GPUs
        if not torch.isfinite(own).all():
            raise failed(f"{name} holds NaN or infinity at step {state.global_step}", state, args)


class FailureWatch(TrainerCallback):
    """Looks at every logged loss, and so at no other time waits for the GPU."""

    def __init__(self, lengths: np.ndarray):
        self.uniform = uniform_loss(lengths)

    def on_log(self, args, state, control, **kwargs):
        warmup = args.get_warmup_steps(state.max_steps)
        if reason := failure(state.log_history, warmup, state.max_steps, self.uniform):
            raise failed(reason, state, args)


def split(batch: dict[str, torch.Tensor], parts: int) -> Iterator[dict[str, torch.Tensor]]:
    """A batch of (B, ...) tensors in at most ``parts`` batches of about one size."""
    size = math.ceil(len(batch["input_ids"]) / parts)
    for begin in range(0, len(batch["input_ids"]), size):
        yield {name: rows[begin : begin + size] for name, rows in batch.items()}


class SmallerSteps:
    """For a ``Trainer``: a step that runs out of memory is repeated as a whole, its batches cut in halves.

    The gradient stays that of the same windows. From then on all batches are cut; said once. In one process only:
    several would no longer exchange their gradients at the same moments.
    """

    parts = 1
    batches: list[dict] = []  # noqa: RUF012  of the step under way
    begun = 0  # how many of them

    def get_batch_samples(self, *args, **kwargs):
        self.batches, items = super().get_batch_samples(*args, **kwargs)
        self.begun = 0
        return self.batches, items

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.begun += 1
        pending = [inputs]
        while True:
            try:
                for batch in pending:
                    loss = self.step_in_parts(model, batch)
                return loss
            except torch.OutOfMemoryError:
                largest = max(len(batch["input_ids"]) for batch in self.batches)
                if self.args.world_size * max(self.args.n_gpu, 1) > 1 or self.parts >= largest:
                    raise
            model.zero_grad()  # outside of except, whose traceback would hold on to the activations
            torch.cuda.empty_cache()
            if self.parts == 1:
                count = f"{math.ceil(largest / 2)} instead of {largest} windows at once"
                count += ", uncompiled" if self.args.torch_compile else ""
                say(f"note: out of memory; the step is repeated, and training goes on, with {count}")
            self.parts *= 2
            pending = self.batches[: self.begun]

    def step_in_parts(self, model, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Forward and backward of one batch; its share of the step's mean loss over all windows.

        ``Trainer`` takes the mean of the batches' means, in which the windows of a last, smaller batch count more.
        """
        accumulated, loss = self.current_gradient_accumulation_steps, 0
        windows = sum(len(batch["input_ids"]) for batch in self.batches)
        try:
            for part in split(inputs, self.parts):
                self.current_gradient_accumulation_steps = windows / len(part["input_ids"])
                loss = loss + super().training_step(model, part)
        finally:
            self.current_gradient_accumulation_steps = accumulated
        return loss
