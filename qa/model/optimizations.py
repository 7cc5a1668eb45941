"""What makes a step faster or smaller and leaves its result as it is."""

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.masking_utils import AttentionMaskInterface, bidirectional_mask_function, sdpa_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.albert.modeling_albert import AlbertLayerGroup

from qa.options.arguments import TrainingOptions
from qa.runtime.errors import UserError, one_line
from qa.training.batching import GRAPHS

CUDA_GRAPHS = "reduce-overhead", "max-autotune"  # modes of torch.compile that use them
AUTOCAST = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}  # what matrices are multiplied in


class FusedGELU(nn.Module):
    """``gelu_new`` in one kernel: the same function of x, which keeps x alone for the backward pass.

    transformers computes it as eight elementwise operations, each keeping its input.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(x, approximate="tanh")


def fuse_gelu(model: nn.Module) -> int:
    """Replaces the activation modules of ``gelu_new``; configuration and weights stay as they are.

    Returns:
        how many were replaced.
    """
    replaced = 0
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, FusedGELU())
                replaced += 1
    return replaced


class RecomputedLayerGroup(GradientCheckpointingLayer, AlbertLayerGroup):
    """ALBERT's group of layers with the library's own activation checkpointing, which ALBERT lacks."""


def allow_recomputation(model: PreTrainedModel) -> None:
    """Makes ``activation_checkpointing`` work for ALBERT as it does for other models."""
    for module in model.modules():
        if type(module) is AlbertLayerGroup:
            module.__class__ = RecomputedLayerGroup
            model.supports_gradient_checkpointing = True


def padding_mask(attention_mask=None, mask_function=None, dtype=torch.float32, **kwargs) -> torch.Tensor | None:
    """What is added to the scores of padded tokens, (B, 1, 1, L), for fused attention.

    transformers makes a mask of booleans (B, 1, L, L), which every layer turns into numbers of its own and keeps for
    the backward pass; and to leave it out where nothing is padded, it waits for the GPU in every step.

    Args:
        attention_mask: (B, L) booleans, True for real tokens.
    """
    if attention_mask is None or mask_function is not bidirectional_mask_function:
        return sdpa_mask(attention_mask=attention_mask, mask_function=mask_function, dtype=dtype, **kwargs)
    zeros = torch.zeros_like(attention_mask, dtype=dtype)
    return zeros.masked_fill(~attention_mask, torch.finfo(dtype).min)[:, None, None, :]


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


class CompiledSteps:
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


def prepare_model(model: PreTrainedModel, args: TrainingOptions) -> None:
    """What the options ask of the model itself, before it is trained or evaluated."""
    AttentionMaskInterface.register("sdpa", padding_mask)
    torch.backends.cuda.enable_cudnn_sdp(
        False
    )  # it makes a plan for each new length, which can take longer than a step
    if args.attn_implementation:
        try:
            model.set_attn_implementation(args.attn_implementation)
        except (ValueError, ImportError) as error:
            raise UserError(f"attn_implementation {args.attn_implementation}: {one_line(error)}") from None
    if args.fused_gelu:
        fuse_gelu(model)
    if args.dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = args.dropout
    allow_recomputation(model)


def wanted_precision(args: TrainingOptions, bf16_supported: bool) -> str:
    """``fp32``, ``fp16`` or ``bf16``, as it would be on a GPU.

    Raises:
        UserError: ``precision`` and ``fp16`` or ``bf16`` contradict each other.
    """
    flag = "fp16" if args.fp16 else "bf16" if args.bf16 else None
    asked = args.precision
    if flag and asked not in ("auto", flag):
        raise UserError(f"precision {asked} and {flag}: true exclude each other: give one of them")
    if asked != "auto":
        return asked
    return flag or ("bf16" if bf16_supported else "fp16")


def bf16_supported() -> bool:
    """Whether the GPU multiplies bf16 matrices itself; without a GPU, as a recent one would."""
    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)


def fit_to_device(args: TrainingOptions) -> TrainingOptions:
    """The precision for this GPU, and TF32 for what is left in fp32; fp32 and plain memory where there is none."""
    precision = wanted_precision(args, bf16_supported())
    if args.device.type == "cuda":
        if args.tf32 is not False:
            torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it
        args = dataclasses.replace(args, fp16=precision == "fp16", bf16=precision == "bf16")
        args.accelerator_config.non_blocking = args.dataloader_pin_memory  # copies do not wait for the GPU
        return args
    if args.fp16 or args.precision in ("fp16", "bf16"):
        print(f"no GPU found: computing in fp32 on the CPU ({precision} needs a GPU)")
    return dataclasses.replace(args, fp16=False, bf16=False, dataloader_pin_memory=False)
