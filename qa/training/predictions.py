"""Predictions of an evaluation, reduced from the logits on the device and then gathered from all processes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Generic, TypeVar

import numpy as np
import torch
from torch.nn import functional

from qa.inference.spans import Candidates
from qa.model.loss import masked_loss

Array = TypeVar("Array", torch.Tensor, np.ndarray)


@dataclass(frozen=True)
class WindowPredictions(Generic[Array]):
    """Predictions for W windows: tensors in ``prediction_step``, NumPy arrays once ``Trainer`` has gathered them.

    ``Trainer`` gathers and pads plain tuples only, so this one class knows their order: ``to_tuple`` before the
    gathering, ``from_tuple`` after it. L is the padded length of a batch, then the longest one's.
    """

    start_token: Array  # (W, K) int32, the K best starts, best first; -1 where there are fewer
    end_token: Array  # (W, K) int32
    start_logit: Array  # (W, K) float32, their logits
    end_logit: Array  # (W, K) float32
    null: Array  # (W, 2) float32, start and end logit of CLS
    loss: Array  # (W,) float32
    start_logits: Array | None = None  # (W, L) float32, only where all logits are kept
    end_logits: Array | None = None  # (W, L) float32

    def to_tuple(self) -> tuple[Array, ...]:
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(value for value in values if value is not None)

    @classmethod
    def from_tuple(cls, values: tuple[Array, ...]) -> WindowPredictions[Array]:
        return cls(*values)

    def __getitem__(self, rows) -> WindowPredictions[Array]:
        return WindowPredictions.from_tuple(tuple(value[rows] for value in self.to_tuple()))

    @property
    def candidates(self: WindowPredictions[np.ndarray]) -> Candidates:
        return Candidates(self.start_token, self.end_token, self.start_logit, self.end_logit, self.null)


def reduce_logits(
    outputs,
    attention_mask: torch.Tensor,
    start_positions: torch.Tensor,
    end_positions: torch.Tensor,
    count: int,
    cls_last: bool,
    keep_logits: bool,
) -> WindowPredictions[torch.Tensor]:
    """Return the predictions of one batch; without ``keep_logits`` their size does not depend on its length.

    Args:
        outputs: with ``start_logits`` and ``end_logits`` (B, L). attention_mask: (B, L). start_positions,
            end_positions: (B,) labels. count: best starts and ends to keep. cls_last: whether CLS is each window's
            last token (XLNet), not its first.
    """
    start, end = outputs.start_logits.float(), outputs.end_logits.float()
    start_token, start_logit = best_tokens_on_device(start, attention_mask, count)
    end_token, end_logit = best_tokens_on_device(end, attention_mask, count)
    cls = attention_mask.sum(1, keepdim=True) - 1 if cls_last else torch.zeros_like(attention_mask[:, :1])
    return WindowPredictions(
        start_token=start_token,
        end_token=end_token,
        start_logit=start_logit,
        end_logit=end_logit,
        null=torch.cat([start.gather(1, cls), end.gather(1, cls)], dim=1),
        loss=masked_loss(outputs, attention_mask, start_positions, end_positions, reduction="none"),
        start_logits=start if keep_logits else None,
        end_logits=end if keep_logits else None,
    )


def best_tokens_on_device(logits: torch.Tensor, mask: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what ``qa.inference.spans.best_tokens`` does, computed on the model's device.

    Args:
        logits: (B, L) float32. mask: (B, L), 0 beyond a window's tokens.

    Returns:
        positions (B, count) int32, -1 beyond a window's tokens, and their logits.
    """
    masked = logits.masked_fill(mask == 0, -torch.inf)
    value, position = (part[:, :count] for part in torch.sort(masked, dim=1, descending=True, stable=True))
    position = position.masked_fill(mask.gather(1, position) == 0, -1)
    missing = 0, count - position.shape[1]
    return functional.pad(position, missing, value=-1).int(), functional.pad(value, missing, value=-torch.inf)
