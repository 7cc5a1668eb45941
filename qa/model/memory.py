"""Estimate the memory of a training step by running it on fake tensors, which have a shape and no data.

The model itself runs forward and backward under torch's ``FakeTensorMode``, and every tensor is counted while it is
alive, recomputed ones included. This needs no GPU: it runs as if on the CPU, but with the dtypes of CUDA's autocast,
from which the CPU's differs in layer norm and softmax: CUDA computes them in fp32.
"""

import contextlib
import copy
import dataclasses
import weakref
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForQuestionAnswering, PretrainedConfig, PreTrainedModel, Trainer

from qa.model.batching import round_up
from qa.model.device import AUTOCAST
from qa.model.loss import masked_loss
from qa.model.optimizations import prepare_model
from qa.model.padding import adapt_mask, takes_token_types, width_multiple
from qa.options.training_arguments import TrainingOptions

GIB = 2**30
BLOCK = 512  # bytes; CUDA's allocator rounds sizes up to multiples of it
WORKSPACE = 64 << 20  # bytes of cuBLAS and cuBLASLt: 32 MiB each on an H100 or H200, less on other GPUs
FP32 = {functional.layer_norm, functional.softmax, functional.log_softmax, functional.cross_entropy, torch.softmax}
FP32 |= {torch.layer_norm, torch.log_softmax, torch.Tensor.softmax, torch.Tensor.log_softmax}
UNCHECKED = {"use_reentrant": False, "preserve_rng_state": False, "determinism_check": "none"}


@dataclass(frozen=True)
class Memory:
    """Bytes in use at the peak of a step.

    Attributes:
        gradients: with their copies that several processes exchange.
        activations: kept for the backward pass, with what is computed from them at the peak.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int  # with the tensors that the backward pass computes from them
    workspace: int = WORKSPACE

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


class LiveBytes(TorchDispatchMode):
    """Count the bytes of the live tensors that were created in this mode, and their ``peak``."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.known: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage())
        return result

    def count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self.known:
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            self.known.add(storage)
            weakref.finalize(storage, self.end, size)
            self.live += size
            self.peak = max(self.peak, self.live)

    def end(self, size: int) -> None:
        self.live -= size


class InFP32(TorchFunctionMode):
    """Compute in fp32 what CUDA's autocast does; the CPU's autocast uses the dtype of the input."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in FP32:
            args = tuple(x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in args)
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def autocast(precision: str):
    """Use the dtypes of CUDA's autocast for tensors on the CPU."""
    if AUTOCAST[precision] is None:
        yield
    else:
        with torch.autocast("cpu", dtype=AUTOCAST[precision]), InFP32():
            yield


def build_model(config: PretrainedConfig, args: TrainingOptions, recompute: bool) -> PreTrainedModel:
    """Build the model as it is trained; called in ``FakeTensorMode``.

    Attention dropout is left out: on a GPU it costs no memory, and on a CPU it changes how attention is computed.

    Raises:
        ValueError: the model does not support activation checkpointing.
    """
    config = copy.deepcopy(config)
    for name in ("attention_probs_dropout_prob", "attention_dropout"):
        if hasattr(config, name) and args.attn_implementation != "eager":
            setattr(config, name, 0.0)
    model = AutoModelForQuestionAnswering.from_config(config)
    prepare_model(model, args.attn_implementation, args.fused_gelu, args.dropout)
    adapt_mask(model)
    if recompute:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=UNCHECKED)
    return model.train()


def forward(model: PreTrainedModel, batch: int, length: int, precision: str) -> torch.Tensor:
    """Return the loss of a batch of full windows, (batch, length) tokens, as training and evaluation compute it."""
    ids = torch.ones(batch, round_up(length, width_multiple(model.config)), dtype=torch.int64)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if takes_token_types(model):
        inputs["token_type_ids"] = torch.zeros_like(ids)
    with autocast(precision):
        outputs = model(**inputs)
    labels = torch.zeros(batch, dtype=torch.int64)
    return masked_loss(outputs, inputs["attention_mask"], labels, labels)


def byte_size(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def optimizer_bytes(model: PreTrainedModel, args: TrainingOptions) -> int:
    """Return the bytes of the optimizer's states, or of Adam's two in fp32 if it cannot run on fake tensors."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        optimizer = kind(weights, **options)
        optimizer.step()
        states = [tensor for state in optimizer.state.values() for tensor in tree_leaves(state)]
        return byte_size(tensor for tensor in states if isinstance(tensor, torch.Tensor))
    except Exception:  # optimizers that need the data of the weights
        return sum(8 * weight.numel() for weight in weights)
    finally:
        model.zero_grad()


def bucket_bytes(model: PreTrainedModel, args: TrainingOptions) -> int:
    """Return the bytes of the buckets in which DistributedDataParallel exchanges gradients, between steps, too."""
    exchanged = args.world_size > 1 and not args.fsdp
    return byte_size(model.parameters()) if exchanged else 0


def of_training(
    config: PretrainedConfig, args: TrainingOptions, batch: int, length: int, precision: str, recompute: bool
) -> Memory:
    """Return the peak of a training step after the first, with batches of ``batch`` windows of ``length`` tokens."""
    with FakeTensorMode():
        model = build_model(config, args, recompute)
        states = optimizer_bytes(model, args)
        weights = byte_size([*model.parameters(), *model.buffers()])
        gradients = byte_size(model.parameters())
        with LiveBytes() as count:
            if args.gradient_accumulation_steps > 1:  # gradients of the previous micro-batches
                for weight in model.parameters():
                    weight.grad = torch.zeros_like(weight)
            forward(model, batch, length, precision).backward()
        buckets = bucket_bytes(model, args)
    return Memory(weights, gradients + buckets, states, max(count.peak - gradients, 0))


def of_evaluation(
    config: PretrainedConfig, args: TrainingOptions, batch: int, length: int, precision: str, states: int
) -> Memory:
    """Return the peak of evaluation during training, with ``states`` bytes of optimizer states."""
    with FakeTensorMode(), torch.no_grad():
        model = build_model(config, args, False).eval()
        weights = byte_size([*model.parameters(), *model.buffers()])
        with LiveBytes() as count:
            forward(model, batch, length, precision)
        buckets = bucket_bytes(model, args)
    return Memory(weights, buckets, states, count.peak)
