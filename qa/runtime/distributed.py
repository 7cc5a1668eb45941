"""Distributed training: how processes share a batch, and what only the main process does."""

import math
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import distributed

from qa.runtime.errors import UserError

Result = TypeVar("Result")


def on_main_process(work: Callable[[], Result]) -> Result:
    """Run ``work`` in the main process; return its result, which must be picklable, or raise its UserError, in all."""
    state = PartialState()
    if state.num_processes == 1:
        return work()
    result: list = [None]
    if state.is_main_process:
        try:
            result = [work()]
        except UserError as error:
            result = [error]
    broadcast_object_list(result)
    if isinstance(result[0], UserError):
        raise result[0]
    return result[0]


class ProcessGroup:
    """The processes of a run, connected by gloo on the CPU: exchanging flags adds no GPU synchronization."""

    def __init__(self, processes: int):
        self.processes = processes

    @cached_property
    def gloo(self):
        return distributed.new_group(backend="gloo")  # collective: all processes create it together, on first use

    def any_process(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set in at least one process; all processes call this together."""
        if self.processes == 1:
            return list(flags)
        counts = torch.tensor(flags, dtype=torch.float32)
        distributed.all_reduce(counts, group=self.gloo)
        return [bool(count) for count in counts]


def divide_batch(batch: int, accumulation: int, processes: int) -> tuple[int, int]:
    """Return each process's batch size and accumulation steps, so that a step has as many windows as in one process.

    If it cannot be divided equally, the step is as close to it as possible. A process's batch size is at most
    ``batch``, which fits into memory, and divides it, so that windows which were grouped by length stay together.
    """
    share = batch * accumulation / processes
    if share.is_integer():
        own = math.gcd(batch, int(share))
        return own, int(share) // own
    steps = math.ceil(share / batch)
    return max(1, round(share / steps)), steps
