"""Several processes that train one model: what each takes of a batch, and what only one of them does."""

import dataclasses
import math
import os
import sys
from collections.abc import Callable
from typing import TypeVar

import datasets
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments

from qa.runtime.console import process_rank, warn
from qa.runtime.errors import UserError

Result = TypeVar("Result")


def init_distributed() -> None:
    """Makes this process one of those that a launcher started, before any option is read; only the main one prints.

    Errors that another process alone meets are still said, by ``run_command``.
    """
    if "LOCAL_RANK" in os.environ and not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"  # without it processes on CPUs would not find each other
    if process_rank():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()


def on_main_process(work: Callable[[], Result]) -> Result:
    """Lets the main process do some work; every process gets its result, which must pickle, or its UserError."""
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


def divide_batch(batch: int, accumulation: int, processes: int) -> tuple[int, int]:
    """Windows at once and accumulation of each process, such that one step takes as many windows as in one process.

    Where that cannot be, as nearly as many. Never more at once than ``batch``, which is what fits into memory, and
    a part of it, so that windows which were sampled together for their length stay together.
    """
    share = batch * accumulation / processes
    if share.is_integer():
        own = math.gcd(batch, int(share))
        return own, int(share) // own
    steps = math.ceil(share / batch)
    return max(1, round(share / steps)), steps


def share_batch(args: TrainingArguments, settings: dict) -> TrainingArguments:
    """The options of each of several processes, which take equal parts of the batch that one process would take.

    Where it cannot be divided, that is said, and ``settings`` get what one process would need for the same run.
    """
    batch, accumulation, processes = args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size
    own_batch, own_accumulation = divide_batch(batch, accumulation, processes)
    effective = own_batch * own_accumulation * processes
    if effective != batch * accumulation:
        warn(
            f"note: {batch * accumulation} windows a step (per_device_train_batch_size {batch} x"
            f" gradient_accumulation_steps {accumulation}) cannot be shared equally by {processes} processes:"
            f" {effective} a step instead; results may differ a little"
        )
        settings["per_device_train_batch_size"] = own_batch
        settings["gradient_accumulation_steps"] = own_accumulation * processes
    return dataclasses.replace(
        args, per_device_train_batch_size=own_batch, gradient_accumulation_steps=own_accumulation
    )
