"""A step that does not fit into memory is repeated in smaller parts."""

import math
from collections.abc import Iterator

import torch

from qa.runtime.console import warn


def split(batch: dict[str, torch.Tensor], parts: int) -> Iterator[dict[str, torch.Tensor]]:
    """A batch of (B, ...) tensors in at most ``parts`` batches of about one size."""
    size = math.ceil(len(batch["input_ids"]) / parts)
    for begin in range(0, len(batch["input_ids"]), size):
        yield {name: rows[begin : begin + size] for name, rows in batch.items()}


class OutOfMemoryRetry:
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
                warn(f"note: out of memory; the step is repeated, and training goes on, with {count}")
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
