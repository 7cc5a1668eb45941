"""Split batches that do not fit into memory, so that a model can be run on their parts."""

import math
from collections.abc import Callable, Iterator

import torch

from qa.model.device_errors import free_cached_memory, is_out_of_memory
from qa.runtime.console import count, warn
from qa.runtime.errors import UserError, one_line

Batch = dict[str, torch.Tensor]  # tensors (B, ...)
Outputs = tuple[torch.Tensor, ...]  # tensors (B, ...)


def split(batch: Batch, parts: int) -> Iterator[Batch]:
    """Yield a batch in at most ``parts`` batches of about the same size."""
    size = math.ceil(len(batch["input_ids"]) / parts)
    for begin in range(0, len(batch["input_ids"]), size):
        yield {name: rows[begin : begin + size] for name, rows in batch.items()}


class ForwardRetry:
    """Run batches forward, and repeat one that runs out of memory in halves.

    Later batches of more tokens than what fitted are split, too; a note is printed once. Parts are as wide as their
    batch, so the outputs are the same.

    Args:
        work: what runs, such as "evaluation", for messages.
        retries: False where another process waits for the same number of forward passes in this one.
    """

    def __init__(self, work: str, retries: bool = True):
        self.work, self.retries = work, retries
        self.limit: int | None = None  # padded tokens of a part

    def run(self, batch: Batch, forward: Callable[[Batch], Outputs]) -> Outputs:
        """Return what ``forward`` returns for a batch: tensors (B, ...), computed in parts if necessary.

        Raises:
            UserError: a single window does not fit, or the batch is not to be split.
        """
        windows, width = batch["input_ids"].shape
        while True:
            size = windows if self.limit is None else min(windows, max(1, self.limit // width))
            try:
                outputs = [forward(part) for part in split(batch, math.ceil(windows / size))]
                return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = one_line(error)
            free_cached_memory(reason)  # outside of except
            self.shrink(size, width)

    def shrink(self, windows: int, width: int) -> None:
        """Halve the limit after a part of ``windows`` windows of ``width`` tokens ran out of memory."""
        if not self.retries:
            raise UserError(
                f"{self.work} runs out of memory: lower per_device_eval_batch_size (a batch had"
                f" {count(windows, 'window')} of {width} tokens)"
            )
        if windows == 1:
            raise UserError(
                f"{self.work} runs out of memory with one window of {width} tokens: lower max_seq_length, take a"
                " smaller model, or compute on the CPU"
            )
        first, self.limit = self.limit is None, windows // 2 * width
        if first:
            size = f"{count(self.limit, 'token')}, here {count(windows // 2, 'window')} instead of {windows}"
            warn(f"note: out of memory; {self.work} continues with batches of at most {size}")
