"""Attention for training in bf16 on a CPU.

There the backward pass of torch's fused kernel is five times as slow as three matrix products and a softmax.
"""

import torch
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

from qa.model.optimizations import PADDED_SDPA, padding_mask

MATMUL_ATTENTION = "qa_matmul"


def matmul_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Return what ``sdpa_attention_forward`` of transformers does, which is used where no gradient is needed.

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


def choose_attention(model: PreTrainedModel, precision: str, device: torch.device) -> None:
    """Make a model that uses ``padding_mask`` train with ``matmul_attention`` where that is faster."""
    if precision != "bf16" or device.type != "cpu":
        return
    AttentionInterface.register(MATMUL_ATTENTION, matmul_attention)
    AttentionMaskInterface.register(MATMUL_ATTENTION, padding_mask)
    if model.config._attn_implementation == PADDED_SDPA:
        model.set_attn_implementation(MATMUL_ATTENTION)
