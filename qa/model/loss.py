"""The loss of a question-answering model."""

import torch
from torch.nn import functional


def masked_loss(
    outputs, attention_mask: torch.Tensor, start: torch.Tensor, end: torch.Tensor, reduction: str = "mean"
) -> torch.Tensor:
    """Mean cross-entropy of start and end over the real tokens only, in fp32; (B,) with reduction ``none``.

    The models' own loss lets padded positions into the softmax, so it changes with the amount of padding.

    Args:
        attention_mask: (B, L). start, end: (B,) labels.
    """
    loss = 0
    for logits, labels in ((outputs.start_logits, start), (outputs.end_logits, end)):
        logits = logits.float().masked_fill(attention_mask == 0, torch.finfo(torch.float32).min)
        loss = loss + functional.cross_entropy(logits, labels, reduction=reduction) / 2
    return loss
