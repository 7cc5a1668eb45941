"""Measure ways to multiply by ALBERT's shared weights in half precision: time of a step, and error of the gradients.

ALBERT runs one layer twelve times. Under plain autocast its weights are cast once a step and their gradients are summed
over the layers in half precision; without autocast's cache they are cast twelve times and summed in fp32. The other
rows do both: one cast, and a sum in fp32, by a function with a backward pass of its own; and one product for query, key
and value instead of three. Random weights, one batch, in turn; the errors are against fp32.

    python benchmarks/shared_layer.py --model_dir albert-base-v2 --batch_size 8 --length 184
"""

import copy
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForQuestionAnswering, PreTrainedModel
from transformers.models.albert.modeling_albert import AlbertAttention

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.timing import Stopwatch
from qa.model.cpu_bf16 import adapt_to_cpu
from qa.model.loading import load_config
from qa.model.loss import masked_loss
from qa.model.optimizations import prepare_model
from qa.options.arguments import ModelArguments
from qa.options.option import option
from qa.options.parser import parse_arguments
from qa.runtime.console import table
from qa.runtime.errors import UserError
from qa.runtime.process import configure_process, run_command


@dataclass
class Options:
    """The step that is measured."""

    model_dir: str = option(None, "Folder with the config.json of an ALBERT.")
    batch_size: int = option(8, "Windows.")
    length: int = option(184, "Tokens of each window.")
    rounds: int = option(15, "Steps of each row.")


class SummedInFP32(torch.autograd.Function):
    """The product with a half-precision copy of a weight, whose gradient is returned in fp32."""

    @staticmethod
    def forward(ctx, x, weight, low):
        ctx.save_for_backward(x, low)
        return functional.linear(x, low)

    @staticmethod
    def backward(ctx, gradient):
        x, low = ctx.saved_tensors
        return gradient @ low, (gradient.flatten(0, -2).T @ x.flatten(0, -2)).float(), None


class CastOnce(nn.Linear):
    """A linear layer that casts its weight once for each value it has, and sums its gradients in fp32."""

    low, version = None, -1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = torch.get_autocast_dtype(x.device.type)
        with torch.autocast(x.device.type, enabled=False):
            if self.version != self.weight._version:
                self.low, self.version = self.weight.detach().to(dtype), self.weight._version
            return SummedInFP32.apply(x.to(dtype), self.weight, self.low) + self.bias.to(dtype)


class FusedProducts(nn.Module):
    """Query, key and value by one product; the three modules are called in this order, with the same input."""

    def __init__(self, attention: AlbertAttention):
        super().__init__()
        self.parts, self.left = nn.ModuleList([attention.query, attention.key, attention.value]), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.left:
            weight, bias = (torch.cat([getattr(part, name) for part in self.parts]) for name in ("weight", "bias"))
            self.left = list(functional.linear(x, weight, bias).chunk(3, dim=-1))
        return self.left.pop(0)


def layers(model: PreTrainedModel) -> list[nn.Linear]:
    return [module for module in model.base_model.encoder.modules() if type(module) is nn.Linear]


def cast_once(model: PreTrainedModel) -> None:
    for layer in layers(model):
        layer.__class__ = CastOnce


def fuse_products(model: PreTrainedModel) -> None:
    for module in model.modules():
        if isinstance(module, AlbertAttention):
            module.query = module.key = module.value = FusedProducts(module)


def gradient(model: PreTrainedModel, batch: dict, dtype: torch.dtype | None, cache: bool = True) -> torch.Tensor:
    """Run one step forward and backward, and return the gradients of the shared layer, in one vector."""
    device = batch["input_ids"].device.type
    labels = torch.arange(len(batch["input_ids"]), device=device) + 1
    with torch.autocast(device, dtype, enabled=dtype is not None, cache_enabled=cache):
        output = model(**batch)
    masked_loss(output, batch["attention_mask"], labels, labels + 2).backward()
    found = {name: weight.grad for name, weight in model.base_model.encoder.named_parameters()}
    for number, part in enumerate(("query", "key", "value")):  # as they are named without ``FusedProducts``
        found = {name.replace(f"query.parts.{number}", part): value for name, value in found.items()}
    return torch.cat([found[name].flatten() for name in sorted(found) if "weight" in name and "Norm" not in name])


def main() -> None:
    (options,) = parse_arguments((Options,), description=__doc__)
    if not options.model_dir:
        raise UserError("--model_dir is required")
    configure_process(reads_datasets=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_config(load_config(ModelArguments(config_name=options.model_dir)))
    prepare_model(model, "sdpa")
    adapt_to_cpu(model, "bf16", device)
    model.to(device).train()
    ids = torch.randint(5, model.config.vocab_size, (options.batch_size, options.length), device=device)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    exact = gradient(model, batch, None)
    rows, watch = {}, Stopwatch(device)
    for name, changes, cache in (
        ("autocast", (), True),
        ("without its cache", (), False),
        ("one cast, sum in fp32", (cast_once,), True),
        ("one product for q, k, v", (fuse_products,), True),
    ):
        changed = copy.deepcopy(model)
        for change in changes:
            change(changed)
        rows[name] = changed, cache, []
    for _ in range(options.rounds + 1):
        for changed, cache, seconds in rows.values():
            changed.zero_grad()
            with torch.no_grad():
                for weight in changed.parameters():
                    weight.mul_(1.0)  # as an optimizer would, so that every step casts anew
            watch.start()
            gradient(changed, batch, torch.bfloat16, cache)
            seconds.append(watch.stop())
    base = rows["autocast"][2][1:]
    lines = [("", "times autocast's speed (lowest to highest), error of the gradients")]
    for name, (changed, cache, seconds) in rows.items():
        ratios = [theirs / ours for theirs, ours in zip(base, seconds[1:], strict=True)]
        changed.zero_grad()
        found = gradient(changed, batch, torch.bfloat16, cache)
        error = ((found - exact).norm() / exact.norm()).item()
        lines.append((name, f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), {error:.2e}"))
    print(table(lines))


if __name__ == "__main__":
    run_command(main)
