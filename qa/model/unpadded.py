"""Run the windows of a batch in groups of one length, without padding."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from qa.model.batching import round_up
from qa.model.random_state import fork_rng


def run_unpadded(model: PreTrainedModel, multiple: int) -> None:
    """Make the model run each batch in groups of windows of one length, in training as in evaluation.

    Args:
        multiple: tokens of which the model demands a multiple; to that its windows are still padded.
    """
    kind = type(model)

    @functools.wraps(kind.forward)  # keeps the signature, by which the inputs are chosen
    def forward(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, **inputs):
        inputs |= {"input_ids": input_ids, "attention_mask": attention_mask}
        widths = [round_up(length, multiple) for length in attention_mask.sum(dim=1).tolist()]
        logits = None  # (2, B, L), start and end
        for width in sorted(set(widths)):
            rows = [row for row, needed in enumerate(widths) if needed == width]
            with same_for_each_batch(self):
                output = kind.forward(self, **{name: value[rows, :width] for name, value in inputs.items()})
            found = torch.stack([output.start_logits, output.end_logits])
            if logits is None:
                logits = found.new_zeros(2, *input_ids.shape)
            logits[:, rows, :width] = found
        assert logits is not None, "every batch has windows"
        return QuestionAnsweringModelOutput(start_logits=logits[0], end_logits=logits[1])

    replace_forward(model, forward, runs_unpadded=True)


def replace_forward(model: PreTrainedModel, forward: Callable, **attributes) -> None:
    """Give a model a subclass of the same name with another ``forward``, so that it is saved as it was."""
    kind = type(model)
    same = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    model.__class__ = type(kind.__name__, (kind,), same | attributes | {"forward": forward})


@contextlib.contextmanager
def same_for_each_batch(model: PreTrainedModel) -> Iterator[None]:
    """Undo what earlier batches changed: BigBird's attention, and in evaluation the random numbers of Reformer."""
    if getattr(model.config, "attention_type", None) == "block_sparse":
        encoder: Any = next(module for module in model.modules() if hasattr(module, "set_attention_type"))
        encoder.set_attention_type("block_sparse")  # a short batch switches it to full attention for good
    with fork_rng(model.device, enabled=not model.training):
        if not model.training:
            torch.manual_seed(0)
        yield
