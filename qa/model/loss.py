"""The loss of a question-answering model."""

import torch
from torch.nn import functional


def masked_loss(
    outputs, attention_mask: torch.Tensor, start: torch.Tensor, end: torch.Tensor, reduction: str = "mean"
) -> torch.Tensor:
    """Return the mean cross-entropy of start and end over the real tokens only, in fp32; (B,) with reduction ``none``.

    The models' own loss lets padded positions into the softmax, so it changes with the amount of padding.

    Args:
        outputs: with ``start_logits`` and ``end_logits`` (B, L). attention_mask: (B, L). start, end: (B,) labels.
    """

    def half(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = logits.float().masked_fill(attention_mask == 0, torch.finfo(torch.float32).min)
        return functional.cross_entropy(logits, labels, reduction=reduction) / 2

    return half(outputs.start_logits, start) + half(outputs.end_logits, end)
