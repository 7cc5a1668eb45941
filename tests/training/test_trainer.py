"""The loss."""

import numpy as np
import pytest
import torch
from helpers.windows import collate
from transformers import AlbertConfig, AlbertForQuestionAnswering
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from qa.data.windows import WindowArrays
from qa.evaluation.evaluator import window_losses
from qa.model.loss import masked_loss


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


def test_loss_matches_manual_and_array_computation():
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


def test_loss_of_saved_logits_matches_each_window_alone():
    """Compare with the cross-entropy in float64, over more windows than one chunk."""
    random = np.random.default_rng(0)
    length = random.integers(2, 9, 5000)
    labels = [random.integers(0, length) for _ in range(2)]
    logits = random.normal(0, 5, (2, 5000, 12)).astype(np.float32)
    none = np.zeros(5000, dtype=int)
    windows = WindowArrays(none, length, none, none, *labels, np.zeros((0, 2)), np.zeros(5001, int))
    expected = np.zeros(5000)
    for scores, label in zip(logits.astype(np.float64), labels, strict=True):
        scores[np.arange(12) >= length[:, None]] = -np.inf
        expected += (np.log(np.exp(scores).sum(1)) - scores[np.arange(5000), label]) / 2
    losses = window_losses(*logits, windows)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    assert losses.astype(np.float64).mean() == pytest.approx(expected.mean(), abs=1e-6)
    assert len(window_losses(*logits[:, :0], WindowArrays(*[none[:0]] * 6, np.zeros((0, 2)), np.zeros(1, int)))) == 0
