"""Compilation of a model's repeated layers for a few lengths, used for whole training batches only."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from qa.model.device_errors import is_device_error
from qa.options.training_arguments import TrainingOptions
from qa.runtime.console import warn
from qa.runtime.errors import UserError

CUDA_GRAPHS = "reduce-overhead", "max-autotune"  # modes of torch.compile that use them
GRAPHS = 8  # lengths that a model is compiled for: each takes seconds to compile, and torch's own limit is 8


def repeated_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of an encoder, or ALBERT's one group of layers, which is run repeatedly."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from repeated_blocks(child)


def check_cuda_graphs(args: TrainingOptions) -> None:
    """Raise UserError for CUDA graphs with accumulated gradients, which the next batch's graph would overwrite."""
    if args.torch_compile_mode in CUDA_GRAPHS and args.gradient_accumulation_steps > 1:
        raise UserError(f"torch_compile_mode {args.torch_compile_mode} needs gradient_accumulation_steps: 1")


def compile_blocks(model: nn.Module, args: TrainingOptions, dynamic: bool = False) -> None:
    """Compile each layer instead of the model: they share one graph, so compiling takes a fraction of the time.

    Args:
        dynamic: compile one graph for all lengths of a batch, not one for each.

    Raises:
        UserError: as ``check_cuda_graphs``.
    """
    check_cuda_graphs(args)
    if hasattr(model, "runs_unpadded"):
        warn("note: torch_compile is not used: it would compile this model for every length")
        return
    for block in [*repeated_blocks(model)] or [model]:
        block.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode, dynamic=dynamic)


def uncompiled(args: TrainingOptions) -> contextlib.AbstractContextManager:
    """Run compiled layers as if they were not compiled."""
    return torch.compiler.set_stance("force_eager") if args.torch_compile else contextlib.nullcontext()


@contextlib.contextmanager
def compiled_if_whole(args: TrainingOptions, windows: int) -> Iterator[None]:
    """Use the compiled layers for a whole training batch only.

    A smaller last batch would be compiled separately, which takes longer than running it uncompiled.

    Args:
        windows: of the batch.

    Raises:
        UserError: the model cannot be compiled.
    """
    if not args.torch_compile:
        yield
        return
    if windows != args.train_batch_size:
        with uncompiled(args):
            yield
        return
    try:
        with torch._dynamo.config.patch(recompile_limit=8 * GRAPHS):  # a model may have several kinds of layers
            yield
    except TorchDynamoException as error:
        if is_device_error(error):
            raise
        reason = " ".join(str(error).partition("\n\n")[0].split())
        raise UserError(
            f"torch_compile: the model cannot be compiled here: {reason}; leave torch_compile out"
        ) from error
