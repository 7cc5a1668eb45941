"""Optimizations that make a training step faster or smaller without changing its result."""

import functools

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, bidirectional_mask_function, sdpa_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.albert.modeling_albert import AlbertLayerGroup

from qa.runtime.errors import UserError, one_line

PADDED_SDPA = "qa_sdpa"  # the library's fused attention with our mask; "sdpa" itself is unchanged
MASK_STRIDE = 8  # elements; the memory-efficient attention of a GPU loads that many of the mask together


class FusedGELU(nn.Module):
    """``gelu_new`` in one kernel, which keeps only its input for the backward pass.

    transformers computes it as eight elementwise operations, each of which keeps its input.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(x, approximate="tanh")


def fuse_gelu(model: nn.Module) -> int:
    """Replace the activation modules of ``gelu_new``; configuration and weights stay as they are.

    Returns:
        the number of replaced modules.
    """
    replaced = 0
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, FusedGELU())
                replaced += 1
    return replaced


class FP32Linear(nn.Linear):
    """A linear layer that computes in fp32 whatever the precision of the layers before it, and of its own weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.float()
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.linear(x.float(), self.weight.float(), bias)


def compute_heads_in_fp32(model: PreTrainedModel) -> None:
    """Make the linear layers outside the encoder, which give the logits, compute in fp32.

    With the 8 bits of bf16, logits of neighbouring tokens are often equal.
    """
    encoder = set(model.base_model.modules())
    for module in model.modules():
        if type(module) is nn.Linear and module not in encoder:
            module.__class__ = FP32Linear


def keep_weights_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Convert the weights of the encoder's linear layers, which autocast would do for each batch; for inference."""
    for module in model.base_model.modules():
        if type(module) is nn.Linear:
            module.to(dtype)


class CheckpointedAlbertLayerGroup(GradientCheckpointingLayer, AlbertLayerGroup):
    """ALBERT's group of layers with the library's own activation checkpointing, which ALBERT lacks."""


def enable_albert_checkpointing(model: PreTrainedModel) -> None:
    """Make ``activation_checkpointing`` work for ALBERT as it does for other models."""
    for module in model.modules():
        if type(module) is AlbertLayerGroup:
            module.__class__ = CheckpointedAlbertLayerGroup
            model.supports_gradient_checkpointing = True


def padding_mask(attention_mask=None, mask_function=None, dtype=torch.float32, **kwargs) -> torch.Tensor | None:
    """Return the mask (B, 1, 1, L) added to the attention scores: 0 for real tokens, the lowest number for padding.

    transformers makes a boolean mask (B, 1, L, L), which every layer converts to floats and keeps for the backward
    pass; and to skip the mask if nothing is padded, it synchronizes with the GPU in every step.

    The mask is one that attention takes as it is. Under autocast it has autocast's dtype, to which every layer would
    convert it; and its strides are multiples of ``MASK_STRIDE``, or every layer would copy it into one that has them
    (``preprocess_mask`` in torch's ``transformers/attention.cpp``).

    Args:
        attention_mask: (B, L) booleans, True for real tokens. dtype: of the model's embeddings.
    """
    if attention_mask is None or mask_function is not bidirectional_mask_function:
        return sdpa_mask(attention_mask=attention_mask, mask_function=mask_function, dtype=dtype, **kwargs)
    device, (batch, length) = attention_mask.device, attention_mask.shape
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    padding = -length % MASK_STRIDE
    mask = torch.zeros(batch, 1, 1, length + padding, dtype=dtype, device=device)[..., :length]
    return mask.masked_fill_(~attention_mask[:, None, None, :], torch.finfo(dtype).min)


def register_attention() -> None:
    """Add our attention to those that transformers knows, which a process does that receives a prepared model, too."""
    AttentionInterface.register(PADDED_SDPA, sdpa_attention_forward)
    AttentionMaskInterface.register(PADDED_SDPA, padding_mask)


def use_padding_mask(model: PreTrainedModel) -> None:
    """Make a model that uses ``sdpa`` attention take ``padding_mask``; the configuration it saves does not change.

    Only models that look up their attention by name can be switched.
    """
    register_attention()
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(PADDED_SDPA)


def set_attention(model: PreTrainedModel, name: str | None) -> None:
    """Set the kind of attention; None leaves the model's.

    Raises:
        UserError: the model does not support it.
    """
    if name is None:
        return
    try:
        model.set_attn_implementation(name)
    except (ValueError, ImportError) as error:
        raise UserError(f"attn_implementation {name}: {one_line(error)}") from None


def make_reversible_layers_repeatable(model: PreTrainedModel) -> None:
    """Let Reformer's layers draw their dropout seeds from torch's generator, which a resumed run restores.

    transformers takes them from ``torch.seed()``, which is another one in every run.
    """

    def draw(layer: nn.Module, name: str) -> None:
        seed = int(torch.randint(1 << 62, ()))
        setattr(layer, name, seed)
        torch.manual_seed(seed)

    for layer in model.modules():
        for part in ("attention", "feed_forward"):
            if hasattr(layer, f"_init_{part}_seed"):
                setattr(layer, f"_init_{part}_seed", functools.partial(draw, layer, f"{part}_seed"))


def prepare_model(
    model: PreTrainedModel,
    attn_implementation: str | None = None,
    fused_gelu: bool = True,
    dropout: float | None = None,
) -> None:
    """Apply the options that change the model itself, before it is trained, evaluated or asked.

    Args:
        attn_implementation, dropout: None leaves the model's.

    Raises:
        UserError: an ``attn_implementation`` that the model does not support.
    """
    set_attention(model, attn_implementation)
    use_padding_mask(model)
    compute_heads_in_fp32(model)
    if fused_gelu:
        fuse_gelu(model)
    if dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
    enable_albert_checkpointing(model)
    make_reversible_layers_repeatable(model)
