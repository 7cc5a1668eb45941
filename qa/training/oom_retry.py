"""Repeat a training step that runs out of GPU memory in smaller micro-batches."""

import functools
import math
from collections.abc import Callable

import torch

from qa.model.batch_splitting import Batch, split
from qa.model.device_errors import free_cached_memory, is_out_of_memory
from qa.runtime.console import count, warn
from qa.runtime.errors import one_line


class OutOfMemoryRetry:
    """Run the batches of a step, and repeat the whole step with halved batches when it runs out of memory.

    The gradient is still that of the same windows. All later batches are split, too; a note is printed once.

    Args:
        retries: False with several processes, which would no longer exchange their gradients at the same time.
        note: appended to the printed note, such as ", uncompiled".
    """

    def __init__(self, retries: bool, note: str = ""):
        self.retries, self.note = retries, note
        self.parts = 1  # of each batch
        self.batches: list[Batch] = []  # of the current step
        self.started = 0  # how many of them

    def begin_step(self, batches: list[Batch]) -> None:
        self.batches, self.started = batches, 0

    def run(
        self, batch: Batch, forward_backward: Callable[[Batch, float], torch.Tensor], reset: Callable[[], None]
    ) -> torch.Tensor:
        """Run the next batch of the step, and on a retry those before it again; return its part of the step's loss.

        Args:
            forward_backward: runs a micro-batch, its loss divided by a number. reset: drops the step's gradients.
        """
        self.started += 1
        pending = [batch]
        while True:
            try:
                for each in pending:
                    loss = self.run_parts(each, forward_backward)
                return loss
            except RuntimeError as error:
                largest = max(len(each["input_ids"]) for each in self.batches)
                if not is_out_of_memory(error) or not self.retries or self.parts >= largest:
                    raise
                reason = one_line(error)
            reset()  # outside of except, whose traceback would keep the activations
            free_cached_memory(reason)
            if self.parts == 1:
                size = f"micro-batches of {count(math.ceil(largest / 2), 'window')} instead of {largest}{self.note}"
                warn(f"note: out of memory; the step is repeated, and training continues, with {size}")
            self.parts *= 2
            pending = self.batches[: self.started]

    def run_parts(self, batch: Batch, forward_backward: Callable[[Batch, float], torch.Tensor]) -> torch.Tensor:
        """Run a batch in ``parts``; return its share of the step's mean loss over all windows.

        ``Trainer`` averages the means of the batches, in which the windows of a last, smaller batch weigh more.
        """
        windows = sum(len(each["input_ids"]) for each in self.batches)
        parts = split(batch, self.parts)
        return functools.reduce(torch.add, (forward_backward(part, windows / len(part["input_ids"])) for part in parts))
