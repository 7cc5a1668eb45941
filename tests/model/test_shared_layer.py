"""The ways to multiply by ALBERT's shared weights that the benchmark compares: the same products, other sums."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AlbertConfig, AlbertForQuestionAnswering
from transformers.models.albert.modeling_albert import AlbertAttention

from benchmarks import shared_layer
from benchmarks.shared_layer import CastOnce, cast_once, fuse_products, gradient

LAYERS = 12


@pytest.fixture(scope="module")
def model() -> AlbertForQuestionAnswering:
    torch.manual_seed(0)
    sizes = {"embedding_size": 16, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    dropout = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    return AlbertForQuestionAnswering(AlbertConfig(vocab_size=50, num_hidden_layers=LAYERS, **sizes, **dropout))


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 50, (3, 24), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_one_product_for_query_key_and_value_gives_the_same_gradients(model, batch):
    fused = copy.deepcopy(model)
    fuse_products(fused)
    attention = [module for module in fused.modules() if isinstance(module, AlbertAttention)]
    assert attention and all(each.query is each.key is each.value for each in attention)
    model.zero_grad()
    torch.testing.assert_close(gradient(fused, batch, None), gradient(model, batch, None), rtol=1e-4, atol=1e-7)


def test_one_cast_a_step_with_sums_in_fp32():
    """Each layer's product is in bf16; the sum of their gradients is exact, which plain autocast's is not."""
    torch.manual_seed(0)
    layer, inputs = nn.Linear(8, 8), torch.randn(LAYERS, 5, 8)
    low, bias = (part.detach().bfloat16() for part in layer.parameters())
    parts = torch.stack([torch.ones(5, 8, dtype=torch.bfloat16).T @ each.bfloat16() for each in inputs])

    def run(kind: type[nn.Linear]) -> torch.Tensor:
        layer.__class__ = kind
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = [layer(each) for each in inputs]
            torch.stack(outputs).float().sum().backward()
        for each, output in zip(inputs, outputs, strict=True):
            assert torch.equal(output, functional.linear(each.bfloat16(), low) + bias) or kind is nn.Linear
        return layer.weight.grad

    exact = parts.double().sum(0)
    summed, plain = run(CastOnce), run(nn.Linear)
    assert summed.dtype == torch.float32
    torch.testing.assert_close(summed.double(), exact, rtol=1e-6, atol=1e-6)
    assert (plain.double() - exact).norm() > 100 * (summed.double() - exact).norm()


def test_changed_weights_are_cast_again(model, batch):
    changed = copy.deepcopy(model)
    cast_once(changed)
    before = gradient(changed, batch, torch.bfloat16)
    with torch.no_grad():
        for weight in changed.parameters():
            weight.mul_(1.5)
    changed.zero_grad()
    fresh = copy.deepcopy(changed)
    for layer in fresh.modules():
        if isinstance(layer, CastOnce):
            layer.version = -1
    after = gradient(changed, batch, torch.bfloat16)
    assert not torch.equal(after, before) and torch.equal(after, gradient(fresh, batch, torch.bfloat16))


def test_the_benchmark_compares_all_ways(model, tmp_path, capsys, monkeypatch):
    model.config.save_pretrained(tmp_path)
    sizes = ["--batch_size", "2", "--length", "16", "--rounds", "2"]
    monkeypatch.setattr("sys.argv", ["shared_layer.py", "--model_dir", str(tmp_path), *sizes])
    shared_layer.main()
    rows = [line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines() if " to " in line]
    assert len(rows) == 5 and all(0 < float(error) < 0.2 for _, error in rows[1:])
