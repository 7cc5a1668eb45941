"""What makes bf16 fast on a CPU: attention with a fast backward pass, and fewer conversions in evaluation."""

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

from qa.model.optimizations import PADDED_SDPA, padding_mask

MATMUL_ATTENTION = "qa_matmul"


def matmul_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Return what ``sdpa_attention_forward`` of transformers does, which is used where no gradient is needed.

    The backward pass of the fused kernel in bf16 is five times as slow as that of three products and a softmax.

    Args:
        query, key, value: (B, H, L, D). attention_mask: (B, 1, 1, L), added to the scores.

    Returns:
        (B, L, H, D), and None for the attention weights.
    """
    fits = attention_mask is not None and attention_mask.shape[1:3] == (1, 1) and query.shape == key.shape
    if attention_mask is None or not (fits and torch.is_grad_enabled() and query.requires_grad):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    batch, heads, length, size = query.shape
    mask = attention_mask.to(query.dtype).expand(batch, heads, 1, -1).flatten(0, 1)
    scale = size**-0.5 if scaling is None else scaling
    scores = torch.baddbmm(mask, query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=scale)
    weights = functional.dropout(scores.softmax(dim=-1), dropout)
    output = torch.bmm(weights, value.flatten(0, 1)).view(batch, heads, length, -1)
    return output.transpose(1, 2).contiguous(), None


def keep_between_layers(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor | None:
    """Return the embeddings in autocast's type, for evaluation, so that all layers pass on values of that type."""
    device = output.device.type
    if torch.is_grad_enabled() or not torch.is_autocast_enabled(device):
        return None  # unchanged
    return output.to(torch.get_autocast_dtype(device))


def convert_fewer_times(model: PreTrainedModel) -> None:
    """Make a model under autocast convert its embeddings, in evaluation, instead of the inputs of each product.

    ALBERT does so by itself, as its embeddings pass through a linear layer.
    """
    embeddings = getattr(model.base_model, "embeddings", None)
    if isinstance(embeddings, nn.Module):
        embeddings.register_forward_hook(keep_between_layers)


def adapt_to_cpu(model: PreTrainedModel, precision: str, device: torch.device) -> None:
    """Make a model fast in bf16 on a CPU; one with another precision or device is left as it is."""
    if precision != "bf16" or device.type != "cpu":
        return
    convert_fewer_times(model)
    AttentionInterface.register(MATMUL_ATTENTION, matmul_attention)
    AttentionMaskInterface.register(MATMUL_ATTENTION, padding_mask)
    if model.config._attn_implementation == PADDED_SDPA:
        model.set_attn_implementation(MATMUL_ATTENTION)
