"""The loss, the order of the windows and what is saved."""

import numpy as np
import pytest
import torch
from transformers import AlbertConfig, AlbertForQuestionAnswering
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from qa.evaluation import window_losses
from qa.trainer import Collator, LengthGroupedSampler, by_length, masked_loss
from qa.windows import WindowArrays


def collate(lengths: list[int], pad_to: int | None = None) -> dict:
    rows = [
        {"input_ids": [5] * n, "token_type_ids": [0] * n, "start_positions": 1, "end_positions": n - 1} for n in lengths
    ]
    return Collator(0, True, pad_to)(rows)


def test_batches_are_padded_on_the_right():
    batch = collate([2, 4])
    assert batch["input_ids"].tolist() == [[5, 5, 0, 0], [5, 5, 5, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert collate([2, 4], 9)["input_ids"].shape == (2, 9)
    assert "token_type_ids" not in Collator(0, False)([{"input_ids": [1], "token_type_ids": [0]}])


def test_loss_does_not_depend_on_padding():
    torch.manual_seed(0)
    config = AlbertConfig(
        vocab_size=9, embedding_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = AlbertForQuestionAnswering(config).eval()
    losses, own = [], []
    for width in (6, 20, 100):
        batch = collate([3, 6], width)
        start, end = batch.pop("start_positions"), batch.pop("end_positions")
        losses.append(masked_loss(model(**batch), batch["attention_mask"], start, end).item())
        own.append(model(**batch, start_positions=start, end_positions=end).loss.item())
    assert max(losses) - min(losses) < 1e-5
    assert max(own) - min(own) > 0.1, "the model's own loss does, which is why it is not used"


def test_loss_by_hand_and_the_same_over_arrays():
    """Uniform logits over n tokens cost log n; the padded logits of 50 must not count."""
    start = torch.tensor([[0.0, 0, 50, 50], [0.0, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    outputs = QuestionAnsweringModelOutput(start_logits=start, end_logits=start)
    expected = (np.log(2) + np.log(4)) / 2
    loss = masked_loss(outputs, mask, torch.tensor([0, 1]), torch.tensor([1, 3]))
    assert loss.item() == pytest.approx(expected)
    none = np.zeros(2, dtype=int)
    labels = np.array([0, 1]), np.array([1, 3])
    arrays = WindowArrays(none, np.array([2, 4]), none, none, *labels, np.zeros((0, 2)), np.zeros(3, int))
    assert window_losses(start.numpy(), start.numpy(), arrays).mean() == pytest.approx(expected)


LENGTHS = np.random.default_rng(0).gamma(5, 36, 4003).clip(20, 384).astype(int)  # shaped like SQuAD's windows


def padding(order: list[int], batch_size: int) -> float:
    """Padded tokens over real ones, less one."""
    batches = [LENGTHS[order[i : i + batch_size]] for i in range(0, len(order), batch_size)]
    return sum(batch.max() * len(batch) for batch in batches) / LENGTHS.sum() - 1


def test_grouped_batches_pad_little_and_stay_random():
    sampler = LengthGroupedSampler(LENGTHS, 8, seed=42)
    order = list(sampler)
    assert sorted(order) == list(range(len(LENGTHS)))
    assert padding(order, 8) < 0.05 < 0.5 < padding(np.random.default_rng(0).permutation(len(LENGTHS)), 8)
    assert list(sampler) == order == list(LengthGroupedSampler(LENGTHS, 8, seed=42))
    sampler.set_epoch(1)
    other = list(sampler)
    assert other != order != list(LengthGroupedSampler(LENGTHS, 8, seed=43))
    together = [{*order[i : i + 8]} for i in range(0, len(order), 8)]
    assert sum({*other[i : i + 8]} in together for i in range(0, len(other), 8)) == 0, "other batches in each epoch"


def test_small_sets_are_sampled_too():
    for size in (1, 7, 8, 9):
        assert sorted(LengthGroupedSampler(LENGTHS[:size], 8, seed=0)) == list(range(size))


def test_evaluation_begins_with_the_longest_windows():
    order = by_length(np.array([3, 9, 5, 9]))
    assert order.tolist() == [1, 3, 2, 0]
