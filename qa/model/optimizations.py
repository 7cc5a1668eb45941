"""What makes a step faster or smaller and leaves its result as it is."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.masking_utils import AttentionMaskInterface, bidirectional_mask_function, sdpa_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.albert.modeling_albert import AlbertLayerGroup

from qa.options.training_arguments import TrainingOptions
from qa.runtime.errors import UserError, one_line


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


class CheckpointedAlbertLayerGroup(GradientCheckpointingLayer, AlbertLayerGroup):
    """ALBERT's group of layers with the library's own activation checkpointing, which ALBERT lacks."""


def enable_albert_checkpointing(model: PreTrainedModel) -> None:
    """Makes ``activation_checkpointing`` work for ALBERT as it does for other models."""
    for module in model.modules():
        if type(module) is AlbertLayerGroup:
            module.__class__ = CheckpointedAlbertLayerGroup
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
    enable_albert_checkpointing(model)
