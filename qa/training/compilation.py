"""Compiling the layers that repeat, for a few lengths."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from qa.options.training_arguments import TrainingOptions
from qa.runtime.errors import UserError

CUDA_GRAPHS = "reduce-overhead", "max-autotune"  # modes of torch.compile that use them


def repeated_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of an encoder, or ALBERT's one group of layers, which is run again and again."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from repeated_blocks(child)


def compile_blocks(model: nn.Module, args: TrainingOptions) -> None:
    """Compiles a layer, not the model: its graph serves all of them, so that compiling takes a fraction of the time.

    One graph for each length of a batch, since one for all lengths is slower.

    Raises:
        UserError: CUDA graphs with accumulated gradients, which the next batch's graph would overwrite.
    """
    if args.torch_compile_mode in CUDA_GRAPHS and args.gradient_accumulation_steps > 1:
        raise UserError(f"torch_compile_mode {args.torch_compile_mode} needs gradient_accumulation_steps: 1")
    torch._dynamo.config.recompile_limit = 8 * GRAPHS  # a model may have several kinds of layers
    for block in [*repeated_blocks(model)] or [model]:
        block.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode, dynamic=False)


class RegionalCompilation:
    """For a ``Trainer``: uses what ``compile_blocks`` compiled for whole training batches alone.

    A last, smaller batch and those of evaluation would each be compiled anew, for more time than they take.
    """

    def uncompiled(self):
        return torch.compiler.set_stance("force_eager") if self.args.torch_compile else contextlib.nullcontext()

    def training_step(self, model, inputs, *args, **kwargs):
        whole = len(inputs["input_ids"]) == self.args.train_batch_size
        try:
            with contextlib.nullcontext() if whole else self.uncompiled():
                return super().training_step(model, inputs, *args, **kwargs)
        except TorchDynamoException as error:
            reason = " ".join(str(error).partition("\n\n")[0].split())
            raise UserError(f"torch_compile: the model cannot be compiled here: {reason}; leave it out") from error

    def _build_accelerator_args(self, **kwargs):
        return super()._build_accelerator_args(**kwargs) | {"dynamo_plugin": None}  # it would compile all of the model


GRAPHS = 8  # lengths that a model is compiled for: each takes seconds to compile, and torch's own limit is 8
