"""Compute FLOPs and memory of a training step without running it."""

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import PretrainedConfig

from qa.model import memory
from qa.options.training_arguments import TrainingOptions


class Flops:
    """Estimate the FLOPs of the matrix products of a window, forward and backward, from its length in tokens."""

    def __init__(self, config: PretrainedConfig):
        lengths = (64, 128, 256)  # fits a parabola: linear layers grow with the length, attention with its square
        self.curve = np.polyfit(lengths, [self.count(config, length) for length in lengths], 2)

    @staticmethod
    def count(config: PretrainedConfig, length: int) -> int:
        args = TrainingOptions(output_dir="", attn_implementation="eager")
        with FakeTensorMode(), FlopCounterMode(display=False) as counter:
            memory.forward(memory.build_model(config, args, False), 1, length, "fp32").backward()
        return counter.get_total_flops()

    def __call__(self, length: int) -> float:
        return float(np.polyval(self.curve, length))


def kept_bytes(config: PretrainedConfig, args: TrainingOptions, batch: int, length: int) -> int:
    """Return the bytes that autograd saves in the forward pass in fp32, each tensor once, without weights."""
    saved = {}

    def record(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    with FakeTensorMode():
        model = memory.build_model(config, args, False)
        with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
            loss = memory.forward(model, batch, length, "fp32")
        weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
        assert loss.requires_grad  # keeps the graph, and the tensors it saved, alive until here
    return sum(storage.nbytes() for key, storage in saved.items() if key not in weights)
